"""Combining adapters of one base by weight into a new one, as PEFT's add_weighted_adapter does it.

The result lies in the store (adapters.py) and is used like a run's adapter. What can be refused without loading
anything is refused here; the work is done by a worker (engine/workers/combine.py).
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

# Method: what it does, and whether all must have the same rank.
METHODS = {
    "cat": ("exactly the weighted sum; its rank is the sum of the ranks", False),
    "svd": ("the weighted sum, brought back to the largest rank; slower", False),
    "linear": ("quick and rough: A with A and B with B", True),
    "ties": ("keeps the largest changes, and of those that disagree the side with more weight", True),
    "dare_linear": ("drops changes by chance and enlarges the rest", True),
    "dare_ties": ("drops by chance, then decides as ties does", True),
    "magnitude_prune": ("keeps the largest changes", True),
    "ties_svd": ("ties on the whole changes, brought back to the largest rank; slower", False),
    "dare_linear_svd": ("dare_linear on the whole changes; slower", False),
    "dare_ties_svd": ("dare_ties on the whole changes; slower", False),
    "magnitude_prune_svd": ("magnitude_prune on the whole changes; slower", False),
}
MOST = 3
_POLL = 0.3


def wants_density(method: str) -> bool:
    """Whether a method keeps a share of the weights only."""
    return method.startswith(("ties", "dare", "magnitude"))


@dataclass(frozen=True, slots=True)
class CombineRequest:
    """What to combine. density: the share that is kept, where the method wants one. seed: of dare's chances."""

    sources: tuple[str, ...]
    weights: tuple[float, ...]
    method: str = "cat"
    density: float | None = None
    name: str = ""
    draft: bool = False
    seed: int = 0


@quotas.in_turn
def start(studio: Studio, wish: CombineRequest) -> AdapterInfo:
    """Check the wish and start a worker for it; raises BadInput with what does not go together."""
    quotas.check_work(studio, [one.state for one in adapters.list_adapters(studio)])
    found = _checked(studio, wish)
    density = (0.5 if wish.density is None else wish.density) if wants_density(wish.method) else None
    first = found[0]
    origin: dict[str, Any] = {
        "parents": [
            {"id": source.key, "name": source.title, "weight": weight, "folder": str(source.folder)}
            for source, weight in zip(found, wish.weights, strict=True)
        ],
        "method": wish.method,
        "density": density,
        "seed": wish.seed,
    }
    name = wish.name.strip() or " + ".join(source.name for source in found)[:60]
    pointer = read_json(first.run.dataset)
    info = adapters.put(studio, New(name, "combined", first.recipe, origin, pointer, wish.draft))
    KeptJob(RunDir(studio.settings.adapters / info.id)).start("studio.engine.workers.combine")
    return adapters.get(studio, info.id)


def _checked(studio: Studio, wish: CombineRequest) -> list[Source]:
    if not 2 <= len(wish.sources) <= MOST:
        raise BadInput(f"Two or three adapters are combined, not {len(wish.sources)}.")
    if len(wish.weights) != len(wish.sources):
        raise BadInput(f"{len(wish.sources)} adapters want as many weights; there are {len(wish.weights)}.")
    if not all(math.isfinite(weight) and abs(weight) <= 10 for weight in wish.weights) or not any(wish.weights):
        raise BadInput("A weight is a number from -10 to 10, and at least one is not 0.")
    if wish.method not in METHODS:
        raise BadInput(f"There is no method {wish.method!r}. Known: {', '.join(METHODS)}.")
    if wish.density is not None and not 0 < wish.density <= 1:
        raise BadInput(f"The density is a share above 0 and up to 1, not {wish.density:g}.")
    found = [sources.find(studio, key) for key in wish.sources]
    if len({source.key for source in found}) < len(found):
        raise BadInput("The same weights are chosen twice. Choose another one.")
    other = next((source for source in found if source.model != found[0].model), None)
    if other is not None:
        raise BadInput(
            f"{found[0].title} was trained on {found[0].model} and {other.title} on {other.model}: only adapters of "
            "one base can be combined."
        )
    ranks = {source.title: _rank(source) for source in found}
    if METHODS[wish.method][1] and len(set(ranks.values())) > 1:
        told = ", ".join(f"{title} has {rank}" for title, rank in ranks.items())
        raise BadInput(f"Method {wish.method} needs equal ranks: {told}. Choose cat, or a method with svd.")
    return found


def _rank(source: Source) -> int:
    """The rank of a plain LoRA adapter; raises BadInput for anything that PEFT cannot combine."""
    config = read_json(source.folder / "adapter_config.json")
    if config is None:
        raise BadInput(f"{source.title} is a whole model: only LoRA adapters can be combined.")
    if config.get("peft_type") != "LORA":
        raise BadInput(f"{source.title} is no LoRA adapter: PEFT combines only those.")
    if config.get("use_dora"):
        raise BadInput(f"{source.title} is a DoRA adapter: its magnitudes cannot be added. Merge it and train on.")
    if config.get("bias", "none") != "none" or config.get("modules_to_save"):
        raise BadInput(f"{source.title} has trained biases or whole layers, which cannot be combined.")
    return int(config.get("r", 0))


def pause(studio: Studio, key: str) -> AdapterInfo:
    """Where it stands a moment from now."""
    time.sleep(_POLL)
    return adapters.get(studio, key)
