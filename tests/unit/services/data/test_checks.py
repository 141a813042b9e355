"""Checking a file: what is found, what is kept, what can be taken away; and versions made from it."""

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studio.errors import BadInput, NotFound
from studio.services.core import jobs
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.data import checks, datasets, examples
from studio.services.data.checks import Options
from studio.settings import Settings
from tests.conftest import little_rows, write_jsonl

pytestmark = pytest.mark.slow

Write = Callable[[str, str | bytes], Path]
LONG = " ".join(f"word{n}" for n in range(60))


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """24 good rows, of which one is repeated and one nearly, and six that cannot be used."""
    rows: list[dict[str, Any]] = list(little_rows())
    rows += [rows[3], {"instruction": LONG, "output": "one"}, {"instruction": f"{LONG} more", "output": "one"}]
    rows += [{"instruction": "a"}, {"instruction": "a", "output": " "}, {"instruction": "LONE", "output": "b"}]
    rows += [{"instruction": "=HYPERLINK(0)", "output": None}]
    path = write_jsonl(tmp_path / "spoilt.jsonl", rows)
    path.write_text(path.read_text().replace("LONE", r"\ud800") + '{"instruction": "half\n"a text"\n', encoding="utf-8")
    return path


def kinds(studio: Studio, key: str) -> list[tuple[int, str, int]]:
    return [(item.finding.row, item.finding.kind, item.example) for item in examples.findings(studio, key).items]


def test_everything_that_is_wrong_is_counted_and_shown(studio: Studio, spoilt: Path) -> None:
    checked = checks.check(studio, spoilt)
    report = checked.report
    assert (report.format, report.rows, report.ok) == ("alpaca", 33, 27)
    assert report.counts == {
        "duplicate": 1, "near_duplicate": 1, "missing": 2, "empty": 1, "wrong_type": 1, "unreadable": 2,
    }  # fmt: skip
    assert report.rows - report.ok == sum(
        report.counts[kind] for kind in ("missing", "empty", "wrong_type", "unreadable")
    )
    assert kinds(studio, checked.token) == [
        (25, "duplicate", 25), (27, "near_duplicate", 27), (28, "missing", 0), (29, "empty", 0),
        (30, "wrong_type", 0), (31, "missing", 0), (32, "unreadable", 0), (33, "unreadable", 0),
    ]  # fmt: skip
    (again,) = examples.findings(studio, checked.token, ["duplicate"]).items
    assert again.finding.of == 4 and "same as row 4" in again.finding.reason
    page = examples.findings(studio, checked.token, offset=6, limit=1)
    assert page.total == 8 and page.items[0].finding.row == 32
    said = datasets.verdict_of(checked)
    assert said.mark == "warn" and "27 of 33 rows can be used" in said.text and "2 rows repeat others" in said.text


def test_rejects_can_be_taken_away_and_harm_no_spreadsheet(studio: Studio, spoilt: Path) -> None:
    folder = checks.folder_of(studio, checks.check(studio, spoilt).token)
    lines = [json.loads(line) for line in checks.rejects(folder, "jsonl")]
    assert [line["row"] for line in lines] == [28, 29, 30, 31, 32, 33]
    assert json.loads(lines[3]["content"]) == {"instruction": "=HYPERLINK(0)", "output": None}
    assert lines[4]["content"] == '{"instruction": "half' and lines[4]["kind"] == "unreadable"
    rows = list(csv.reader(io.StringIO("".join(checks.rejects(folder, "csv")))))
    assert rows[0] == ["row", "file", "kind", "field", "reason", "fix", "content"]
    assert len(rows) == 7 and all(len(row) == 7 for row in rows)
    with pytest.raises(BadInput, match=r"\.jsonl or \.csv, not as \.xlsx"):
        list(checks.rejects(folder, "xlsx"))


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_cell_that_would_run_as_a_formula_is_quoted(studio: Studio, write: Write, start: str) -> None:
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "a", f"{start}cmd": 1}]
    path = write("formula.jsonl", "".join(json.dumps(row) + "\n" for row in rows) + f"{start}cmd|' /C calc'!A0\n")
    folder = checks.folder_of(studio, checks.check(studio, path).token)
    cells = [cell for row in csv.reader(io.StringIO("".join(checks.rejects(folder, "csv")))) for cell in row]
    assert any("calc" in cell for cell in cells)
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


def test_a_checked_file_can_be_looked_at_before_and_after_it_is_added(ready: Studio, spoilt: Path) -> None:
    checked = checks.check(ready, spoilt)
    before = examples.rows(ready, checked.token, 24, 1)
    assert before == [
        {"example": 25, "row": 25, "prompt": "Add 3 and 4.\n\nAnswer briefly.", "answer": "7", "held_out": False}
    ]
    token_view = examples.tokens_of(ready, checked.token, 25, "tiny")
    info = datasets.keep(ready, checked.token)
    assert (info.name, info.rows, info.rejected, info.mark) == ("spoilt", 27, 6, "warn")
    assert examples.tokens_of(ready, info.id, 25, "tiny") == token_view
    assert examples.rows(ready, "spoilt", 24, 1) == before
    with pytest.raises(NotFound, match="Check the file again"):
        checks.get(ready, checked.token)
    assert list(ready.settings.staging.iterdir()) == []


def test_the_number_of_an_example_is_not_its_row_when_rows_were_left_out(ready: Studio, write: Write) -> None:
    path = write(
        "gap.jsonl", '{"instruction": ""}\n{"instruction": "x"}\n{"instruction": "q", "output": "the answer"}\n'
    )
    info = datasets.add(ready, path, options=Options(format="alpaca"))
    (row,) = examples.rows(ready, info.id)
    assert (row["example"], row["row"]) == (1, 3)
    view = examples.tokens_of(ready, info.id, 1, "tiny")
    assert (view.example, view.row) == (1, 3) and "the answer" in view.text


def test_columns_are_mapped_when_no_format_is_known(studio: Studio, write: Write) -> None:
    path = write("qa.csv", "question,answer\nwho?,me\nwhere?,here\n")
    checked = checks.check(studio, path)
    guess = checked.report.mapping
    assert checked.report.format is None and guess == {"instruction": "question", "output": "answer"}
    assert checks.preview(checked, guess)[1] == [
        {"role": "user", "content": "where?"},
        {"role": "assistant", "content": "here"},
    ]
    with pytest.raises(BadInput, match="has no output"):
        checks.preview(checked, {"instruction": "question"})
    with pytest.raises(BadInput, match=r"Try: --map instruction=question --map output=answer"):
        datasets.add(studio, path)
    info = datasets.add(studio, path, options=Options(mapping=guess))
    assert examples.rows(studio, info.id)[1]["answer"] == "here"
    assert list(studio.settings.datasets.iterdir()) == [studio.settings.datasets / info.id]


def test_a_format_can_be_chosen_and_must_fit(studio: Studio, write: Write) -> None:
    path = write("both.jsonl", '{"instruction": "a", "output": "b", "text": "c"}\n')
    assert checks.check(studio, path).report.format == "alpaca"
    report = checks.check(studio, path, Options(format="text")).report
    assert (report.format, report.why) == ("text", "you chose it")
    for form, said in [("messages", "needs a column messages"), ("parrot", "There is no format 'parrot'")]:
        with pytest.raises(BadInput, match=said):
            checks.check(studio, path, Options(format=form))
    nothing = [path for path in studio.settings.staging.iterdir() if not (path / "checked.json").exists()]
    assert nothing == []


def test_held_out_rows_that_are_also_trained_on_are_found(studio: Studio, write: Write) -> None:
    rows = little_rows(8)
    train, measure = write("train.jsonl", ""), write("measure.jsonl", "")
    write_jsonl(train, rows)
    write_jsonl(measure, [rows[5], {"instruction": "New?", "input": "", "output": "Yes."}])
    info = datasets.add(studio, train, options=Options(held_out=str(measure)))
    assert (info.rows, info.held_out, info.findings) == (10, 2, {"leak": 1})
    (leak,) = examples.findings(studio, info.id).items
    assert (leak.finding.row, leak.finding.of, leak.finding.held_out, leak.example) == (1, 6, True, 9)
    assert "1 held-out row is also trained on" in info.verdict
    done = jobs.drive(datasets.excluding(studio, info.id, kinds=["leak"]), lambda *_: None)
    assert (done.rows, done.held_out, done.findings) == (9, 1, {"excluded": 1})


def test_leaving_rows_out_makes_a_new_version(ready: Studio, spoilt: Path) -> None:
    info = datasets.add(ready, spoilt)
    done = jobs.drive(datasets.excluding(ready, info.id, kinds=["duplicate", "near_duplicate"]), lambda *_: None)
    assert (done.name, done.rows, done.parent) == ("spoilt-2", 25, info.id)
    assert "2 examples (duplicate and near duplicate)" in done.changes
    assert "duplicate" not in done.findings and done.findings["excluded"] == 2
    assert datasets.get(ready, "spoilt").rows == 27, "the first version is untouched"
    assert {row["row"] for row in examples.rows(ready, done.id)} == set(range(1, 28)) - {25, 27}
    assert "you left it out" in "".join(datasets.rejects(ready, done.id, "jsonl"))
    third = jobs.drive(datasets.excluding(ready, done.id, examples=[1]), lambda *_: None)
    assert (third.name, third.rows) == ("spoilt-3", 24)
    for wrong, said in [({"examples": [99]}, "there is no example 99"), ({"kinds": ["leak"]}, "nothing to leave out")]:
        with pytest.raises(BadInput, match=said):
            jobs.drive(datasets.excluding(ready, info.id, **wrong), lambda *_: None)  # type: ignore[arg-type]


def test_an_example_can_be_mended(ready: Studio) -> None:
    info = datasets.get(ready, "little")
    values = datasets.as_values(ready, info.id, 2)
    assert values == {"instruction": "Add 1 and 2.", "input": "Answer briefly.", "output": "3"}
    job = datasets.editing(ready, info.id, 2, values | {"output": "Three."})
    done = jobs.drive(job, lambda *_: None)
    assert (done.name, done.rows, done.changes) == ("little-2", 24, "example 2 corrected")
    assert examples.rows(ready, done.id, 1, 1)[0]["answer"] == "Three."
    assert examples.rows(ready, info.id, 1, 1)[0]["answer"] == "3"
    with pytest.raises(BadInput, match="Example 2, field output: the field is empty"):
        jobs.drive(datasets.editing(ready, info.id, 2, values | {"output": ""}), lambda *_: None)
    talk = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}
    assert jobs.drive(datasets.editing(ready, info.id, 1, talk), lambda *_: None).rows == 24


def test_lengths_follow_max_length_and_name_the_examples(ready: Studio) -> None:
    whole = examples.measure(ready, "little", "tiny", {"max_length": 1024})
    assert whole.rows_cut == whole.answers_lost == 0 and sum(whole.counts) == 24
    assert whole.verdict.mark == "good" and "nothing is cut at max_length 1,024" in whole.verdict.text
    assert whole.tokens["min"] <= whole.tokens["p50"] <= whole.tokens["p95"] <= whole.tokens["max"]
    values = {"max_length": whole.tokens["max"] - 1}
    close = examples.measure(ready, "little", "tiny", values)
    assert close.rows_cut == close.tokens_lost >= 1 and close.counts_by_kind == {"cut": close.rows_cut}
    found = examples.findings(ready, "little", lengths=("tiny", values)).items
    assert len(found) == close.rows_cut
    view = examples.tokens_of(ready, "little", found[0].example, "tiny", values)
    assert view.cut == 1 and view.row == found[0].finding.row and view.total == whole.tokens["max"]
    none = examples.measure(ready, "little", "tiny", {"max_length": 24})
    assert none.answers_lost == none.rows_untrained == 24 and none.verdict.mark == "bad"
    assert examples.findings(ready, "little", ["untrained"], lengths=("tiny", {"max_length": 24})).total == 24


def test_counts_of_many_rows_are_made_once_with_progress(ready: Studio, tmp_path: Path) -> None:
    info = datasets.add(ready, write_jsonl(tmp_path / "many.jsonl", little_rows(2100)))
    told: list[str] = []
    first = examples.measure(ready, info.id, "tiny", progress=lambda what, *_: told.append(what))
    assert "Counting tokens" in told
    told.clear()
    assert examples.measure(ready, info.id, "tiny", progress=lambda what, *_: told.append(what)) == first
    assert told == []


def test_what_cannot_be_seen_is_said(ready: Studio) -> None:
    for example in (0, 25, -1):
        with pytest.raises(BadInput, match=f"no example {example}; "):
            examples.tokens_of(ready, "little", example, "tiny")


def test_a_wrong_encoding_is_proposed_and_never_guessed(studio: Studio, write: Write) -> None:
    path = write("latin.csv", "prompt,completion\nGrüße aus Köln,café\n".encode("cp1252"))
    with pytest.raises(checks.Undecodable) as error:
        checks.check(studio, path)
    previews = {item.encoding: item.preview for item in error.value.proposals}
    assert "Grüße aus Köln" in previews["cp1252"]
    info = datasets.add(studio, path, options=Options(encoding="cp1252"))
    assert examples.rows(studio, info.id)[0]["answer"] == "café"


def test_half_characters_break_nothing(studio: Studio, write: Write) -> None:
    path = write("half.jsonl", '{"q": "\\ud800", "a": "b"}\n{"q": "c", "a": "d"}\n')
    look = checks.check(studio, path)
    assert look.report.samples[0]["q"] == "\\ud800"
    info = datasets.add(studio, path, options=Options(mapping={"instruction": "q", "output": "a"}))
    assert (info.rows, info.findings) == (1, {"wrong_type": 1})
    with pytest.raises(BadInput, match="half a character in its name"):
        checks.check(studio, write("name.jsonl", '{"\\udfff": "b"}\n'))


def test_closing_a_check_ends_its_process_and_leaves_nothing(studio: Studio, tmp_path: Path) -> None:
    job = checks.checking(studio, write_jsonl(tmp_path / "many.jsonl", little_rows(60_000)))
    next(job)
    (folder,) = studio.settings.staging.iterdir()
    assert (folder / "order.json").exists()
    job.close()
    assert list(studio.settings.staging.iterdir()) == []
    order = str(folder / "order.json").encode()
    running = [path for path in Path("/proc").glob("[0-9]*/cmdline") if _holds(path, order)]
    assert running == []


def _holds(path: Path, words: bytes) -> bool:
    try:
        return words in path.read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"read_seconds": 0.05}, "took longer than 0.05 s .* STUDIO_READ_SECONDS"),
        ({"read_memory_mb": 1}, "takes more memory .* STUDIO_READ_MEMORY_MB"),
        ({"max_rows": 100}, "STUDIO_MAX_ROWS"),
        ({"max_file_mb": 0}, "STUDIO_MAX_FILE_MB"),
    ],
)
def test_a_limit_that_is_hit_is_named(tmp_path: Path, limit: dict[str, Any], said: str) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", little_rows(2000))
    with Keeper(Settings(home=tmp_path / "home", offline=True, **limit)) as studio:
        with pytest.raises(BadInput, match=said):
            checks.check(studio, path)
        assert list(studio.settings.staging.iterdir()) == [] and list(studio.settings.datasets.iterdir()) == []


def test_results_nobody_came_back_for_are_removed_after_a_day(settings: Settings, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", little_rows())
    with Keeper(settings) as studio:
        old, young = (checks.check(studio, path).token for _ in range(2))
        os.utime(settings.staging / old, (0, 0))
    with Keeper(settings) as studio:
        assert checks.get(studio, young).report.ok == 24
        assert [folder.name for folder in settings.staging.iterdir()] == [young]


def test_what_another_checked_is_not_shown(settings: Settings, tmp_path: Path) -> None:
    with Keeper(settings, owner="ann") as studio:
        token = checks.check(studio, write_jsonl(tmp_path / "rows.jsonl", little_rows())).token
    with Keeper(settings, owner="bob") as studio:
        for ask in (checks.get, checks.folder_of, datasets.keep, examples.rows):
            with pytest.raises(NotFound):
                ask(studio, token)
