"""The same paths on an NVIDIA GPU: every method, every way to hold the base, every optimizer. Skipped where there is
none."""

import math
import shutil
import time
from typing import Any

import pytest

from studio.recipe import Recipe
from studio.rundir import verify_folder
from studio.services.core.states import FINAL
from studio.services.core.studio import Studio
from studio.services.host import machine
from studio.services.runs import runs

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="needs an NVIDIA GPU; this machine has none"),
]

METHODS: dict[str, dict[str, Any]] = {
    "lora": {},
    "lora in float32": {"dtype": "float32"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "biases": {"bias": "all"},
    "lora plus": {"loraplus_lr_ratio": 16.0},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "ia3": {"method": "ia3"},
    "prompt": {"method": "prompt", "learning_rate": 0.1},
    "prefix": {"method": "prefix", "learning_rate": 0.1},
    "full": {"method": "full", "learning_rate": 1e-3},
    "fast": {"engine": "fast"},
    "fast, checkpointing": {"engine": "fast", "gradient_checkpointing": True},
    "fast, packing": {"engine": "fast", "packing": True, "max_length": 256},
    "packing": {"packing": True, "max_length": 256},
    "neftune": {"neftune_noise_alpha": 5.0},
    "early stopping": {"held_out": 0.25, "eval_steps": 2, "early_stopping_patience": 2},
    "checkpointing": {"gradient_checkpointing": True},
    "checkpointing, prompt": {"gradient_checkpointing": True, "method": "prompt", "learning_rate": 0.1},
}
HELD: dict[str, dict[str, Any]] = {
    f"{name}, {held}": METHODS[name] | {"quantization": held}
    for held in ("int8", "nf4", "fp4")
    for name in ("lora", "dora", "biases", "ia3", "prompt", "prefix", "packing")
} | {
    "fast, nf4": {"engine": "fast", "quantization": "nf4"},
} | {
    f"loftq, {held}": {"init_lora_weights": "loftq", "quantization": held} for held in ("nf4", "fp4")
} | {
    "loftq, dora, nf4": {"init_lora_weights": "loftq", "quantization": "nf4", "use_dora": True},
    "nf4, compute in float32": {"quantization": "nf4", "bnb_4bit_compute_dtype": "float32"},
}  # fmt: skip
OPTIMIZERS: dict[str, dict[str, Any]] = {
    f"{optim}, {held}": {"optim": optim, "quantization": held}
    for optim in ("adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit")
    for held in ("none", "nf4")
}


@pytest.mark.parametrize("name", list(METHODS | HELD | OPTIMIZERS))
def test_a_run_trains_on_the_gpu(ready: Studio, name: str) -> None:
    assert machine.look(ready).device_kind == "cuda"
    values = (METHODS | HELD | OPTIMIZERS)[name]
    recipe = Recipe().with_values(
        {"model": "tiny", "dataset": "little", "max_steps": 10, "learning_rate": 1e-2, "save_steps": 5,
         "num_virtual_tokens": 5, "r": 8, **values}
    )  # fmt: skip
    run = runs.start(ready, recipe)
    while (info := runs.get(ready, run.id)).state not in FINAL:
        time.sleep(0.2)
    assert info.state == "completed", info.message + runs.log_tail(ready, run.id)
    optim = recipe.optimizer.optim
    assert info.plan["engine"] == ("fast" if "engine" in values else "trl"), info.plan["engine_why"]
    assert info.plan["optim"] == ("adamw_torch_fused" if optim == "adamw_torch" else optim)
    losses = [point["loss"] for point in runs.points(ready, run.id).metrics]
    assert all(math.isfinite(loss) for loss in losses)
    if "neftune" not in name:
        assert min(losses[1:]) < losses[0]
    assert info.memory is not None and 0 < info.memory < 2**30
    folder = ready.run_dir(run.id).trained
    assert folder is not None and verify_folder(folder) is None


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_fast_path_has_the_reference_s_losses(ready: Studio, quantization: str) -> None:
    found = {}
    for engine in ("fast", "trl"):
        recipe = Recipe().with_values(
            {"model": "tiny", "dataset": "little", "max_steps": 20, "lora_dropout": 0.0, "learning_rate": 1e-3,
             "quantization": quantization, "engine": engine}
        )  # fmt: skip
        run = runs.start(ready, recipe)
        while (info := runs.get(ready, run.id)).state not in FINAL:
            time.sleep(0.2)
        assert info.state == "completed" and info.plan["engine"] == engine, info.message
        found[engine] = [point["loss"] for point in runs.points(ready, run.id).metrics]
    for mine, theirs in zip(found["fast"], found["trl"], strict=True):
        assert mine == pytest.approx(theirs, rel=0.01)
