"""The visitor's part of the sidebar in a shared studio: sign-in state, remaining quota, download of their data.

Admins also see usage per visitor, with buttons to stop runs and delete data. A single-user studio shows none of this.
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
    """The visitor's part of the sidebar; empty in a single-user studio."""
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
        "<p>You are not signed in. Your work belongs to a cookie in this browser, for seven days.</p>"
        f'<p class="quiet">{"An account starts empty: download your work first." if sign else ""}</p>{sign}'
    )


def _left(studio: Studio) -> str:
    """Used quota, and the number of other visitors' runs."""
    others = run_list.others(studio)
    rows = []
    if others.running or others.waiting:
        words = f"{others.running} running, {others.waiting} waiting"
        rows.append(f"<p><span>Other people's runs</span> <b>{words}</b></p>")
    if quotas.applies(studio):
        used, limits = quotas.used(studio), studio.settings
        quota_rows = (
            ("Runs waiting", used.queued, limits.quota_queued),
            ("Runs today", used.starts, limits.quota_starts_day),
            ("Tokens today", used.tokens, limits.quota_chat_tokens_day),
        )
        rows += [f"<p><span>{name}</span> <b>{now:,} of {most:,}</b></p>" for name, now, most in quota_rows if most]
        if limits.quota_storage_gb:
            share = units.share_of(used.storage, int(limits.quota_storage_gb * 2**30))
            rows.append(f"<p><span>Disk</span> <b>{esc(share)}</b></p>")
    return f'<div class="quota">{"".join(rows)}</div>' if rows else ""


def _keeping(studio: Studio) -> str:
    space = os.environ.get("SPACE_ID", "")
    gone = "<p>Everything here is lost when this Space restarts.</p>" if takeout.vanishes(studio) else ""
    download = '<p><a class="link" href="/mine.zip" download>Download your data</a></p>'
    copy = (
        f'<p><a class="link" href="https://huggingface.co/spaces/{esc(space)}?duplicate=true" target="_blank"'
        ' rel="noopener">Duplicate this Space</a></p>'
        if space
        else ""
    )
    return gone + download + copy


def admin(studio: Studio, below: str = "") -> str:
    """Usage per visitor, for admins of a shared studio; empty for everyone else. below: the result of a button."""
    if not studio.for_visitors or not studio.visitor.admin:
        return ""
    people = "".join(map(_person, admins.everyone(studio)))
    body = f"<ul>{people}</ul>" if people else markup.note("No visitors yet.")
    shown = "open" if below else ""
    return f'<details class="admin" {shown}><summary>Who uses this studio</summary>{below}{body}</details>'


def _person(usage: Use) -> str:
    """One visitor and their usage. A list item, because the sidebar is too narrow for a table."""
    name, used = usage.name or "not signed in", usage.used
    figures = (
        f"{used.running} running, {used.queued} waiting",
        f"today {used.starts} started, {used.tokens:,} tokens",
        f"{units.size(used.storage)} on disk",
    )
    acts = "".join(
        f'<button type="button" class="link" data-pick data-{act}="{usage.key}" aria-label="{word} {esc(name)}">'
        f"{word}</button>"
        for act, word in (("halt", "Stop"), ("clear", "Clear"))
    )
    return (
        f"<li><p><b>{esc(name)}</b><span>{esc(units.ago(usage.seen, time.time()))}</span></p>"
        f'<p class="quiet">{esc(" · ".join(figures))}</p><p class="acts">{acts}</p></li>'
    )


def stopped(total: Sum) -> str:
    """The result of an admin's Stop."""
    if not total.counts:
        return markup.note(f"{_whose(total)} has nothing running.")
    return markup.note(f"Asked to stop, for {_whose(total)}: {_listed(total.counts)}.")


def clearing(total: Sum, key: str) -> str:
    """What an admin's Clear would delete, with the button that does it."""
    remaining = _stays(total)
    if not total.counts:
        return markup.note(f"{_whose(total)} has nothing finished to delete. {remaining}".strip())
    text = (
        f"This deletes for good, for {_whose(total)}: {_listed(total.counts)}, {units.size(total.bytes)}. {remaining}"
    )
    return (
        f'{markup.note(text.strip(), "warn")}<button type="button" class="small-act" data-pick data-really="{key}">'
        'Delete</button> <button type="button" class="link" data-pick data-leave="1">Keep</button>'
    )


def cleared(total: Sum) -> str:
    """The result of an admin's Clear."""
    if not total.counts:
        return markup.note(f"Nothing was deleted for {_whose(total)}. {_stays(total)}".strip())
    freed = units.size(total.bytes)
    return markup.note(f"Deleted for {_whose(total)}: {_listed(total.counts)}, {freed}. {_stays(total)}".strip())


def _whose(total: Sum) -> str:
    return total.name or "someone not signed in"


def _stays(total: Sum) -> str:
    return f"Kept because it is running or in use: {_listed(total.kept)}." if total.kept else ""


def _listed(counts: Mapping[str, int]) -> str:
    items = [f"{number:,} {kind}{'s' if number != 1 else ''}" for kind, number in counts.items() if number]
    return " and ".join(filter(None, (", ".join(items[:-1]), *items[-1:])))


def add_routes(app: FastAPI, studio: Studio) -> None:
    """`/mine.zip`: everything that belongs to the visitor."""

    @app.get("/mine.zip")
    def mine() -> StreamingResponse:
        headers = {"Content-Disposition": 'attachment; filename="lora-studio.zip"', "Cache-Control": "no-store"}
        return StreamingResponse(takeout.archive(studio), media_type="application/zip", headers=headers)
