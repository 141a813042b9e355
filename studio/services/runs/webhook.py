"""Telling another program that a run has ended: one POST of JSON to the address in STUDIO_WEBHOOK_URL.

It is sent from a thread of its own, waits five seconds at most and tries twice. Whether it was told stands in the
run's ended.json, so an end is told once, also over restarts; only a studio killed in the moment of sending tells it
again, and `end` is then the same.
"""

import json
import logging
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from studio.errors import BadInput
from studio.rundir import RunDir, read_json
from studio.services.core.studio import Studio
from studio.services.runs.ends import End
from studio.store.tables import Run

_log = logging.getLogger(__name__)
_SECONDS = 5.0
_TRIES = 2
# An end that is older when it is first seen (a run copied here) is no news.
_NEWS_SECONDS = 7 * 86_400.0


@dataclass(slots=True)
class Sending:
    """The threads that are sending."""

    threads: list[threading.Thread] = field(default_factory=list)

    def forget_finished(self) -> None:
        self.threads = [thread for thread in self.threads if thread.is_alive()]

    def finish(self) -> None:
        """Wait until all is sent or given up."""
        for thread in self.threads:
            thread.join()


def check(url: str) -> str:
    """The address, if it is one that may be called; raises BadInput."""
    if url and urlsplit(url).scheme not in ("http", "https"):
        raise BadInput(f"STUDIO_WEBHOOK_URL must begin with http:// or https://, not {url!r}.")
    return url


def notify(studio: Studio, run: RunDir, row: Run, end: End) -> None:
    """Tell of an end, unless it was told before or nobody wants to know."""
    url = studio.settings.webhook_url
    if not url or end.told or time.time() - end.time > _NEWS_SECONDS:
        return
    about = read_json(run.about) or {}
    body = {
        "run": run.id,
        "end": f"{run.id}/{row.attempt}",
        "name": row.name,
        "owner": about.get("owner", "local"),
        "state": end.state,
        "cause": end.cause,
        "message": end.message,
        "remedy": end.remedy,
        "step": end.step,
        "loss": row.loss,
        "ended": end.time,
    }
    thread = threading.Thread(target=_send, args=(url, body, run, end), name=f"webhook {run.id}")
    thread.start()
    studio.state(Sending).threads.append(thread)


def _send(url: str, body: dict[str, object], run: RunDir, end: End) -> None:
    said = "told"
    for _ in range(_TRIES):
        # Only http and https get here: settings are checked when the studio begins.
        request = urllib.request.Request(  # noqa: S310
            url, json.dumps(body).encode(), {"Content-Type": "application/json", "User-Agent": "lora-studio"}
        )
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
                said = f"told: {answer.status}"
            break
        except (OSError, ValueError) as error:
            said = f"not told: {error}"
    if said.startswith("not"):
        _log.info("The webhook could not be told of the end of %s: %s", run.id, said)
    try:
        known = End.read(run)
        # The run may have gone on meanwhile; its next end is another.
        if known is not None and known.nonce == end.nonce:
            replace(known, told=said).write(run)
    except OSError:
        _log.info("That the webhook was told of the end of %s could not be written down.", run.id)
