"""Reporting elsewhere: TensorBoard, trackio and W&B, through transformers' own callbacks, beside the journal.

What they write goes into the run directory. They are kept from disturbing the run: the random numbers they draw are
given back, and one that fails is left out for the rest of it, which a note says. trackio and W&B stay on this machine
unless the studio's own environment says otherwise (WANDB_MODE=online); keys are read where those libraries keep them
(`wandb login`), never from a recipe.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

from studio.engine.compat.transformers import callbacks
from studio.engine.training.rng import undisturbed
from studio.engine.workers.harness import Worker

_EVENTS = ("on_train_begin", "on_log", "on_train_end", "on_save", "on_predict", "on_push_begin")
_UNKNOWN_TO_FAST = ("entropy", "eval_entropy")  # TRL's log has them all the same, as 0: see engine/compat/trl.py
_NAMES = {"TensorBoardCallback": "TensorBoard", "TrackioCallback": "trackio", "WandbCallback": "W&B"}


def prepare(work: Worker, kinds: list[str]) -> None:
    """Tell the libraries, before their callbacks are made, to write into the run directory and to stay offline."""
    folders = {"tensorboard": "TENSORBOARD_LOGGING_DIR", "trackio": "TRACKIO_DIR", "wandb": "WANDB_DIR"}
    for kind in kinds:
        folder = work.run.path / kind
        folder.mkdir(exist_ok=True)
        os.environ[folders[kind]] = str(folder)
    if "wandb" in kinds:
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_PROJECT", "lora-studio")
        os.environ["WANDB_LOG_MODEL"] = "false"


def keep_apart(work: Worker, trainer: Any, fast: bool) -> None:
    """Let the callbacks of other libraries neither disturb the run nor end it, nor tell what was not measured."""
    for callback in callbacks(trainer):
        name = _NAMES.get(type(callback).__name__)
        if name:
            failed: list[str] = []
            for event in _EVENTS:
                if hasattr(callback, event):
                    setattr(callback, event, _guarded(work, name, getattr(callback, event), failed, fast))


def _guarded(work: Worker, name: str, handle: Callable[..., Any], failed: list[str], fast: bool) -> Callable[..., Any]:
    @functools.wraps(handle)
    def guarded(*values: Any, **named: Any) -> None:
        if failed:
            return
        if fast and "logs" in named:
            named["logs"] = {key: value for key, value in named["logs"].items() if key not in _UNKNOWN_TO_FAST}
        try:
            with undisturbed():
                handle(*values, **named)
        except Exception as error:  # theirs may be anything; the run is worth more than their copy of it
            failed.append(name)
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            work.journal.write("note", level="warning", text=f"Reporting to {name} ended ({reason}). Training goes on.")

    return guarded
