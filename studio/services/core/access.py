"""Whether whoever asks is the person at this machine, or a visitor of a studio that others reach.

A visitor is never given what is the machine owner's: folders of this machine by their path, or the owner's token.
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
    """True for a studio of one person, listening on this machine alone and not on a Space."""
    settings = studio.settings
    hosted = settings.hosted or studio.for_visitors or bool(os.environ.get("SPACE_ID"))
    return studio.owner == _OWNER and settings.host in LOOPBACK and not hosted


def own_token(studio: Studio) -> str:
    """The Hugging Face token of this machine's environment, for its own person only; empty otherwise."""
    if not is_local(studio):
        return ""
    return (os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or "").strip()


def may_name_files(studio: Studio) -> bool:
    """Whether who asks may have files of this machine read by their path: not a visitor."""
    try:
        return not studio.for_visitors or studio.owner in (_OWNER, EVERYONE)
    except UnknownVisitor:
        return False


def for_reader(studio: Studio, text: object) -> str:
    """A text, or an error's message, as who asks may read it: a visitor is not told where on this machine things are
    kept. Whatever a page, a route or an endpoint says of an error goes through here."""
    text = str(text)
    return text if may_name_files(studio) else without_places(studio, text)


def without_places(studio: Studio, text: str) -> str:
    """`text` without where on this machine the home is, models that are used where they lie, and the studio itself with
    its libraries: for what leaves it."""
    if os.sep not in text:
        return text
    home = studio.settings.home
    links = [(read_json(path) or {}).get("path") for path in studio.settings.models.glob("*.json")]
    own = (home.resolve(), home, sys.prefix, resources.__file__.rpartition(os.sep)[0])
    # The longest first: one may lie in another.
    for path in sorted({str(place) for place in (*own, *links) if place}, key=len, reverse=True):
        text = text.replace(path, "…") if len(path) > 1 else text
    return text
