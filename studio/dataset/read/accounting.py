"""Account of a file's columns and of its messages' keys: each is used, ignored or refused, and none is lost unseen.

A column or key with a value is counted once a row or message. What nobody read is "ignored"; where its name says that
it carries meaning for training, it is "not read", and the dataset is not ready before the person decides.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["used", "ignored", "not read", "refused"]

# Names that change what should be trained. A file that has them expects them to be read.
MEANINGFUL = frozenset(
    {
        "tools", "functions", "tool_calls", "function_call", "tool_choice", "weight", "weights", "train", "loss",
        "loss_mask", "label", "labels", "kto_tag", "score", "chosen", "rejected", "images", "image", "videos", "video",
        "audios", "audio", "system", "system_prompt", "reasoning_content", "reasoning", "thinking", "thought",
        "history", "context", "documents", "completion", "completions", "response", "answer", "output", "messages",
        "conversations",
    }
)  # fmt: skip
UNKNOWN, BY_YOU = "no meaning for training that the studio knows", "ignored by you"


@dataclass(frozen=True, slots=True)
class Use:
    """What became of a column or of a message's key. use: where it went, or why it did not; rows: rows (messages)."""

    name: str
    status: Status
    use: str
    rows: int


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: null, an empty text, list or object."""
    return value is None or (isinstance(value, (str, list, dict)) and not value)


# Names that the studio knows to say nothing about the text.
_KNOWN = {
    "parallel_tool_calls": "a setting of the request, not part of the text",
    "index": "a number, not part of the text",
    "file": "where the document came from, not part of the text",
}


class Account:
    """Counts of the columns of rows, or of the keys of messages. ignored: those that the person leaves out."""

    def __init__(self, ignored: Collection[str] = ()) -> None:
        self.ignored = frozenset(ignored)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._refused: Counter[str] = Counter()

    def add(self, names: Iterable[str], uses: Mapping[str, str], refused: bool = False) -> None:
        """Count the names of one row or message that have a value. uses: where those that were read went."""
        if refused:
            self._refused.update(names)
        else:
            for name in names:
                self._counts[name, uses.get(name, "")] += 1

    def add_whole(self, uses: Mapping[str, str], times: int) -> None:
        """Count messages that have exactly the names of `uses`."""
        for item in uses.items():
            self._counts[item] += times

    def uses(self) -> list[Use]:
        """All uses, in the order in which the file names them."""
        found = [self._use(name, use, rows) for (name, use), rows in self._counts.items()]
        found += [Use(name, "refused", "its row cannot be used", rows) for name, rows in self._refused.items()]
        names = {name: place for place, name in enumerate(dict.fromkeys(use.name for use in found))}
        return sorted(found, key=lambda use: names[use.name])

    def _use(self, name: str, use: str, rows: int) -> Use:
        if use:
            return Use(name, "used", use, rows)
        if name in self.ignored:
            return Use(name, "ignored", BY_YOU, rows)
        if why := _KNOWN.get(name):
            return Use(name, "ignored", why, rows)
        if name.lower() in MEANINGFUL:
            return Use(name, "not read", "it may carry meaning: map it, or ignore it", rows)
        return Use(name, "ignored", UNKNOWN, rows)


def not_read(uses: Iterable[Use]) -> list[Use]:
    """The names that carry meaning and were not read."""
    return [use for use in uses if use.status == "not read"]
