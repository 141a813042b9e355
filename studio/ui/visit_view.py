"""Who one is in a shared studio, what of it one may still use, and how to keep what one made: a part of the sidebar.

For its admins also who uses what, with buttons that stop and clear. What this does not do: a studio of one person shows
nothing of it.
"""

import os
import time

from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from studio.services import belongings, quotas, run_list
from studio.services.studio import Studio
from studio.ui import markup, signing_in, units
from studio.ui.markup import esc


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
    gone = "<p>Everything here is lost when this Space restarts.</p>" if belongings.vanishes(studio) else ""
    download = '<p><a class="link" href="/mine.zip" download>Download what is yours</a></p>'
    copy = (
        f'<p><a class="link" href="https://huggingface.co/spaces/{esc(space)}?duplicate=true" target="_blank"'
        ' rel="noopener">Duplicate this Space</a></p>'
        if space
        else ""
    )
    return gone + download + copy


def admin(studio: Studio) -> str:
    """Who uses what, for admins of a shared studio; empty for all others."""
    if not studio.for_visitors or not studio.visitor.admin:
        return ""
    rows = "".join(
        f"<tr><td>{esc(use.name or 'not signed in')}</td><td>{esc(units.ago(use.seen, time.time()))}</td>"
        f"<td>{use.used.running} + {use.used.queued}</td><td>{use.used.starts}</td><td>{use.used.tokens:,}</td>"
        f"<td>{esc(units.size(use.used.storage))}</td><td>"
        f'<button type="button" class="link" data-pick data-halt="{use.key}">Stop</button> '
        f'<button type="button" class="link" data-pick data-clear="{use.key}" '
        'data-sure="Delete all runs of this visitor that are over?">Clear</button></td></tr>'
        for use in belongings.everyone(studio)
    )
    head = "".join(f"<th>{name}</th>" for name in ("Who", "Seen", "Runs", "Today", "Tokens", "Disk", ""))
    table = (
        f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if rows else markup.note("Nobody yet.")
    )
    return f'<details class="admin"><summary>Who uses this studio</summary>{table}</details>'


def add_routes(app: FastAPI, studio: Studio) -> None:
    """`/mine.zip`: all that is one's own."""

    @app.get("/mine.zip")
    def mine() -> StreamingResponse:
        headers = {"Content-Disposition": 'attachment; filename="lora-studio.zip"', "Cache-Control": "no-store"}
        return StreamingResponse(belongings.archive(studio), media_type="application/zip", headers=headers)
