"""Arrow files and streams, and folders that the datasets library saved."""

import gzip
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from studio.dataset.checking import Order, Report, check
from studio.dataset.read.formats import LayoutOptions
from studio.dataset.read.limits import Limits
from studio.dataset.read.reader import Source, open_rows
from studio.dataset.read.rows import Finding, Row
from studio.errors import BadInput

Write = Callable[[str, str | bytes], Path]
PLAIN = Limits()
TWO = {"instruction": ["Name a tree", "Name a bird"], "output": ["Oak", "Wren"]}
ROWS = [dict(zip(TWO, cells, strict=True)) for cells in zip(*TWO.values(), strict=True)]


def stream(table: pa.Table, batch: int | None = None) -> bytes:
    held = io.BytesIO()
    with pa.ipc.new_stream(held, table.schema) as writer:
        writer.write_table(table, batch)
    return held.getvalue()


def arrow(table: pa.Table, compression: str | None = None) -> bytes:
    held = io.BytesIO()
    feather.write_feather(table, held, compression=compression or "uncompressed")
    return held.getvalue()


def read(path: Path, limits: Limits = PLAIN) -> tuple[Source, list[Row | Finding]]:
    with open_rows(path, limits) as source:
        return source, list(source.rows)


def refused(path: Path, limits: Limits = PLAIN) -> str:
    with pytest.raises(BadInput) as error:
        read(path, limits)
    assert str(error.value).endswith(".") and path.name in str(error.value)
    return str(error.value)


def checked(path: Path, folder: Path, **how: Any) -> Report:
    folder.mkdir(exist_ok=True)
    return check(Order(path, **how), PLAIN, folder)


def save(folder: Path, *tables: pa.Table, **state: Any) -> Path:
    """A folder as save_to_disk writes it."""
    folder.mkdir(parents=True)
    names = [f"data-{place:05}-of-{len(tables):05}.arrow" for place in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        (folder / name).write_bytes(stream(table, 1000))
    written = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "x", "_split": None} | state
    (folder / "state.json").write_text(json.dumps(written), encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}), encoding="utf-8")
    return folder


def save_splits(folder: Path, **splits: pa.Table) -> Path:
    for name, table in splits.items():
        save(folder / name, table)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("a.arrow", stream(pa.table(TWO)), "Arrow stream"),
        ("a.arrow", stream(pa.table(TWO), 1), "Arrow stream"),
        ("a.arrow", arrow(pa.table(TWO)), "Arrow"),
        ("a.feather", arrow(pa.table(TWO), "lz4"), "Arrow"),
        ("a.feather", arrow(pa.table(TWO), "zstd"), "Arrow"),
        ("a.bin", stream(pa.table(TWO)), "Arrow stream"),
        ("a.arrow.gz", gzip.compress(stream(pa.table(TWO))), "gzipped Arrow stream"),
        ("a.arrow.gz", gzip.compress(arrow(pa.table(TWO))), "gzipped Arrow"),
        ("a.arrow", stream(pa.table(TWO))[:-8], "Arrow stream without an end mark (it may be cut short)"),
    ],
)
def test_the_same_rows_from_every_kind_of_arrow_file(write: Write, name: str, content: bytes, note: str) -> None:
    source, rows = read(write(name, content))
    assert rows == [Row(number, row) for number, row in enumerate(ROWS, start=1)]
    assert (source.kind, source.note, source.columns) == ("arrow", note, list(TWO))
    assert source.done() == (source.done()[1], source.done()[1])


def test_values_of_an_arrow_file_are_plain(write: Write) -> None:
    table = pa.table(
        {
            "turns": pa.array([[{"role": "user", "content": "Hi"}]]),
            "kind": pa.array(["x"]).dictionary_encode(),
            "score": pa.array([0.1], pa.float32()),
            "gap": pa.array([float("nan")]),
            "large": pa.array(["y"], pa.large_string()),
            "none": pa.nulls(1),
        }
    )
    for content in (stream(table), arrow(table)):
        [row] = read(write("a.arrow", content))[1]
        assert isinstance(row, Row) and str(row.values.pop("score")) == "0.1"
        assert row.values == {
            "turns": [{"role": "user", "content": "Hi"}], "kind": "x", "gap": None, "large": "y", "none": None,
        }  # fmt: skip


def test_large_arrow_files_stream_within_the_limits(write: Write) -> None:
    many = pa.table({"text": [f"{number} {'x' * 500}" for number in range(5000)]})
    path = write("a.arrow", stream(many, 1000))
    with open_rows(path, PLAIN) as source:
        first = next(source.rows)
        assert isinstance(first, Row) and first.number == 1
        done, size = source.done()
        assert 0 < done < size
        assert sum(1 for _ in source.rows) == 4999
    assert "STUDIO_MAX_ROWS" in refused(path, Limits(max_rows=4000))
    assert "STUDIO_MAX_FILE_MB" in refused(path, Limits(max_file_mb=1))
    packed = write("b.feather", arrow(pa.table({"text": ["x" * 2**20] * 8}), "zstd"))
    assert "STUDIO_MAX_FILE_MB" in refused(packed, Limits(max_file_mb=3))
    repeated = pa.table({"text": pa.array(["x" * 2**20] * 40).dictionary_encode()})
    assert "STUDIO_MAX_FILE_MB" in refused(write("c.arrow", stream(repeated)), Limits(max_file_mb=3))
    long = write("d.arrow", stream(pa.table({"text": ["x" * (2**20 + 9), "y"]})))
    [found, row] = read(long, Limits(max_field_mb=1))[1]
    assert isinstance(found, Finding) and "STUDIO_MAX_FIELD_MB" in found.reason and isinstance(row, Row)


def test_broken_arrow_files_are_refused(write: Write) -> None:
    whole = stream(pa.table(TWO))
    assert "is a broken Arrow file" in refused(write("cut.arrow", whole[:-60]))
    assert "is a broken Arrow file" in refused(write("cut.feather", arrow(pa.table(TWO))[:-20]))
    assert "not an Arrow file" in refused(write("text.arrow", "q,a\n1,2\n"))
    assert "old Feather file" in refused(write("old.feather", b"FEA1" + bytes(40)))
    assert "appears twice" in refused(
        write("twice.arrow", stream(pa.Table.from_arrays([pa.array([1])] * 2, ["a", "a"])))
    )
    assert "no columns" in refused(write("none.arrow", stream(pa.table({}))))
    text = pa.Array.from_buffers(pa.utf8(), 2, pa.array([b"ok", b"\xff!"]).buffers())
    assert "UTF8" in refused(write("text.arrow", stream(pa.table({"a": text}))))


def test_no_damage_to_an_arrow_file_is_more_than_a_refusal(write: Write) -> None:
    table = pa.table({"a": [["x", "yy"], ["z"]], "b": pa.array(["k", "k"]).dictionary_encode(), "c": [1.5, None]})
    chance = random.Random(7)
    for content in (stream(table), arrow(table), arrow(table, "lz4")):
        for _ in range(150):
            data = bytearray(content)
            for _ in range(chance.choice([1, 1, 2, 8])):
                data[chance.randrange(len(data))] = chance.choice([0, 1, 127, 255, chance.randrange(256)])
            try:
                read(write("any.arrow", bytes(data)))
            except BadInput as said:
                assert str(said).endswith(".") and "any" in str(said)


def test_offsets_outside_the_data_are_refused(write: Write) -> None:
    content = stream(pa.table({"a": ["xyz"]}))
    offsets = b"\0\0\0\0\x03\0\0\0"
    at = content.rindex(offsets)
    assert content[at + len(offsets) :].startswith(b"xyz")
    wild = content[:at] + b"\0\0\0\0\xff\xff\xff\x0f" + content[at + len(offsets) :]
    assert "broken Arrow file" in refused(write("a.arrow", wild))


@pytest.mark.parametrize("form", ["parquet", "arrow"])
@pytest.mark.parametrize("shape", ["features", "struct", "list"])
def test_pictures_are_refused_by_their_column_unless_ignored(tmp_path: Path, form: str, shape: str) -> None:
    picture = {"bytes": b"\x89PNG", "path": None}
    kind: pa.DataType = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([picture, None], kind)
    if shape == "features":
        column = pa.array(["a.png", None])
    elif shape == "list":
        column = pa.array([[picture], None], pa.list_(kind))
    table = pa.table(TWO | {"photo": column})
    if shape == "features":
        features = {"info": {"features": {"photo": {"_type": "Image"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    path = tmp_path / f"a.{form}"
    if form == "parquet":
        pq.write_table(table, path)
    else:
        path.write_bytes(stream(table))
    report = checked(path, tmp_path / "out")
    assert (report.rows, report.ok, report.counts["wrong_type"]) == (2, 1, 1)
    ignored = checked(path, tmp_path / "ignored", layout=LayoutOptions(ignore=("photo",)))
    assert ignored.ok == 2
    assert [(use.name, use.status, use.rows) for use in ignored.column_uses][-1] == ("photo", "ignored", 1)


def test_a_saved_dataset(tmp_path: Path) -> None:
    more = {"instruction": ["Name a fish"], "output": ["Perch"]}
    folder = save(tmp_path / "saved", pa.table(TWO), pa.table(more))
    source, rows = read(folder)
    assert source.note == "saved dataset" and source.columns == list(TWO) and len(source.files) == 2
    assert [row.number for row in rows if isinstance(row, Row)] == [1, 2, 3]
    assert source.done() == (source.done()[1], source.done()[1])
    report = checked(folder, tmp_path / "out")
    assert (report.kind, report.format, report.ok, report.held_out) == ("arrow", "alpaca", 3, 0)
    assert report.sha256 != checked(save(tmp_path / "other", pa.table(TWO)), tmp_path / "out2").sha256


def test_splits_of_a_saved_dataset(tmp_path: Path) -> None:
    table = pa.table(TWO)
    folder = save_splits(tmp_path / "saved", test=table, train=table, validation=table.slice(0, 1))
    source, rows = read(folder)
    assert source.note == "saved dataset, trained on: train; held out: test and validation"
    assert [(row.number, row.held_out) for row in rows if isinstance(row, Row)] == [
        (1, False), (2, False), (1, True), (2, True), (3, True),
    ]  # fmt: skip
    report = checked(folder, tmp_path / "out")
    assert (report.ok, report.held_out, report.counts["leak"]) == (5, 3, 3)
    one = save_splits(tmp_path / "one", anything=table)
    assert [row.held_out for row in read(one)[1]] == [False, False]
    assert read(save_splits(tmp_path / "sft", train_sft=table, test_sft=table))[0].note.endswith("held out: test_sft")


def test_saved_datasets_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    table = pa.table(TWO)
    assert "'extra'" in refused(save_splits(tmp_path / "more", train=table, extra=table))
    assert "none of them to train on" in refused(save_splits(tmp_path / "tests", test=table, dev=table))
    assert "flatten_indices()" in refused(save(tmp_path / "picked", table, _indices_files=[{"filename": "i.arrow"}]))
    for names in ([{"filename": "../data.arrow"}], [{"filename": "/etc/passwd"}], [], ["x"], None, 7):
        folder = save(tmp_path / f"wild{names}".replace("/", "_"), table, _data_files=names)
        assert "names no data files" in refused(folder)
    gone = save(tmp_path / "gone", table)
    (gone / "data-00000-of-00001.arrow").unlink()
    assert "is missing" in refused(gone)
    (gone / "data-00000-of-00001.arrow").symlink_to("/etc/passwd")
    assert "is missing" in refused(gone)
    broken = save(tmp_path / "broken", table)
    (broken / "state.json").write_text("{", encoding="utf-8")
    assert "state.json is missing or broken" in refused(broken)
    text = save(tmp_path / "text", table)
    (text / "data-00000-of-00001.arrow").write_text("hello", encoding="utf-8")
    assert "is not an Arrow file" in refused(text)
    wild = save_splits(tmp_path / "splits", train=table)
    (wild / "dataset_dict.json").write_text('{"splits": ["../saved"]}', encoding="utf-8")
    assert "names no splits" in refused(wild)
    assert "STUDIO_MAX_FILE_MB" in refused(
        save(tmp_path / "big", pa.table({"a": ["x" * 2**21]})), Limits(max_file_mb=1)
    )
    (tmp_path / "plain").mkdir()
    assert "is a folder without" in refused(tmp_path / "plain")
