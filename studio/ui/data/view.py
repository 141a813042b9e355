"""A dataset or a checked file as HTML: the list, the title, its origin, pages of examples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from studio.errors import NotFound
from studio.services.core.studio import Studio
from studio.services.data import checks, examples
from studio.services.data.checks import Checked, Report
from studio.services.data.datasets import DatasetInfo
from studio.ui.parts.templates import macro, render

PAGE = 25


def check_of(studio: Studio, key: str) -> Checked | None:
    """The check with this token, or None."""
    try:
        return checks.get(studio, key)
    except NotFound:
        return None


def shaping(
    template: str, own: str, system: str, on: str, length: float, per_answer: bool, fold: bool, split: bool
) -> dict[str, Any]:
    """The recipe values that determine what the model sees."""
    return {
        "template": template,
        "custom_template": own if template == "custom" else "",
        "system_prompt": system or "",
        "train_on": on,
        "max_length": int(length),
        "per_answer": bool(per_answer),
        "fold_system": bool(fold),
        "split_texts": bool(split),
    }


def shelf(infos: Sequence[DatasetInfo], chosen: str, pending: Checked | None) -> str:
    """The list of datasets as buttons, the chosen one pressed; a file that is not added yet comes first."""
    if not infos and pending is None:
        return ""
    name = Path(pending.path).name if pending else ""
    return render("data/shelf.html", infos=infos, chosen=chosen, pending=pending, pending_name=name)


def blank() -> Markup:
    """The title before anything is loaded."""
    return macro("data/title.html", "blank")


def nothing() -> Markup:
    """The message of an empty tab."""
    return macro("data/title.html", "nothing")


def title(name: str, shows: str) -> Markup:
    """The name of a file that cannot be read yet. shows: decoding or refused, as in data/title.html."""
    return macro("data/title.html", "unread", name, shows)


def head(info: DatasetInfo) -> Markup:
    """A dataset's name and figures."""
    return macro("data/title.html", "dataset", info)


def is_plain_guess(report: Report) -> bool:
    """Whether the format is unknown, but the columns' names leave little doubt about a mapping."""
    return report.format is None and report.suggested is None and report.why.endswith("?")


def head_of_check(checked: Checked) -> Markup:
    """A checked file's name and figures."""
    kind = "mapping" if checked.report.format is None else "check"
    return macro("data/title.html", kind, checked.token, Path(checked.path).name, checked.report)


def what(info: DatasetInfo, infos: Sequence[DatasetInfo]) -> Markup:
    """A dataset's origin and detected format."""
    parent = next((item.name for item in infos if item.id == info.parent), f"{info.parent[:8]} (removed)")
    return macro("data/origin.html", "dataset", info, parent if info.parent else "")


def what_of_check(checked: Checked) -> Markup:
    """The detected format of a checked file, or that it is unknown."""
    report, held_out = checked.report, Path(checked.options.held_out).name
    return macro("data/origin.html", "check", report, held_out, is_plain_guess(report), checked.options.ignore)


def mending(checked: Checked | None) -> str:
    """Buttons that mend conversations whose turns are out of order, for a file that is not added yet."""
    if checked is None:
        return ""
    options, counts = checked.options, checked.report.counts
    if not (counts.get("turns") or options.merge or options.drop):
        return ""
    return macro("data/findings_mending.html", "mending", options, counts.get("turns", 0), counts.get("mended", 0))


def what_undecodable(error: object) -> Markup:
    return macro("data/origin.html", "undecodable", error)


def what_out_of_turn(error: object) -> Markup:
    return macro("data/origin.html", "out_of_turn", error)


def rows(studio: Studio, key: str, total: int, offset: int) -> Markup:
    """One page of examples; a click on a number shows that example as tokens."""
    page = examples.rows(studio, key, offset, PAGE)
    return render("data/rows.html", rows=page, total=total, offset=offset, page=PAGE)
