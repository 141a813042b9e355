"""Identity of the current visitor. Every service checks `Studio.owner`, which is resolved here.

A single-user studio has one owner, `local`. A shared studio serves many: ui/web/auth.py sets the sender of each request
in the context variable below, and everything done for the request runs in that context. A shared studio refuses calls
without a visitor: a lost identity must never turn into someone else's.
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
# Owner of what everyone may read and no one may change: the sample dataset of a shared studio.
EVERYONE = "everyone"


class Owned(Protocol):
    """A studio as far as identity is concerned: its own user, and whether it has visitors."""

    home_owner: str
    for_visitors: bool


@dataclass(frozen=True, slots=True)
class Visitor:
    """The user a call is made for.

    owner: key of everything they own, never shown. name: display name. admin: may see what each visitor uses, and stop
    or delete it.
    """

    owner: str
    name: str = ""
    kind: Kind = "account"
    admin: bool = False


class UnknownVisitor(StudioError):
    """The visitor is not known."""


UNKNOWN = "This studio does not know who is asking. Allow its cookie, then load the page again."
LOCAL = Visitor("local", "", "local", admin=True)
NOBODY = Visitor("", "", "nobody")
asking: ContextVar[Visitor | None] = ContextVar("asking", default=None)


def keeper_of(owner: str) -> Visitor:
    """The keeper, acting on what this owner owns."""
    return Visitor(owner, "", "local", admin=True)


@contextlib.contextmanager
def acting(visitor: Visitor) -> Iterator[None]:
    """Run the block as this visitor. Not for generators: their steps may run in another context."""
    token = asking.set(visitor)
    try:
        yield
    finally:
        asking.reset(token)


def of(studio: Owned) -> Visitor:
    """The visitor of the current call; raises UnknownVisitor where there is none."""
    visitor = asking.get()
    if visitor is None and not studio.for_visitors:
        return Visitor(studio.home_owner, "", "local", admin=True)
    if visitor is None or not visitor.owner:
        raise UnknownVisitor(UNKNOWN)
    return visitor


def shared(owner: str) -> tuple[str, str]:
    """The owners whose datasets a visitor may read: the visitor and EVERYONE."""
    return owner, EVERYONE


def new_id(studio: Owned) -> str:
    """A new id: the time, then random hex digits; in a shared studio, too many of them to guess."""
    return time.strftime("%y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(8 if studio.for_visitors else 3)
