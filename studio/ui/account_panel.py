"""The visitor's part of the sidebar in a shared studio: sign-in state, remaining quota, download of their data.

Admins also see usage per visitor, with buttons to stop runs and delete data. A single-user studio shows none of this.
"""

import os
from collections.abc import Mapping

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from markupsafe import Markup

from studio.services.core import quotas
from studio.services.core.studio import Studio
from studio.services.host import admin as admins
from studio.services.host import takeout
from studio.services.host.admin import Sum
from studio.services.runs import run_list
from studio.ui.parts import units
from studio.ui.parts.templates import macro
from studio.ui.web import signing_in


def shown(studio: Studio) -> str:
    """The visitor's part of the sidebar; empty in a single-user studio."""
    if not studio.for_visitors:
        return ""
    return macro(
        "account_panel.html",
        "visitor",
        studio.visitor,
        may_sign_in=signing_in.openid(),
        quotas=_quotas(studio),
        vanishes=takeout.vanishes(studio),
        space=os.environ.get("SPACE_ID", ""),
    )


def _quotas(studio: Studio) -> list[tuple[str, str]]:
    """Used quota, and the number of other visitors' runs."""
    others = run_list.others(studio)
    rows = []
    if others.running or others.waiting:
        rows.append(("Other people's runs", f"{others.running} running, {others.waiting} waiting"))
    if quotas.applies(studio):
        used, limits = quotas.used(studio), studio.settings
        quota_rows = (
            ("Runs waiting", used.queued, limits.quota_queued),
            ("Runs today", used.starts, limits.quota_starts_day),
            ("Tokens today", used.tokens, limits.quota_chat_tokens_day),
        )
        rows += [(name, f"{now:,} of {most:,}") for name, now, most in quota_rows if most]
        if limits.quota_storage_gb:
            rows.append(("Disk", units.share_of(used.storage, int(limits.quota_storage_gb * 2**30))))
    return rows


def admin(studio: Studio, result: str = "") -> str:
    """Usage per visitor, for admins of a shared studio; empty for everyone else. result: the result of a button."""
    if not studio.for_visitors or not studio.visitor.admin:
        return ""
    return macro("account_panel.html", "admin", admins.everyone(studio), result)


def stopped(total: Sum) -> Markup:
    """The result of an admin's Stop."""
    if not total.counts:
        return _note(f"{_whose(total)} has nothing running.")
    return _note(f"Asked to stop, for {_whose(total)}: {_listed(total.counts)}.")


def clearing(total: Sum, key: str) -> Markup:
    """What an admin's Clear would delete, with the button that does it."""
    remaining = _stays(total)
    if not total.counts:
        return _note(f"{_whose(total)} has nothing finished to delete. {remaining}".strip())
    text = (
        f"This deletes for good, for {_whose(total)}: {_listed(total.counts)}, {units.size(total.bytes)}. {remaining}"
    )
    return macro("account_panel.html", "confirmation", text.strip(), key)


def cleared(total: Sum) -> Markup:
    """The result of an admin's Clear."""
    if not total.counts:
        return _note(f"Nothing was deleted for {_whose(total)}. {_stays(total)}".strip())
    freed = units.size(total.bytes)
    return _note(f"Deleted for {_whose(total)}: {_listed(total.counts)}, {freed}. {_stays(total)}".strip())


def _note(text: str) -> Markup:
    return macro("parts.html", "note", text)


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
