"""Whether anything may have changed that a page shows, told without reading it."""

import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from studio.services.studio import Studio

_SALT = secrets.token_hex(4)  # counts of another process are not ours


def stamp(studio: "Studio", run_id: str = "") -> str:
    """Another text once runs, datasets, notices or the log of a run may have changed; "" when that cannot be known.

    Only the keeper can tell: it alone writes the database, so it counts what it wrote.
    """
    if not studio.keeping:
        return ""
    written = studio.database.writes
    return f"{_SALT}.{written}.{hash(tuple(studio.notices))}.{log_size(studio, run_id)}"


def log_size(studio: "Studio", run_id: str) -> int:
    """Bytes of a run's log; 0 without one."""
    if not run_id or "/" in run_id or run_id.startswith("."):
        return 0
    try:
        return studio.run_dir(run_id).log.stat().st_size
    except OSError:
        return 0
