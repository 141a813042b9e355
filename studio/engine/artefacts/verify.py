"""Verify an artefact before it is offered: check its parity with the model in the chat, or explain why it failed.

parity.json in the export directory records the result, passed or not. Artefacts are made elsewhere.
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
    """The chat model's answers and logits, as the reference for artefacts."""

    work: Worker
    order: Order
    device: loading.Device
    asks: list[Ask]
    live: list[Seen]
    template: str

    @classmethod
    def take(cls, work: Worker, order: Order) -> "Proof":
        """Run the trained model, loaded as the chat loads it, then free its memory."""
        recipe = order.recipe
        work.phase("Loading the libraries")
        loading.quiet_libraries()
        device = loading.pick_device()
        work.identify(device.words)
        work.leave_if_asked(STOPPED)
        encoder = Encoder(order.model_folder, recipe.data)
        config = read_json(order.model_folder / "config.json") or {}
        asks = parity.choose(order.talks, encoder, int(config.get("max_position_embeddings") or 2**31))
        tick = comparing(work, "Running the model as the chat does")
        live = parity.chatted(asks, order.model_folder, recipe.model.dtype, order.source, device, tick, work.phase)
        gc.collect()
        return cls(work, order, device, asks, live, parity.template_hash(encoder.chat_source))

    def adapter(self, folder: Path) -> Parity:
        """Check an adapter folder, loaded with plain PEFT, against the reference."""
        self.work.phase("Reloading the adapter with plain PEFT")
        model = parity.load_adapter(folder, self.order.model_folder, self.order.recipe.model.dtype, self.device)
        other = parity.reread(model, self.live, self.device, comparing(self.work, "Comparing it with the chat model"))
        del model
        gc.collect()
        return self._settle(self._compare("adapter", other, folder), lambda: tensor_diff.of_adapter(self.order, folder))

    def merged(self, folder: Path) -> Parity:
        """Check a merged model's folder, loaded with plain transformers, against the reference."""
        self.work.phase("Reloading the merged model with plain transformers")
        model = parity.load_merged(folder, self.device)
        other = parity.reread(model, self.live, self.device, comparing(self.work, "Comparing it with the chat model"))
        del model
        gc.collect()
        kind = "merged float32" if self.order.dtype == "float32" else "merged"
        result = self._compare(kind, other, folder)
        return self._settle(result, lambda: tensor_diff.of_merged(self.order, folder, self.device))

    def gguf(self, quant: str, other: list[Seen], own: tuple[str, list[list[int]]], why: Callable[[], str]) -> Parity:
        """Check a GGUF, as llama.cpp reads it, against the reference; why: likely reason if it differs."""
        result = parity.compare(quant, self.asks, self.live, other, own, self.template)
        return self._settle(result, why)

    def _compare(self, kind: str, other: list[Seen], folder: Path) -> Parity:
        own = parity.own_words(folder, self.asks, self.order.recipe.data)
        return parity.compare(kind, self.asks, self.live, other, own, self.template)

    def _settle(self, result: Parity, why: Callable[[], str]) -> Parity:
        """Record the result; raise StudioError with the likely reason if it is below the bound."""
        if not result.passed and result.same_tokens == result.prompts and result.template == result.own_template:
            result = replace(result, reason=f"{result.reason} {why()}".strip())
        write_json(self.work.run.path / PARITY, result.as_dict())
        self.work.journal.write("parity", correlation=result.correlation, max_abs=result.max_abs, passed=result.passed)
        if not result.passed:
            raise StudioError(f"The export is withheld: it does not answer like the model in the chat. {result.reason}")
        return result


def comparing(work: Worker, what: str) -> Callable[[int, int], None]:
    """Return a tick that reports progress and ends the work if that was requested."""

    def tick(done: int, of: int) -> None:
        work.progress(what, done, of)
        work.leave_if_asked(STOPPED)

    return tick
