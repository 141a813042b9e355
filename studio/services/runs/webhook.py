"""Webhook: one POST of JSON to the address in STUDIO_WEBHOOK_URL when a run has ended.

It is sent from a separate thread, with a timeout of five seconds and two tries. The outcome is stored in the run's
ended.json, so that an end is sent once, also across restarts. Only a studio that is killed while it sends may send an
end again, with the same value of `end`.
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
# An end older than this when it is first seen (a run copied here) is not sent.
_NEWS_SECONDS = 7 * 86_400.0


@dataclass(slots=True)
class Sending:
    """The threads that are sending."""

    threads: list[threading.Thread] = field(default_factory=list)

    def forget_finished(self) -> None:
        self.threads = [thread for thread in self.threads if thread.is_alive()]

    def finish(self) -> None:
        """Wait until all calls are sent or given up."""
        for thread in self.threads:
            thread.join()


def check(url: str) -> str:
    """Return the address if it may be called; raises BadInput otherwise."""
    if url and urlsplit(url).scheme not in ("http", "https"):
        raise BadInput(f"STUDIO_WEBHOOK_URL must begin with http:// or https://, not {url!r}.")
    return url


def notify(studio: Studio, run: RunDir, row: Run, end: End) -> None:
    """Send an end, unless it was sent before, is too old, or no webhook is set."""
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
    outcome = "delivered"
    for _ in range(_TRIES):
        # Only http and https get here: the keeper checks the address at its start.
        request = urllib.request.Request(  # noqa: S310
            url, json.dumps(body).encode(), {"Content-Type": "application/json", "User-Agent": "lora-studio"}
        )
        try:
            with urllib.request.urlopen(request, timeout=_SECONDS) as response:  # noqa: S310
                outcome = f"delivered: {response.status}"
            break
        except (OSError, ValueError) as error:
            outcome = f"not delivered: {error}"
    if outcome.startswith("not"):
        _log.info("The webhook call for the end of %s failed: %s", run.id, outcome)
    try:
        known = End.read(run)
        # The run may have been resumed meanwhile; its next end is another one.
        if known is not None and known.nonce == end.nonce:
            replace(known, told=outcome).write(run)
    except OSError:
        _log.info("The outcome of the webhook call for the end of %s could not be stored.", run.id)
