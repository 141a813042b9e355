"""Reading files: what is a dataset is read, what is not gets a sentence that names the place and the remedy."""

import functools
import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.dataset.read.limits import Limits
from studio.dataset.read.reader import ReadOptions, Undecodable, open_rows
from studio.dataset.read.rows import Finding, Row
from studio.errors import BadInput

Write = Callable[[str, str | bytes], Path]
TWO = [{"q": "1", "a": "x"}, {"q": "2", "a": "y"}]
LINES = '{"q": "1", "a": "x"}\n{"q": "2", "a": "y"}\n'
PLAIN = Limits()
packed = functools.partial(gzip.compress, mtime=0)  # the same bytes, so the same test, at any time


def read(path: Path, limits: Limits = PLAIN, **how: str) -> list[Row | Finding]:
    with open_rows(path, limits, ReadOptions(**how)) as source:
        return list(source.rows)


def values(path: Path, limits: Limits = PLAIN, **how: str) -> list[dict[str, Any]]:
    found = read(path, limits, **how)
    assert all(isinstance(row, Row) for row in found), found
    return [row.values for row in found if isinstance(row, Row)]


def findings(path: Path, limits: Limits = PLAIN) -> list[Finding]:
    return [row for row in read(path, limits) if isinstance(row, Finding)]


def refused(path: Path, limits: Limits = PLAIN, **how: str) -> str:
    with pytest.raises(BadInput) as error:
        read(path, limits, **how)
    return str(error.value)


def parquet(**columns: Any) -> bytes:
    held = io.BytesIO()
    pq.write_table(pa.table(columns), held)
    return held.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("a.jsonl", LINES.replace("\n", "\n\n", 1), "JSON lines, UTF-8"),
        ("a.ndjson", "\ufeff" + LINES.replace("\n", "\r\n"), "JSON lines, UTF-8"),
        ("a.jsonl", LINES.replace("\n", "\r"), "JSON lines, UTF-8"),
        ("a.json", json.dumps(TWO), "JSON, UTF-8"),
        ("a.json", json.dumps(TWO, indent=2), "JSON, UTF-8"),
        ("a.jsonl", json.dumps(TWO), "JSON, UTF-8"),
        ("a.json", '{"q": ["1", "2"], "a": ["x", "y"]}', "JSON, UTF-8"),
        ("a.json", '{"data": [{"q": "1", "a": "x"}, {"q": "2", "a": "y"}], "version": 1}', "JSON, UTF-8"),
        ("a.json", LINES, "JSON lines, UTF-8"),
        ("a.csv", LINES, "JSON lines, UTF-8"),
        ("unnamed", LINES, "JSON lines, UTF-8"),
        ("a.csv", "q,a\n1,x\n2,y\n", "CSV, UTF-8, separated by commas"),
        ("a.csv", "q;a\n1;x\n2;y\n", "CSV, UTF-8, separated by semicolons"),
        ("a.csv", "sep=;\nq;a\n1;x\n2;y\n", "CSV, UTF-8, separated by semicolons"),
        ("a.csv", "q|a\n1|x\n2|y", "CSV, UTF-8, separated by bars (|)"),
        ("a.tsv", "q\ta\n1\tx\n\n2\ty\n", "TSV, UTF-8, separated by tabs"),
        ("a.csv", 'q,a\r\n"1",x\r\n2,"y"\r\n', "CSV, UTF-8, separated by commas"),
        ("a.csv", 'q,a\r"1",x\r2,"y"\r', "CSV, UTF-8, separated by commas"),
        ("a.csv", 'q,a\r\n"1",x\n2,"y"\r', "CSV, UTF-8, separated by commas"),
        ("a.csv", "'q','a'\n'1','x'\n'2','y'\n", "CSV, UTF-8, separated by commas, quoted with single quotes"),
        ("a.jsonl", LINES.encode("utf-16"), "JSON lines, UTF-16"),
        ("a.csv", "q,a\n1,x\n2,y\n".encode("utf-32"), "CSV, UTF-32, separated by commas"),
        ("a.jsonl.gz", packed(LINES.encode()), "gzipped JSON lines, UTF-8"),
        (
            "a.jsonl",
            packed(LINES[:21].encode()) + packed(LINES[21:].encode()),
            "gzipped JSON lines, UTF-8",
        ),
        ("a.parquet", parquet(q=["1", "2"], a=["x", "y"]), "Parquet"),
        ("a.bin", parquet(q=["1", "2"], a=["x", "y"]), "Parquet"),
        ("a.parquet.gz", packed(parquet(q=["1", "2"], a=["x", "y"])), "gzipped Parquet"),
    ],
)
def test_the_same_rows_however_they_are_written(write: Write, name: str, content: str | bytes, note: str) -> None:
    path = write(name, content)
    assert values(path) == TWO
    with open_rows(path, PLAIN) as source:
        assert source.note == note
        assert source.columns in ([], ["q", "a"])
        list(source.rows)
        assert source.done() == (path.stat().st_size, path.stat().st_size)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jsonl", "", "empty.jsonl is empty"),
        ("empty.csv.gz", packed(b""), "is empty once unpacked"),
        ("blank.csv", " \n\n", "only white space"),
        ("page.json", "<!doctype html><html>", "looks like a web page"),
        ("cut.json", '[{"q": "1"}, {"q": ', "line 1, column 20, after example 1"),
        ("more.json", '[{"q": "1"}]\n]', "something follows the array at line 2, column 1"),
        ("comma.json", '[{"q": "1"},]', "a comma comes before the ]"),
        ("number.json", "42", "contains a number"),
        ("columns.json", '{"q": ["1", "2"], "a": ["x"]}', "differ in length (q 2, a 1)"),
        ("keys.json", '{"q": ["1"], "q": ["x"]}', "the key 'q' appears twice"),
        ("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(40), "is a picture"),
        ("sheet.csv", b"PK\x03\x04" + bytes(26) + b"[Content_Types].xml", "Save the sheet as CSV"),
        ("pointer.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("model.jsonl", b"GGUF\x03\0\0\0", "is a model"),
        ("noise.csv", bytes(range(32)) * 20, "not text"),
        ("zeros.csv", b"q,a\x00\n1,2\n", "column 2 contains a NUL"),
        ("twice.csv", "q,q\n1,2\n", "'q' appears twice"),
        ("nameless.csv", "q,\n1,2\n", "column 2 of the header has no name"),
        (
            "open.csv",
            'q,a\n1,2\n"x\ny",3\nz,"open\n4,5\n',
            "record 3: a quote is never closed. It was opened on line 5",
        ),
        ("stray.csv", 'q,a\n"a" b,c\n', "record 1, line 2: text follows a quoted text"),
        ("notes.rst", "hello there", "files ending in .rst are not read"),
        ("deep.json", "[" * 50_000, "nested more than 64 deep"),
        ("cut.csv.gz", packed(b"q,a\n" * 500)[:-9], "cut short"),
        ("bad.csv.gz", packed(b"q,a\n" * 500)[:-8] + bytes(8), "damaged"),
        ("cut.parquet", parquet(q=["1"])[:-5], "cut short"),
        ("bad.parquet", b"PAR1" + bytes(40) + b"\x10\0\0\0PAR1", "broken parquet"),
        ("not.parquet", "q,a\n1,2\n", "is not a parquet file"),
    ],
)
def test_what_is_no_dataset_is_named_with_the_remedy(write: Write, name: str, content: str | bytes, said: str) -> None:
    told = refused(write(name, content))
    assert said in told
    assert name in told
    assert told.endswith(".")


def test_what_is_no_file_is_said(write: Write, tmp_path: Path) -> None:
    assert "no file" in refused(tmp_path / "missing.csv")
    assert "is a folder" in refused(tmp_path)
    os.mkfifo(tmp_path / "pipe.csv")
    assert "a pipe or a device" in refused(tmp_path / "pipe.csv")
    assert "a pipe or a device" in refused(Path("/dev/zero"))
    (tmp_path / "lost.csv").symlink_to(tmp_path / "gone")
    assert "no file" in refused(tmp_path / "lost.csv")


def test_limits_are_said_when_hit(write: Write) -> None:
    rows = write("rows.jsonl", '{"a": "1"}\n' * 20)
    assert "more than 10 rows (the limit is set by STUDIO_MAX_ROWS)" in refused(rows, Limits(max_rows=10))
    big = "x" * (2**20 + 9)
    long = write("long.json", json.dumps([{"a": big}]))
    assert "STUDIO_MAX_FILE_MB" in refused(long, Limits(max_file_mb=1))
    assert "STUDIO_MAX_FILE_MB" in refused(write("a.json.gz", packed(long.read_bytes())), Limits(max_file_mb=1))
    assert "STUDIO_MAX_ROW_MB" in refused(long, Limits(max_row_mb=1))
    assert "STUDIO_MAX_FIELD_MB" in findings(long, Limits(max_field_mb=1))[0].reason
    table = write("long.csv", f'q,a\n1,2\n3,"{big}"\n')
    told = refused(table, Limits(max_row_mb=1))
    assert "record 2" in told and "line 3" in told and "STUDIO_MAX_ROW_MB" in told
    [found] = findings(table, Limits(max_field_mb=1))
    assert (found.row, found.field) == (2, "a") and "STUDIO_MAX_FIELD_MB" in found.reason
    bomb = write("bomb.csv.gz", packed(bytes(20 * 2**20)))
    assert "STUDIO_MAX_COMPRESSION_RATIO" in refused(bomb) or "not text" in refused(bomb)
    spread = write("bomb.parquet", parquet(a=[big] * 30))
    assert "STUDIO_MAX_FILE_MB" in refused(spread, Limits(max_file_mb=3))


def test_an_overlong_line_costs_that_line_only(write: Write) -> None:
    path = write("long.jsonl", '{"a": "1"}\n{"a": "' + "x" * 3 * 2**20 + '"}\n{"a": "3"}\n')
    first, second, third = read(path, Limits(max_row_mb=1))
    assert isinstance(second, Finding) and second.row == 2 and "STUDIO_MAX_ROW_MB" in second.reason
    assert second.raw.endswith(" …") and len(second.raw.encode()) <= 65536
    assert first == Row(1, {"a": "1"}) and third == Row(3, {"a": "3"})


@pytest.mark.parametrize(
    ("item", "field", "reason"),
    [
        ('{"a": 1, "a": 2}', "", "the key 'a' appears twice"),
        ('{"a": NaN}', "a", "NaN is not JSON"),
        ('{"a": [{"b": -Infinity}]}', "a", "-Infinity is not JSON"),
        ('{"a": 1e999}', "a", "the number 1e999 is too large"),
        ('{"a": ' + "1" * 101 + "}", "a", "more than 100 digits (the limit is set by STUDIO_MAX_DIGITS)"),
        ('{"a": ' + "1" * 5000 + "}", "a", "more than 100 digits"),
        (
            '{"a": ' + "[" * 70 + "]" * 70 + "}",
            "a",
            "nested more than 64 deep (the limit is set by STUDIO_MAX_NESTING)",
        ),
        ('{"a": "x\\u0000"}', "a", "contains a NUL character"),
        ("7", "", "a number instead of an object"),
        ('["a"]', "", "a list instead of an object"),
    ],
)
def test_one_bad_row_costs_that_row_only(write: Write, item: str, field: str, reason: str) -> None:
    good = '{"a": "1"}'
    for path in (write("a.jsonl", f"{good}\n{item}\n{good}\n"), write("a.json", f"[{good}, {item}, {good}]")):
        first, second, third = read(path)
        assert isinstance(first, Row) and isinstance(third, Row) and third.number == 3
        assert isinstance(second, Finding)
        assert (second.row, second.kind, second.field, second.raw) == (2, "unreadable", field, item)
        assert reason in second.reason and second.fix


def test_a_broken_line_is_shown_as_it_stood(write: Write) -> None:
    [found] = findings(write("some.jsonl", '{"q": "a"}\n{"q": \n\n{"q": "b"}\n'))
    assert (found.row, found.raw) == (2, '{"q": ')
    assert found.reason == "not valid JSON: expecting value at column 7"


def test_records_with_too_many_or_too_few_fields(write: Write) -> None:
    found = read(write("a.csv", "q,a\n1\n1,2,3\n,\n\nx,y\n"))
    assert [row.row if isinstance(row, Finding) else row.number for row in found] == [1, 2, 3, 4]
    assert isinstance(found[0], Finding) and found[0].reason == "1 field where the header names 2"
    assert isinstance(found[1], Finding) and found[1].raw == "1,2,3"
    assert found[2:] == [Row(3, {"q": "", "a": ""}), Row(4, {"q": "x", "a": "y"})]


@pytest.mark.parametrize(
    ("content", "cells"),
    [
        ('q,a\n"Say ""hi"", please","line 1\nline 2"\n', ['Say "hi", please', "line 1\nline 2"]),
        ('q,a\n"one\r\ntwo","a\u2028b"\n', ["one\r\ntwo", "a\u2028b"]),
        ('q,a\n"say \\"hi\\", ok","C:\\new"\n', ['say "hi", ok', "C:\\new"]),
        ("q,a\n'1, 2','it''s'\n", ["1, 2", "it's"]),
        ('"q", "a"\n"x, y", "z, w"\n', ["x, y", "z, w"]),
        ('q\ta\n"hello\tx, y\n', ['"hello', "x, y"]),
        ("q,a\n5\" pipe,it's\n", ['5" pipe', "it's"]),
        ("q,a\n a , b \n", [" a ", " b "]),
    ],
)
def test_csv_keeps_separators_quotes_and_line_breaks(write: Write, content: str, cells: list[str]) -> None:
    assert values(write("a.csv", content)) == [dict(zip(("q", "a"), cells, strict=True))]


def test_a_person_may_say_the_separator(write: Write) -> None:
    path = write("a.csv", "q;a,b\n1;2,3\n")
    assert values(path, delimiter=";") == [{"q": "1", "a,b": "2,3"}]
    assert values(path, delimiter="comma") == [{"q;a": "1;2", "b": "3"}]
    assert "'::' cannot separate fields" in refused(path, delimiter="::")


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1252", "café"),
        ("cp1252", "Größe über Österreich, naïve façade, it’s “quoted”"),
        ("cp1251", "Привет, как дела"),
        ("gb18030", "中文数据集的示例文本，用来测试编码检测。"),
        ("shift_jis", "これは日本語のテキストです。漢字とカタカナ。"),
        ("euc_kr", "이것은 한국어 텍스트입니다. 인코딩을 시험합니다."),
        ("big5", "這是一個繁體中文的資料集範例。"),
    ],
)
def test_an_unknown_encoding_is_asked_for_with_the_likeliest_first(write: Write, encoding: str, text: str) -> None:
    content = f"q;a\nplain;1\n{text};2\n"
    path = write("old.csv", content.encode(encoding))
    with pytest.raises(Undecodable) as error:
        read(path)
    assert "old.csv is not UTF-8 text: line 3 contains the byte 0x" in str(error.value)
    assert f"--encoding {encoding}" in str(error.value)
    proposals = error.value.proposals
    assert proposals[0].encoding == encoding
    assert proposals[0].preview.startswith(text[:20])
    assert len({proposal.encoding for proposal in proposals}) == len(proposals) <= 6
    assert values(path, encoding=encoding) == [{"q": "plain", "a": "1"}, {"q": text, "a": "2"}]


def test_a_text_of_two_encodings_is_called_that(write: Write) -> None:
    path = write("mixed.csv", "q,a\né,1\n".encode() + "è,2\n".encode("cp1252"))
    told = refused(path)
    assert "line 3" in told and "may come from elsewhere: fix it" in told


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_wide_text_without_its_mark_is_recognised(write: Write, encoding: str) -> None:
    path = write("wide.jsonl", LINES.encode(encoding))
    with pytest.raises(Undecodable) as error:
        read(path)
    assert [proposal.encoding for proposal in error.value.proposals] == [encoding]
    assert values(path, encoding=encoding) == TWO


def test_a_wrong_or_unknown_encoding_is_refused(write: Write) -> None:
    path = write("a.csv", "q,a\n\x81é,2\n".encode("latin-1"))
    assert "a.csv is not cp1252 text: line 2 contains the byte 0x81" in refused(path, encoding="cp1252")
    for name in ("klingon", "rot13", "hex", "idna", "undefined", "unicode_escape", "utf\0", ""):
        if name:
            assert "There is no text encoding" in refused(path, encoding=name)
    marked = write("b.csv", "\ufeffq,a\n1,2\n")
    assert "begins with the mark of UTF-8" in refused(marked, encoding="cp1252")
    assert values(marked, encoding="utf8") == [{"q": "1", "a": "2"}]


def test_parquet_values_are_plain(write: Write) -> None:
    path = write(
        "a.parquet",
        parquet(
            day=[date(2024, 1, 2)],
            price=[Decimal("1.50")],
            data=[b"\xff"],
            score=[float("nan")],
            turns=[[{"role": "user", "score": float("nan")}]],
            late=pa.array([1], pa.timestamp("ns")),
        ),
    )
    [row] = values(path)
    assert row | {"late": ""} == {
        "day": date(2024, 1, 2),
        "price": Decimal("1.50"),
        "data": b"\xff",
        "score": None,
        "turns": [{"role": "user", "score": None}],
        "late": "",
    }
    assert "1970-01-01" in str(row["late"])


def test_parquet_rows_that_cannot_be_read(write: Write) -> None:
    text = pa.Array.from_buffers(pa.utf8(), 2, pa.array([b"ok", b"\xff!"]).buffers())
    first, second = read(write("a.parquet", parquet(a=text, b=[1.0, float("inf")])))
    assert first == Row(1, {"a": "ok", "b": 1.0})
    assert isinstance(second, Finding) and second.field == "a" and "not UTF-8" in second.reason


def test_a_long_array_streams(write: Write) -> None:
    rows = [{"n": number, "text": "ä" * (number % 997)} for number in range(3000)]
    path = write("many.json", json.dumps(rows, ensure_ascii=False))
    with open_rows(path, PLAIN) as source:
        assert next(source.rows) == Row(1, rows[0])
        done, size = source.done()
        assert 0 < done < size
        assert [row.values for row in source.rows if isinstance(row, Row)] == rows[1:]
    broken = write("broken.json", json.dumps(rows, indent=1)[:-4] + "x}]")
    assert "after example 2999" in refused(broken)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([".json", ".jsonl", ".csv", ".tsv", ".dat", ".parquet", ".gz"]))
def test_any_bytes_get_rows_or_a_plain_refusal(data: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"any{suffix}"
        path.write_bytes(data)
        try:
            read(path)
        except BadInput as told:
            assert str(told).endswith(".") and "any" in str(told)


_LEAVES = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9)
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=15,
)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=4), _VALUES, max_size=4)))
def test_any_rows_are_read_as_written_or_refused_one_by_one(rows: list[dict[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        array, lines = Path(folder) / "any.json", Path(folder) / "any.jsonl"
        array.write_text(json.dumps(rows), encoding="utf-8")
        lines.write_text("".join(json.dumps(row) + "\n" for row in rows) or "{}", encoding="utf-8")
        for path in (array, lines)[: 2 if rows else 1]:
            found = read(path)
            assert len(found) == len(rows)
            for number, (made, row) in enumerate(zip(found, rows, strict=True), start=1):
                if isinstance(made, Row):
                    assert (made.number, made.values) == (number, row)
                else:
                    assert made.row == number and any(word in made.raw for word in ("NaN", "Infinity", "\\u0000"))
