"""Strict, incremental JSON reader: one object per line (jsonl); an array, objects one after another, or one (json)."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from math import isinf
from typing import Any

from studio.dataset.read.limits import Limits, limit
from studio.dataset.read.rows import Finding, Row
from studio.dataset.read.source import MIB
from studio.dataset.read.strict import RowError, check_row, too_deep, too_long, unreadable
from studio.dataset.read.text.decoding import Text
from studio.dataset.read.text.shapes import Shape, shape_of
from studio.dataset.read.values import WrittenNumber
from studio.errors import BadInput

# An error this close to the end of the text read so far may only mean that the text is incomplete.
_MARGIN = 1024
_MEND = "fix or remove the line"
_NOT_SPACE = re.compile(r"[^ \t\n\r]")


def strict_decoder(limits: Limits) -> json.JSONDecoder:
    """JSON decoder that keeps how numbers are written and replaces non-standard or lossy values by a RowError.

    These are NaN, numbers out of range and repeated keys. So one bad value rejects its row, not the whole file.
    """

    def whole_number(digits: str) -> int | RowError:
        # Python's own limit, above this one by default, is global to the process.
        try:
            return int(digits) if len(digits.lstrip("-")) <= limits.max_digits else _too_many_digits(limits)
        except ValueError:
            return _too_many_digits(limits)

    def real_number(digits: str) -> float | RowError:
        if len(digits) > limits.max_digits and sum(map(str.isdigit, digits)) > limits.max_digits:
            return _too_many_digits(limits)
        value = WrittenNumber(digits)
        if isinf(value):
            return RowError(f"the number {digits[:40]} is too large", "write a smaller number, or a text")
        return value

    def constant(name: str) -> RowError:
        return RowError(f"{name} is not JSON", "write null, a number or a text")

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any] | RowError:
        values = dict(pairs)
        if len(values) == len(pairs):
            return values
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        return RowError(f"the key {twice[:80]!r} appears twice", "keep one of them")

    return json.JSONDecoder(
        object_pairs_hook=members, parse_float=real_number, parse_int=whole_number, parse_constant=constant
    )


def _too_many_digits(limits: Limits) -> RowError:
    return RowError(
        f"contains a number of more than {limits.max_digits} digits ({limit('max_digits')})",
        "write it as a text, or shorten it",
    )


def many_objects(text: Text, limits: Limits) -> bool:
    """Whether the first line is a complete object and more text follows, as in one object per line."""
    start = len(text.buffer) - len(text.buffer.lstrip())
    end = -1
    while end < 0:
        end = text.buffer.find("\n", start)
        if end < 0 and (len(text.buffer) > limits.max_row_mb * MIB or not text.fill()):
            return False
    try:
        first = strict_decoder(limits).decode(text.buffer[start:end])
    except (ValueError, RecursionError):
        return False
    if not isinstance(first, dict | RowError):
        return False
    while not text.buffer[end:].strip():
        if len(text.buffer) - end > limits.max_row_mb * MIB or not text.fill():
            return False
    return True


def read_jsonl(text: Text, limits: Limits) -> Iterator[Row | Finding]:
    """Yield one row per line. Blank lines are not rows but count as line numbers."""
    decoder = strict_decoder(limits)
    # Only \n ends a line in JSON Lines (not U+2028 inside a string), except in files from classic Mac OS.
    ends = re.compile("\r" if "\r" in text.buffer and "\n" not in text.buffer else "\n")
    for number, (line, whole) in enumerate(text.lines(ends, limits.max_row_mb * MIB), start=1):
        if not whole or too_long(line, limits.max_row_mb):
            reason = f"the line is longer than {limits.max_row_mb} MiB ({limit('max_row_mb')})"
            yield unreadable(number, reason, "shorten or remove it", line)
            continue
        if not line.strip():
            continue
        raw = line.strip("\r\n")
        try:
            value = decoder.decode(raw)
        except json.JSONDecodeError as error:
            yield unreadable(number, f"not valid JSON: {_fault(error)} at column {error.colno}", _MEND, raw)
        except RecursionError:
            deep = too_deep(limits)
            yield unreadable(number, deep.reason, deep.fix, raw)
        else:
            yield _row(number, value, limits, raw)


def begins_with_object(text: Text, limits: Limits) -> bool:
    """Whether the text begins with an object that is written over several lines, its bracket on a line of its own."""
    return re.match(r"\s*\{[ \t]*[\r\n]", text.buffer) is not None and _first_object(text, limits) >= 0


def open_json(name: str, text: Text, limits: Limits) -> tuple[str, Iterator[Row | Finding]]:
    """The rows of an array, of one object (shapes.py) or of objects one after another, and a note on the arrangement.

    name: the file's name. The note is empty for the common arrangements.
    """
    if not text.skip_space():
        raise BadInput(f"{name} contains only white space. It needs at least one example.")
    if text.buffer[text.pos] == "[":
        return "", _array(name, text, limits)
    end = _first_object(text, limits) if text.buffer[text.pos] == "{" else -1
    if end >= 0 and text.buffer[end : end + 1] == "{":
        return "one object after another", _sequence(name, text, limits)
    return _whole(name, text, limits)


def _first_object(text: Text, limits: Limits) -> int:
    """Where the text goes on after its first object, as a position in the window; -1 if it is too long or broken."""
    decoder = strict_decoder(limits)
    text.skip_space()
    most = limits.max_row_mb * MIB
    while True:
        held = len(text.buffer) - text.pos
        try:
            _, end = decoder.raw_decode(text.buffer, text.pos)
            break
        except (ValueError, RecursionError):
            if held > most or text.ended:
                return -1
        while len(text.buffer) - text.pos < 2 * held and text.fill():
            pass
    length = end - text.pos
    while not (rest := _NOT_SPACE.search(text.buffer, text.pos + length)):
        if len(text.buffer) - text.pos > 2 * most or not text.fill():
            return len(text.buffer)
    return rest.start()


def _sequence(name: str, text: Text, limits: Limits) -> Iterator[Row | Finding]:
    decoder = strict_decoder(limits)
    number = 0
    while text.skip_space():
        if text.buffer[text.pos] != "{":
            raise _broken(name, text, text.pos, number, "what follows is not an object")
        number += 1
        value, raw = _item(name, text, decoder, number, limits)
        yield _row(number, value, limits, raw)


def _array(name: str, text: Text, limits: Limits) -> Iterator[Row | Finding]:
    decoder = strict_decoder(limits)
    text.pos += 1
    number = 0
    while True:
        if not text.skip_space():
            raise _broken(name, text, text.pos, number, "the array is not closed")
        mark = text.buffer[text.pos]
        if mark == "]":
            break
        if number:
            if mark != ",":
                raise _broken(name, text, text.pos, number, "a comma or ] is missing")
            text.pos += 1
            if not text.skip_space():
                raise _broken(name, text, text.pos, number, "the array is not closed")
            if text.buffer[text.pos] == "]":
                raise _broken(name, text, text.pos, number, "a comma comes before the ]")
        number += 1
        value, raw = _item(name, text, decoder, number, limits)
        yield _row(number, value, limits, raw)
    text.pos += 1
    if text.skip_space():
        raise _broken(name, text, text.pos, number, "something follows the array")


def _item(name: str, text: Text, decoder: json.JSONDecoder, number: int, limits: Limits) -> tuple[Any, str]:
    """The item at the window's position, and its text. The window grows by doubling, so that a long item is not decoded
    again for every piece."""
    most = limits.max_row_mb * MIB
    while True:
        try:
            value, end = decoder.raw_decode(text.buffer, text.pos)
        except json.JSONDecodeError as error:
            sure = error.pos < len(text.buffer) - _MARGIN and not error.msg.startswith("Unterminated")
            if sure or text.ended:
                raise _broken(name, text, error.pos, number - 1, _fault(error)) from None
        except RecursionError:
            line, column = text.where(text.pos)
            raise BadInput(
                f"{name}: example {number} (line {line}, column {column}): {too_deep(limits).reason}. "
                "Flatten or remove it."
            ) from None
        else:
            # A number at the very end may continue in the next piece.
            if text.ended or end < len(text.buffer) - _MARGIN or isinstance(value, dict | list | str):
                raw = text.buffer[text.pos : end]
                if too_long(raw, limits.max_row_mb):
                    raise _too_long(name, text, number, limits)
                text.pos = end
                return value, raw
        held = len(text.buffer) - text.pos
        if held > most:
            raise _too_long(name, text, number, limits)
        while len(text.buffer) - text.pos < 2 * held and text.fill():
            pass


def _too_long(name: str, text: Text, number: int, limits: Limits) -> BadInput:
    line, column = text.where(text.pos)
    return BadInput(
        f"{name}: example {number}, which begins at line {line}, column {column}, is longer than "
        f"{limits.max_row_mb} MiB ({limit('max_row_mb')}). Shorten it, or close its open brackets and quotes."
    )


def _broken(name: str, text: Text, pos: int, number: int, why: str) -> BadInput:
    line, column = text.where(pos)
    after = f", after example {number}" if number else ""
    return BadInput(
        f"{name} is not valid JSON: {why} at line {line}, column {column}{after}. "
        "Fix it there, or save one object per line as .jsonl."
    )


def _whole(name: str, text: Text, limits: Limits) -> tuple[str, Iterator[Row | Finding]]:
    line, column = text.where(text.pos)
    content = text.rest()
    try:
        value = strict_decoder(limits).decode(content)
    except json.JSONDecodeError as error:
        column = error.colno + (column - 1 if error.lineno == 1 else 0)
        raise BadInput(
            f"{name} is not valid JSON: {_fault(error)} at line {line + error.lineno - 1}, column {column}. "
            "Fix it there, or save one object per line as .jsonl."
        ) from None
    except RecursionError:
        raise BadInput(f"{name}: {too_deep(limits).reason}. Flatten it.") from None
    if isinstance(value, RowError):
        raise BadInput(f"{name}: {value.reason}; {value.fix}.")
    if not isinstance(value, dict):
        raise BadInput(f"{name} contains {_word(value)}. A dataset is an array of objects, one per example.")
    shape = shape_of(name, value)
    if shape is None:
        return "", iter([_row(1, value, limits, content)])
    return shape.note, _shaped(shape, limits)


def _shaped(shape: Shape, limits: Limits) -> Iterator[Row | Finding]:
    for rows, held_out in ((shape.rows, False), (shape.held_out, True)):
        for number, value in enumerate(rows, start=1):
            yield replace(_row(number, value, limits, _dump(value)), held_out=held_out)


def _row(number: int, value: Any, limits: Limits, raw: str) -> Row | Finding:
    if isinstance(value, RowError):
        return unreadable(number, value.reason, value.fix, raw)
    if not isinstance(value, dict):
        return unreadable(number, f"{_word(value)} instead of an object", "write it as {…} with named fields", raw)
    return check_row(number, value, limits, raw)


def _dump(value: Any) -> str:
    """A row as JSON for display, where its text in the file is not available."""
    try:
        return json.dumps(value, ensure_ascii=False, default=lambda item: getattr(item, "reason", str(item)))
    except (RecursionError, ValueError):
        return ""


def _fault(error: json.JSONDecodeError) -> str:
    # "Invalid control character at" and "Unterminated string starting at" lose their "at": the position follows.
    text = error.msg.removesuffix(": ").removesuffix(" at")
    return text[0].lower() + text[1:]


def _word(value: Any) -> str:
    names = {str: "a text", int: "a number", float: "a number", bool: "true or false", list: "a list"}
    return names.get(type(value), "nothing (null)")
