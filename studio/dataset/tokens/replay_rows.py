"""The rows of a run for an exported training script: texts, and which of their tokens are trained.

One JSON object per row, in training order: "messages" if any, "text", "special" (whether the tokenizer adds its special
tokens), "tokens" (number before the cut), "check" (crc32 of the token ids) and "trained" ([first, last + 1] of each
part). Packed runs also have "pack", the index of the packed row of an example. What is trained is decided in encode.py.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.dataset.split import held_out_rows
from studio.dataset.store import read_records
from studio.dataset.tokens.encode import CHUNK, Encoder, Refused, Tokenised, Whole
from studio.dataset.tokens.packing import pack_order
from studio.recipe import Recipe


@dataclass(frozen=True, slots=True)
class PlainRows:
    """Rows to train on and held-out rows, each ready to write as a line of JSON."""

    train: list[dict[str, Any]]
    held_out: list[dict[str, Any]]


def plain_rows(folder: Path, recipe: Recipe, model_folder: Path) -> PlainRows:
    """The rows of the dataset in `folder` as a run of this recipe trains them."""
    data, seed = recipe.data, recipe.schedule.seed
    records = read_records(folder)
    encoder = Encoder(model_folder, data)
    out = held_out_rows(records, data.held_out, seed)
    messages = {} if data.per_answer else {record.row: record.messages for record in records}
    train: list[tuple[Tokenised, dict[str, Any]]] = []
    held_out: list[dict[str, Any]] = []
    for whole in _encoded(encoder, records):
        if not any(begin < data.max_length for begin, _ in whole.spans):
            continue
        row = _row(encoder, whole, messages.get(whole.row, ()))
        for number, part in enumerate(whole.split(data.max_length) if data.split_texts else [whole]):
            shown = row | ({"from": number * data.max_length} if number else {})
            if whole.row in out or whole.held_out:
                held_out.append(shown)
            else:
                train.append((part, shown))
    if not recipe.schedule.packing:
        return PlainRows([row for _, row in train], held_out)
    examples = [part.cut(data.max_length) for part, _ in train]
    # By identity: a conversation or a long text may make several examples with one row number.
    rows = {id(example): row for example, (_, row) in zip(examples, train, strict=True)}
    packs = pack_order(examples, data.max_length, seed)
    return PlainRows(
        [{"pack": number, **rows[id(example)]} for number, pack in enumerate(packs) for example in pack], held_out
    )


def _encoded(encoder: Encoder, records: Sequence[Any]) -> Iterator[Whole]:
    for start in range(0, len(records), CHUNK):
        yield from encoder.encode(records[start : start + CHUNK], Refused())


def _row(encoder: Encoder, whole: Whole, messages: Sequence[Any]) -> dict[str, Any]:
    plain = encoder.tokenizer.encode(whole.text, add_special_tokens=False).ids
    row: dict[str, Any] = {"messages": list(messages)} if messages else {}
    return row | {
        "text": whole.text,
        "special": plain != whole.input_ids,
        "tokens": len(whole.input_ids),
        "check": zlib.crc32(" ".join(map(str, whole.input_ids)).encode()),
        "trained": [list(span) for span in whole.spans],
    }
