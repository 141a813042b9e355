"""The states of a run, and which of them are final."""

from typing import Literal

State = Literal["queued", "starting", "running", "stalled", "stopping", "stopped", "completed", "failed", "interrupted"]
FINAL: tuple[State, ...] = ("stopped", "completed", "failed", "interrupted")
EXPLAINED: dict[State, str] = {
    "queued": "waits for its turn",
    "starting": "loading the model and the data",
    "running": "training",
    "stalled": "alive, but without progress for a while",
    "stopping": "saving before it stops",
    "stopped": "stopped on request; what it learned is kept",
    "completed": "finished",
    "failed": "ended with an error",
    "interrupted": "cut short; what was saved is kept",
}
