"""Merges an adapter into its base and proves that the result answers as the adapted model did.

A model with every weight trained needs no merge; it is written anew and proved in the same way.

The base is always loaded anew in 16 bits (32 for a float32 run), never in 4: merging into a quantised base rounds the
adapter away. The merged folder is loaded again with plain transformers and its logits are compared before anything
is given out. What it does not do: quantise or convert what it made.
"""

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.dataset.encode import Encoder
from studio.engine import loading
from studio.engine.artefacts import copy_generation, copy_license, copy_tokenizer
from studio.engine.cards import license_note, merged_card
from studio.engine.export import STOPPED, Order
from studio.engine.worker import Worker
from studio.errors import StudioError
from studio.recipe import Recipe
from studio.rundir import Exit, free_space_or_raise, whole_folder, write_text

# Pearson's correlation of two rows of logits. Rounding the merged weights to bfloat16 left .998 on a 135 M model,
# float32 .9999996.
LEAST_CORRELATION = 0.99
QUESTION = "What is 12 plus 30? Answer with one short sentence."


@dataclass(frozen=True, slots=True)
class Parity:
    """How far two models' logits are apart: the largest difference, the smallest correlation of a position."""

    max_abs: float
    correlation: float


def export_merged(work: Worker, order: Order) -> Exit:
    """Write `merged/` into the export's directory; withheld when it does not answer as the adapted model."""
    recipe = order.recipe
    size = sum(path.stat().st_size for path in order.model_folder.glob("*.safetensors"))
    # A float32 copy of a 16-bit base is twice its size; the old merge stands until the new one is whole.
    free_space_or_raise(work.run.path, 2 * size + 2**26, "The merged model")
    work.phase("Loading the libraries")
    loading.quiet_libraries()
    device = loading.pick_device()
    work.identify(device.words)
    prompt = _prompt(order.model_folder, recipe)
    final = work.run.path / "merged"
    with whole_folder(final) as folder:
        work.leave_if_asked(STOPPED)
        live = merge(work, order, recipe, device, folder, prompt)
        work.leave_if_asked(STOPPED)
        write_companions(order, recipe, folder)
        work.phase("Comparing it with the adapted model")
        parity = compare(live, reload_logits(folder, recipe, device, prompt))
        work.journal.write("parity", max_abs=parity.max_abs, correlation=parity.correlation)
        if parity.correlation < LEAST_CORRELATION or _prompt(folder, recipe) != prompt:
            raise StudioError(
                "The merged model does not answer as the adapted one did "
                f"(correlation {parity.correlation:.3f}, at least {LEAST_CORRELATION} is wanted). It is withheld; "
                "export the adapter instead, and please report this."
            )
        work.phase("Writing it to disk")
    return Exit(
        "completed",
        f"The merged model is ready. It answers as the adapted one did (correlation {parity.correlation:.4f}).",
    )


def merge(work: Worker, order: Order, recipe: Recipe, device: loading.Device, folder: Path, prompt: list[int]) -> Any:
    """Save base and adapter as one model in `folder`; returns the trained model's logits from before that."""
    if recipe.method.method == "full":
        return _rewrite(work, order, recipe, device, folder, prompt)
    from peft import PeftModel

    work.phase("Loading the base model")
    base = loading.load_base(order.model_folder, recipe.model.dtype, device)
    work.phase("Loading the adapter")
    adapted = PeftModel.from_pretrained(base, str(order.source), local_files_only=True).eval()
    live = logits(adapted, prompt, device)
    work.phase("Merging")
    merged = adapted.merge_and_unload(safe_merge=True)
    work.phase("Saving the merged model")
    merged.save_pretrained(str(folder), max_shard_size="5GB", safe_serialization=True)
    del adapted, merged, base
    gc.collect()
    return live


def _rewrite(
    work: Worker, order: Order, recipe: Recipe, device: loading.Device, folder: Path, prompt: list[int]
) -> Any:
    import torch

    work.phase("Loading the trained model")
    # In float32: what rounding to the recipe's type changes, in a checkpoint's weights and in computing, is compared.
    model = loading.load_base(order.source, "float32", device).eval()
    live = logits(model, prompt, device)
    work.phase("Saving the model")
    model.to(getattr(torch, recipe.model.dtype)).save_pretrained(
        str(folder), max_shard_size="5GB", safe_serialization=True
    )
    del model
    gc.collect()
    return live


def write_companions(order: Order, recipe: Recipe, folder: Path) -> None:
    """Tokenizer, template, card and licence."""
    copy_tokenizer(order.model_folder, folder, recipe.data.own_chat_template)
    copy_generation(order.model_folder, folder)
    copy_license(order.model_folder, folder)
    write_text(folder / "NOTICE", license_note(order.model))
    write_text(folder / "README.md", merged_card(order.name, order.model, order.dataset, recipe))


def reload_logits(folder: Path, recipe: Recipe, device: loading.Device, prompt: list[int]) -> Any:
    """Logits of the model as anyone will load it."""
    model = loading.load_base(folder, recipe.model.dtype, device).eval()
    return logits(model, prompt, device)


def logits(model: Any, prompt: list[int], device: loading.Device) -> Any:
    """Logits of every position of the prompt, in float32 on the CPU."""
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([prompt], device=device.name)).logits[0].float().cpu()


def compare(one: Any, other: Any) -> Parity:
    """How far two tables of logits (positions × vocabulary) are apart."""
    import torch

    def centred(table: Any) -> Any:
        return table - table.mean(dim=-1, keepdim=True)

    correlations = torch.nn.functional.cosine_similarity(centred(one), centred(other), dim=-1)
    return Parity(float((one - other).abs().max()), float(correlations.min()))


def _prompt(folder: Path, recipe: Recipe) -> list[int]:
    return Encoder(folder, recipe.data).prompt_ids([{"role": "user", "content": QUESTION}])
