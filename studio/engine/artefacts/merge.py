"""Merges an adapter into its base. A model with every weight trained needs no merge; it is written anew.

The base is always loaded anew in 16 or 32 bits, never in 4: merging into a quantised base rounds the adapter away.
What it does not do: prove the result (verify.py), or convert it (gguf.py).
"""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from studio.engine.artefacts.artefacts import copy_generation, copy_license, copy_tokenizer
from studio.engine.artefacts.request import Order
from studio.engine.inference import loading


def merged_model(order: Order, device: loading.Device, tell: Callable[[str], None]) -> Any:
    """Base and adapter as one model, in the order's type."""
    if order.full:
        import torch

        tell("Loading the trained model")
        # In float32 first: a checkpoint's weights are, and are rounded once.
        model = loading.load_base(order.source, "float32", device)
        return model.to(getattr(torch, order.dtype)).eval()
    from peft import PeftModel

    tell("Loading the base model")
    base = loading.load_base(order.model_folder, order.dtype, device)
    tell("Loading the adapter")
    adapted = PeftModel.from_pretrained(base, str(order.source), local_files_only=True).eval()
    tell("Merging")
    return adapted.merge_and_unload(safe_merge=True)


def write_merged(order: Order, device: loading.Device, folder: Path, tell: Callable[[str], None]) -> None:
    """Save base and adapter as one model in `folder`, in files of the order's size, with tokenizer and template."""
    model = merged_model(order, device, tell)
    tell("Saving the merged model")
    model.save_pretrained(str(folder), max_shard_size=order.shard, safe_serialization=True)
    del model
    gc.collect()
    copy_tokenizer(order.model_folder, folder, order.recipe.data.own_chat_template)
    copy_generation(order.model_folder, folder)
    copy_license(order.model_folder, folder)
