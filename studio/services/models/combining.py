"""Combine adapters of one base by weight into a new one, with PEFT's add_weighted_adapter.

The result is in the store (adapters.py) and is used like a run's adapter. What can be refused without loading weights
is refused here; a worker does the work (engine/workers/combine.py).
"""

import math
import time
from dataclasses import dataclass
from typing import Any

from studio.errors import BadInput
from studio.rundir import RunDir, read_json
from studio.services.core import quotas
from studio.services.core.jobs import KeptJob
from studio.services.core.studio import Studio
from studio.services.models import adapters
from studio.services.models import trained_weights as sources
from studio.services.models.adapters import AdapterInfo, New
from studio.services.models.trained_weights import Source

# Method: its description, and whether all adapters must have the same rank.
METHODS = {
    "cat": ("exactly the weighted sum; its rank is the sum of the ranks", False),
    "svd": ("the weighted sum, reduced to the largest rank; slower", False),
    "linear": ("quick approximation: adds A to A and B to B", True),
    "ties": ("keeps the largest changes; where signs disagree, the sign with more weight", True),
    "dare_linear": ("drops changes at random and scales up the rest", True),
    "dare_ties": ("drops changes at random, then resolves signs as ties does", True),
    "magnitude_prune": ("keeps the largest changes", True),
    "ties_svd": ("ties on the full weight changes, reduced to the largest rank; slower", False),
    "dare_linear_svd": ("dare_linear on the full weight changes; slower", False),
    "dare_ties_svd": ("dare_ties on the full weight changes; slower", False),
    "magnitude_prune_svd": ("magnitude_prune on the full weight changes; slower", False),
}
MOST = 3
_POLL = 0.3


def wants_density(method: str) -> bool:
    """Whether a method keeps only a share of the weights."""
    return method.startswith(("ties", "dare", "magnitude"))


@dataclass(frozen=True, slots=True)
class CombineRequest:
    """What to combine. density: share of the weights to keep, for methods that use one. seed: for dare's drops."""

    sources: tuple[str, ...]
    weights: tuple[float, ...]
    method: str = "cat"
    density: float | None = None
    name: str = ""
    draft: bool = False
    seed: int = 0


@quotas.in_turn
def start(studio: Studio, request: CombineRequest) -> AdapterInfo:
    """Check the request and start a worker for it; raises BadInput that says what does not fit."""
    quotas.check_work(studio, [item.state for item in adapters.list_adapters(studio)])
    parts = _checked(studio, request)
    density = (0.5 if request.density is None else request.density) if wants_density(request.method) else None
    first = parts[0]
    origin: dict[str, Any] = {
        "parents": [
            {"id": source.key, "name": source.title, "weight": weight, "folder": str(source.folder)}
            for source, weight in zip(parts, request.weights, strict=True)
        ],
        "method": request.method,
        "density": density,
        "seed": request.seed,
    }
    name = request.name.strip() or " + ".join(source.name for source in parts)[:60]
    pointer = read_json(first.run.dataset)
    info = adapters.put(studio, New(name, "combined", first.recipe, origin, pointer, request.draft))
    KeptJob(RunDir(studio.settings.adapters / info.id)).start("studio.engine.workers.combine")
    return adapters.get(studio, info.id)


def _checked(studio: Studio, request: CombineRequest) -> list[Source]:
    if not 2 <= len(request.sources) <= MOST:
        raise BadInput(f"Choose two or three adapters to combine, not {len(request.sources)}.")
    if len(request.weights) != len(request.sources):
        raise BadInput(f"{len(request.sources)} adapters need as many weights; there are {len(request.weights)}.")
    if not all(math.isfinite(weight) and abs(weight) <= 10 for weight in request.weights) or not any(request.weights):
        raise BadInput("A weight must be a number from -10 to 10, and at least one must not be 0.")
    if request.method not in METHODS:
        raise BadInput(f"There is no method {request.method!r}. Known: {', '.join(METHODS)}.")
    if request.density is not None and not 0 < request.density <= 1:
        raise BadInput(f"The density must be a share above 0 and up to 1, not {request.density:g}.")
    parts = [sources.find(studio, key) for key in request.sources]
    if len({source.key for source in parts}) < len(parts):
        raise BadInput("The same weights are chosen twice. Choose another one.")
    other = next((source for source in parts if source.model != parts[0].model), None)
    if other is not None:
        raise BadInput(
            f"{parts[0].title} was trained on {parts[0].model} and {other.title} on {other.model}: only adapters of "
            "one base can be combined."
        )
    ranks = {source.title: _rank(source) for source in parts}
    if METHODS[request.method][1] and len(set(ranks.values())) > 1:
        listing = ", ".join(f"{title} has {rank}" for title, rank in ranks.items())
        raise BadInput(f"Method {request.method} needs equal ranks: {listing}. Choose cat, or a method with svd.")
    return parts


def _rank(source: Source) -> int:
    """The rank of a plain LoRA adapter; raises BadInput for anything that PEFT cannot combine."""
    config = read_json(source.folder / "adapter_config.json")
    if config is None:
        raise BadInput(f"{source.title} is a whole model: only LoRA adapters can be combined.")
    if config.get("peft_type") != "LORA":
        raise BadInput(f"{source.title} is not a LoRA adapter: PEFT combines only those.")
    if config.get("use_dora"):
        raise BadInput(f"{source.title} is a DoRA adapter: its magnitudes cannot be added. Merge it and train on.")
    if config.get("bias", "none") != "none" or config.get("modules_to_save"):
        raise BadInput(f"{source.title} has trained biases or whole layers, which cannot be combined.")
    return int(config.get("r", 0))


def pause(studio: Studio, key: str) -> AdapterInfo:
    """The state of an adapter after a short wait."""
    time.sleep(_POLL)
    return adapters.get(studio, key)
