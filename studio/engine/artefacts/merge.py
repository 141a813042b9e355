"""Merge an adapter into its base. A model with every weight trained needs no merge and is only saved again.

The base is always reloaded in 16 or 32 bits, never in 4: merging into a quantised base rounds the adapter away.
verify.py checks the result, gguf.py converts it.
"""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

from studio.engine.artefacts.artefacts import copy_generation, copy_license, copy_tokenizer
from studio.engine.artefacts.request import Order
from studio.engine.inference import loading


def merged_model(order: Order, device: loading.Device, tell: Callable[[str], None]) -> Any:
    """Return base and adapter as one model, in the order's dtype."""
    if order.full:
        import torch

        tell("Loading the trained model")
        # In float32 first, the dtype of a checkpoint's weights, so that they are rounded once.
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
    """Save the merged model in `folder`, in shards of the order's size, with tokenizer and chat template."""
    model = merged_model(order, device, tell)
    tell("Saving the merged model")
    model.save_pretrained(str(folder), max_shard_size=order.shard, safe_serialization=True)
    del model
    gc.collect()
    copy_tokenizer(order.model_folder, folder, order.recipe.data.own_chat_template)
    copy_generation(order.model_folder, folder)
    copy_license(order.model_folder, folder)
