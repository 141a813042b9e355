"""Training set: a dataset split, cut, and without the examples that cannot be trained on.

Its tokens are read from the cache (lengths.py), or computed now and cached for the next run.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from studio.dataset.split import held_out_rows
from studio.dataset.store import read_records
from studio.dataset.tokens import lengths
from studio.dataset.tokens.encode import Example, Refused
from studio.dataset.tokens.remarks import MEANINGS, Remark
from studio.errors import BadInput
from studio.recipe.fields import Data


@dataclass(slots=True)
class Encoded:
    """A dataset ready for training, and what was left out of it."""

    train: list[Example] = field(default_factory=list)
    held_out: list[Example] = field(default_factory=list)
    skipped: int = 0
    truncated: int = 0
    notes: list[str] = field(default_factory=list)
    refused: Refused = field(default_factory=Refused)


def encode_dataset(
    folder: Path,
    data: Data,
    model_folder: Path,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
) -> Encoded:
    """Encode, split and cut all examples of the dataset in `folder`, in the order of the source file.

    seed: the recipe's seed, used for the split. progress: called with (done, of). cache: folder of the token cache;
    None disables it.
    """
    records = read_records(folder)
    out = held_out_rows(records, data.held_out, seed)
    encoded = Encoded()
    untrained = 0
    remarks: Counter[Remark] = Counter()
    every = lengths.tokenised(folder, model_folder, data, cache, encoded.refused, progress)
    for whole in (part for item in every for part in (item.split(data.max_length) if data.split_texts else [item])):
        encoded.truncated += len(whole.input_ids) > data.max_length
        remarks.update(whole.remarks)
        if Remark.NEVER_TRAINED in whole.remarks:
            encoded.skipped += 1
        elif not any(begin < data.max_length for begin, _ in whole.spans):
            untrained += 1
        else:
            example = whole.cut(data.max_length)
            (encoded.held_out if whole.row in out or whole.held_out else encoded.train).append(example)
    untrained -= encoded.refused.total
    encoded.skipped += untrained + encoded.refused.total
    _note(encoded, untrained, len(records), data.max_length)
    for remark, meaning in MEANINGS.items():
        if remark in remarks:
            encoded.notes.append(f"{remarks[remark]} examples: {meaning.text}.")
    return encoded


def _note(encoded: Encoded, untrained: int, rows: int, max_length: int) -> None:
    """Add notes on what was left out; raises BadInput when the template refused every row."""
    if encoded.refused.total:
        row, reason = encoded.refused.rows[0]
        if encoded.refused.total == rows:
            raise BadInput(f"The template has no text for any of the {rows} examples. Row {row}: {reason}")
        encoded.notes.append(
            f"{encoded.refused.total} examples cannot be put into the template and are left out. Row {row}: {reason}"
        )
    if untrained:
        encoded.notes.append(f"{untrained} examples have no trained token within {max_length} tokens and are left out.")
    if encoded.truncated:
        encoded.notes.append(f"{encoded.truncated} examples are cut at max_length {max_length}.")
