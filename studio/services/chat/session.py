"""The one chat worker of a studio: what is loaded in it, who may talk to it, and when it must go.

What it does not do: ask (chat.py). The keeper of runs knows this module and nothing of questions.
"""

import time
from dataclasses import dataclass, field

from studio.launch.duplex import ChatProcess
from studio.services.chat.fair_lock import FairLock


@dataclass(slots=True)
class ChatSession:
    """base: the model and the type its weights are held in. seated: what is loaded beside it, the last used last, with
    its name in the worker and why it has a pass of its own. answering: the runs that are being asked. made_room: owner
    and name of the run that it made room for."""

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
        """Give the memory back; only for who has the model."""
        if self.talker is not None:
            self.talker.close()
        self.talker, self.base = None, ("", "")
        self.seated.clear()

    def close_if_free(self) -> bool:
        """Give the memory back unless someone is being answered; whether it was done."""
        with self.line.when_free() as free:
            if free:
                self.close()
            return free

    def close_if_idle(self, seconds: float) -> None:
        """Give the memory back when nobody has asked for so long."""
        if self.talker is not None and time.monotonic() - self.used > seconds:
            self.close_if_free()

    def make_room(self, owner: str, run: str) -> None:
        """Give the memory back at once for a run of this owner and name; an answer that is being given is cut short."""
        talker = self.talker
        if talker is not None:
            self.made_room = owner, run
            talker.close(grace=0.0)  # it keeps nothing that could be lost
            self.close_if_free()

    def end(self) -> None:
        """The studio closes; an answer that is being given is cut short."""
        if self.talker is not None:
            self.talker.close(grace=0.0)
