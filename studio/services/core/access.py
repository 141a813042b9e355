"""Access rules: what only the person at this machine may use, as opposed to visitors of a shared studio.

Visitors never get what belongs to the owner of the machine: local folders by path, or the owner's Hugging Face token.
"""

import os
import sys

from studio import resources
from studio.rundir import read_json
from studio.services.core.identity import EVERYONE, UnknownVisitor
from studio.services.core.studio import Studio
from studio.settings import LOOPBACK

_OWNER = "local"


def is_local(studio: Studio) -> bool:
    """Whether this is a single-user studio that listens on this machine only and does not run on a Space."""
    settings = studio.settings
    hosted = settings.hosted or studio.for_visitors or bool(os.environ.get("SPACE_ID"))
    return studio.owner == _OWNER and settings.host in LOOPBACK and not hosted


def own_token(studio: Studio) -> str:
    """The Hugging Face token from the environment if the studio is local, else an empty string."""
    if not is_local(studio):
        return ""
    return (os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or "").strip()


def may_name_files(studio: Studio) -> bool:
    """Whether the current user may read files of this machine by path. Visitors may not."""
    try:
        return not studio.for_visitors or studio.owner in (_OWNER, EVERYONE)
    except UnknownVisitor:
        return False


def for_reader(studio: Studio, text: object) -> str:
    """A text or error message as the current user may read it: local paths are removed for visitors.

    Every error that a page, a route or an endpoint shows goes through here.
    """
    text = str(text)
    return text if may_name_files(studio) else without_places(studio, text)


def without_places(studio: Studio, text: str) -> str:
    """`text` with local paths replaced by "…": the home, linked model folders, the studio and its libraries.

    For everything that leaves this machine.
    """
    if os.sep not in text:
        return text
    home = studio.settings.home
    links = [(read_json(path) or {}).get("path") for path in studio.settings.models.glob("*.json")]
    own_paths = (home.resolve(), home, sys.prefix, resources.__file__.rpartition(os.sep)[0])
    # Longest first: a path may be inside another.
    for path in sorted({str(known) for known in (*own_paths, *links) if known}, key=len, reverse=True):
        text = text.replace(path, "…") if len(path) > 1 else text
    return text
