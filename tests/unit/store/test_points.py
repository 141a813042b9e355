"""Files of long runs: written with the table, read like it, whatever is killed, damaged or done again in between."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from studio.rundir import Journal, RunDir
from studio.services.core.studio import Studio
from studio.services.curves import curves
from studio.services.curves import series as lines
from studio.services.curves.curves import WindowRequest
from studio.services.curves.downsample import smoothed, smoothed_of
from studio.services.runs import runs
from studio.store import db, ingest
from studio.store.series import columns as series_columns
from studio.store.series import file as series_file
from studio.store.series import sync as series_sync
from studio.store.series.file import AT, COLUMNS
from studio.store.tables import Point
from studio.ui.web.server import make_app
from tests.unit.services.core.test_keeper import make_run

pytestmark = pytest.mark.usefixtures("nothing_starts", "small")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks of 32 rows in groups of 4, so that a short run is a long one."""
    for module in (series_sync, series_columns):
        monkeypatch.setattr(module, "ROWS", 32)
    for module in (series_file, lines):
        monkeypatch.setattr(module, "GROUP", 4)
    monkeypatch.setattr(curves, "_FEWEST", 8)
    yield


def write(run: RunDir, first: int, last: int, loss: Callable[[int], float] = lambda step: 3.0 / step) -> None:
    with Journal(run.events) as journal:
        for step in range(first, last + 1):
            journal.write("metric", step=step, epoch=step / 10, loss=loss(step), tokens=step * 100, tokens_per_s=100.0,
                          step_seconds=0.5, learning_rate=1e-4, memory=2**30)  # fmt: skip
            if step % 10 == 0:
                journal.write("eval", step=step, epoch=step / 10, eval_loss=2.0 / step, eval_token_accuracy=0.5)


def file_of(studio: Studio, run: str = "run-1") -> series_file.SeriesFile | None:
    return series_file.open_file(series_sync.path_of(studio.database, run))


def told(studio: Studio) -> list[tuple[list[float], list[float]]]:
    """Every column of both tables, as a studio just started reads them."""
    metrics, evals, _, _ = series_columns.ColumnCache(studio.database).tables("run-1")
    return [(table["step"].tolist(), table["loss" if kind == 0 else "eval_loss"].tolist())
            for kind, table in enumerate((metrics, evals))]  # fmt: skip


def expected(
    last: int, loss: Callable[[int], float] = lambda step: 3.0 / step
) -> list[tuple[list[float], list[float]]]:
    steps = [float(step) for step in range(1, last + 1)]
    evals = [step for step in steps if step % 10 == 0]
    return [(steps, [loss(int(step)) for step in steps]), (evals, [2.0 / step for step in evals])]


def test_ingest_files_whole_blocks_and_the_rest_is_read_from_the_table(studio: Studio) -> None:
    run = make_run(studio)
    for last in (20, 100, 130, 300):
        write(run, {20: 1, 100: 21, 130: 101, 300: 131}[last], last)
        studio.refresh()
        assert told(studio) == expected(last)
        file = file_of(studio)
        rows = 0 if file is None else sum(file.rows)
        assert rows % 32 == 0 and last + last // 10 - rows < 32
    studio.refresh()
    assert told(studio) == expected(300)


def test_a_journal_taken_in_by_pieces_is_the_same(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "_PIECE", 7)
    run = make_run(studio)
    write(run, 1, 100)
    studio.refresh()
    assert told(studio) == expected(100)
    info = runs.get(studio, "run-1")
    assert (info.step, info.loss, info.best_eval) == (100, 0.03, 0.02)


def test_a_kill_between_table_and_file_and_in_the_midst_of_a_block(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(studio)
    write(run, 1, 100)
    with monkeypatch.context() as killed:
        killed.setattr(series_sync, "catch_up", lambda *_: None)
        studio.refresh()
    assert file_of(studio) is None and told(studio) == expected(100)
    studio.database.filed.clear()
    write(run, 101, 140)
    studio.refresh()
    file = file_of(studio)
    assert file is not None and told(studio) == expected(140)
    path = file.path
    whole = path.read_bytes()
    for cut in (1, 70, 900, len(whole) - series_file.open_file(path).blocks[0].end):  # type: ignore[union-attr]
        path.write_bytes(whole[:-cut])
        studio.database.filed.clear()
        assert told(studio) == expected(140)
    write(run, 141, 200)  # behind the torn block
    studio.database.filed.clear()
    studio.refresh()
    assert told(studio) == expected(200)
    again = file_of(studio)
    assert again is not None and sum(again.rows) > 150


@pytest.mark.slow
@pytest.mark.parametrize("where", ["head", "extremes", "data", "everywhere", "gone"])
def test_a_damaged_file_is_built_again(studio: Studio, where: str) -> None:
    run = make_run(studio)
    write(run, 1, 300)
    studio.refresh()
    file = file_of(studio)
    assert file is not None
    before = curves.window(studio, "run-1", WindowRequest())
    middle = file.blocks[3]
    at = {"head": file.blocks[2].end + 20, "extremes": file.blocks[2].end + 100, "data": middle.data[0][0] + 200}
    written = bytearray(file.path.read_bytes())
    if where == "everywhere":
        written = bytearray(len(written))
    elif where != "gone":
        written[at[where]] ^= 0x41
    file.path.unlink()
    if where != "gone":
        file.path.write_bytes(written)
    studio.database.filed.clear()
    studio._states.pop(series_columns.ColumnCache, None)
    assert "".join(curves.csv(studio, "run-1")).count("\n") == 331
    found = curves.window(studio, "run-1", WindowRequest())
    for name, line in before.lines.items():
        assert found.lines[name].y.tolist() == line.y.tolist()
    assert told(studio) == expected(300)
    again = file_of(studio)
    assert again is not None and sum(again.rows) > 290


def test_what_a_resumed_run_does_again_leaves_the_file(studio: Studio) -> None:
    run = make_run(studio)
    write(run, 1, 200)
    studio.refresh()
    held = series_columns.ColumnCache(studio.database)  # a page that has the file mapped meanwhile
    metrics, *_ = held.tables("run-1")
    with Journal(run.events) as journal:
        journal.write("resumed", step=95)
    write(run, 96, 180, lambda step: 9.0)
    studio.refresh()
    assert metrics["loss"].tolist() == expected(200)[0][1]  # what was mapped stays what it was
    after = expected(180, lambda step: 3.0 / step if step <= 95 else 9.0)
    assert told(studio) == after
    metrics, evals, _, restarted = held.tables("run-1")
    assert [metrics["loss"].tolist(), evals["step"].tolist()] == [after[0][1], after[1][0]] and restarted > 0


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_file_that_cannot_be_shortened_is_made_again(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(studio)
    write(run, 1, 200)
    studio.refresh()
    with Journal(run.events) as journal:
        journal.write("resumed", step=95)
    write(run, 96, 180, lambda step: 9.0)
    with monkeypatch.context() as disk:
        disk.setattr(series_file, "shorten", full)
        studio.refresh()
        assert told(studio) == expected(180, lambda step: 3.0 / step if step <= 95 else 9.0)


def test_a_run_taken_in_again_has_a_file_of_its_new_points(studio: Studio) -> None:
    run = make_run(studio)
    write(run, 1, 100)
    studio.refresh()
    run.events.unlink()
    write(run, 1, 100, lambda step: 7.0)
    ingest.again(studio.database, run)
    assert told(studio) == expected(100, lambda step: 7.0)
    studio.database.renew()
    studio.refresh()
    assert told(studio) == expected(100, lambda step: 7.0)


def test_a_reader_that_may_not_write_leaves_the_file_alone(studio: Studio) -> None:
    run = make_run(studio)
    write(run, 1, 100)
    studio.refresh()
    series_sync.drop(studio.database, "run-1")
    reader = db.open_reader(studio.settings.database)
    try:
        metrics, evals, _, _ = series_columns.ColumnCache(reader).tables("run-1")
        assert (len(metrics), len(evals)) == (100, 10) and file_of(studio) is None
    finally:
        reader.close()


def test_a_full_disk_costs_nothing_but_time(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series_file, "append", full)
    run = make_run(studio)
    write(run, 1, 100)
    studio.refresh()
    assert file_of(studio) is None and told(studio) == expected(100)


# --- what is drawn of a file is what is drawn of a table


@st.composite
def shapes(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """Points of a run as rows, and how many blocks of them are filed."""
    count = draw(st.integers(40, 900))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    data = np.full((len(COLUMNS), count), np.nan)
    data[AT["seq"]] = np.cumsum(rng.integers(1, 4, count))
    every = draw(st.sampled_from([2, 5, 30, 10_000]))
    evals = np.arange(count) % every == every - 1
    data[AT["step"]] = np.cumsum(~evals)
    data[AT["time"]] = (
        1e9 + np.cumsum(rng.exponential(1.0, count)) - draw(st.sampled_from([0.0, 5.0])) * (rng.random(count) < 0.02)
    )
    loss = rng.standard_t(2, count)
    if draw(st.booleans()):
        loss[rng.random(count) < 0.01] = np.nan
    data[AT["loss"]] = np.where(evals, np.nan, loss)
    data[AT["step_seconds"]] = np.where(evals, np.nan, rng.random(count))
    data[AT["tokens"]] = np.where(evals, np.nan, np.cumsum(rng.integers(1, 500, count)))
    data[AT["eval_loss"]] = np.where(evals, rng.normal(size=count), np.nan)
    return data, draw(st.integers(0, count // 32))


@given(shapes(), st.floats(0, 1), st.floats(0, 1), st.sampled_from([0.0, 0.5, 0.9, 0.99]), st.sampled_from(lines.AXES))
@hypothesis_settings(
    deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # fmt: skip
def test_lines_of_a_file_keep_every_extreme_and_every_value(
    tmp_path_factory: pytest.TempPathFactory, shape: tuple[np.ndarray, int], a: float, b: float, weight: float,
    axis: lines.AxisName,
) -> None:  # fmt: skip
    data, filed = shape
    path = tmp_path_factory.mktemp("points") / "run.points"
    packed = [series_file.pack(data[:, 32 * n : 32 * n + 32]) for n in range(filed)]
    series_file.append(path, 0, packed)
    file = series_file.open_file(path)
    evals = series_file.is_eval(data)
    tail = data[:, 32 * filed :]
    late = series_file.is_eval(tail)
    most = (16, 12)
    for kind, name in ((0, "loss"), (1, "eval_loss")):
        chosen = evals == bool(kind)
        held = series_columns.ColumnsInMemory(data[:, chosen], None)
        metrics = series_columns.ColumnsInMemory(data[:, ~evals], None)
        other = axis_of = lines.Axis(axis, metrics, None)
        mapped: series_columns.Table = held
        if file is not None:
            mapped = series_columns.MappedColumns(file, kind, tail[:, late == bool(kind)])
            own = mapped if kind == 0 else series_columns.MappedColumns(file, 0, tail[:, ~late])
            axis_of = lines.Axis(axis, own, None)
        for column in COLUMNS:
            assert np.array_equal(mapped[column], held[column], equal_nan=True)
        xs = other.of(metrics if kind == 0 else held).part(0, len(held))
        places = axis_of.of(mapped if kind == 1 or file is None else own)
        if not len(held):
            assert len(mapped) == 0
            continue
        if kind == 1 and file is None:
            places = axis_of.of(held)
        if kind == 0 and file is None:
            places = axis_of.of(metrics)
        assert np.allclose(places.part(0, len(held)), xs)
        span = xs[-1] - xs[0]
        edges = (xs[0] + min(a, b) * span, xs[0] + max(a, b) * span)
        found = lines.line(mapped, name, places, edges, weight, most)
        finite = np.isfinite(held[name])
        x, y = xs[finite], held[name][finite]
        first, last = lines.inside(lines._Known(x), len(x), edges)
        if last <= first:
            assert not len(found.y)
            continue
        seen = y[first:last]
        assert found.y.min() == seen.min() and found.y.max() == seen.max()
        assert found.y[0] == seen[0] and found.y[-1] == seen[-1]
        assert set(found.y.tolist()) <= set(seen.tolist()) and (np.diff(found.x) >= 0).all()
        at = {round(float(value), 9) for value in x[first:last]}
        assert {round(float(value), 9) for value in found.x} <= at
        rows, shown, state = smoothed(y[:last], weight, first, most[1])
        inside = rows >= first
        assert np.allclose(found.smooth_y, shown[inside]) and math.isclose(found.state, state, abs_tol=1e-12)
        assert np.allclose(found.smooth_x, x[rows[inside]]) and found.count == last


@pytest.mark.slow
def test_a_filed_run_on_a_logarithmic_axis(studio: Studio) -> None:
    run = make_run(studio)
    write(run, 1, 2000, lambda step: 3.0 / step + (7.0 if step == 1500 else 0.0))
    studio.refresh()
    assert file_of(studio) is not None
    line = curves.window(studio, "run-1", WindowRequest(width=50, log=True)).lines["loss"]
    assert line.x[:8].tolist() == list(range(1, 9)) and line.x[-1] == 2000
    assert (np.diff(line.x) > 0).all() and len(line.x) < 400
    assert dict(zip(line.x, line.y, strict=True))[1500] == 3.0 / 1500 + 7.0


VALUES = st.floats(-1e9, 1e9) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0])
CLOCK = 3e-7  # seconds
STEPS_IN_TIME = st.sampled_from(
    [1.0, 1.0, 0.0, 0.0, 1e-6, 300.0, -5.0, math.nan]
)  # a clock may stand, jump, be set back


@st.composite
def any_series(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Any values at any distances (nan: unknown where), and how many blocks of them are filed."""
    count = draw(st.integers(1, 500))
    finite = draw(st.booleans())  # else a long run never comes to be drawn from its extremes
    values = draw(arrays(np.float64, count, elements=st.floats(-1e9, 1e9) if finite else VALUES, fill=st.nothing()))
    passed = draw(arrays(np.float64, count, elements=STEPS_IN_TIME, fill=st.nothing()))
    return values, passed, draw(st.integers(0, count // 32))


def in_sight(x: np.ndarray, low: float, high: float) -> tuple[int, int]:
    """The rows of a window with a neighbour on either side."""
    return max(0, int((x < low).sum()) - 1), min(len(x), int((x <= high).sum()) + 1)


def stretches_show_their_extremes(
    found: lines.Line, where: np.ndarray, x: np.ndarray, low: np.ndarray, high: np.ndarray, most: int
) -> None:
    """Of groups of rows with their extremes (or single rows), at `where` on the axis, each stretch's are drawn."""
    edges = np.linspace(where[0], where[-1], most // 2 + 1)[:-1]
    stretch = np.searchsorted(edges, where, side="right")
    drawn = set(zip(found.x.tolist(), found.y.tolist(), strict=True))
    for one in np.unique(stretch):
        here = stretch == one
        places = x[here].ravel().tolist()
        assert any((place, float(low[here].min())) in drawn for place in places)
        assert any((place, float(high[here].max())) in drawn for place in places)


@pytest.mark.slow
@given(
    any_series(),
    st.floats(-0.2, 1.2),
    st.floats(-0.2, 1.2),
    st.integers(2, 120),
    st.sampled_from(["step", "time", "tokens"]),
)
@hypothesis_settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_window_of_any_series_loses_an_extreme(
    tmp_path_factory: pytest.TempPathFactory, series: tuple[np.ndarray, np.ndarray, int], a: float, b: float,
    most: int, axis: lines.AxisName,
) -> None:  # fmt: skip
    values, passed, filed = series
    data = np.full((len(COLUMNS), len(values)), np.nan)
    data[AT["seq"]] = data[AT["step"]] = np.arange(len(values))
    data[AT["time"]] = 1e9 + np.cumsum(np.nan_to_num(passed))
    data[AT["tokens"]] = np.where(np.isnan(passed), math.nan, data[AT["time"]])
    data[AT["loss"]], data[AT["step_seconds"]] = values, 1.0
    path = tmp_path_factory.mktemp("any") / "run.points"
    series_file.append(path, 0, [series_file.pack(data[:, 32 * n : 32 * n + 32]) for n in range(filed)])
    file = series_file.open_file(path)
    tables: list[series_columns.Table] = [series_columns.ColumnsInMemory(data, None)]
    if file is not None:
        tables.append(series_columns.MappedColumns(file, 0, data[:, 32 * filed :]))
    for table in tables:
        x = lines.Axis(axis, table, None).of(table).part(0, len(values))
        assert (np.diff(x) >= 0).all()
        low, high = (x[0] + share * (x[-1] - x[0]) for share in sorted((a, b)))
        for edge in (low, high):  # nearer to a point than a clock at 1e9 s can tell, it is on either side of it
            assume(not ((x != edge) & (np.abs(x - edge) < CLOCK)).any())
        found = lines.line(table, "loss", lines.Axis(axis, table, None).of(table), (low, high), 0.0, (most, 0))
        numbers = np.isfinite(values)
        sure_x, sure_y = x[numbers], values[numbers]
        first, last = in_sight(sure_x, low, high)
        seen_x, seen_y = sure_x[first:last], sure_y[first:last]
        assert (np.diff(found.x) >= 0).all() and len(found.x) == len(found.y) <= most + 2 + 2 * lines.GROUP
        if not len(seen_y):
            assert not len(found.y)
            continue
        # All that is drawn was measured; the ends and both extremes are there.
        assert set(zip(found.x, found.y, strict=True)) <= set(zip(seen_x, seen_y, strict=True))
        assert (found.x[0], found.y[0]) == (seen_x[0], seen_y[0])
        assert (found.x[-1], found.y[-1]) == (seen_x[-1], seen_y[-1])
        assert (found.y.min(), found.y.max()) == (seen_y.min(), seen_y.max())
        if len(seen_y) <= most:
            assert found.y.tolist() == seen_y.tolist()
        elif table is tables[0] or not numbers.all() or last - first <= 2 * lines.GROUP * (most // 2):
            stretches_show_their_extremes(found, seen_x, seen_x, seen_y, seen_y, most)
        else:
            begins = np.arange(-(-first // lines.GROUP) * lines.GROUP, last, lines.GROUP)
            begins = begins[np.minimum(begins + lines.GROUP, len(values)) <= last]  # the last of all may be a short one
            groups = np.minimum(begins[:, None] + np.arange(lines.GROUP), len(values) - 1)
            told = values[groups]
            stretches_show_their_extremes(found, x[begins], x[groups], told.min(axis=1), told.max(axis=1), most)


@pytest.mark.parametrize("seed", range(4))
def test_each_stretch_of_a_file_shows_its_lowest_and_highest_point(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    count, most = 20_000, 100
    data = np.full((len(COLUMNS), count), np.nan)
    data[AT["seq"]] = data[AT["step"]] = np.arange(count)
    data[AT["loss"]] = rng.standard_t(2, count)
    data[AT["step_seconds"]] = 1.0
    path = tmp_path / "run.points"
    series_file.append(path, 0, [series_file.pack(data[:, start : start + 32]) for start in range(0, count, 32)])
    file = series_file.open_file(path)
    assert file is not None
    table = series_columns.MappedColumns(file, 0, data[:, :0])
    places = lines.Axis("step", table, None).of(table)
    found = lines.line(table, "loss", places, (-math.inf, math.inf), 0.0, (most, 0))
    assert len(found.y) <= most + 4
    width = (count - 1) / (most // 2)
    for stretch in range(most // 2):  # with the rest of a group that begins in it
        low, high = math.ceil(stretch * width / 4) * 4, math.ceil((stretch + 1) * width / 4) * 4
        part = data[AT["loss"], low : min(high, count)]
        seen = found.y[(found.x >= low) & (found.x < high)]
        assert seen.min() == part.min() and seen.max() == part.max()


@given(st.integers(1, 800), st.sampled_from([0.1, 0.6, 0.95]), st.integers(1, 60), st.floats(0, 1), st.integers(0, 99))
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_average_of_a_long_column_counts_every_point(
    count: int, weight: float, most: int, share: float, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(size=count)
    first = int(share * (count - 1))
    rows, shown, state = smoothed(values, weight, first, most)

    def windows(ends: np.ndarray, reach: int) -> np.ndarray:
        padded = np.concatenate((np.zeros(reach), values))
        return np.array([padded[end + 1 : end + 1 + reach] for end in ends])

    found = smoothed_of(windows, lambda a, b: values[a:b], weight, (first, count), most)
    assert (
        found[0].tolist() == rows.tolist()
        and np.allclose(found[1], shown)
        and math.isclose(found[2], state, abs_tol=1e-12)
    )


@pytest.mark.slow
def test_eight_runs_come_in_one_small_answer(studio: Studio) -> None:
    for number in range(8):
        write(make_run(studio, f"run-{number}"), 1, 200, lambda step: math.sin(step))
    make_run(studio, "theirs", owner="someone else")
    studio.refresh()
    with TestClient(make_app(studio), base_url="http://127.0.0.1") as client:
        names = [f"run-{number}" for number in range(7)] + ["theirs"]
        found = client.get("/curves", params={"run": names, "width": 1100, "weight": 0.5}).json()["runs"]
        assert [one.get("run") for one in found] == [*names[:7], None] and "error" in found[-1]
        assert max(found[0]["lines"]["loss"]["y"]) <= 1
        assert client.get("/curves", params={"run": [*names, "run-8"]}).status_code == 422
        assert client.get("/curves", params={"run": names, "x": "miles"}).status_code == 400


def test_the_table_has_each_point_once_when_a_piece_is_taken_in_twice(studio: Studio) -> None:
    run = make_run(studio)
    write(run, 1, 60)
    studio.refresh()
    with studio.database.write() as session:
        session.get_one(ingest.Run, "run-1").offset = 0
    studio.refresh()
    with studio.database.read() as session:
        assert session.query(Point).count() == 66
    assert told(studio) == expected(60)
