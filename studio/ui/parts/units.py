"""Numbers formatted for people: bytes as GiB, times relative, the exact time as a tooltip."""

import time
from datetime import datetime


def size(count: float | None) -> str:
    """`6.1 GiB`: bytes in the largest unit in which the value is at least 1."""
    if count is None:
        return "–"
    for unit, step in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= step:
            value = count / step
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.1f} {unit}"
    return f"{count:.0f} B"


def share_of(used: float, total: float) -> str:
    """`6.1 of 24 GiB`: both in the unit of the larger."""
    for unit, step in (("GiB", 2**30), ("MiB", 2**20)):
        if max(used, total) >= step:
            return f"{_short(used / step)} of {_short(total / step)} {unit}"
    return f"{used:.0f} of {total:.0f} B"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2f}" if value < 1 else f"{value:.1f}"


def count(value: float | None) -> str:
    """`134.5 M`: large counts shortened, small ones with thousands separators."""
    if value is None:
        return "–"
    for unit, step in (("B", 1e9), ("M", 1e6)):
        if abs(value) >= step:
            return f"{value / step:.1f} {unit}"
    return f"{value:,.0f}"


def figure(value: float | None, digits: int = 3) -> str:
    """A measured figure with `digits` decimals, or a dash if there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(part: float, whole: float) -> str:
    """`3.50%`; `0%` when `whole` is 0."""
    return f"{100 * part / whole:.2f}%" if whole else "0%"


def clock(seconds: float | None) -> str:
    """`1:04` or `2:10:09`."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def span(seconds: float | None) -> str:
    """A length of time in words: `12 s`, `4 min`, `2 h 10 min`."""
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{max(0, seconds):.0f} s"
    minutes = round(seconds / 60)
    hours, minutes = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if days:
        return f"{days} d {hours_left} h" if hours_left and days < 7 else f"{days} d"
    if hours:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{minutes} min"


def ago(moment: float, now: float | None = None) -> str:
    """`just now`, `4 min ago`, `3 d 2 h ago`."""
    passed = (time.time() if now is None else now) - moment
    return "just now" if passed < 45 else f"{span(passed)} ago"


def exact(moment: float) -> str:
    """Local date and time, for the tooltip of a relative one."""
    return datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
