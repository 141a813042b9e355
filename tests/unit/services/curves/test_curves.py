"""Curves: nothing that can be seen is lost in thinning, smoothing counts every point, cursors survive a resume."""

import csv
import gzip
import io
import json
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from studio.errors import BadInput
from studio.rundir import Exit, Journal, RunDir, write_json
from studio.rundir import read_events as read_journal
from studio.services.core.studio import Studio
from studio.services.curves import curves, tensorboard
from studio.services.curves import series as lines_of
from studio.services.curves.curves import WindowRequest
from studio.services.curves.downsample import downsample, smoothed
from studio.services.runs import runs
from studio.services.runs.recipe_diff import differences
from studio.store.series import columns as series_columns
from studio.store.series import file as series_file
from studio.ui.runs import compare_runs, curves_view
from studio.ui.runs.curves import encode, numbers_of
from studio.ui.web.server import make_app
from tests.unit.services.core.test_keeper import journal_of, make_run

pytestmark = pytest.mark.usefixtures("nothing_starts")
VALUES = st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf])


# --- thinning


@given(arrays(np.float64, st.integers(1, 3000), elements=VALUES), st.integers(50, 400))
@hypothesis_settings(deadline=None, max_examples=150)
def test_extremes_and_ends_are_kept(values: np.ndarray, most: int) -> None:
    x = np.arange(len(values), dtype=float)
    kept_x, kept_y = downsample(x, values, most)
    finite = np.isfinite(values)
    assert len(kept_y) <= most + 2 and np.isfinite(kept_y).all() and (np.diff(kept_x) > 0).all()
    assert np.array_equal(values[kept_x.astype(int)], kept_y)
    if finite.any():
        assert kept_y.min() == values[finite].min() and kept_y.max() == values[finite].max()
        assert kept_x[0] == x[finite][0] and kept_x[-1] == x[finite][-1]


@pytest.mark.parametrize("seed", range(5))
def test_every_pixel_shows_its_lowest_and_highest_point(seed: int) -> None:
    """Of each of the stretches that the window is cut into, both extremes stay: the drawn outline is the true one."""
    rng = np.random.default_rng(seed)
    count, most = 100_000, 1000
    x, values = np.arange(count, dtype=float), rng.standard_t(2, count)
    kept_x, kept_y = downsample(x, values, most)
    for part in np.array_split(np.arange(count), most // 2):
        seen = kept_y[np.isin(kept_x, x[part])]
        assert seen.min() == values[part].min() and seen.max() == values[part].max()


# --- smoothing


def plain_average(values: np.ndarray, weight: float) -> list[float]:
    state, shown = 0.0, []
    for index, value in enumerate(values.tolist(), 1):
        state = weight * state + (1 - weight) * value
        shown.append(state / (1 - weight**index))
    return shown


@given(
    arrays(np.float64, st.integers(1, 700), elements=st.floats(-100, 100)),
    st.sampled_from([0.1, 0.6, 0.9, 0.99, 0.999]), st.integers(1, 200), st.floats(0, 1),
)  # fmt: skip
@hypothesis_settings(deadline=None, max_examples=200)
def test_the_average_counts_every_point(values: np.ndarray, weight: float, most: int, share: float) -> None:
    first = int(share * (len(values) - 1))
    at, shown, state = smoothed(values, weight, first, most)
    expected = plain_average(values, weight)
    assert at[-1] == len(values) - 1 and len(at) <= most
    assert np.allclose(shown, [expected[index] for index in at], rtol=1e-9, atol=1e-9)
    assert math.isclose(state / (1 - weight ** len(values)), expected[-1], rel_tol=1e-9, abs_tol=1e-9)


def test_no_smoothing_asks_for_nothing() -> None:
    at, shown, state = smoothed(np.arange(5.0), 0.0, 0, 10)
    assert (len(at), len(shown), state) == (0, 0, 0.0)


# --- a logarithmic axis


@given(
    arrays(np.float64, st.integers(1, 4000), elements=VALUES), st.sampled_from([0.0, 1.0, 700.0]),
    st.sampled_from([60, 300, 2000]), st.sampled_from([0.6, 0.99]),
)  # fmt: skip
@hypothesis_settings(deadline=None, max_examples=60)
def test_a_logarithmic_axis_loses_no_extreme_of_any_doubling(
    values: np.ndarray, begin: float, most: int, weight: float
) -> None:
    x = begin + np.arange(len(values), dtype=float)
    held = series_columns.ColumnsInMemory(np.array([values] * len(series_columns.COLUMNS)), None)
    found = lines_of.line(held, "loss", lines_of._Known(x), (-math.inf, math.inf), weight, (most, 60), True)
    own = np.isfinite(values) & (x > 0)
    assert set(zip(found.x, found.y, strict=True)) <= set(zip(x[own], values[own], strict=True))
    if not own.any():
        assert not len(found.x)
        return
    x_own, y_own = x[own], values[own]
    assert (np.diff(found.x) > 0).all() and (found.x[0], found.x[-1]) == (x_own[0], x_own[-1])
    octave = np.floor(np.log2(x_own / x_own[0]) + 1e-12)
    drawn = np.floor(np.log2(found.x / x_own[0]) + 1e-12)
    for one in np.unique(octave):
        true, seen = y_own[octave == one], found.y[drawn == one]
        assert (seen.min(), seen.max()) == (true.min(), true.max())
    assert len(found.x) <= 3 * most + 8 * len(np.unique(octave))
    if x_own[0] == 1:  # the first ones have half of the width: they are all there
        assert found.x[:4].tolist() == x_own[:4].tolist()
    average = plain_average(values[np.isfinite(values)], weight)
    at = np.searchsorted(x[np.isfinite(values)], found.smooth_x)
    assert np.allclose(found.smooth_y, [average[index] for index in at], rtol=1e-9, atol=1e-6)
    assert found.smooth_x[-1] == x_own[-1] and found.count == np.isfinite(values).sum()


# --- windows and news


def noted(studio: Studio, steps: int = 30) -> RunDir:
    run = make_run(studio)
    with Journal(run.events) as journal:
        journal.write("state", state="running")
        journal.write("plan", total_steps=steps, device="CPU")
        for step in range(1, steps + 1):
            loss = math.nan if step == 7 else 3.0 / step
            journal.write("metric", step=step, epoch=step / 10, loss=loss, tokens=step * 100, tokens_per_s=100.0,
                          step_seconds=0.5, learning_rate=1e-4, memory=2**30)  # fmt: skip
            if step % 10 == 0:
                journal.write("eval", step=step, epoch=step / 10, eval_loss=2.0 / step, eval_token_accuracy=0.5)
                journal.write("checkpoint", step=step, path=f"checkpoints/step-{step}")
    return run


def test_a_window_has_the_points_the_marks_and_a_cursor(studio: Studio) -> None:
    noted(studio)
    found = curves.window(studio, "run-1", WindowRequest(weight=0.5))
    line = found.lines["loss"]
    assert line.x.tolist() == [step for step in range(1, 31) if step != 7] and found.lost == 1 and found.points == 30
    assert line.smooth_x.tolist() == line.x.tolist() and line.count == 29
    assert found.lines["eval_loss"].y.tolist() == [0.2, 0.1, 2.0 / 30]
    assert found.lines["eval_token_accuracy"].y.tolist() == [0.5, 0.5, 0.5]
    assert found.extent == (1, 30) and found.live
    assert [(mark.step, mark.kind) for mark in found.marks] == [
        (step, kind) for step in (10, 20, 30) for kind in ("checkpoint", "eval")
    ]
    part = curves.window(studio, "run-1", WindowRequest(low=10, high=12))
    assert part.lines["loss"].x.tolist() == [9, 10, 11, 12, 13] and len(part.marks) == 2
    assert part.extent == (1, 30)


@pytest.mark.parametrize(("axis", "last", "at_eval"), [("tokens", 3000, 1000), ("epoch", 3, 1), ("step", 30, 10)])
def test_axes(studio: Studio, axis: lines_of.AxisName, last: float, at_eval: float) -> None:
    noted(studio)
    found = curves.window(studio, "run-1", WindowRequest(x=axis))
    assert found.lines["loss"].x[-1] == last
    assert found.lines["eval_loss"].x[0] == at_eval
    assert found.marks[0].x == at_eval


def test_wall_time_begins_with_the_run_and_never_falls(studio: Studio) -> None:
    noted(studio)
    x = curves.window(studio, "run-1", WindowRequest(x="time")).lines["loss"].x
    assert 0 <= x[0] < 60 and (np.diff(x) >= 0).all()


def test_news_are_what_came_after_the_cursor(studio: Studio) -> None:
    run = make_run(studio)
    journal_of(run, 5)
    first = curves.window(studio, "run-1", WindowRequest())
    assert curves.news(studio, "run-1", "step", first.cursor).lines == {}
    with Journal(run.events) as journal:
        journal.write("metric", step=6, loss=0.4, step_seconds=0.5)
        journal.write("note", level="info", step=6, text="Look here.")
    news = curves.news(studio, "run-1", "step", first.cursor)
    assert (news.lines["loss"].x.tolist(), news.lines["loss"].y.tolist()) == ([6], [0.4])
    assert [mark.text for mark in news.marks] == ["Look here."]
    assert news.cursor > first.cursor and not news.again
    assert curves.news(studio, "run-1", "step", news.cursor).lines == {}
    with Journal(run.events) as journal:
        journal.write("checkpoint", step=6, path="checkpoints/step-6")
    last = curves.news(studio, "run-1", "step", news.cursor)
    assert [mark.kind for mark in last.marks] == ["checkpoint"]
    assert curves.news(studio, "run-1", "step", last.cursor).marks == []


def test_what_a_resumed_run_does_again_replaces_what_it_did(studio: Studio) -> None:
    run = make_run(studio)
    journal_of(run, 10)
    before = curves.window(studio, "run-1", WindowRequest())
    with Journal(run.events) as journal:
        journal.write("resumed", step=6)
        journal.write("metric", step=7, loss=9.0, step_seconds=0.5)
    assert curves.news(studio, "run-1", "step", before.cursor).again
    found = curves.window(studio, "run-1", WindowRequest())
    assert found.lines["loss"].x.tolist() == [1, 2, 3, 4, 5, 6, 7] and found.lines["loss"].y[-1] == 9.0
    assert len(found.lines["eval_loss"].x) == 0
    assert [(mark.kind, mark.step, mark.text) for mark in found.marks] == [("resumed", 6, "resumed from step 6")]
    # Nothing more is dropped when the next points come.
    with Journal(run.events) as journal:
        journal.write("metric", step=8, loss=8.0, step_seconds=0.5)
    news = curves.news(studio, "run-1", "step", found.cursor)
    assert not news.again and news.lines["loss"].x.tolist() == [8]


def test_many_marks_become_few_that_say_how_many_they_are(studio: Studio) -> None:
    run = make_run(studio)
    with Journal(run.events) as journal:
        for step in range(1, 1001):
            journal.write("checkpoint", step=step, path="checkpoints/x")
    marks = curves.window(studio, "run-1", WindowRequest()).marks
    assert len(marks) <= 60 and sum(mark.count for mark in marks) == 1000
    assert marks[0].text == "17 checkpoints, steps 1 to 17"


def test_only_so_many_bytes_are_held(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series_columns, "_HELD_BYTES", 1)
    shelf = series_columns.ColumnCache(studio.database)
    for name in ("run-1", "run-2"):
        journal_of(make_run(studio, name), 5)
    studio.refresh()
    assert len(shelf.tables("run-1")[0]) == len(shelf.tables("run-2")[0]) == 5
    assert list(shelf._held) == ["run-2"]


@pytest.mark.parametrize("wrong", [{"x": "miles"}, {"weight": 1.0}, {"low": math.nan}])
def test_a_look_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    values = {"x": "step", "low": None, "high": None, "width": 100, "weight": 0.0} | wrong
    with pytest.raises(BadInput):
        WindowRequest.parse(**values)  # type: ignore[arg-type]


# --- files and routes


def test_the_csv_has_every_point_exactly(studio: Studio) -> None:
    run = make_run(studio)
    losses = np.random.default_rng(0).normal(size=300).tolist()
    with Journal(run.events) as journal:
        for step, loss in enumerate(losses, 1):
            journal.write("metric", step=step, loss=loss, step_seconds=0.1, tokens=step * 7)
        journal.write("eval", step=300, eval_loss=0.1)
    rows = list(csv.DictReader(io.StringIO("".join(curves.csv(studio, "run-1")), newline="")))
    assert [float(row["loss"]) for row in rows if row["kind"] == "metric"] == losses
    assert [row["tokens"] for row in rows][:2] == ["7", "14"]
    assert (rows[-1]["kind"], rows[-1]["eval_loss"], rows[-1]["loss"]) == ("eval", "0.1", "")


def unpacked(archive: bytes, into: Path) -> Path:
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        packed.extractall(into)
        (name,) = packed.namelist()
    return into / name


def read_events(folder: Path) -> dict[str, list[tuple[int, float, float]]]:
    """What TensorBoard has of a folder: by tag all points as (step, wall time, value)."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return {
        tag: [(one.step, one.wall_time, one.value) for one in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]
    }


def kept_of(run: RunDir, kind: str, name: str, missing: list[float]) -> list[tuple[int, float, float]]:
    """What a journal has of a value, as TensorBoard keeps numbers; for one that is none, what `missing` says."""
    told = []
    for event in read_journal(run.events).events:
        if event.kind == kind:
            value = event.payload.get(name)
            values = [value] if isinstance(value, int | float) else missing
            told += [(event.payload["step"], event.time, float(np.float32(one))) for one in values]
    return told


@pytest.mark.slow
def test_tensorboard_reads_every_point_of_a_past_run(studio: Studio, tmp_path: Path) -> None:
    run = noted(studio, 5000)  # more than are packed at once
    Exit("completed", "It ended.").write(run)
    with TestClient(make_app(studio), base_url="http://127.0.0.1") as client:
        answer = client.get("/points/run-1.zip")
    assert "run-1-tensorboard.zip" in answer.headers["content-disposition"]
    path = unpacked(answer.content, tmp_path)
    assert path.parent.name == "run-1" and ".tfevents." in path.name
    found = read_events(path.parent)
    for kind, names in {
        "metric": {"loss": "train/loss", "learning_rate": "train/learning_rate", "tokens": "train/num_tokens",
                   "tokens_per_s": "train/tokens_per_s", "step_seconds": "train/step_seconds",
                   "memory": "train/memory"},
        "eval": {"eval_loss": "eval/loss", "eval_token_accuracy": "eval/mean_token_accuracy"},
    }.items():  # fmt: skip
        for name, tag in names.items():
            np.testing.assert_array_equal(found.pop(tag), kept_of(run, kind, name, [math.nan]))
    epochs = found.pop("train/epoch")
    assert sorted(epochs) == sorted(kept_of(run, "metric", "epoch", []) + kept_of(run, "eval", "epoch", []))
    assert found == {}  # nothing is said of what was never measured


def test_tensorboard_reads_a_resumed_run_as_it_is_drawn_and_one_without_points(studio: Studio, tmp_path: Path) -> None:
    run = make_run(studio)
    write_json(run.about, {"name": "../a run: of mine/", "owner": "local", "created": 1000.0})
    journal_of(run, 10)
    with Journal(run.events) as journal:
        journal.write("resumed", step=6)
        journal.write("metric", step=7, loss=9.0, step_seconds=0.5)
    path = unpacked(b"".join(tensorboard.archive_of(studio, "run-1")[1]), tmp_path)
    assert path.parent.parent == tmp_path
    assert [(step, value) for step, _, value in read_events(path.parent)["train/loss"]][-2:] == [
        (6, np.float32(curves.window(studio, "run-1", WindowRequest()).lines["loss"].y[5])), (7, 9.0),
    ]  # fmt: skip
    make_run(studio, "run-2")
    studio.refresh()
    path = unpacked(b"".join(tensorboard.archive_of(studio, "run-2")[1]), tmp_path)
    assert read_events(path.parent) == {}


def test_records_are_those_of_tensorboards_own_writer(tmp_path: Path) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    rng = np.random.default_rng(1)
    messages = [rng.bytes(int(size)) for size in rng.integers(0, 40, 300)]
    theirs = io.BytesIO()
    writer = RecordWriter(theirs)
    for message in messages:
        writer.write(message)
    assert tensorboard._records(messages) == theirs.getvalue()


def test_routes_answer_compressed_guarded_and_in_sentences(studio: Studio) -> None:
    noted(studio, 400)
    with TestClient(make_app(studio), base_url="http://127.0.0.1") as client:
        answer = client.get("/curves/run-1", params={"x": "tokens", "low": 0, "high": 20_000, "weight": 0.9})
        assert answer.headers["content-encoding"] == "gzip" and answer.headers["cache-control"] == "no-store"
        found = answer.json()
        assert found["lines"]["loss"]["x"][:2] == [100, 200] and found["extent"] == [100, 40_000]
        assert len(client.get("/curves/run-1", params={"after": found["cursor"]}).content) < 400
        for path, status in (
            ("/curves/nothing", 404),
            ("/points/nothing.csv", 404),
            ("/points/nothing.zip", 404),
            ("/curves/run-1?x=miles", 400),
        ):
            answer = client.get(path)
            assert answer.status_code == status and answer.json()["error"].endswith((".", "runs"))
        for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            for path in ("/curves/run-1", "/points/run-1.csv", "/points/run-1.zip"):
                assert client.get(path, headers=headers).status_code == 403
        assert "points.csv" in client.get("/points/run-1.csv").headers["content-disposition"]


def test_another_owners_run_has_no_curves(studio: Studio) -> None:
    journal_of(make_run(studio, "theirs", owner="someone else"), 5)
    with TestClient(make_app(studio), base_url="http://127.0.0.1") as client:
        for path in ("/curves/theirs", "/points/theirs.csv", "/points/theirs.zip"):
            assert client.get(path).status_code == 404


def test_the_answer_for_ten_windows_of_many_points_is_small() -> None:
    rng = np.random.default_rng(0)
    x = np.arange(1.0, 300_001)
    lines = {}
    for number in range(10):
        name = "loss" if number == 0 else f"small-{number}"
        held = series_columns.ColumnsInMemory(np.array([rng.normal(size=len(x))] * len(series_columns.COLUMNS)), None)
        most = WindowRequest(width=1100).points(name)
        lines[name] = lines_of.line(held, "loss", lines_of._Known(x), (-math.inf, math.inf), 0.9, most)
    text = encode(curves.Window("r", 1, False, False, len(x), 0, (1, 300_000), lines, []))
    json.loads(text)
    assert len(gzip.compress(text.encode(), 4)) < 100_000


_EDGES = st.sampled_from([0.0, -0.0, 9.9999995, 99999.995, 0.1 + 0.2, 1e15 / 7, -1e-12 / 3, 1e-300, 2.5e300, 5e-324])


@given(values=st.lists(_EDGES | st.floats(-1e300, 1e300), max_size=30), digits=st.integers(5, 12))
@hypothesis_settings(deadline=None, max_examples=300)
def test_numbers_are_told_to_so_many_digits(values: list[float], digits: int) -> None:
    found = json.loads(numbers_of(np.array(values), digits))
    assert len(found) == len(values)
    for got, value in zip(found, values, strict=True):
        assert got == pytest.approx(value, rel=0.5000001 * 10 ** (1 - digits), abs=1e-290)


def test_whole_numbers_are_told_as_such() -> None:
    assert numbers_of(np.array([300.0, 600.0, 0.0, 2.0**31]), 12) == "[300,600,0,2147483648]"
    many = numbers_of(np.arange(0.0, 30_000.0, 1000.0), 7)
    assert many.startswith("[0,1000,2000,") and "." not in many
    assert numbers_of(np.array([0.5] * 20 + [1e16]), 7).endswith("0.5,1e+16]")


@given(
    steps=st.lists(st.integers(1, 10**6), min_size=1, max_size=400, unique=True)
    | st.integers(1, 400).map(lambda n: list(range(n))),
    asked=st.lists(st.floats(-5, 1.1e6), min_size=1, max_size=20),
    after=st.booleans(),
)
@hypothesis_settings(deadline=None, max_examples=200)
def test_rows_below_a_value_are_found_however_the_steps_rise(steps: list[int], asked: list[float], after: bool) -> None:
    column = np.sort(np.array(steps, dtype=np.float64))
    held = series_columns.ColumnsInMemory(np.array([column] * len(series_columns.COLUMNS)), None)
    values = np.array([*asked, *column[:20]])
    found = lines_of.below(held, "step", series_file.extremes_of(column, "step"), values, after)
    assert found.tolist() == np.searchsorted(column, values, side="right" if after else "left").tolist()


# --- runs side by side


def test_only_what_differs_is_told_sorted_and_against_the_baseline(studio: Studio) -> None:
    for name, rate, steps in (("run-1", 2e-4, 10), ("run-2", 1e-4, 20), ("run-3", 1e-4, 5)):
        run = make_run(studio, name)
        recipe = runs.Recipe.load(run.recipe).with_values({"learning_rate": rate})
        run.recipe.write_text(recipe.to_yaml())
        journal_of(run, steps)
        Exit("completed", "It ended.").write(run)
    known = runs.list_runs(studio)
    by_name = {run.id: run for run in known}
    together = compare_runs.compared_runs(known, by_name["run-1"], ["run-2", "run-3", "run-1", "gone"])
    assert [run.id for run in together] == ["run-1", "run-2", "run-3"]
    found = {column.name: column.values for column in differences(studio, together)}
    assert found["learning_rate"] == (2e-4, 1e-4, 1e-4) and found["result.step"] == (10, 20, 5)
    assert "r" not in found and "result.state" not in found

    def rows(order: dict[str, object]) -> list[str]:
        table = compare_runs.table(studio, together, order)
        return [row.partition("<td>run-")[2][0] for row in table.split("<tr")[2:]]

    assert rows({}) == ["1", "2", "3"]
    assert rows({"sort": "result.step", "pin": "run-2"}) == ["2", "3", "1"]
    assert rows({"sort": "name", "down": True, "pin": "gone"}) == ["1", "3", "2"]
    assert "−0.0001" in compare_runs.table(studio, together, {})
    assert compare_runs.table(studio, together[:1], {}) == ""
    order = compare_runs.sort_order({}, {"sort": "name"})
    assert compare_runs.sort_order(order, {"sort": "name"}) == {"sort": "name", "down": True}
    assert compare_runs.sort_order(order, {"pin": "run-2"}) == {"sort": "name", "down": False, "pin": "run-2"}


def test_at_most_eight_runs_are_drawn(studio: Studio) -> None:
    for number in range(10):
        journal_of(make_run(studio, f"run-{number}"), 1)
    known = runs.list_runs(studio)
    together = compare_runs.compared_runs(known, known[0], [run.id for run in known])
    assert len(together) == 8
    assert len(json.loads(curves_view.runs_to_draw(together))["runs"]) == 8


def test_a_verdict_on_the_page_is_escaped_and_absent_without_points(studio: Studio) -> None:
    run = make_run(studio)
    assert curves_view.verdict(studio, runs.get(studio, "run-1")) == ""
    journal_of(run, 40)
    said = curves_view.verdict(studio, runs.get(studio, "run-1"))
    assert 'data-verdict="plateau"' in said and "<details>" in said
