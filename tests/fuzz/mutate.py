"""Seed files of every kind, and a mutator that breaks them in ways that follow from one number."""

import gzip
import io
import json
import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_WORDS = ("Add 1 and 2.", "Größe", "naïve café", "你好，世界", "Привет", "😀", 'say "hi"', "a,b;c\td", "two\nlines", "")
_CODECS = ("cp1252", "latin-1", "gb18030", "cp1251", "shift_jis", "utf-16", "utf-16-le", "utf-16-be", "utf-32")
_CODECS += ("utf-8-sig", "utf-7", "cp037")


def _alpaca() -> list[dict[str, Any]]:
    return [{"instruction": word or "x", "input": "", "output": _WORDS[place - 3]} for place, word in enumerate(_WORDS)]


def _turns(role: str, text: str, user: str, model: str) -> list[list[dict[str, str]]]:
    return [[{role: user, text: word}, {role: model, text: _WORDS[place - 4]}] for place, word in enumerate(_WORDS)]


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _table(mark: str) -> bytes:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if set(text) & set(mark + '"\n') else text

    rows = [["instruction", "input", "output"], *([str(value) for value in row.values()] for row in _alpaca())]
    return "".join(mark.join(map(cell, row)) + "\n" for row in rows).encode()


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    held = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), held)
    return held.getvalue()


def _arrow(rows: list[dict[str, Any]]) -> bytes:
    held = io.BytesIO()
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(held, table.schema) as writer:
        writer.write_table(table)
    return held.getvalue()


def seeds() -> dict[str, bytes]:
    """Small good files of every kind, by the name they are written under."""
    alpaca = _alpaca()
    messages = [{"messages": turns} for turns in _turns("role", "content", "user", "assistant")]
    sharegpt = [{"conversations": turns} for turns in _turns("from", "value", "human", "gpt")]
    found = {
        "alpaca.jsonl": _lines(alpaca),
        "array.json": json.dumps(alpaca, ensure_ascii=False, indent=1).encode(),
        "columns.json": json.dumps({key: [row[key] for row in alpaca] for key in alpaca[0]}).encode(),
        "keyed.json": json.dumps({str(number): row for number, row in enumerate(alpaca)}).encode(),
        "splits.json": json.dumps({"train": alpaca[:7], "test": alpaca[7:]}).encode(),
        "pretty.json": "\n".join(json.dumps(row, indent=1) for row in alpaca).encode(),
        "wrapped.json": json.dumps({"data": alpaca}).encode(),
        "messages.jsonl": _lines(messages),
        "sharegpt.json": json.dumps(sharegpt).encode(),
        "table.csv": _table(","),
        "table.tsv": _table("\t"),
        "semicolons.csv": _table(";"),
        "alpaca.parquet": _parquet(alpaca),
        "messages.parquet": _parquet(messages),
        "alpaca.arrow": _arrow(alpaca),
    }
    return found | {f"{name}.gz": gzip.compress(data, mtime=0) for name, data in found.items()}


def mutated(seed: int) -> tuple[str, bytes]:
    """The file of that number: its name and its bytes, always the same."""
    chance = random.Random(seed)
    name, data = chance.choice(sorted(seeds().items()))
    packed = name.endswith(".gz")
    # Most of the time what is inside is broken, not the packing.
    if packed and chance.random() < 0.7:
        data = gzip.compress(_broken(chance, gzip.decompress(data), name), mtime=0)
    else:
        data = _broken(chance, data, name)
    if chance.random() < 0.05:
        name = chance.choice(
            ["other.json", "other.jsonl", "other.csv", "other.tsv", "other.parquet", "other.txt", "other", "other.gz"]
        )
    return name, data


def _broken(chance: random.Random, data: bytes, name: str) -> bytes:
    ways: list[Callable[[random.Random, bytes], bytes]] = list(_BYTES)
    if "parquet" not in name and "arrow" not in name:
        ways += _CODES
        ways += _JSON * 2 if "json" in name else _CELLS * 2
    for _ in range(chance.choice([1, 1, 1, 2, 3, 6])):
        data = chance.choice(ways)(chance, data)
    return data


def _flip(chance: random.Random, data: bytes) -> bytes:
    held = bytearray(data)
    for _ in range(min(chance.choice([1, 1, 2, 8, 40]), len(held))):
        held[chance.randrange(len(held))] ^= 1 << chance.randrange(8)
    return bytes(held)


def _set(chance: random.Random, data: bytes) -> bytes:
    held = bytearray(data)
    if held:
        held[chance.randrange(len(held))] = chance.choice([0, 1, 9, 10, 13, 34, 39, 44, 92, 127, 128, 192, 255])
    return bytes(held)


def _delete(chance: random.Random, data: bytes) -> bytes:
    start = chance.randrange(len(data) + 1)
    return data[:start] + data[start + chance.choice([1, 2, 10, 100]) :]


def _insert(chance: random.Random, data: bytes) -> bytes:
    start = chance.randrange(len(data) + 1)
    pieces = [
        b"\x00",
        b'"',
        b"\n",
        b"\r",
        b"\\",
        b"[",
        b"{",
        b"]",
        b"}",
        b",",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xed\xa0\x80",
    ]
    pieces += [
        b"NaN",
        b"1e999",
        b"9" * 500,
        b"\\ud800",
        b"\\u0000",
        b"[" * 2000,
        b"\x1f\x8b",
        b"PAR1",
        chance.randbytes(9),
    ]
    return data[:start] + chance.choice(pieces) * chance.choice([1, 1, 1, 3, 50]) + data[start:]


def _truncate(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)] if chance.random() < 0.8 else data[chance.randrange(len(data) + 1) :]


def _double(chance: random.Random, data: bytes) -> bytes:
    start = chance.randrange(len(data) + 1)
    piece = data[start : start + chance.choice([1, 16, 200, 5000])]
    return data[:start] + piece * chance.choice([2, 2, 5, 100]) + data[start:]


def _swap(chance: random.Random, data: bytes) -> bytes:
    first, second = sorted((chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)))
    return data[second:] + data[first:second] + data[:first]


def _recode(chance: random.Random, data: bytes) -> bytes:
    codec = chance.choice(_CODECS)
    return data.decode("utf-8", "replace").encode(codec, "ignore")


def _half_recode(chance: random.Random, data: bytes) -> bytes:
    start = chance.randrange(len(data) + 1)
    return data[:start] + _recode(chance, data[start:])


def _surrogates(chance: random.Random, data: bytes) -> bytes:
    text = data.decode("utf-8", "replace")
    start = chance.randrange(len(text) + 1)
    return (text[:start] + chance.choice("\ud800\udc00\udfff") + text[start:]).encode("utf-8", "surrogatepass")


def _ends(chance: random.Random, data: bytes) -> bytes:
    end = chance.choice([b"\r\n", b"\r", b"\n\r", b"\n\n", b"\xe2\x80\xa8", b"\x0b", b""])
    return data.replace(b"\n", end) if chance.random() < 0.5 else data.replace(b"\n", end, 3)


def _mark(chance: random.Random, data: bytes) -> bytes:
    start = chance.choice([0, chance.randrange(len(data) + 1)])
    return data[:start] + chance.choice([b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"]) + data[start:]


def _value(chance: random.Random) -> Any:
    deep: Any = 1
    for _ in range(chance.choice([3, 70, 400])):
        deep = [deep] if chance.random() < 0.5 else {"a": deep}
    odd = [
        None,
        True,
        0,
        -1.5,
        float("nan"),
        float("inf"),
        10**150,
        "",
        "\x00",
        "\ud800",
        "x" * 5000,
        [],
        {},
        [[]],
        deep,
    ]
    return chance.choice(odd)


def _structure(chance: random.Random, value: Any) -> Any:
    """One change somewhere in a JSON value: dropped, renamed, retyped, nested or repeated."""
    if isinstance(value, dict) and value:
        key = chance.choice(list(value))
        way = chance.randrange(5)
        if way == 0:
            return {name: item for name, item in value.items() if name != key}
        if way == 1:
            return {(name + chance.choice(" s\x00") if name == key else name): item for name, item in value.items()}
        return value | {key: _value(chance) if way == 2 else _structure(chance, value[key])}
    if isinstance(value, list) and value:
        place = chance.randrange(len(value))
        way = chance.randrange(5)
        if way == 0:
            return value[:place] + value[place + 1 :]
        if way == 1:
            return [*value[:place], value[place], *value[place:]]
        new = _value(chance) if way == 2 else _structure(chance, value[place])
        return [*value[:place], new, *value[place + 1 :]]
    return [value] if chance.random() < 0.3 else _value(chance)


def _restructure(chance: random.Random, data: bytes) -> bytes:
    text = data.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        pass
    else:
        return json.dumps(_structure(chance, value)).encode()
    lines = text.split("\n")
    place = chance.randrange(len(lines))
    try:
        lines[place] = json.dumps(_structure(chance, json.loads(lines[place])))
    except (ValueError, RecursionError):
        lines.insert(place, chance.choice(["[]", "null", "{", "}", "7", '{"a": 1, "a": 2}', '{"a"}']))
    return "\n".join(lines).encode("utf-8", "surrogatepass")


def _keys_twice(chance: random.Random, data: bytes) -> bytes:
    places = [place for place in range(len(data)) if data[place : place + 1] == b"{"]
    start = chance.choice(places) + 1 if places else 0
    return data[:start] + b'"output": 1, "output": 2, ' + data[start:]


def _quotes(chance: random.Random, data: bytes) -> bytes:
    old, new = chance.choice([(b'"', b""), (b'""', b'\\"'), (b'"', b"'"), (b'"', b'""'), (b"'", b'"'), (b'"', b' "')])
    return data.replace(old, new) if chance.random() < 0.5 else data.replace(old, new, 1)


def _marks(chance: random.Random, data: bytes) -> bytes:
    old, new = chance.choice(b",;\t|"), chance.choice(b",;\t| ")
    text = data.replace(bytes([old]), bytes([new]))
    return text if chance.random() < 0.5 else text[: len(data) // 2] + data[len(data) // 2 :]


def _cells(chance: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    place = chance.randrange(len(lines))
    lines[place] = chance.choice([lines[place] + b",", lines[place] + b'"', b'"' + lines[place], b",,,", b"", lines[0]])
    return b"\n".join(lines)


_BYTES = [_flip, _set, _delete, _insert, _truncate, _double, _swap]
_CODES = [_recode, _half_recode, _surrogates, _ends, _mark]
_JSON = [_restructure, _restructure, _keys_twice]
_CELLS = [_quotes, _marks, _cells]
