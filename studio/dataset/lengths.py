"""How many tokens the examples of a dataset have, quickly enough for a form that answers while one types."""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from studio.dataset.encode import Encoder, Whole
from studio.dataset.store import read_records
from studio.themes import Data

# Up to this many rows are all counted; of more, the longest by characters and an even sample of the rest.
_ALL = 2000
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of an example before the cut: the longest, the mean, and the share of them that is trained.

    `exact` when every row was counted.
    """

    rows: int
    held_out: int
    longest: int
    mean: float
    trained_share: float
    exact: bool


@functools.lru_cache(maxsize=64)
def measure(folder: Path, model_folder: Path, template: Literal["chat", "alpaca"], system_prompt: str) -> Lengths:
    """Token lengths of the dataset in `folder` as the model in `model_folder` sees it.

    Datasets never change, so neither does the answer: it is kept.
    """
    records = read_records(folder)
    encoder = Encoder(model_folder, Data(template=template, system_prompt=system_prompt))
    held_out = sum(record.held_out for record in records)
    if len(records) <= _ALL:
        return _of(encoder.encode(records), len(records), held_out, exact=True)

    def characters(index: int) -> int:
        record = records[index]
        return len(record.text) + sum(len(message["content"]) for message in record.messages)

    by_size = sorted(range(len(records)), key=characters, reverse=True)
    longest = [records[index] for index in by_size[:_LONGEST]]
    sample = records[:: max(1, len(records) // _ALL)]
    counted = _of(encoder.encode(sample), len(records), held_out, exact=False)
    top = max(len(whole.input_ids) for whole in encoder.encode(longest))
    return replace(counted, longest=max(top, counted.longest))


def _of(wholes: list[Whole], rows: int, held_out: int, exact: bool) -> Lengths:
    counts = [len(whole.input_ids) for whole in wholes]
    trained = sum(len(whole.input_ids) - whole.trained_from for whole in wholes)
    return Lengths(rows, held_out, max(counts), sum(counts) / len(counts), trained / max(1, sum(counts)), exact)
