"""Whether whoever asks is the person at this machine, or a visitor of a studio that others reach.

A visitor is never given what is the machine owner's: folders of this machine by their path, or the owner's token.
"""

import os
from typing import TYPE_CHECKING

from studio.rundir import read_json
from studio.services.owner import EVERYONE
from studio.settings import LOOPBACK

if TYPE_CHECKING:
    from studio.services.studio import Studio

_OWNER = "local"


def is_local(studio: "Studio") -> bool:
    """True for a studio of one person, listening on this machine alone and not on a Space."""
    settings = studio.settings
    hosted = settings.hosted or studio.for_visitors or bool(os.environ.get("SPACE_ID"))
    return studio.owner == _OWNER and settings.host in LOOPBACK and not hosted


def own_token(studio: "Studio") -> str:
    """The Hugging Face token of this machine's environment, for its own person only; empty otherwise."""
    if not is_local(studio):
        return ""
    return (os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or "").strip()


def may_name_files(studio: "Studio") -> bool:
    """Whether who asks may have files of this machine read by their path: not a visitor."""
    return not studio.for_visitors or studio.owner in (_OWNER, EVERYONE)


def shown(studio: "Studio", text: str) -> str:
    """`text` as who asks may read it: a visitor is not told where on this machine things are kept."""
    return text if may_name_files(studio) else without_places(studio, text)


def without_places(studio: "Studio", text: str) -> str:
    """`text` without where on this machine the home is, and models that are used where they lie: for what leaves it."""
    if os.sep not in text:
        return text
    home = studio.settings.home
    links = [(read_json(path) or {}).get("path") for path in studio.settings.models.glob("*.json")]
    for path in (str(home.resolve()), str(home), *map(str, filter(None, links))):
        text = text.replace(path, "…")
    return text
