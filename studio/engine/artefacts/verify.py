"""Proves an artefact before it is offered: parity with the model in the chat, or a sentence on why it is withheld.

parity.json in the export's directory holds what was found, passed or not. What it does not do: make artefacts.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from studio.dataset.tokens.encode import Encoder
from studio.engine.artefacts import parity, tensor_diff
from studio.engine.artefacts.parity import Ask, Seen
from studio.engine.artefacts.request import Order
from studio.engine.inference import loading
from studio.engine.workers.harness import Worker
from studio.errors import StudioError
from studio.evaluation.parity import Parity
from studio.rundir import read_json, write_json

STOPPED = "Cancelled: nothing was exported."
PARITY = "parity.json"


@dataclass(frozen=True, slots=True)
class Proof:
    """What the model in the chat said, to hold artefacts against."""

    work: Worker
    order: Order
    device: loading.Device
    asks: list[Ask]
    live: list[Seen]
    template: str

    @classmethod
    def take(cls, work: Worker, order: Order) -> "Proof":
        """Ask the trained model, loaded as the chat loads it; its memory is given back."""
        recipe = order.recipe
        work.phase("Loading the libraries")
        loading.quiet_libraries()
        device = loading.pick_device()
        work.identify(device.words)
        work.leave_if_asked(STOPPED)
        encoder = Encoder(order.model_folder, recipe.data)
        config = read_json(order.model_folder / "config.json") or {}
        asks = parity.choose(order.talks, encoder, int(config.get("max_position_embeddings") or 2**31))
        tick = comparing(work, "Asking the model as the chat does")
        live = parity.chatted(asks, order.model_folder, recipe.model.dtype, order.source, device, tick, work.phase)
        gc.collect()
        return cls(work, order, device, asks, live, parity.template_hash(encoder.chat_source))

    def adapter(self, folder: Path) -> Parity:
        """Hold an adapter's folder against it, loaded by plain PEFT."""
        self.work.phase("Loading the adapter again, as others will")
        model = parity.load_adapter(folder, self.order.model_folder, self.order.recipe.model.dtype, self.device)
        other = parity.reread(model, self.live, self.device, comparing(self.work, "Comparing it with the chat's model"))
        del model
        gc.collect()
        return self._settle(self._compare("adapter", other, folder), lambda: tensor_diff.of_adapter(self.order, folder))

    def merged(self, folder: Path) -> Parity:
        """Hold a merged model's folder against it, loaded by plain transformers."""
        self.work.phase("Loading the merged model again, as others will")
        model = parity.load_merged(folder, self.device)
        other = parity.reread(model, self.live, self.device, comparing(self.work, "Comparing it with the chat's model"))
        del model
        gc.collect()
        kind = "merged float32" if self.order.dtype == "float32" else "merged"
        found = self._compare(kind, other, folder)
        return self._settle(found, lambda: tensor_diff.of_merged(self.order, folder, self.device))

    def gguf(self, quant: str, other: list[Seen], own: tuple[str, list[list[int]]], why: Callable[[], str]) -> Parity:
        """Hold a GGUF against it, as llama.cpp read it; why: the likely reason, should it differ."""
        found = parity.compare(quant, self.asks, self.live, other, own, self.template)
        return self._settle(found, why)

    def _compare(self, kind: str, other: list[Seen], folder: Path) -> Parity:
        own = parity.own_words(folder, self.asks, self.order.recipe.data)
        return parity.compare(kind, self.asks, self.live, other, own, self.template)

    def _settle(self, found: Parity, why: Callable[[], str]) -> Parity:
        """Keep the finding; raises StudioError with the likely reason where it is below the bound."""
        if not found.passed and found.same_tokens == found.prompts and found.template == found.own_template:
            found = replace(found, reason=f"{found.reason} {why()}".strip())
        write_json(self.work.run.path / PARITY, found.as_dict())
        self.work.journal.write("parity", correlation=found.correlation, max_abs=found.max_abs, passed=found.passed)
        if not found.passed:
            raise StudioError(
                f"It was made, but it does not answer as the model in the chat did, and is withheld. {found.reason}"
            )
        return found


def comparing(work: Worker, what: str) -> Callable[[int, int], None]:
    """A tick that says how far it is and ends here when that was asked for."""

    def tick(done: int, of: int) -> None:
        work.progress(what, done, of)
        work.leave_if_asked(STOPPED)

    return tick
