"""Reading files: what is a dataset is read, what is not gets a sentence that names the place and the remedy."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.dataset import store
from studio.dataset.read import read_rows
from studio.errors import BadInput

Write = Callable[[str, str | bytes], Path]
MIB = 2**20


def read(path: Path, max_bytes: int = MIB, max_rows: int = 1000) -> list[tuple[int, dict[str, object]]]:
    return read_rows(path, max_bytes, max_rows).rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"q": "1", "a": "x"}\n\n{"q": "2", "a": "y"}\n'),
        ("a.jsonl", '\ufeff{"q": "1", "a": "x"}\r\n{"q": "2", "a": "y"}'),
        ("a.json", '[{"q": "1", "a": "x"}, {"q": "2", "a": "y"}]'),
        ("a.json", '{"q": ["1", "2"], "a": ["x", "y"]}'),
        ("a.json", '{"data": [{"q": "1", "a": "x"}, {"q": "2", "a": "y"}]}'),
        ("a.json", '{"q": "1", "a": "x"}\n{"q": "2", "a": "y"}\n'),
        ("a.csv", "q,a\n1,x\n2,y\n"),
        ("a.csv", "q;a\n1;x\n2;y\n"),
        ("a.csv", 'q,a\r\n"1",x\r\n2,"y"\r\n'),
        ("unnamed", '{"q": "1", "a": "x"}\n{"q": "2", "a": "y"}\n'),
        ("a.jsonl", '{"q": "1", "a": "x"}\n{"q": "2", "a": "y"}\n'.encode("utf-16")),
    ],
)
def test_the_same_rows_however_they_are_written(write: Write, name: str, content: str | bytes) -> None:
    assert [row for _, row in read(write(name, content))] == [{"q": "1", "a": "x"}, {"q": "2", "a": "y"}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.jsonl", "", "empty.jsonl is empty"),
        ("blank.csv", " \n\n", "nothing but white space"),
        ("head.csv", "q,a\n", "has no rows"),
        ("page.json", "<!doctype html><html>", "looks like a web page"),
        ("cut.json", '[{"q": "1"}, {"q": ', "line 1, column"),
        ("number.json", "42", "holds a number"),
        ("latin.csv", b"q,a\ncaf\xe9,x\n", "not UTF-8 text: line 2 holds the byte 0xe9"),
        ("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(40), "is not UTF-8 text"),
        ("zeros.csv", b"q,a\x00\n1,2\n", "zero bytes"),
        ("columns.json", '{"q": ["1", "2"], "a": ["x"]}', "differ in length (q 2, a 1)"),
        ("twice.csv", "q,q\n1,2\n", "'q' stands twice"),
        ("notes.txt", "hello there", "files ending in .txt are not read"),
        ("deep.json", "[" * 50_000, "is not valid JSON"),
        ("nan.jsonl", '{"a": NaN}\n', "NaN is not JSON"),
        ("words.jsonl", '"one"\n"two"\n', "has no usable row"),
    ],
)
def test_what_is_no_dataset_is_named_with_the_remedy(write: Write, name: str, content: str | bytes, said: str) -> None:
    with pytest.raises(BadInput) as error:
        read(write(name, content))
    assert said in str(error.value)


def test_limits_are_said_when_hit(write: Write, tmp_path: Path) -> None:
    path = write("rows.jsonl", '{"a": "1"}\n' * 20)
    with pytest.raises(BadInput, match=r"more than 10 rows.*STUDIO_MAX_ROWS"):
        read(path, max_rows=10)
    with pytest.raises(BadInput, match="STUDIO_MAX_FILE_MB"):
        read(path, max_bytes=100)
    with pytest.raises(BadInput, match="no file"):
        read(tmp_path / "missing.csv")
    with pytest.raises(BadInput, match="is a folder"):
        read(tmp_path)


def test_broken_rows_are_counted_with_number_reason_and_fix(write: Write) -> None:
    path = write(
        "some.jsonl", '{"instruction": "a", "output": "b"}\n{"instruction": \n{"instruction": "c", "output": ""}\n7\n'
    )
    seen = store.look(path, None, MIB, 100)
    assert [record.row for record in seen.records] == [1]
    assert [(item.row, item.field) for item in seen.rejected] == [(2, ""), (3, "output"), (4, "")]
    assert all(item.reason and item.fix for item in seen.rejected)
    assert seen.rows == 4


def test_csv_keeps_commas_quotes_and_line_breaks(write: Write) -> None:
    path = write("q.csv", 'instruction,output\n"Say ""hi"", please","line 1\nline 2"\n')
    assert read(path) == [(1, {"instruction": 'Say "hi", please', "output": "line 1\nline 2"})]


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.sampled_from([".json", ".jsonl", ".csv", ".dat"]))
def test_any_bytes_get_rows_or_a_plain_refusal(data: bytes, suffix: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"any{suffix}"
        path.write_bytes(data)
        try:
            assert store.look(path, None, MIB, 1000).rows > 0
        except BadInput as refused:
            assert str(refused).strip().endswith((".", "?", ")"))


_NAMES = st.sampled_from(["messages", "text", "instruction", "output", "conversations", "role", "content"])
_LEAVES = st.none() | st.booleans() | st.floats() | st.text(max_size=9)
_VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=4), max_leaves=15
)


@settings(max_examples=150, deadline=None)
@given(_VALUES)
def test_any_json_gets_records_or_reasons(value: object) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.json"
        path.write_text(json.dumps(value), encoding="utf-8", errors="surrogatepass")
        try:
            seen = store.look(path, None, MIB, 1000)
        except BadInput:
            return
        assert len(seen.records) + len(seen.rejected) == seen.rows or seen.format is None
