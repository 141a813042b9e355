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
from studio.ui.parts.markup import esc

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
    sizes = f"about {units.size(item.size)}" if not item.sizes else "from " + units.size(min(item.sizes.values()))
    text = f"<h3>{esc(item.title)}<span>{esc(sizes)}</span></h3><p>{esc(item.why)}</p>"
    if item.kind == "gguf" and not tools_ready:
        text += "<p>The first GGUF export sets up llama.cpp on this machine, which takes a few minutes once.</p>"
    if working is None:
        return text
    left = "" if working.seconds_left is None else f" · about {units.span(working.seconds_left)} left"
    share = f" · {min(100, 100 * working.done // working.of)} %" if working.of else ""
    bar = (
        markup.progress(working.done, working.of, f"Progress of {item.title}")
        if working.of
        else '<span class="bar endless" aria-hidden="true"><i></i></span>'
    )
    doing = esc(f"{working.doing or working.state}{share}{left}")
    cancel = _button("Cancel", f'data-cancel="{esc(working.id)}"')
    return f'{text}<p class="doing" role="status">{doing}</p>{bar}<div class="acts">{cancel}</div>'


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
    text = f"{units.size(total)} in total, kept until you delete them.{more}"
    return markup.heading("Exports", text) + "".join(_finished(studio, item) for item in ended[:_SHOWN])


def _finished(studio: Studio, item: ExportInfo) -> str:
    withheld = item.check is not None and not item.check.passed
    mark = markup.mark("failed", "withheld") if withheld else markup.mark(item.state)
    kind = f"{NAMES.get(item.kind, item.kind)} {item.about}".strip()
    title = f"<h3>{esc(kind)} <small>of {esc(item.source)}</small>{mark}<span>{_at(item.created)}</span></h3>"
    figures = _figures(item)
    if item.state != "completed":
        again = _button("Start again", f'data-again="{esc(item.id)}"')
        return (
            f'<section class="card done">{title}{markup.problem(item.message or "It did not finish.")}{figures}'
            f'<div class="acts">{again}{_delete(item.id, "export")}</div></section>'
        )
    size = f"<small>{esc(units.size(item.size))}</small>"
    publish = _button("Publish", f'data-publish="{esc(item.id)}"')
    link = f'<a class="download" href="/download/{esc(item.id)}" download>Download {esc(item.file_name)} {size}</a>'
    if item.kind == "gguf":
        link += f' <a class="download" href="/download/{esc(item.id)}/Modelfile" download>Modelfile</a>'
    place = f'<p class="path">{esc(item.path)}</p>' if access.may_name_files(studio) else ""
    return (
        f'<section class="card done">{title}{figures}<p class="get">{link}</p>{place}'
        f"{markup.code(item.load_lines, 'the lines that load it')}"
        f'<div class="acts">{publish}{_delete(item.id, "export")}</div></section>'
    )


def _figures(item: ExportInfo) -> str:
    """The parity check as figures, and their meaning in words."""
    check = item.check
    if check is None:
        return ""
    template = "plain text" if not check.template else "equal" if check.template == check.own_template else "differs"
    facts = markup.facts(
        [
            ("correlation, worst token", esc(digits(check.correlation))),
            ("correlation, mean", esc(digits(check.mean))),
            ("same next token", f"{check.agreement:.1%}"),
            ("identical answers", f"{check.alike} of {check.prompts}"),
            ("template", esc(template)),
        ]
    )
    return facts + (f'<p class="parity">{esc(item.parity)}</p>' if item.parity else "")


def _at(moment: float) -> str:
    # An exact time, not "a minute ago": redrawing the list every second would close its open details.
    return f"<time>{esc(units.exact(moment))}</time>"


def _button(words: str, data: str) -> str:
    return f'<button type="button" class="small-act" data-pick {data}>{esc(words)}</button>'


def _delete(key: str, what: str) -> str:
    """A Delete button with confirmation."""
    sure = _button(f"Delete this {what} now", f'data-delete="{esc(key)}"')
    return f'<details class="sure"><summary>Delete</summary>{sure}</details>'


def adapters(every: Sequence[AdapterInfo]) -> str:
    """The list of combined and imported adapters."""
    return "".join(map(_adapter, every))


def _adapter(info: AdapterInfo) -> str:
    word = "draft" if info.draft and info.has_adapter else info.kind if info.has_adapter else ""
    mark = markup.mark("queued" if word == "draft" else info.state, word)
    title = f"<h3>{esc(info.name)}{mark}<span>{_at(info.created)}</span></h3>"
    size = f" · {units.size(info.size)}" if info.has_adapter else ""
    text = f'<p class="path">{esc(info.words)} · on {esc(info.model)}{esc(size)}</p>'
    if info.state not in OVER:
        cancel = _button("Cancel", f'data-cancel="{esc(info.id)}"')
        bar = '<span class="bar endless" aria-hidden="true"><i></i></span>'
        doing = f'<p class="doing" role="status">{esc(info.doing)}</p>{bar}<div class="acts">{cancel}</div>'
        return f'<section class="card done">{title}{text}{doing}</section>'
    acts = ""
    if not info.has_adapter:
        text += markup.problem(info.message or "It is incomplete.")
    else:
        acts += _button("Try in Compare", f'data-ask="{esc(info.id)}"')
        acts += _button("Keep", f'data-keep="{esc(info.id)}"') if info.draft else ""
    return (
        f'<section class="card done">{title}{text}<div class="acts">{acts}{_delete(info.id, "adapter")}</div></section>'
    )
