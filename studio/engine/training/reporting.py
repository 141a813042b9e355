"""Report to TensorBoard, trackio and W&B in addition to the journal, through transformers' own callbacks.

They write into the run directory and cannot disturb the run: the random state is restored after each call, and a
callback that fails is turned off for the rest of the run, with a note. trackio and W&B stay offline unless the studio's
own environment says otherwise (WANDB_MODE=online). Keys are read from where those libraries store them (`wandb login`),
never from a recipe.
"""

import functools
import os
from collections.abc import Callable
from typing import Any

from studio.engine.compat.transformers import callbacks
from studio.engine.training.rng import undisturbed
from studio.engine.workers.harness import Worker

_EVENTS = ("on_train_begin", "on_log", "on_train_end", "on_save", "on_predict", "on_push_begin")
_UNKNOWN_TO_FAST = ("entropy", "eval_entropy")  # TRL logs them as 0 on the fast path, see engine/compat/trl.py
_NAMES = {"TensorBoardCallback": "TensorBoard", "TrackioCallback": "trackio", "WandbCallback": "W&B"}


def prepare(work: Worker, kinds: list[str]) -> None:
    """Configure the libraries, before their callbacks exist, to write into the run directory and stay offline."""
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
    """Guard the callbacks of other libraries: they cannot disturb or end the run, nor report unmeasured values."""
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
        except Exception as error:  # any error of theirs: the run matters more than their copy of it
            failed.append(name)
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            work.journal.write("note", level="warning", text=f"Reporting to {name} ended ({reason}). Training goes on.")

    return guarded
