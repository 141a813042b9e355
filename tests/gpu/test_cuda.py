"""The same path on an NVIDIA GPU: QLoRA with a paged 8-bit optimizer. Skipped where there is none."""

import shutil
import time

import pytest

from studio.recipe import Recipe
from studio.services import machine, runs
from studio.services.states import FINAL
from studio.services.studio import Studio

pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="needs an NVIDIA GPU; this machine has none"),
]


@pytest.mark.parametrize(("quantization", "optim"), [("none", "adamw_torch"), ("nf4", "paged_adamw_8bit")])
def test_a_run_trains_on_the_gpu(ready: Studio, quantization: str, optim: str) -> None:
    assert machine.look(ready).device_kind == "cuda"
    recipe = Recipe().with_values(
        {"model": "tiny", "dataset": "little", "max_steps": 10, "quantization": quantization, "optim": optim,
         "learning_rate": 1e-2, "save_steps": 5}
    )  # fmt: skip
    run = runs.start(ready, recipe)
    while (info := runs.get(ready, run.id)).state not in FINAL:
        time.sleep(0.2)
    assert info.state == "completed", info.message + runs.log_tail(ready, run.id)
    assert info.plan["optim"] == ("adamw_torch_fused" if optim == "adamw_torch" else optim)
    losses = [point["loss"] for point in runs.points(ready, run.id).metrics]
    assert losses[-1] < losses[0]
    assert info.memory is not None and 0 < info.memory < 2**30
