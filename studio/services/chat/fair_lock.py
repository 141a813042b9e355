"""Fair lock on the one model in memory: first come, first served, one question per session at a time.

No session can ask a second question before the first is answered, so that frequent askers do not block others.
"""

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from studio.errors import Conflict


@dataclass(eq=False, slots=True)
class Ticket:
    """A place in the queue. stopped: its session no longer needs the answer."""

    session: str
    stopped: bool = False


@dataclass(slots=True)
class FairLock:
    """The queue of tickets; the first has the model."""

    _tickets: list[Ticket] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @contextlib.contextmanager
    def join(self, session: str) -> Iterator[Ticket]:
        """Take a place at the end of the queue for this context. Raises Conflict for a session that already has one."""
        with self._changed:
            if any(ticket.session == session for ticket in self._tickets):
                raise Conflict("Your last question is still being answered. Stop it, or wait for it to end.")
            ticket = Ticket(session)
            self._tickets.append(ticket)
        try:
            yield ticket
        finally:
            with self._changed:
                self._tickets.remove(ticket)
                self._changed.notify_all()

    @contextlib.contextmanager
    def when_free(self) -> Iterator[bool]:
        """Take the model without waiting: yields True and keeps it for this context, or False when someone has it."""
        with self._changed:
            ticket = None if self._tickets else Ticket("\0free")
            if ticket is not None:
                self._tickets.append(ticket)
        try:
            yield ticket is not None
        finally:
            if ticket is not None:
                with self._changed:
                    self._tickets.remove(ticket)
                    self._changed.notify_all()

    def ahead(self, ticket: Ticket) -> int:
        """Number of tickets before this one."""
        with self._changed:
            return self._tickets.index(ticket)

    def wait(self, ticket: Ticket, seconds: float) -> None:
        """Wait until the queue moves, or this many seconds."""
        with self._changed:
            if self._tickets[0] is not ticket and not ticket.stopped:
                self._changed.wait(seconds)

    def sessions(self) -> list[str]:
        """The sessions in the order of the queue; the first has the model."""
        with self._changed:
            return [ticket.session for ticket in self._tickets]

    def stop(self, session: str) -> bool:
        """Mark the ticket of a session as stopped; True when it has the model now."""
        with self._changed:
            for place, ticket in enumerate(self._tickets):
                if ticket.session == session:
                    ticket.stopped = True
                    self._changed.notify_all()
                    return place == 0
            return False
