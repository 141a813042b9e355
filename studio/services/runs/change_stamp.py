"""Change stamp: lets a page check at every poll whether anything it shows may have changed, without reading it."""

import contextlib
import secrets

from studio.services.core.studio import Studio
from studio.store import runs as rows

_SALT = secrets.token_hex(4)  # counts of different processes are not comparable


def stamp(studio: Studio, run_id: str = "") -> str:
    """A text that differs once runs, datasets, notices or the log of a run may have changed; "" when not known.

    Only the keeper knows: no one else writes the database, and it counts its writes.
    """
    if not studio.keeping:
        return ""
    writes = studio.database.writes
    return f"{_SALT}.{writes}.{hash(tuple(studio.notices))}.{log_size(studio, run_id)}"


def take_in(studio: Studio, run_id: str) -> None:
    """Ingest new lines of a run's journal, if the run is the visitor's and not over.

    The keeper looks only once a second; a page that follows a run gets the newest points with each request.
    """
    if rows.is_live(studio.database, studio.owner, run_id):
        # The keeper's look reports a journal that cannot be read.
        with contextlib.suppress(OSError, ValueError):
            studio.take_in(run_id)


def log_size(studio: Studio, run_id: str) -> int:
    """Size of a run's log in bytes; 0 without a log."""
    if not run_id or "/" in run_id or run_id.startswith("."):
        return 0
    try:
        return studio.run_dir(run_id).log.stat().st_size
    except OSError:
        return 0
