"""Numbered rows of a file, and findings about rows with problems."""

from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal[
    "unreadable",
    "missing",
    "wrong_type",
    "empty",
    "turns",
    "excluded",
    "unwanted",
    "leak",
    "duplicate",
    "near_duplicate",
    "unused",
    "mended",
    "markup",
    "untrained",
    "answer_cut",
    "cut",
]


@dataclass(frozen=True, slots=True)
class Fault:
    """A kind of finding: its label, and whether its rows are left out of the dataset or of training."""

    label: str
    left_out: bool


# In order of severity. The last three depend on model, template and max_length; the others on the file alone.
FAULTS: dict[Kind, Fault] = {
    "unreadable": Fault("unreadable", left_out=True),
    "missing": Fault("field missing", left_out=True),
    "wrong_type": Fault("wrong type", left_out=True),
    "empty": Fault("empty", left_out=True),
    "turns": Fault("broken turn order", left_out=True),
    "excluded": Fault("left out by you", left_out=True),
    "unwanted": Fault("labelled as a bad answer", left_out=True),
    "leak": Fault("held out and trained on", left_out=False),
    "duplicate": Fault("duplicate", left_out=False),
    "near_duplicate": Fault("near duplicate", left_out=False),
    "unused": Fault("partly unused", left_out=False),
    "mended": Fault("turns mended as you chose", left_out=False),
    "markup": Fault("chat markup in plain text", left_out=False),
    "untrained": Fault("no trained token", left_out=True),
    "answer_cut": Fault("answer cut entirely", left_out=False),
    "cut": Fault("cut", left_out=False),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row as read. number: the line for jsonl, the record for the others; from 1.

    held_out: from a split of the file that is held out of training, whose rows are numbered by themselves.
    """

    number: int
    values: dict[str, Any]
    held_out: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """A problem with a row: row number, kind, field at fault ("" for the whole row), reason, and remedy.

    of: the row it repeats, 0 for none. raw: the row as in the file, as JSON or text. held_out: whether the row is from
    the second file, the one with held-out examples, or from such a split.
    """

    row: int
    kind: Kind
    field: str
    reason: str
    fix: str
    of: int = 0
    raw: str = ""
    held_out: bool = False
