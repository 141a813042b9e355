"""Curated nasty files, each with what must come of it: a refusal that says so, or so many rows and findings."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import sqlite3
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from studio.dataset.read.limits import Limits

MIB = 2**20
GOOD = '{"instruction": "a", "output": "b"}'
PLAIN = Limits()


@dataclass(frozen=True)
class Nasty:
    """A file by its name, what is in it (or what writes it), and the outcome: `said`, a pattern of the refusal, or
    the numbers of rows and findings."""

    name: str
    content: str | bytes | Callable[[Path], None]
    said: str = ""
    rows: int = 0
    findings: int = 0
    limits: Limits = PLAIN
    encoding: str = ""
    delimiter: str = ""

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        if callable(self.content):
            self.content(path)
        else:
            path.write_bytes(self.content.encode() if isinstance(self.content, str) else self.content)
        return path


def refused(name: str, content: str | bytes | Callable[[Path], None], said: str, **more: Any) -> Nasty:
    return Nasty(name, content, said, **more)


def reads(name: str, content: str | bytes | Callable[[Path], None], rows: int, findings: int = 0, **more: Any) -> Nasty:
    return Nasty(name, content, "", rows, findings, **more)


def parquet(table: Any, **how: Any) -> bytes:
    held = io.BytesIO()
    pq.write_table(table, held, **how)
    return held.getvalue()


def _zip(*names: str) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return held.getvalue()


def _tar() -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        info = tarfile.TarInfo("a.jsonl")
        info.size = len(GOOD)
        archive.addfile(info, io.BytesIO(GOOD.encode()))
    return held.getvalue()


def _array(**columns: Any) -> bytes:
    held = io.BytesIO()
    np.savez(held, **columns)
    return held.getvalue()


def _database(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("create table a (b text)")
    connection.close()


def _repeat(piece: bytes, times: int, start: bytes = b"", end: bytes = b"") -> Callable[[Path], None]:
    """A large file, written piece by piece."""

    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.write(start)
            for _ in range(times):
                file.write(piece)
            file.write(end)

    return write


def _rows_of(count: int) -> bytes:
    return b", ".join([GOOD.encode()] * count)


def _sparse(size: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return write


def _footer(size: int) -> bytes:
    return b"PAR1" + b"\x15\x00" * 40 + struct.pack("<I", size) + b"PAR1"


# One member that unpacks to 4 MiB; many of them behind each other unpack to as much as one likes.
_BLANKS = gzip.compress(b" " * 4 * MIB)
_LINES = gzip.compress((GOOD + "\n").encode() * (4 * MIB // (len(GOOD) + 1)))
_TABLE = pa.table({"instruction": ["a", "b"], "output": ["c", "d"]})
_PARQUET = parquet(_TABLE)
_LONG = "x" * (MIB + 1)


def _bad_text() -> Any:
    return pa.Array.from_buffers(pa.utf8(), 2, pa.array([b"ok", b"\xff!"]).buffers())


def _crossed(data: bytes) -> bytes:
    """A parquet file whose pages are noise but whose footer is good."""
    return data[:4] + bytes((byte * 7 + 13) % 256 for byte in data[4:60]) + data[60:]


JSONL = [
    reads("lines-crlf.jsonl", f"{GOOD}\r\n{GOOD}\r\n", 2),
    reads("lines-cr-only.jsonl", f"{GOOD}\r{GOOD}\r", 2),
    reads("lines-mixed-ends.jsonl", f"{GOOD}\r\n{GOOD}\n\n{GOOD}", 3),
    reads("lines-blank-between.jsonl", f"\n\n  \n{GOOD}\n\t\n{GOOD}\n\n\n", 2),
    reads("lines-mark-twice.jsonl", f"\ufeff\ufeff{GOOD}\n", 1),
    reads("lines-mark-inside.jsonl", f"{GOOD}\n\ufeff{GOOD}\n{GOOD}\n", 2, 1),
    reads("lines-cut-at-end.jsonl", f'{GOOD}\n{{"instruction": "a", "out', 1, 1),
    reads("lines-cut-in-escape.jsonl", f'{GOOD}\n{{"instruction": "\\u12', 1, 1),
    reads("lines-trailing-commas.jsonl", f"{GOOD},\n{GOOD},\n", 0, 2),
    reads("lines-two-objects-a-line.jsonl", f"{GOOD}{GOOD}\n{GOOD}\n", 1, 1),
    reads("lines-single-quotes.jsonl", "{'instruction': 'a'}\n" + GOOD, 1, 1),
    reads("lines-python-words.jsonl", f'{{"a": None}}\n{{"a": True}}\n{GOOD}', 1, 2),
    reads("lines-comments.jsonl", f"// examples\n# more\n{GOOD}\n", 1, 2),
    reads("lines-numbers.jsonl", f"1\n2.5\n-3\n{GOOD}\n", 1, 3),
    reads("lines-words.jsonl", '"one"\nnull\ntrue\n', 0, 3),
    reads("lines-arrays.jsonl", f'{GOOD}\n["a", "b"]\n', 1, 1),
    reads("lines-nan.jsonl", '{"a": NaN}\n{"a": Infinity}\n{"a": [-Infinity]}\n' + GOOD, 1, 3),
    reads("lines-overflow.jsonl", '{"a": 1e400}\n{"a": -1e400}\n{"a": 1e-400}\n', 1, 2),
    reads("lines-digits.jsonl", f'{{"a": {"9" * 101}}}\n{{"a": {"9" * 100}}}\n', 1, 1),
    reads("lines-many-digits.jsonl", f'{{"a": {"9" * 100_000}}}\n{{"a": -{"9" * 5000}}}\n{GOOD}', 1, 2),
    reads("lines-fraction-digits.jsonl", f'{{"a": 0.{"3" * 400}}}\n{GOOD}', 1, 1),
    reads("lines-digits-unlimited.jsonl", f'{{"a": {"9" * 6000}}}\n{GOOD}', 1, 1, limits=Limits(max_digits=10**6)),
    reads("lines-keys-twice.jsonl", f'{{"a": "1", "a": "2"}}\n{{"a": {{"b": 1, "b": 2}}}}\n{GOOD}', 1, 2),
    reads("lines-key-empty.jsonl", '{"": "a"}\n', 1),
    reads("lines-empty-object.jsonl", "{}\n{}\n", 2),
    reads("lines-deep.jsonl", '{"a": ' + "[" * 70 + "]" * 70 + "}\n" + GOOD, 1, 1),
    reads("lines-deep-enough.jsonl", '{"a": ' + "[" * 63 + "]" * 63 + "}\n" + GOOD, 2),
    reads("lines-deep-objects.jsonl", '{"a": ' * 100_000 + "1" + "}" * 100_000 + "\n" + GOOD, 1, 1),
    reads("lines-deep-open.jsonl", GOOD + "\n" + "[" * 100_000 + "\n" + '{"a":' * 100_000 + "\n", 1, 2),
    reads("lines-surrogate.jsonl", '{"a": "\\ud800"}\n{"\\udfff": "a"}\n{"a": "\\ud83d\\ude00"}\n', 3),
    reads("lines-surrogate-refused.jsonl", '{"a": "\\ud800", "b": NaN}\n{"\\ud800": 1, "\\ud800": 2}\n{"a": 1}', 1, 2),
    reads("lines-nul-escaped.jsonl", '{"a": "x\\u0000y"}\n{"b\\u0000": "y"}\n{"c": [["\\u0000"]]}\n' + GOOD, 1, 3),
    reads("lines-nul-raw.jsonl", '{"a": "x\x00y"}\n' + GOOD, 1, 1),
    reads("lines-control.jsonl", '{"a": "x\x01y"}\n{"a": "tab\there"}\n' + GOOD, 1, 2),
    reads("lines-separators-inside.jsonl", '{"a": "x\u2028y\u2029z\x85"}\n' + GOOD, 2),
    reads("lines-odd-spaces.jsonl", f"\u00a0{GOOD}\n\x0c\n{GOOD}\n", 1, 1),
    reads("lines-many-keys.jsonl", json.dumps({str(n): n for n in range(20_000)}) + "\n", 1),
    reads("lines-many-keys-twice.jsonl", "{" + ", ".join(['"a": 1'] * 20_000) + "}\n" + GOOD, 1, 1),
    reads("lines-escapes.jsonl", '{"a": "\\x41"}\n{"a": "\\u00e"}\n{"a": "\\/\\b\\f\\n"}\n', 1, 2),
    reads("lines-unclosed.jsonl", '{"a": "b\n{"a": "c"}\n', 1, 1),
    reads("lines-pretty.jsonl", json.dumps([{"a": 1}], indent=1), 1),
    reads("lines-long-one.jsonl", f'{{"a": "{_LONG}"}}\n{GOOD}\n', 1, 1, limits=Limits(max_row_mb=1)),
    reads("lines-long-field.jsonl", f'{{"a": "{_LONG}"}}\n{GOOD}\n', 1, 1, limits=Limits(max_field_mb=1)),
    reads("lines-long-in-bytes.jsonl", f'{{"a": "{"字" * 400_000}"}}\n{GOOD}', 1, 1, limits=Limits(max_field_mb=1)),
    reads("lines-long-last.jsonl", f"{GOOD}\n{_LONG}{_LONG}", 1, 1, limits=Limits(max_row_mb=1)),
    reads(
        "lines-huge-line.jsonl", _repeat(b"x" * MIB, 200, GOOD.encode() + b'\n{"a": "', b'"}\n' + GOOD.encode()), 2, 1
    ),
    reads("lines-huge-spaces.jsonl", _repeat(b" " * MIB, 40, GOOD.encode() + b"\n", GOOD.encode()), 1, 1),
    reads("lines-huge-empty.jsonl", _repeat(b"\n" * MIB, 4, b"", GOOD.encode()), 1),
    refused("lines-spaces-first.jsonl", _repeat(b" " * MIB, 40, b"", GOOD.encode()), "endless white space"),
    refused("lines-too-many.jsonl", f"{GOOD}\n" * 20, "more than 10 rows.*STUDIO_MAX_ROWS", limits=Limits(max_rows=10)),
    refused("lines-too-many-bad.jsonl", "x\n" * 20, "more than 10 rows.*STUDIO_MAX_ROWS", limits=Limits(max_rows=10)),
    reads("lines-as-text.txt", f"{GOOD}\n{GOOD}\n", 2),
    reads("lines-as-csv.csv", f"{GOOD}\n{GOOD}\n", 2),
    reads("lines-as-json.json", f"{GOOD}\n{GOOD}\n", 2),
    reads("lines-as-json-one-bad.json", f"{GOOD}\nx\n", 1, 1),
    reads("lines-dup-first.json", '{"a": 1, "a": 2}\n{"a": 1}\n', 1, 1),
    reads("lines-that-are-csv.jsonl", "q,a\n1,2\n", 0, 2),
]

ARRAYS = [
    reads("array-empty.json", "[]", 0),
    reads("array-spaced.json", f"  \r\n[ \n{GOOD}\t, {GOOD}\n ]\n\n", 2),
    reads("array-mark.json", f"\ufeff[{GOOD}]", 1),
    reads("array-mixed.json", f'[{GOOD}, 1, null, "a", [1], true, 1.5, {GOOD}]', 2, 6),
    reads("array-of-arrays.json", "[[1, 2], [3, 4]]", 0, 2),
    reads("array-nan.json", f'[{{"a": NaN}}, NaN, {GOOD}]', 1, 2),
    reads("array-keys-twice.json", f'[{{"a": 1, "a": 2}}, {GOOD}, {{"a": 1, "a": 2}}]', 1, 2),
    reads("array-digits.json", f"[{'9' * 5000}, {GOOD}]", 1, 1),
    reads("array-nul.json", f'[{{"a": "\\u0000"}}, {GOOD}]', 1, 1),
    reads("array-surrogate.json", f'[{{"a": "\\udc00"}}, {GOOD}]', 2),
    reads("array-deep-one.json", f'[{{"a": {"[" * 100}{"]" * 100}}}, {GOOD}]', 1, 1),
    refused("array-deep.json", "[" * 100_000, "nested more than 64 deep"),
    refused("array-deep-closed.json", "[" * 100_000 + "]" * 100_000, "nested more than 64 deep"),
    refused("array-deep-later.json", f'[{GOOD}, {{"a":' + "[" * 100_000, "example 2 .line 1, column 39.*nested more"),
    refused("array-open.json", f"[{GOOD}", "the array is not closed at line 1, column 37, after example 1"),
    refused("array-open-comma.json", f"[{GOOD},\n", "the array is not closed at line 2, column 1"),
    refused("array-comma-last.json", f"[{GOOD},\n]", "a comma comes before the ] at line 2, column 1"),
    refused("array-comma-first.json", f"[,{GOOD}]", "expecting value at line 1, column 2\\."),
    refused("array-comma-missing.json", f"[{GOOD}\n {GOOD}]", "a comma or ] is missing at line 2, column 2"),
    refused("array-then-more.json", f"[{GOOD}]\n{GOOD}", "something follows the array at line 2, column 1"),
    refused("array-twice.json", f"[{GOOD}][{GOOD}]", "something follows the array"),
    refused("array-then-nul.json", f"[{GOOD}]\x00", "something follows the array"),
    refused("array-cut-in-key.json", f'[{GOOD}, {{"instr', "unterminated string starting at line 1, column 40"),
    refused("array-cut-in-word.json", f'[{GOOD}, {{"a": tru', "expecting value at line 1, column 45"),
    refused("array-cut-in-number.json", '[{"a": -', "expecting value at line 1, column 8"),
    refused("array-cut-in-escape.json", '[{"a": "\\u00', "not valid JSON"),
    refused("array-single-quotes.json", "[{'a': 'b'}]", "expecting property name"),
    refused("array-unquoted.json", "[{a: 1}]", "expecting property name"),
    refused("array-control.json", '[{"a": "x\ny"}]', "invalid control character at line 1, column 10"),
    refused("array-comment.json", f"[/* one */ {GOOD}]", "expecting value at line 1, column 2"),
    refused("array-number-at-end.json", "[1, 23", "the array is not closed"),
    reads("array-long-field.json", f'[{{"a": "{_LONG}"}}, {GOOD}]', 1, 1, limits=Limits(max_field_mb=1)),
    refused(
        "array-long-row.json", f'[{{"a": "{_LONG}"}}]', "example 1.*STUDIO_MAX_ROW_MB", limits=Limits(max_row_mb=1)
    ),
    refused("array-huge-string.json", _repeat(b"x" * MIB, 200, b'[{"a": "', b'"}]'), "example 1.*STUDIO_MAX_ROW_MB"),
    refused("array-huge-open.json", _repeat(b"x" * MIB, 200, b'[{"a": "'), "example 1.*STUDIO_MAX_ROW_MB"),
    refused("array-huge-number.json", _repeat(b"1" * MIB, 40, b"["), "STUDIO_MAX_ROW_MB"),
    reads("array-huge-line.json", _repeat(_rows_of(1000) + b", ", 100, b"[", GOOD.encode() + b"]"), 100_001),
    reads("array-huge-gap.json", _repeat(b" " * MIB, 40, b"[" + GOOD.encode(), b"]"), 1),
    refused("array-too-many.json", f"[{GOOD}, {GOOD}]", "STUDIO_MAX_ROWS", limits=Limits(max_rows=1)),
    reads("array-as-lines.jsonl", f"[{GOOD},\n{GOOD}]", 2),
    reads("array-as-csv.csv", f"[{GOOD},\n{GOOD}]", 2),
    reads("array-as-text.txt", f"[{GOOD}]", 1),
    refused("array-lines.jsonl", '["a"]\n["b"]\n', "something follows the array at line 2"),
]

OBJECTS = [
    reads("object-one.json", GOOD, 1),
    reads("object-empty.json", "{}", 1),
    reads("object-columns.json", '{"q": ["1", "2"], "a": ["x", "y"]}', 2),
    reads("object-columns-empty.json", '{"q": [], "a": []}', 0),
    reads("object-columns-nan.json", '{"q": [NaN, "2"]}', 1, 1),
    reads("object-wrapped.json", f'{{"version": 1, "data": [{GOOD}, {GOOD}]}}', 2),
    reads("object-wrapped-bad.json", f'{{"data": [{GOOD}, {{"a": 1, "a": 2}}]}}', 1, 1),
    reads("object-messages.json", '{"messages": [{"role": "user", "content": "a"}]}', 1),
    reads("object-two-arrays.json", f'{{"train": [{GOOD}], "test": [{GOOD}]}}', 2),
    reads("object-keyed.json", f'{{"0": {GOOD}, "1": {GOOD}}}', 2),
    reads("object-keyed-bad.json", f'{{"0": {GOOD}, "1": {{"q": NaN}}}}', 1, 1),
    refused("object-third-split.json", f'{{"train": [{GOOD}], "test": [{GOOD}], "more": [{GOOD}]}}', "'more'.*Rename"),
    reads("object-nul.json", '{"a": "\\u0000"}', 0, 1),
    refused("object-columns-uneven.json", '{"q": ["1", "2"], "a": ["x"]}', "differ in length .q 2, a 1."),
    refused("object-keys-twice.json", '{"q": ["1"], "q": ["2"]}', "the key 'q' appears twice"),
    refused("object-then-more.json", '{"a":\n1} x', "extra data at line 2, column 4"),
    refused("object-cut.json", '{"a": "b', "unterminated string starting at line 1, column 7"),
    refused("object-deep.json", '{"a":' * 100_000, "nested more than 64 deep"),
    reads("object-pretty-many.json", '{\n"a": 1\n}\n{\n"a": 2\n}\n', 2),
    refused("object-pretty-commas.json", '{\n"a": 1\n},\n{\n"a": 2\n}\n', "extra data at line 3, column 2"),
    refused("object-pretty-cut.json", '{\n"a": 1\n}\n{\n"a": 2\n', "line 6, column 1, after example 1"),
    refused("object-lone-brace.json", "{", "expecting property name"),
    refused("value-number.json", "42", "contains a number"),
    refused("value-text.json", '"hello"', "contains a text"),
    refused("value-null.json", "null", "contains nothing .null."),
    refused("value-nan.json", "NaN", "NaN is not JSON"),
    refused("value-digits.json", "9" * 10_000, "more than 100 digits"),
    refused("value-word.json", "hello", "expecting value at line 1, column 1"),
    refused("value-csv.json", "q,a\n1,2\n", "expecting value at line 1, column 1"),
]

TABLES = [
    reads("table-semicolon.csv", 'q;a\n"1;2";b\n', 1),
    reads("table-tab.csv", "q\ta\n1\t2\n", 1),
    reads("table-bar.csv", "q|a\n1|2\n", 1),
    reads("table-comma.tsv", "q,a\n1,2\n", 1),
    reads("table-caret.csv", "q^a\n1^2\n", 1, delimiter="^"),
    reads("table-one-column.csv", "text\nhello\nworld\n", 2),
    reads("table-one-column-commas.csv", "text\nhello, world\nhi\n", 1, 1),
    reads("table-one-column-empty.csv", 'text\nhello\n""\n\nhi\n', 3),
    reads("table-header-only.csv", "q,a\n", 0),
    reads("table-header-no-end.csv", "q,a", 0),
    reads("table-crlf.csv", "q,a\r\n1,2\r\n3,4", 2),
    reads("table-cr.csv", "q,a\r1,2\r3,4\r", 2),
    reads("table-mixed-ends.csv", 'q,a\r\n1,"x\ry"\n3,4\r5,6\n\r7,8', 4),
    reads("table-blank-lines.csv", "\n\nq,a\n\n1,2\n   \n3,4\n\n\n", 2),
    reads("table-sep-line.csv", "sep=;\r\nq;a\r\n1;2\r\n", 1),
    reads("table-mark.csv", '\ufeff"q",a\n1,2\n', 1),
    reads("table-mark-middle.csv", "q,a\n\ufeff1,2\n", 1),
    reads("table-short-long.csv", "q,a\n1\n1,2\n1,2,3\n", 1, 2),
    reads("table-all-empty.csv", "q,a\n,\n , \n", 2),
    reads("table-quotes-doubled.csv", 'q,a\n"say ""hi""","x"\n', 1),
    reads("table-quotes-escaped.csv", 'q,a\n"say \\"hi\\", you","x"\n', 1),
    reads("table-quotes-single.csv", "'q','a'\n'1, 2','it''s'\n", 1),
    reads("table-quotes-spaced.csv", '"q", "a"\n"1, 2", "x"\n', 1),
    reads("table-quotes-curly.csv", "q,a\n“1”,“2”\n", 1),
    reads("table-quotes-inside.csv", 'q,a\n5" pipe,6" pipe\n', 1),
    reads("table-quotes-text.tsv", 'q\ta\n"open\tx\n', 1),
    reads("table-only-quotes.csv", 'q,a\n"",""\n"""",""""\n', 2),
    refused("table-quote-unclosed.csv", 'q,a\n1,2\n3,"four\n5,6\n', "record 2: a quote is never closed.*line 3"),
    refused("table-quote-unclosed-later.csv", 'q,a\n1,2\n"3\n\n","four\n5,6\n', "record 2: .*opened on line 5"),
    refused("table-quote-unclosed-doubled.csv", 'q,a\n5"" x,"a ""b""\n""c\n', "record 1: .*opened on line 2"),
    refused("table-quote-unclosed-header.csv", '"q,a\n1,2\n', "the header: a quote is never closed"),
    refused("table-quote-unclosed-last.csv", 'q,a\n1,"', "record 1: a quote is never closed"),
    refused("table-quote-stray.csv", 'q,a\n"a"b,c\n', "record 1, line 2: text follows a quoted text"),
    refused("table-quote-runs-on.csv", 'q,a\n1,"open\n2,"x"\n', "record 1, line 3: text follows.*line 2"),
    refused(
        "table-quote-huge.csv",
        _repeat(b"1,2\n" * (MIB // 4), 40, b'q,a\n1,"'),
        "record 1, which begins on line 2, .*STUDIO_MAX_ROW_MB.*quote was opened on line 2",
    ),
    refused("table-huge-line.csv", _repeat(b"x" * MIB, 200, b"q,a\n1,"), "record 1.*line 2.*STUDIO_MAX_ROW_MB"),
    refused("table-huge-header.csv", _repeat(b"x" * MIB, 40), "the header.*STUDIO_MAX_ROW_MB"),
    refused("table-huge-commas.csv", _repeat(b"," * MIB, 20, b"q,a\n"), "record 1.*STUDIO_MAX_ROW_MB"),
    reads("table-many-commas.csv", b"q,a\n" + b"," * MIB + b"\n1,2\n", 1, 1),
    reads("table-many-columns.csv", ",".join(f"c{n}" for n in range(5000)) + "\n" + ",".join("1" * 5000) + "\n", 1),
    reads("table-long-field.csv", f"q,a\n{_LONG},2\n3,4\n", 1, 1, limits=Limits(max_field_mb=1)),
    reads("table-long-field-ok.csv", f"q,a\n{_LONG},2\n3,4\n", 2),
    reads("table-nul.csv", "q,a\n1,2\n3,\x004\n" + "5,6\n" * 5, 6, 1),
    refused("table-nul-header.csv", "q,a\x00\n1,2\n", "column 2 contains a NUL"),
    refused("table-header-twice.csv", "q, q\n1,2\n", "'q' appears twice"),
    refused("table-header-nameless.csv", "q,,a\n1,2,3\n", "column 2 of the header has no name"),
    refused("table-header-commas.csv", ",,,\n1,2,3,4\n", "column 2 of the header has no name"),
    reads("table-index.csv", ",q,a\n0,x,y\n1,z,w\n", 2),
    reads("table-index-late.csv", ",q,a\n" + "".join(f"{n},x,{'y' * 400}\n" for n in range(900)) + "?,x,y\n", 900, 1),
    reads("table-headless.csv", "What is a fork for?,Eating\nWhat is a car for?,Driving\n", 2),
    refused("table-delimiter-wrong.csv", "q,a\n1,2\n", "cannot separate", delimiter="ab"),
    refused("table-delimiter-quote.csv", "q,a\n1,2\n", "cannot separate", delimiter='"'),
    refused("table-too-many.csv", "q,a\n" + "1,2\n" * 9, "STUDIO_MAX_ROWS", limits=Limits(max_rows=5)),
    reads("table-bracket-header.csv", "[q],{a}\n1,2\n", 1),
    reads("table-angle-header.csv", "<text>,<label>\na,b\n", 1),
    reads("table-formula.csv", "q,a\n=1+1,@SUM(A1)\n", 1),
    reads("table-backslash-end.csv", 'q,a\n"C:\\","D:\\"\n', 1),
    reads("table-control.csv", "q,a\n\x01\x02,b\n" + "c,d\n" * 20, 21),
    reads("table-separators-inside.csv", 'q,a\n"x\u2028y",z\x85\n\x0bv,w\x1c\n', 2),
]

ENCODINGS = [
    refused(
        "code-cp1252.csv", "q,a\ncafé,naïve\n".encode("cp1252"), "line 2 contains the byte 0xe9.*--encoding cp1252"
    ),
    reads("code-cp1252-said.csv", "q,a\ncafé,naïve\n".encode("cp1252"), 1, encoding="cp1252"),
    refused("code-latin1-c1.csv", b"q,a\n\x81\xe9,b\n", "not UTF-8 text: line 2"),
    refused("code-cp1252-hole.csv", b"q,a\n\x81\xe9,b\n", "is not cp1252 text: line 2", encoding="cp1252"),
    refused("code-cp1251.jsonl", '{"a": "Привет, мир"}\n'.encode("cp1251"), "--encoding cp1251"),
    refused("code-gb18030.csv", "q,a\n中文数据集的示例文本,用来测试\n".encode("gb18030"), "--encoding gb18030"),
    refused("code-shift-jis.csv", "q,a\nこれは日本語です,テキスト\n".encode("shift_jis"), "--encoding shift_jis"),
    refused("code-euc-kr.csv", "q,a\n이것은 한국어 텍스트입니다,네\n".encode("euc_kr"), "--encoding euc_kr"),
    refused(
        "code-late.jsonl", (GOOD + "\n").encode() * 20_000 + b'{"a": "\xe9"}\n', "line 20001 contains the byte 0xe9"
    ),
    refused("code-mixed.csv", "q,a\né,1\n".encode() + b"\xe8,2\n", "line 3.*may come from elsewhere"),
    refused("code-cut.csv", "q,a\n1,é".encode()[:-1], "line 2 contains the byte 0xc3"),
    refused("code-overlong.csv", b"q,a\n\xc0\xaf,b\n", "line 2 contains the byte 0xc0"),
    refused("code-surrogate.csv", b"q,a\n\xed\xa0\x80,b\n", "line 2 contains the byte 0xed"),
    refused("code-beyond.csv", b"q,a\n\xf4\x90\x80\x80,b\n", "line 2 contains the byte 0xf4"),
    refused("code-mark-then-latin.csv", b"\xef\xbb\xbfq,a\ncaf\xe9,b\n", "line 2 .*begins with the mark of UTF-8.*fix"),
    refused("code-mark-contradicts.csv", b"\xef\xbb\xbfq,a\n1,2\n", "mark of UTF-8", encoding="cp1252"),
    reads("code-utf16.csv", "q,a\né,2\n".encode("utf-16"), 1),
    reads("code-utf16-be.csv", b"\xfe\xff" + "q,a\né,2\n".encode("utf-16-be"), 1),
    reads("code-utf16-lines.jsonl", f"{GOOD}\r\n{GOOD}\r\n".encode("utf-16"), 2),
    reads("code-utf16-array.json", f"[{GOOD}]".encode("utf-16"), 1),
    reads("code-utf32.jsonl", f"{GOOD}\n".encode("utf-32"), 1),
    reads("code-utf16-emoji.jsonl", '{"a": "😀"}\n'.encode("utf-16"), 1),
    refused("code-utf16-no-mark.csv", "q,a\n1,2\n".encode("utf-16-le"), "UTF-16 text without the mark.*utf-16-le"),
    refused("code-utf16-no-mark-be.csv", "q,a\n1,2\n".encode("utf-16-be"), "utf-16-be"),
    refused("code-utf32-no-mark.csv", "q,a\n1,2\n".encode("utf-32-le"), "UTF-32 text without the mark"),
    refused("code-utf16-chinese.csv", "q,a\n中文数据,示例文本\n好,的\n".encode("utf-16-le"), "utf-16-le"),
    reads("code-utf16-said.csv", "q,a\n1,2\n".encode("utf-16-le"), 1, encoding="utf-16-le"),
    reads("code-utf16-order-found.csv", "q,a\n1,2\n".encode("utf-16-be"), 1, encoding="utf-16"),
    refused("code-utf16-is-not.csv", "q,a\n1,2\n", "does not say its byte order", encoding="utf-16"),
    refused("code-utf16-odd.csv", "q,a\n1,2\n".encode("utf-16") + b"x", "is not UTF-16 text"),
    refused("code-utf16-half.csv", b"\xff\xfe" + b"q\0,\0a\0\n\0\x00\xd8x\0,\0y\0", "is not UTF-16 text: line 2"),
    refused("code-mark-only.csv", b"\xef\xbb\xbf", "only white space"),
    refused("code-mark-only-16.csv", b"\xff\xfe", "only white space"),
    refused("code-unknown.csv", "q,a\n1,2\n", "no text encoding 'klingon'", encoding="klingon"),
    refused("code-rot13.csv", "q,a\n1,2\n", "no text encoding 'rot13'", encoding="rot13"),
    refused("code-hex.csv", "q,a\n1,2\n", "no text encoding 'hex'", encoding="hex"),
    refused("code-base64.csv", "q,a\n1,2\n", "no text encoding 'base64'", encoding="base64"),
    refused("code-idna.csv", "q,a\n1,2\n", "no text encoding 'idna'", encoding="idna"),
    refused("code-undefined.csv", "q,a\n1,2\n", "no text encoding 'undefined'", encoding="undefined"),
    refused("code-escape.csv", "q,a\n1,2\n", "no text encoding", encoding="unicode_escape"),
    refused("code-nul-name.csv", "q,a\n1,2\n", "no text encoding", encoding="utf\0-8"),
    refused("code-path-name.csv", "q,a\n1,2\n", "no text encoding", encoding="../../x"),
    refused("code-ebcdic.csv", "q,a\nhello,world\n".encode("cp037"), "not UTF-8 text|not text"),
    reads("code-ebcdic-said.csv", "q,a\nhello,world\n".encode("cp037"), 1, encoding="cp037"),
    refused("code-noise.csv", bytes(range(256)) * 8, "not text"),
    refused("code-nuls.csv", bytes(5000), "not text"),
]

FOREIGN = [
    refused("no-bytes.jsonl", b"", "is empty"),
    refused("no-text.csv", " \n\t\r\n ", "only white space"),
    refused("no-text.json", "\n" * 1000, "only white space"),
    refused("page.json", "<!DOCTYPE html>\n<html><body>Sign in</body></html>", "web page"),
    refused("page.csv", "\n\n<html lang=en>", "web page"),
    refused("page-16.json", "<html>".encode("utf-16"), "web page"),
    refused("page.parquet", "<!doctype html>", "not a parquet file"),
    refused("feed.jsonl", '<?xml version="1.0"?><a/>', "web page or XML"),
    refused("sheet.csv", _zip("[Content_Types].xml", "xl/workbook.xml"), "Excel.*CSV"),
    refused("sheet.xlsx", _zip("[Content_Types].xml", "xl/workbook.xml"), "Excel.*CSV"),
    refused("sheet.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "old Excel.*CSV"),
    refused("data.zip", _zip("a.jsonl"), "zip archive"),
    refused("data.npz", _array(a=[1]), "NumPy archive"),
    refused("checkpoint.pt", _zip("archive/data.pkl"), "PyTorch checkpoint"),
    refused("data.npy", b"\x93NUMPY\x01\x00" + bytes(80), "NumPy array"),
    refused("data.pkl", pickle.dumps([{"a": 1}]), "pickle"),
    refused("data.pdf", b"%PDF-1.7\n%\xe2\xe3", "PDF"),
    refused("picture.json", b"\x89PNG\r\n\x1a\n" + bytes(40), "picture"),
    refused("photo.csv", b"\xff\xd8\xff\xe0" + bytes(40), "picture"),
    refused("moving.csv", b"GIF89a" + bytes(40), "picture"),
    refused("film.csv", b"\0\0\0\x18ftypmp42" + bytes(40), "film"),
    refused("data.db", _database, "SQLite"),
    refused("pointer.jsonl", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n", "git lfs pull"),
    refused("pointer.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
    refused("data.bz2", bz2.compress(GOOD.encode()), "bzip2"),
    refused("data.jsonl.xz", lzma.compress(GOOD.encode()), "xz"),
    refused("data.zst", b"\x28\xb5\x2f\xfd" + bytes(20), "zstd"),
    refused("data.tar", _tar(), "tar archive"),
    refused("data.tar.gz", gzip.compress(_tar()), "tar archive"),
    refused("model.gguf", b"GGUF\x03\0\0\0" + bytes(40), "model .GGUF"),
    refused(
        "model.safetensors",
        struct.pack("<Q", 60) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}   ' + bytes(8),
        "model .safetensors",
    ),
    refused("data.arrow", b"ARROW1\0\0" + bytes(40), "Arrow"),
    refused("notes.rst", "hello there\n", "files ending in .rst are not read"),
    reads("notes.txt", "hello there\n", 1),
    reads("notes-crlf.txt", "hello\r\n\r\nthere", 1),
    reads("notes-bracket.txt", "[Verse 1]\nLa la\n", 1),
    reads("notes-nul.txt", "hello \x00 there, this is a text\n", 0, 1),
    reads("notes-long.txt", "word " * 100_000 + "\n\n" + "word " * 200_000 + "\n", 2, limits=Limits(max_field_mb=1)),
    reads("notes-long-line.txt", "x" * 3 * MIB + "\n\nend\n", 1, 1, limits=Limits(max_field_mb=1)),
    refused("notes-old.txt", "café\n".encode("cp1252"), "--encoding cp1252"),
    refused("notes-page.txt", "<!doctype html><p>hi", "web page"),
    refused("notes-blank.txt", " \n\n", "only white space"),
    refused("notes", "hello there\n", "does not say what it contains"),
    reads("notes.md", '<p align="center">Title</p>\n', 1),
    refused("sparse.jsonl", _sparse(2 * 2**30), "STUDIO_MAX_FILE_MB"),
    refused("sparse-small.jsonl", _sparse(64 * MIB), "not text"),
]

PACKED = [
    reads("gz-lines.jsonl.gz", gzip.compress(f"{GOOD}\n{GOOD}\n".encode()), 2),
    reads("gz-array.json.gz", gzip.compress(f"[{GOOD}]".encode()), 1),
    reads("gz-table.csv.gz", gzip.compress(b"q,a\n1,2\n"), 1),
    reads("gz-unnamed.jsonl", gzip.compress(f"{GOOD}\n".encode()), 1),
    reads("gz-not-packed.jsonl.gz", f"{GOOD}\n", 1),
    reads("gz-members.jsonl.gz", gzip.compress(f"{GOOD}\n".encode()) * 3, 3),
    reads("gz-zeros-after.jsonl.gz", gzip.compress(f"{GOOD}\n".encode()) + bytes(64), 1),
    reads("gz-parquet.parquet.gz", gzip.compress(_PARQUET), 2),
    reads("gz-utf16.csv.gz", gzip.compress("q,a\n1,2\n".encode("utf-16")), 1),
    refused("gz-empty.jsonl.gz", gzip.compress(b""), "empty once unpacked"),
    refused("gz-cut.jsonl.gz", gzip.compress(f"{GOOD}\n".encode() * 50)[:-12], "cut short"),
    refused("gz-head-only.jsonl.gz", gzip.compress(GOOD.encode())[:10], "cut short"),
    refused("gz-magic-only.jsonl.gz", b"\x1f\x8b", "cut short|damaged"),
    refused("gz-crc.jsonl.gz", gzip.compress(GOOD.encode())[:-8] + bytes(8), "damaged"),
    refused("gz-garbled.jsonl.gz", gzip.compress(GOOD.encode())[:14] + b"\xff" * 40, "damaged|cut short"),
    refused("gz-tail.jsonl.gz", gzip.compress(GOOD.encode()) + b"tail", "damaged"),
    refused("gz-twice.jsonl.gz", gzip.compress(gzip.compress(GOOD.encode())), "gzip twice"),
    refused("gz-cut-parquet.parquet.gz", gzip.compress(_PARQUET[:-3]), "cut short"),
    refused("gz-bomb.jsonl.gz", _repeat(_LINES, 300), "STUDIO_MAX_COMPRESSION_RATIO"),
    refused("gz-bomb-blank.csv.gz", _repeat(_BLANKS, 300), "STUDIO_MAX_COMPRESSION_RATIO|white space"),
    refused("gz-bomb-parquet.parquet.gz", gzip.compress(b"PAR1" + bytes(32 * MIB)), "STUDIO_MAX_COMPRESSION_RATIO"),
    refused(
        "gz-large.jsonl.gz",
        _repeat(_LINES, 3),
        "STUDIO_MAX_FILE_MB",
        limits=Limits(max_file_mb=6, max_compression_ratio=9**6),
    ),
    refused("gz-cp1252.csv.gz", gzip.compress("q,a\ncafé,b\n".encode("cp1252")), "--encoding cp1252"),
]

PARQUET = [
    reads("columns.parquet", _PARQUET, 2),
    reads("columns-unnamed", _PARQUET, 2),
    reads("columns-as-csv.csv", _PARQUET, 2),
    reads("columns-empty.parquet", parquet(_TABLE.slice(0, 0)), 0),
    reads("columns-null.parquet", parquet(pa.table({"a": pa.nulls(3)})), 3),
    reads("columns-nan.parquet", parquet(pa.table({"a": [float("nan"), float("inf"), 1.0]})), 2, 1),
    reads("columns-bad-text.parquet", parquet(pa.table({"a": _bad_text()})), 1, 1),
    reads("columns-nul.parquet", parquet(pa.table({"a": ["x\0", "y"]})), 1, 1),
    reads("columns-ns.parquet", parquet(pa.table({"a": pa.array([1], pa.timestamp("ns"))})), 1),
    reads("columns-far.parquet", parquet(pa.table({"a": pa.array([2**30], pa.date32())})), 0, 1),
    reads("columns-far-time.parquet", parquet(pa.table({"a": pa.array([2**62], pa.timestamp("us"))})), 0, 1),
    reads("columns-zone.parquet", parquet(pa.table({"a": pa.array([0], pa.timestamp("us", "Nowhere/Land"))})), 0, 1),
    reads("columns-map.parquet", parquet(pa.table({"a": pa.array([[("k", 1)]], pa.map_(pa.utf8(), pa.int64()))})), 1),
    reads("columns-nested.parquet", parquet(pa.table({"messages": [[{"role": "user", "content": "x"}]]})), 1),
    reads("columns-decimal.parquet", parquet(pa.table({"a": pa.array(["1.5"]).cast(pa.decimal128(5, 2))})), 1),
    reads("columns-groups.parquet", parquet(pa.table({"a": list(range(1000))}), row_group_size=10), 1000),
    reads("columns-zstd.parquet", parquet(_TABLE, compression="zstd"), 2),
    reads("columns-wide.parquet", parquet(pa.table({f"c{n}": ["x"] for n in range(500)})), 1),
    reads(
        "columns-long.parquet",
        parquet(pa.table({"a": [_LONG, "x"]})),
        1,
        1,
        limits=Limits(max_field_mb=1),
    ),
    refused("columns-twice.parquet", parquet(pa.table([["a"], ["b"]], names=["x", "x"])), "'x' appears twice"),
    refused("columns-none.parquet", parquet(pa.table({})), "has no columns"),
    refused("columns-cut.parquet", _PARQUET[:-1], "cut short"),
    refused("columns-cut-half.parquet", _PARQUET[: len(_PARQUET) // 2], "cut short"),
    refused("columns-magic.parquet", b"PAR1", "cut short"),
    refused("columns-magic-twice.parquet", b"PAR1PAR1", "cut short"),
    refused("columns-noise.parquet", _crossed(_PARQUET), "broken parquet file"),
    refused("columns-footer.parquet", _footer(80), "broken parquet file"),
    refused("columns-footer-huge.parquet", _footer(2**32 - 1), "broken parquet file"),
    refused("columns-footer-none.parquet", _footer(0), "broken parquet file"),
    refused("columns-locked.parquet", b"PARE" + bytes(40) + b"PARE", "encrypted"),
    refused("columns-not.parquet", "q,a\n1,2\n", "not a parquet file"),
    refused("columns-too-many.parquet", _PARQUET, "STUDIO_MAX_ROWS", limits=Limits(max_rows=1)),
    refused(
        "columns-bomb.parquet",
        parquet(pa.table({"a": pa.array([_LONG] * 40)}), use_dictionary=False, compression="zstd"),
        "STUDIO_MAX_FILE_MB",
        limits=Limits(max_file_mb=8),
    ),
    refused(
        "columns-bomb-dictionary.parquet",
        parquet(pa.table({"a": pa.array([_LONG] * 40)}), compression="zstd"),
        "STUDIO_MAX_FILE_MB",
        limits=Limits(max_file_mb=8),
    ),
]

NASTY = [*JSONL, *ARRAYS, *OBJECTS, *TABLES, *ENCODINGS, *FOREIGN, *PACKED, *PARQUET]
