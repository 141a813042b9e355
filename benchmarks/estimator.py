"""The memory estimate against the measured peak of a real training step on a CPU.

    python benchmarks/estimator.py MODEL_FOLDER

Measured: bytes of weights, adapter and optimizer state, plus the highest sum of torch's own allocations and releases
during one whole step (forward, backward, optimizer), as torch's profiler records them. Each configuration runs in a
process of its own. Prints a table; the ratio is predicted / measured, without the runtime's share.
"""

import argparse
import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# batch, length, recipe values
CONFIGURATIONS: list[tuple[int, int, dict[str, Any]]] = [
    (8, 166, {}),
    (1, 256, {}),
    (4, 400, {"lora_dropout": 0.05}),
    (4, 400, {"gradient_checkpointing": True}),
    (2, 800, {}),
    (4, 300, {"dtype": "float32"}),
    (4, 256, {"dtype": "float32", "gradient_checkpointing": True}),
    (4, 300, {"quantization": "nf4"}),
    (4, 300, {"quantization": "nf4", "gradient_checkpointing": True, "lora_dropout": 0.1}),
    (4, 300, {"r": 64, "target_modules": ["q_proj", "v_proj"]}),
]
TRAINED = 0.4  # share of the tokens with a label


def measure(folder: Path, batch: int, length: int, values: dict[str, Any]) -> tuple[int, int]:
    """Predicted and measured bytes of one configuration, in this process."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from torch.profiler import ProfilerActivity, profile
    from trl.trainer.utils import add_fused_lm_head

    from studio.engine import loading
    from studio.engine.head import score_trained_positions_only
    from studio.memory.estimate import footprint
    from studio.memory.shapes import read_shape
    from studio.recipe import Recipe

    shape_values = {"per_device_train_batch_size": batch, "max_length": length, "lora_dropout": 0, **values}
    recipe = Recipe().with_values(shape_values)
    device = loading.pick_device()
    model = loading.load_base(folder, recipe.model.dtype, device, recipe.quantization)
    loading.use_plain_attention_if_short(model, device, length)
    checkpointing, method = recipe.schedule.gradient_checkpointing, recipe.method
    quantized = recipe.quantization.quantization == "nf4"
    if quantized:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    lora = LoraConfig(
        r=method.r, lora_alpha=method.lora_alpha, lora_dropout=method.lora_dropout,
        target_modules=method.target_modules, task_type="CAUSAL_LM",
    )  # fmt: skip
    model = get_peft_model(model, lora)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if quantized:  # as TRL does
        for parameter in trained:
            parameter.data = parameter.data.to(torch.bfloat16)
    add_fused_lm_head(model.get_base_model(), outputs=("log_probs", "entropy", "is_top1"))
    score_trained_positions_only(model.get_base_model())
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model.train()
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    ids = torch.randint(0, 1000, (batch, length))
    labels = ids.clone()
    labels[:, : length - round(length * TRAINED)] = -100

    def step() -> None:
        half = recipe.model.dtype == "bfloat16"
        with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
            out = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, fused_lm_head=True)
        (-out.log_probs.sum() / out.label_mask.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()

    step()
    held = [*model.parameters(), *model.buffers()]
    held += [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    static = sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    found = footprint(read_shape(folder), recipe, "cpu", length, TRAINED)
    predicted = found.total - next(item.bytes for item in found.items if item.key == "runtime")
    return predicted, static + peak


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("--one", type=int, help="measure one configuration here and print JSON")
    given = parser.parse_args()
    if given.one is not None:
        print(json.dumps(measure(given.model, *CONFIGURATIONS[given.one])))
        return
    errors = []
    print("| batch | length | recipe | predicted MiB | measured MiB | ratio |\n|---|---|---|---|---|---|")
    for index, (batch, length, values) in enumerate(CONFIGURATIONS):
        command = [sys.executable, __file__, str(given.model), "--one", str(index)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        predicted, measured = json.loads(done.stdout.splitlines()[-1])
        errors.append(abs(predicted / measured - 1))
        said = ", ".join(f"{name} {value}" for name, value in values.items()) or "bf16 LoRA"
        figures = f"{predicted / 2**20:,.0f} | {measured / 2**20:,.0f} | {predicted / measured:.2f}"
        print(f"| {batch} | {length} | {said} | {figures} |", flush=True)
    print(f"\nMedian absolute error {sorted(errors)[len(errors) // 2]:.1%}, largest {max(errors):.1%}.")


if __name__ == "__main__":
    main()
