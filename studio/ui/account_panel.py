"""Who one is in a shared studio, what of it one may still use, and how to keep what one made: a part of the sidebar.

For its admins also who uses what, with buttons that stop and clear. What this does not do: a studio of one person shows
nothing of it.
"""

import os
import time
from collections.abc import Mapping

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from studio.services.core import quotas
from studio.services.core.studio import Studio
from studio.services.host import admin as admins
from studio.services.host import takeout
from studio.services.host.admin import Sum, Use
from studio.services.runs import run_list
from studio.ui.parts import markup, units
from studio.ui.parts.markup import esc
from studio.ui.web import signing_in


def shown(studio: Studio) -> str:
    """The part of the sidebar; empty in a studio of one person."""
    if not studio.for_visitors:
        return ""
    return f'<section class="side-part visitor"><h2>You</h2>{_who(studio)}{_left(studio)}{_keeping(studio)}</section>'


def _who(studio: Studio) -> str:
    visitor = studio.visitor
    if visitor.kind == "account":
        return (
            f'<p>Signed in as <b>{esc(visitor.name)}</b></p><form method="post" action="/sign-out">'
            '<button type="submit" class="link">Sign out</button></form>'
        )
    sign = '<a class="link" href="/sign-in" data-sign-in>Sign in</a>' if signing_in.openid() else ""
    return (
        "<p>You are not signed in. What you make is yours by this browser's cookie, for seven days.</p>"
        f'<p class="quiet">{"An account starts afresh: download what you made first." if sign else ""}</p>{sign}'
    )


def _left(studio: Studio) -> str:
    """How much of the quotas is used, and who else waits."""
    others = run_list.others(studio)
    rows = []
    if others.running or others.waiting:
        words = f"{others.running} at work, {others.waiting} waiting"
        rows.append(f"<p><span>Other people's runs</span> <b>{words}</b></p>")
    if quotas.applies(studio):
        used, most = quotas.used(studio), studio.settings
        told = (
            ("Runs waiting", used.queued, most.quota_queued),
            ("Runs today", used.starts, most.quota_starts_day),
            ("Tokens today", used.tokens, most.quota_chat_tokens_day),
        )
        rows += [f"<p><span>{name}</span> <b>{now:,} of {most:,}</b></p>" for name, now, most in told if most]
        if most.quota_storage_gb:
            share = units.share_of(used.storage, int(most.quota_storage_gb * 2**30))
            rows.append(f"<p><span>Disk</span> <b>{esc(share)}</b></p>")
    return f'<div class="quota">{"".join(rows)}</div>' if rows else ""


def _keeping(studio: Studio) -> str:
    space = os.environ.get("SPACE_ID", "")
    gone = "<p>Everything here is lost when this Space restarts.</p>" if takeout.vanishes(studio) else ""
    download = '<p><a class="link" href="/mine.zip" download>Download what is yours</a></p>'
    copy = (
        f'<p><a class="link" href="https://huggingface.co/spaces/{esc(space)}?duplicate=true" target="_blank"'
        ' rel="noopener">Duplicate this Space</a></p>'
        if space
        else ""
    )
    return gone + download + copy


def admin(studio: Studio, below: str = "") -> str:
    """Who uses what, for admins of a shared studio; empty for all others. below: what comes of a button."""
    if not studio.for_visitors or not studio.visitor.admin:
        return ""
    people = "".join(map(_person, admins.everyone(studio)))
    told = f"<ul>{people}</ul>" if people else markup.note("Nobody yet.")
    shown = "open" if below else ""
    return f'<details class="admin" {shown}><summary>Who uses this studio</summary>{below}{told}</details>'


def _person(use: Use) -> str:
    """Someone and what they use. A list, since the sidebar is too narrow for a table of it."""
    name, used = use.name or "not signed in", use.used
    figures = (
        f"{used.running} at work, {used.queued} waiting",
        f"today {used.starts} started, {used.tokens:,} tokens",
        f"{units.size(used.storage)} of disk",
    )
    acts = "".join(
        f'<button type="button" class="link" data-pick data-{act}="{use.key}" aria-label="{word} {esc(name)}">'
        f"{word}</button>"
        for act, word in (("halt", "Stop"), ("clear", "Clear"))
    )
    return (
        f"<li><p><b>{esc(name)}</b><span>{esc(units.ago(use.seen, time.time()))}</span></p>"
        f'<p class="quiet">{esc(" · ".join(figures))}</p><p class="acts">{acts}</p></li>'
    )


def stopped(found: Sum) -> str:
    """What became of an admin's Stop."""
    if not found.counts:
        return markup.note(f"{_whose(found)} has nothing at work.")
    return markup.note(f"Told to end, of {_whose(found)}: {_listed(found.counts)}.")


def clearing(found: Sum, key: str) -> str:
    """What an admin's Clear would delete, with the button that does it."""
    stays = _stays(found)
    if not found.counts:
        return markup.note(f"{_whose(found)} has nothing that is over. {stays}".strip())
    told = f"This deletes for good, of {_whose(found)}: {_listed(found.counts)}, {units.size(found.bytes)}. {stays}"
    return (
        f'{markup.note(told.strip(), "warn")}<button type="button" class="small-act" data-pick data-really="{key}">'
        'Delete them</button> <button type="button" class="link" data-pick data-leave="1">Leave them</button>'
    )


def cleared(found: Sum) -> str:
    """What became of it."""
    if not found.counts:
        return markup.note(f"Nothing of {_whose(found)} was deleted. {_stays(found)}".strip())
    freed = units.size(found.bytes)
    return markup.note(f"Deleted, of {_whose(found)}: {_listed(found.counts)}, {freed}. {_stays(found)}".strip())


def _whose(found: Sum) -> str:
    return found.name or "someone not signed in"


def _stays(found: Sum) -> str:
    return f"Still at work or in use, so it stays: {_listed(found.kept)}." if found.kept else ""


def _listed(counts: Mapping[str, int]) -> str:
    told = [f"{number:,} {kind}{'s' if number != 1 else ''}" for kind, number in counts.items() if number]
    return " and ".join(filter(None, (", ".join(told[:-1]), *told[-1:])))


def add_routes(app: FastAPI, studio: Studio) -> None:
    """`/mine.zip`: all that is one's own."""

    @app.get("/mine.zip")
    def mine() -> StreamingResponse:
        headers = {"Content-Disposition": 'attachment; filename="lora-studio.zip"', "Cache-Control": "no-store"}
        return StreamingResponse(takeout.archive(studio), media_type="application/zip", headers=headers)
