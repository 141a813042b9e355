"""Results of dry runs in this home. Later estimates for the same model and method are corrected by them."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from studio.recipe import Recipe, all_fields
from studio.rundir import read_json, write_json
from studio.services.core.studio import Studio

_KEPT = 100
# A measurement applies to another recipe only if these fields are equal: the model and how it is loaded and trained.
_SAME = (
    "model",
    "method",
    "quantization",
    "bnb_4bit_use_double_quant",
    "dtype",
    "gradient_checkpointing",
    "use_dora",
    "engine",
)
# Fields that affect neither the peak memory nor the duration of a step.
_FREE = (
    *("name", "seed", "num_train_epochs", "max_steps", "learning_rate", "weight_decay", "max_grad_norm"),
    *("lr_scheduler_type", "warmup_ratio", "lora_alpha", "loraplus_lr_ratio", "eval_steps", "early_stopping_patience"),
    *("logging_steps", "save_steps", "save_total_limit"),
)
# Bounds of the correction. Beyond them, the measurement does not match the prediction; within, the estimate is useful.
_LEAST, _MOST = 0.5, 2.0


@dataclass(frozen=True, slots=True)
class DryRun:
    """The result of a dry run: a few steps on the longest examples, one evaluation batch and one checkpoint.

    Bytes: `predicted` and `measured` peak; `fixed`, the part of the prediction that is exact (weights and optimizer).
    Seconds of a step, of the evaluation batch and of the checkpoint. rate: operations per second in a step. rows: per
    step. length: tokens of the longest example.
    """

    device: str
    values: dict[str, Any]
    predicted: int
    measured: int
    fixed: int
    step_seconds: float
    eval_seconds: float
    save_seconds: float
    rate: float
    rows: int
    length: int
    time: float = field(default_factory=time.time)

    @property
    def correction(self) -> float:
        """Factor by which the inexact part of the prediction must be multiplied to match the measurement."""
        uncertain = self.predicted - self.fixed
        if uncertain <= 0:
            return 1.0
        return min(_MOST, max(_LEAST, (self.measured - self.fixed) / uncertain))


def values_of(recipe: Recipe) -> dict[str, Any]:
    """The values of a recipe that determine its peak memory and the duration of its steps."""
    return {info.name: recipe.get(info.name) for info in all_fields() if info.name not in _FREE}


def keep(studio: Studio, result: DryRun) -> None:
    """Store a dry run; it replaces an older one with the same values."""
    others = [run for run in _all(studio) if run.values != result.values or run.device != result.device]
    kept = [result, *others][:_KEPT]
    write_json(_path(studio), {"dry_runs": [asdict(run) for run in kept]})


def nearest(studio: Studio, recipe: Recipe, device: str) -> tuple[DryRun | None, bool]:
    """The newest dry run that applies to `recipe`, and whether it had exactly these values.

    device: "cuda" or "cpu".
    """
    wanted = values_of(recipe)
    similar = [
        run
        for run in _all(studio)
        if run.device == device and all(run.values.get(name) == wanted[name] for name in _SAME)
    ]
    exact = next((run for run in similar if run.values == wanted), None)
    return exact or next(iter(similar), None), exact is not None


def under_way(studio: Studio) -> bool:
    """Whether a dry run of this home is using the device."""
    lock = FileLock(studio.settings.dry_run_lock)
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def _all(studio: Studio) -> list[DryRun]:
    """All stored dry runs, newest first; entries written by another version are skipped."""
    results = []
    for entry in (read_json(_path(studio)) or {}).get("dry_runs", []):
        try:
            results.append(DryRun(**entry))
        except TypeError:
            continue
    return results


def _path(studio: Studio) -> Path:
    return studio.settings.cache / "dry-runs.json"
