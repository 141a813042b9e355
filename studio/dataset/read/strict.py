"""Checks on a single row, independent of the file type."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from studio.dataset.read.limits import Limits, limit
from studio.dataset.read.rows import Finding, Row

MIB = 2**20
# Bytes of a row's text kept for display: 64 KiB of UTF-8.
_RAW = 2**16
_MARK = " …"
# Maximum length of a name from the file in a message, and maximum number of names.
_NAME, _NAMES = 60, 12


@dataclass(frozen=True, slots=True)
class RowError:
    """Placeholder for a value that cannot be accepted; its row is rejected for that reason."""

    reason: str
    fix: str


def clip(text: str) -> str:
    """Cut a text to 64 KiB, with a mark if it was longer; lone surrogates are written as \\udXXX."""
    most = _RAW - 4 if text.isascii() else _RAW // 4 - 2
    if len(text) > most:
        text = text[:most] + _MARK
    return text.encode("utf-8", "backslashreplace").decode()


def named(name: str) -> str:
    """Shorten a name from a file for a message."""
    return clip(name if len(name) <= _NAME else name[:_NAME] + _MARK)


def listed(names: Iterable[str]) -> str:
    """List the first names of a file's columns, for a message."""
    every = list(names)
    more = " …" if len(every) > _NAMES else ""
    return ", ".join(named(name) for name in every[:_NAMES]) + more if every else "no columns"


def too_long(text: str, mebibytes: int) -> bool:
    """Whether a text takes more than `mebibytes` MiB as UTF-8."""
    most = mebibytes * MIB
    if len(text) > most:
        return True
    return 4 * len(text) > most and not text.isascii() and len(text.encode("utf-8", "surrogatepass")) > most


def unreadable(row: int, reason: str, fix: str, raw: str, field: str = "") -> Finding:
    """Finding for a row that could not be read. raw: its text in the file, of any length."""
    return Finding(row, "unreadable", field, reason, fix, raw=clip(raw))


def check_row(row: int, values: dict[str, Any], limits: Limits, raw: str) -> Row | Finding:
    """Return the row, or the finding that rejects it: too long, too deep, a NUL, or a value that is a RowError."""
    for name, value in values.items():
        bad = _look(name, limits) or _look(value, limits)
        if bad is None and isinstance(value, dict | list):
            bad = _look_inside(value, limits)
        if bad is not None:
            return unreadable(row, bad.reason, bad.fix, raw, clip(name))
    return Row(row, values)


def too_deep(limits: Limits) -> RowError:
    return RowError(
        f"lists and objects are nested more than {limits.max_nesting} deep ({limit('max_nesting')})",
        "flatten it, or remove the row",
    )


def _look(value: Any, limits: Limits) -> RowError | None:
    if isinstance(value, str):
        if "\x00" in value:
            return RowError("contains a NUL character", "remove the character, or the row")
        if too_long(value, limits.max_field_mb):
            return RowError(
                f"is longer than {limits.max_field_mb} MiB ({limit('max_field_mb')})", "shorten it, or remove the row"
            )
    return value if isinstance(value, RowError) else None


def _look_inside(value: Any, limits: Limits) -> RowError | None:
    # The row itself is the first level, this value the second.
    waiting = [(value, 2)]
    while waiting:
        outer, depth = waiting.pop()
        if depth > limits.max_nesting:
            return too_deep(limits)
        items: list[Any] = [*outer, *outer.values()] if isinstance(outer, Mapping) else outer
        for item in items:
            if isinstance(item, dict | list):
                waiting.append((item, depth + 1))
            elif bad := _look(item, limits):
                return bad
    return None
