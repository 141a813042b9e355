"""What a page asks at every beat: whether anything may have changed that it shows, told without reading it."""

import contextlib
import secrets

from studio.services.core.studio import Studio
from studio.store import runs as rows

_SALT = secrets.token_hex(4)  # counts of another process are not ours


def stamp(studio: Studio, run_id: str = "") -> str:
    """Another text once runs, datasets, notices or the log of a run may have changed; "" when that cannot be known.

    Only the keeper can tell: it alone writes the database, so it counts what it wrote.
    """
    if not studio.keeping:
        return ""
    written = studio.database.writes
    return f"{_SALT}.{written}.{hash(tuple(studio.notices))}.{log_size(studio, run_id)}"


def take_in(studio: Studio, run_id: str) -> None:
    """Take in what the journal of a run has new, if it is the asker's and not over.

    The keeper looks once a second; who follows a run sees its points when they ask.
    """
    if rows.is_live(studio.database, studio.owner, run_id):
        # A journal that cannot be read is told by the keeper's look.
        with contextlib.suppress(OSError, ValueError):
            studio.take_in(run_id)


def log_size(studio: Studio, run_id: str) -> int:
    """Bytes of a run's log; 0 without one."""
    if not run_id or "/" in run_id or run_id.startswith("."):
        return 0
    try:
        return studio.run_dir(run_id).log.stat().st_size
    except OSError:
        return 0
