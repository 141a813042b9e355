"""The one chat worker of a studio: what is loaded in it, who may use it, and when it must end.

Asking questions is in chat.py; the keeper of runs uses only this module.
"""

import time
from dataclasses import dataclass, field

from studio.launch.duplex import ChatProcess
from studio.services.chat.fair_lock import FairLock


@dataclass(slots=True)
class ChatSession:
    """State of the chat worker.

    base: the model and the dtype of its weights. seated: loaded adapters, most recently used last, each with its name
    in the worker and why it needs a separate forward pass. answering: the runs that are being asked. made_room: owner
    and name of the run that the memory was freed for.
    """

    line: FairLock = field(default_factory=FairLock)
    talker: ChatProcess | None = None
    base: tuple[str, str] = ("", "")
    seated: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)
    used: float = 0.0
    asked: int = 0
    answering: frozenset[str] = frozenset()
    made_room: tuple[str, str] = ("", "")

    @property
    def awake(self) -> bool:
        """Whether a model is in memory."""
        return self.talker is not None and self.talker.alive

    def close(self) -> None:
        """Free the memory; only for the caller that has the model."""
        if self.talker is not None:
            self.talker.close()
        self.talker, self.base = None, ("", "")
        self.seated.clear()

    def close_if_free(self) -> bool:
        """Free the memory unless someone is being answered; returns whether it was freed."""
        with self.line.when_free() as free:
            if free:
                self.close()
            return free

    def close_if_idle(self, seconds: float) -> None:
        """Free the memory when no one has asked for this many seconds."""
        if self.talker is not None and time.monotonic() - self.used > seconds:
            self.close_if_free()

    def make_room(self, owner: str, run: str) -> None:
        """Free the memory at once for the run with this owner and name; an answer in progress is cut short."""
        talker = self.talker
        if talker is not None:
            self.made_room = owner, run
            talker.close(grace=0.0)  # it has no state that could be lost
            self.close_if_free()

    def end(self) -> None:
        """End the worker because the studio closes; an answer in progress is cut short."""
        if self.talker is not None:
            self.talker.close(grace=0.0)
