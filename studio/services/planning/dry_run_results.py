"""What dry runs of this home measured, by which later estimates for the same model and method are corrected."""

import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from studio.recipe import Recipe, all_fields
from studio.rundir import read_json, write_json
from studio.services.core.studio import Studio

_KEPT = 100
# A measurement is of use for another recipe only where these are the same: what the model is and how it is held.
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
# What a recipe may say differently and still have the same peak and the same step.
_FREE = (
    *("name", "seed", "num_train_epochs", "max_steps", "learning_rate", "weight_decay", "max_grad_norm"),
    *("lr_scheduler_type", "warmup_ratio", "lora_alpha", "loraplus_lr_ratio", "eval_steps", "early_stopping_patience"),
    *("logging_steps", "save_steps", "save_total_limit"),
)
# Beyond this something else was measured than was predicted; half and double still leave a useful estimate.
_LEAST, _MOST = 0.5, 2.0


@dataclass(frozen=True, slots=True)
class DryRun:
    """A few steps on the longest examples, one evaluation batch and one checkpoint, done for real.

    Bytes: `measured` at the peak, `predicted` before, `fixed` the part of the prediction that is exact (weights and
    optimizer). Seconds of a step, of the evaluation batch, of the checkpoint; rate: operations a second in the step;
        rows of a step, tokens of the longest.
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
        """What the uncertain part of the prediction is multiplied with to give the measurement."""
        uncertain = self.predicted - self.fixed
        if uncertain <= 0:
            return 1.0
        return min(_MOST, max(_LEAST, (self.measured - self.fixed) / uncertain))


def values_of(recipe: Recipe) -> dict[str, Any]:
    """The values of a recipe on which its peak and the speed of its steps depend."""
    return {known.name: recipe.get(known.name) for known in all_fields() if known.name not in _FREE}


def keep(studio: Studio, found: DryRun) -> None:
    """Remember a dry run; an older one of the same values is replaced."""
    others = [one for one in _all(studio) if one.values != found.values or one.device != found.device]
    kept = [found, *others][:_KEPT]
    write_json(_path(studio), {"dry_runs": [asdict(one) for one in kept]})


def nearest(studio: Studio, recipe: Recipe, device: str) -> tuple[DryRun | None, bool]:
    """The newest dry run that tells something about `recipe`, and whether it was of exactly these values.

    device: "cuda" or "cpu".
    """
    wanted = values_of(recipe)
    alike = [
        one
        for one in _all(studio)
        if one.device == device and all(one.values.get(name) == wanted[name] for name in _SAME)
    ]
    exact = next((one for one in alike if one.values == wanted), None)
    return exact or next(iter(alike), None), exact is not None


def under_way(studio: Studio) -> bool:
    """Whether a dry run of this home has the device."""
    lock = FileLock(studio.settings.dry_run_lock)
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


def _all(studio: Studio) -> list[DryRun]:
    """Newest first; what another version wrote is passed over."""
    found = []
    for one in (read_json(_path(studio)) or {}).get("dry_runs", []):
        try:
            found.append(DryRun(**one))
        except TypeError:
            continue
    return found


def _path(studio: Studio) -> Path:
    return studio.settings.cache / "dry-runs.json"
