"""The shapes in which people save rows as JSON: under keys, by split, in columns, one after another."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studio.dataset.checking import Order, check
from studio.dataset.read.formats import LayoutOptions
from studio.dataset.read.limits import Limits
from studio.dataset.read.reader import open_rows
from studio.dataset.read.rows import Finding, Row
from studio.dataset.read.text.shapes import shape_of
from studio.dataset.store import iter_findings, read_records
from studio.errors import BadInput

Write = Callable[[str, str | bytes], Path]
PLAIN = Limits()
ROWS = [{"instruction": f"Name tree {number}", "output": f"Oak {number}"} for number in range(3)]
LATER = [{"instruction": "Name a bird", "output": "Wren"}, {"instruction": "Name a fish", "output": "Perch"}]


def read(path: Path, limits: Limits = PLAIN) -> tuple[list[Row | Finding], str]:
    with open_rows(path, limits) as source:
        rows = list(source.rows)
        return rows, source.note


def values(path: Path) -> list[dict[str, Any]]:
    rows, _ = read(path)
    assert [row.number for row in rows if isinstance(row, Row)] == list(range(1, len(rows) + 1))
    return [row.values for row in rows if isinstance(row, Row)]


def refused(path: Path, limits: Limits = PLAIN) -> str:
    with pytest.raises(BadInput) as error:
        read(path, limits)
    return str(error.value)


@pytest.mark.parametrize(
    ("value", "note"),
    [
        ({str(number): row for number, row in enumerate(ROWS)}, "JSON, UTF-8, rows under numbered keys"),
        ({str(number): row for number, row in enumerate(ROWS, start=1)}, "JSON, UTF-8, rows under numbered keys"),
        ({key: {str(n): row[key] for n, row in enumerate(ROWS)} for key in ROWS[0]}, "JSON, UTF-8, numbered columns"),
        (
            {"columns": ["instruction", "output"], "index": [0, 1, 2], "data": [list(row.values()) for row in ROWS]},
            "JSON, UTF-8, a table with its columns named apart",
        ),
    ],
)
def test_rows_however_they_are_arranged(write: Write, value: Any, note: str) -> None:
    for indent in (None, 2):
        path = write("a.json", json.dumps(value, indent=indent))
        assert values(path) == ROWS
        assert read(path)[1] == note


def test_keys_that_say_something_are_kept(write: Write) -> None:
    path = write("a.json", json.dumps(dict(zip(("oak", "elm", "12"), ROWS, strict=True))))
    assert values(path) == [{"key": key, **row} for key, row in zip(("oak", "elm", "12"), ROWS, strict=True)]
    assert "their keys as the column key" in read(path)[1]
    numbers = write("b.json", json.dumps({"7": ROWS[0], "9": ROWS[1]}))
    assert [row["key"] for row in values(numbers)] == ["7", "9"]
    taken = write("c.json", json.dumps({"u1": {"key": 1, "x": "p"}, "u2": {"key": 2, "x": "q"}}))
    assert values(taken) == [{"key 2": "u1", "key": 1, "x": "p"}, {"key 2": "u2", "key": 2, "x": "q"}]


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": {"from": ["human"], "value": ["Hi"]}},
        {"instruction": {"text": "a"}, "output": {"text": "b"}},
        {"prompt": {"en": "a"}, "completion": {"en": "b"}},
        {"first": {"a": 1}, "second": {"b": 2}},
        {"only": {"a": 1}},
    ],
)
def test_one_row_of_objects_stays_one_row(write: Write, row: dict[str, Any]) -> None:
    assert values(write("a.json", json.dumps(row))) == [row]


def test_a_bad_row_under_a_key_is_named(write: Write) -> None:
    first, second = read(write("a.json", '{"0": {"a": 1}, "1": {"a": NaN}}'))[0]
    assert isinstance(first, Row) and isinstance(second, Finding)
    assert (second.row, second.field) == (2, "a")


@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.txt"])
@pytest.mark.parametrize("between", ["\n", "\n\n", "", " "])
def test_objects_one_after_another(write: Write, name: str, between: str) -> None:
    path = write(name, between.join(json.dumps(row, indent=2) for row in ROWS) + "\n")
    assert values(path) == ROWS
    assert read(path)[1] == "JSON, UTF-8, one object after another"


def test_one_object_over_several_lines_is_a_row(write: Write) -> None:
    assert values(write("a.jsonl", json.dumps(ROWS[0], indent=2))) == ROWS[:1]


def test_a_broken_object_among_others_is_placed(write: Write) -> None:
    path = write("a.json", json.dumps(ROWS[0], indent=2) + '\n{\n  "instruction": oops\n}\n')
    assert "expecting value at line 6, column 18, after example 1" in refused(path)
    assert "not an object" in refused(write("b.json", json.dumps(ROWS[0], indent=2) + json.dumps(ROWS[1]) + "\n7"))
    assert "extra data at line 4, column 2" in refused(write("c.json", json.dumps(ROWS[0], indent=2) + ",\n{}"))
    rows, _ = read(write("d.json", json.dumps(ROWS[0], indent=2) + '{"a": 1, "a": 2}'))
    assert isinstance(rows[1], Finding) and "appears twice" in rows[1].reason


def test_a_long_sequence_streams(write: Write) -> None:
    path = write("a.json", "\n".join(json.dumps({"n": n, "text": "x" * 500}, indent=1) for n in range(3000)))
    with open_rows(path, Limits()) as source:
        assert next(source.rows) == Row(1, {"n": 0, "text": "x" * 500})
        done, size = source.done()
        assert 0 < done < size
        assert sum(1 for _ in source.rows) == 2999
    long = write("b.json", json.dumps(ROWS[0], indent=1) + json.dumps({"a": "x" * (2**20 + 9)}))
    assert "example 2" in refused(long, Limits(max_row_mb=1)) and "STUDIO_MAX_ROW_MB" in refused(
        long, Limits(max_row_mb=1)
    )


def test_broken_lines_of_a_jsonl_file_still_cost_only_themselves(write: Write) -> None:
    rows, note = read(write("a.jsonl", '{\n{"a": 1}\n{"a": 2}\n'))
    assert note == "JSON lines, UTF-8" and [isinstance(row, Row) for row in rows] == [False, True, True]


@pytest.mark.parametrize("held", ["test", "validation", "eval", "dev", "val", "Test"])
def test_splits_are_rows_and_held_out_rows(write: Write, held: str) -> None:
    path = write("a.json", json.dumps({held: LATER, "train": ROWS, "version": 1}))
    rows, note = read(path)
    assert rows == [Row(n, row) for n, row in enumerate(ROWS, 1)] + [
        Row(n, row, True) for n, row in enumerate(LATER, 1)
    ]
    assert note == f"JSON, UTF-8, 3 rows of train; held out: 2 of {held}"


def test_several_held_out_splits_are_held_out_together(write: Write) -> None:
    columns = {key: [row[key] for row in LATER] for key in LATER[0]}
    path = write("a.json", json.dumps({"train": {str(n): row for n, row in enumerate(ROWS)}, "test": LATER[:1],
                                       "validation": columns}))  # fmt: skip
    rows, note = read(path)
    assert [(row.number, row.held_out) for row in rows if isinstance(row, Row)] == [
        (1, False), (2, False), (3, False), (1, True), (2, True), (3, True),
    ]  # fmt: skip
    assert note.endswith("3 rows of train; held out: 1 of test and 2 of validation")


def test_an_unknown_split_is_refused_with_a_way_out(write: Write) -> None:
    said = refused(write("a.json", json.dumps({"train": ROWS, "test": LATER, "extra": LATER})))
    assert "'extra'" in said and "Rename" in said


def test_held_out_rows_of_a_file_are_held_out_of_training(write: Write, tmp_path: Path) -> None:
    path = write("a.json", json.dumps({"train": ROWS, "test": [*LATER, {"instruction": "x"}, ROWS[0]]}))
    folder = tmp_path / "out"
    folder.mkdir()
    report = check(Order(path), Limits(), folder)
    assert (report.rows, report.ok, report.held_out) == (7, 6, 3)
    assert [record.held_out for record in read_records(folder / report.id)] == [False] * 3 + [True] * 3
    findings = {finding.kind: finding for finding in iter_findings(folder / report.id)}
    assert (findings["missing"].row, findings["missing"].held_out) == (3, True)
    assert (findings["leak"].row, findings["leak"].held_out) == (4, True)
    other = write("b.jsonl", json.dumps(LATER[0]) + "\n")
    for first, second in ((path, other), (other, path)):
        with pytest.raises(BadInput, match=r"a\.json has held-out rows of its own"):
            check(Order(first, held_out=second), Limits(), folder)


def test_no_usable_row_of_train_is_refused(write: Write, tmp_path: Path) -> None:
    path = write("a.json", json.dumps({"train": [{"instruction": "x", "output": ""}], "test": LATER}))
    with pytest.raises(BadInput, match=r"no usable row\. Row 1, field output"):
        check(Order(path), Limits(), tmp_path)


def test_what_belongs_to_no_row_is_named() -> None:
    rows = [{"instruction": "a", "output": "b"}]
    for value in ({"data": rows, "system": "Be brief."}, {"train": rows, "test": rows, "system": "Be brief."}):
        shape = shape_of("f.json", value)
        assert shape is not None and "not read, because it belongs to no row: system" in shape.note
    assert shape_of("f.json", {"data": rows, "version": None}).note == ""


def test_an_ignored_column_does_not_decide_the_format(write: Write, tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Fine?"}, {"role": "assistant", "content": "Yes."}]
    path = write("a.jsonl", json.dumps({"messages": talk, "label": True}) + "\n")
    asked = check(Order(path), PLAIN, tmp_path)
    assert (asked.format, asked.suggested) == (None, "kto")
    read = check(Order(path, layout=LayoutOptions(ignore=("label",))), PLAIN, tmp_path)
    assert read.format == "messages"
    assert [(use.name, use.status) for use in read.column_uses] == [("messages", "used"), ("label", "ignored")]
