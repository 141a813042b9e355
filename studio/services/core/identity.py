"""Who is asking. The gate of every service asks `Studio.owner`, and that asks here.

A studio of one person has one owner, `local`. A studio that others reach serves many: ui/web/auth.py says who sent a
request, in the one context variable below, and whatever the request leads to is done in that context. A studio that is
open to visitors and is asked without one refuses: what is lost on the way must never become somebody.
"""

import contextlib
import secrets
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Literal, Protocol

from studio.errors import StudioError

__all__ = ["EVERYONE", "LOCAL", "NOBODY", "UnknownVisitor", "Visitor", "acting", "asking"]
Kind = Literal["local", "anonymous", "account", "nobody"]
# Owns what all may read and nobody may change: the sample's dataset of a studio that others reach.
EVERYONE = "everyone"


class Owned(Protocol):
    """What a studio says of who may ask it: its own person, and whether others do."""

    home_owner: str
    for_visitors: bool


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks. owner: what their things are kept under, never shown; name: theirs, for people; admin: may see who
    uses what, stop it and clear it away."""

    owner: str
    name: str = ""
    kind: Kind = "account"
    admin: bool = False


class UnknownVisitor(StudioError):
    """It is not known who asks."""


UNKNOWN = "This studio does not know who is asking. Allow its cookie, then load the page again."
LOCAL = Visitor("local", "", "local", admin=True)
NOBODY = Visitor("", "", "nobody")
asking: ContextVar[Visitor | None] = ContextVar("asking", default=None)


def keeper_of(owner: str) -> Visitor:
    """The keeper, at work on what is this owner's."""
    return Visitor(owner, "", "local", admin=True)


@contextlib.contextmanager
def acting(visitor: Visitor) -> Iterator[None]:
    """Do something for this visitor; not for generators, whose steps may be taken elsewhere."""
    token = asking.set(visitor)
    try:
        yield
    finally:
        asking.reset(token)


def of(studio: Owned) -> Visitor:
    """Who asks this studio now; raises Stranger where that cannot be told."""
    visitor = asking.get()
    if visitor is None and not studio.for_visitors:
        return Visitor(studio.home_owner, "", "local", admin=True)
    if visitor is None or not visitor.owner:
        raise UnknownVisitor(UNKNOWN)
    return visitor


def shared(owner: str) -> tuple[str, str]:
    """The owners whose datasets someone may read: their own, and everyone's."""
    return owner, EVERYONE


def new_id(studio: Owned) -> str:
    """An id for what is made now: the time, then chance; where others ask too, more of it than can be guessed."""
    return time.strftime("%y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(8 if studio.for_visitors else 3)
