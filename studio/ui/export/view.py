"""Exports and adapters as HTML: cards of targets, finished exports with their parity check, the list of adapters."""

from collections.abc import Sequence

from studio.services.core import access
from studio.services.core.studio import Studio
from studio.services.exports import exports
from studio.services.exports.exports import ExportInfo, digits
from studio.services.exports.targets import QUANTS, Target
from studio.services.models import adapters as store
from studio.services.models.adapters import AdapterInfo
from studio.ui.parts import markup, units
from studio.ui.parts.templates import render

OVER = ("completed", "failed", "stopped", "interrupted")
NAMES = {"adapter": "Adapter", "merged": "Merged model", "gguf": "GGUF"}
_SHOWN = 20


def overview(studio: Studio) -> tuple[str, bool]:
    """A hash of everything the page shows of exports and adapters, and whether any of them is in progress."""
    export_infos, adapter_infos = exports.list_exports(studio), store.list_adapters(studio)
    busy = any(
        state not in OVER for state in [*(info.state for info in export_infos), *(info.state for info in adapter_infos)]
    )
    return markup.name_of(repr((export_infos, adapter_infos, exports.tools_ready(studio)))), busy


def target(item: Target, working: ExportInfo | None, tools_ready: bool) -> str:
    """A target: its size, its purpose, and the progress of its export."""
    return render("export/target.html", item=item, working=working, tools_ready=tools_ready)


def no_target(kind: str) -> str:
    """A target that the method of the run does not have, and why."""
    return render("export/no_target.html", kind=kind, title=NAMES[kind])


def quant_choices(item: Target) -> list[tuple[str, str]]:
    """The GGUF types, each with its purpose and size."""
    return [(f"{quant}: {why}, about {units.size(item.sizes[quant])}", quant) for quant, (why, _) in QUANTS.items()]


def finished(studio: Studio, infos: Sequence[ExportInfo]) -> str:
    """Finished exports, newest first."""
    ended = [item for item in infos if item.state in OVER]
    if not ended:
        return ""
    total = sum(item.size or 0 for item in ended)
    more = f" The newest {_SHOWN} of {len(ended)} are shown." if len(ended) > _SHOWN else ""
    return render(
        "export/finished.html",
        summary=f"{units.size(total)} in total, kept until you delete them.{more}",
        cards=[(item, f"{NAMES.get(item.kind, item.kind)} {item.about}", _figures(item)) for item in ended[:_SHOWN]],
        may_name_files=access.may_name_files(studio),
    )


def _figures(item: ExportInfo) -> list[tuple[str, str]]:
    """The figures of the parity check with their names."""
    check = item.check
    if check is None:
        return []
    template = "plain text" if not check.template else "equal" if check.template == check.own_template else "differs"
    return [
        ("correlation, worst token", digits(check.correlation)),
        ("correlation, mean", digits(check.mean)),
        ("same next token", f"{check.agreement:.1%}"),
        ("identical answers", f"{check.alike} of {check.prompts}"),
        ("template", template),
    ]


def adapters(every: Sequence[AdapterInfo]) -> str:
    """The list of combined and imported adapters."""
    return render("export/adapters.html", adapters=every, over=OVER)
