"""Values become text as the person wrote them: numbers, dates and times, lists and objects."""

import io
import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from studio.dataset.read.limits import Limits
from studio.dataset.read.reader import open_rows
from studio.dataset.read.rows import Finding, Row
from studio.dataset.read.values import ValueFault, as_text


def texts(path: Path) -> list[dict[str, str]]:
    """The texts of the values of a file; nulls are left out."""
    with open_rows(path, Limits()) as source:
        found = list(source.rows)
    assert all(isinstance(row, Row) for row in found), found
    return [
        {name: as_text(value, name) for name, value in row.values.items() if value is not None}
        for row in found
        if isinstance(row, Row)
    ]


def of_parquet(folder: Path, **columns: Any) -> list[dict[str, str]]:
    held = io.BytesIO()
    pq.write_table(pa.table(columns), held)
    path = folder / "a.parquet"
    path.write_bytes(held.getvalue())
    return texts(path)


@pytest.mark.parametrize(
    "number",
    ["1.10", "1.0", "1e+21", "1E5", "-0.0", "0.1", "3", "-7", "123456789012345678901234567890", "9.99e-12", "100.00"],
)
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_json_numbers_keep_their_digits(tmp_path: Path, name: str, number: str) -> None:
    row = f'{{"a": {number}, "b": [{number}], "c": {{"d": {number}}}}}'
    (tmp_path / name).write_text(row if name == "a.jsonl" else f"[{row}]", encoding="utf-8")
    assert texts(tmp_path / name) == [{"a": number, "b": f"[{number}]", "c": f'{{"d":{number}}}'}]


@pytest.mark.parametrize("kind", [pa.float32(), pa.float16()])
def test_short_floats_have_no_more_digits_than_they_know(tmp_path: Path, kind: pa.DataType) -> None:
    import numpy as np

    type_ = np.float32 if kind == pa.float32() else np.float16
    numbers = [type_(0.1), type_(2.5), type_(3), type_(-0.001), type_(2048), type_(float("nan")), None]
    nested = [None if number is None else [number] for number in numbers]
    pairs = [None if number is None else {"x": number} for number in numbers]
    rows = of_parquet(
        tmp_path,
        a=pa.array(numbers, kind, from_pandas=False),
        b=pa.array(nested, pa.list_(kind)),
        c=pa.array(pairs, pa.struct([("x", kind)])),
    )
    plain = ["0.1", "2.5", "3", "-0.001", "2048"]
    assert rows[:5] == [{"a": text, "b": f"[{text}]", "c": f'{{"x":{text}}}'} for text in plain]
    assert rows[5:] == [{"b": "[null]", "c": '{"x":null}'}, {}]


def test_large_short_floats(tmp_path: Path) -> None:
    rows = of_parquet(tmp_path, a=pa.array([1e8, 16777216.0, 1e21, 1e-7], pa.float32()))
    assert [row["a"] for row in rows] == ["100000000", "16777216", "1e+21", "1e-07"]


def test_whole_floats_of_a_column_with_gaps_are_integers(tmp_path: Path) -> None:
    rows = of_parquet(tmp_path, a=pa.array([1.0, None, 30.0, 2.5, 1e21]), b=pa.array([2**63] * 5, pa.uint64()))
    assert [row.get("a") for row in rows] == ["1", None, "30", "2.5", "1e+21"]
    assert rows[0]["b"] == str(2**63)


def test_dates_and_times_are_iso(tmp_path: Path) -> None:
    moment = datetime(2024, 2, 29, 13, 5, 6)
    [row] = of_parquet(
        tmp_path,
        day=pa.array([date(2024, 2, 29)]),
        s=pa.array([moment], pa.timestamp("s")),
        ns=pa.array([1], pa.timestamp("ns")),
        zone=pa.array([moment.replace(tzinfo=UTC)], pa.timestamp("us", "Europe/Berlin")),
        utc=pa.array([moment.replace(tzinfo=UTC)], pa.timestamp("ms", "UTC")),
        clock=pa.array([time(13, 5, 6, 250_000)], pa.time64("us")),
        price=pa.array([Decimal("1.50")]),
        nested=pa.array([[moment]], pa.list_(pa.timestamp("us"))),
        kind=pa.array(["x"]).dictionary_encode(),
    )
    assert row == {
        "day": "2024-02-29",
        "s": "2024-02-29T13:05:06",
        "ns": "1970-01-01T00:00:00.000000001",
        "zone": "2024-02-29T14:05:06+01:00",
        "utc": "2024-02-29T13:05:06+00:00",
        "clock": "13:05:06.250000",
        "price": "1.50",
        "nested": '["2024-02-29T13:05:06"]',
        "kind": "x",
    }


def test_times_that_nothing_can_write_reject_their_row(tmp_path: Path) -> None:
    held = io.BytesIO()
    columns = {"a": pa.array([0, 10**15], pa.timestamp("s")), "b": pa.array([0, 2_000_000_000], pa.date32())}
    pq.write_table(pa.table(columns), held)
    (tmp_path / "a.parquet").write_bytes(held.getvalue())
    with open_rows(tmp_path / "a.parquet", Limits()) as source:
        first, second = source.rows
    assert first == Row(1, {"a": datetime(1970, 1, 1), "b": date(1970, 1, 1)})
    assert isinstance(second, Finding) and second.field == "a" and "cannot be read" in second.reason


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (timedelta(days=1, hours=2, minutes=3, seconds=4.5), "P1DT2H3M4.5S"),
        (timedelta(minutes=90), "PT1H30M"),
        (timedelta(days=7), "P7D"),
        (timedelta(0), "PT0S"),
        (-timedelta(seconds=1), "-PT1S"),
    ],
)
def test_durations_are_iso(tmp_path: Path, span: timedelta, text: str) -> None:
    assert of_parquet(tmp_path, a=pa.array([span], pa.duration("us"))) == [{"a": text}]


def test_small_durations_keep_their_nanoseconds(tmp_path: Path) -> None:
    assert of_parquet(tmp_path, a=pa.array([1_000_000_001], pa.duration("ns"))) == [{"a": "PT1.000000001S"}]


def test_bytes_are_refused_by_the_name_of_their_column(tmp_path: Path) -> None:
    for column in (pa.array([b"\xff"]), pa.array([[b"\xff"]]), pa.array([{"x": b"\xff"}])):
        with pytest.raises(ValueFault) as fault:
            of_parquet(tmp_path, photo=column)
        assert (fault.value.field, fault.value.reason) == ("photo", "contains binary data instead of text")


def test_identifiers_are_text(tmp_path: Path) -> None:
    assert as_text(UUID(int=5), "a") == "00000000-0000-0000-0000-000000000005"


def test_infinite_short_floats_reject_their_row(tmp_path: Path) -> None:
    held = io.BytesIO()
    pq.write_table(pa.table({"a": pa.array([1.5, float("inf")], pa.float32())}), held)
    (tmp_path / "a.parquet").write_bytes(held.getvalue())
    with open_rows(tmp_path / "a.parquet", Limits()) as source:
        first, second = source.rows
    assert first == Row(1, {"a": 1.5})
    assert isinstance(second, Finding) and "infinite" in second.reason


def test_numbers_of_json_stay_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1.10}', encoding="utf-8")
    with open_rows(tmp_path / "a.jsonl", Limits()) as source:
        [row] = source.rows
    assert isinstance(row, Row) and row.values == {"a": 1.1} and json.dumps(row.values) == '{"a": 1.1}'
