"""What a training run leaves on disk: adapters and checkpoints, whole or not there.

A checkpoint holds all that is needed to go on from it, without pickle:

    adapter_model.safetensors, adapter_config.json   the adapter in PEFT's own layout
    optimizer.safetensors, optimizer.json            the optimizer's tensors, and its numbers and groups
    scheduler.json                                   where the learning rate is
    rng.safetensors, rng.json                        the random states: torch's, and Python's and numpy's
    trainer_state.json                               the Hugging Face trainer's step, epoch and log

The order of the examples is not kept: seed and epoch give it again. What this does not do: resume from one.
"""

import json
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.engine.loading import TEMPLATE_FILE, TOKENIZER_FILES
from studio.rundir import RunDir, verify_folder, whole_folder, write_json, write_text


@dataclass(frozen=True, slots=True)
class RandomState:
    """All random number generators at one moment."""

    python: Any
    numpy: Any
    torch: dict[str, Any]

    @classmethod
    def now(cls) -> "RandomState":
        import numpy
        import torch

        states = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            states |= {f"cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
        return cls(random.getstate(), numpy.random.get_state(), states)

    def write(self, folder: Path) -> None:
        from safetensors.torch import save_file

        kind, keys, position, has_gauss, gauss = self.numpy
        write_json(
            folder / "rng.json",
            {
                "python": self.python,
                "numpy": [kind, keys.tolist(), position, has_gauss, gauss],
            },
        )
        save_file(self.torch, folder / "rng.safetensors")


def save_weights(model: Any, folder: Path) -> None:
    """The adapter of `model` in PEFT's layout, without PEFT's blank card."""
    # Asking whether embeddings were trained would ask the hub for the base's config; LoRA never trains them.
    model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


def copy_tokenizer(model_folder: Path, folder: Path, own_template: str = "") -> None:
    """The tokenizer and chat template, byte for byte as they were trained with; own_template: the recipe's, if any."""
    for name in TOKENIZER_FILES:
        if (model_folder / name).is_file():
            shutil.copyfile(model_folder / name, folder / name)
    if own_template:
        # transformers prefers this file to a template in tokenizer_config.json.
        write_text(folder / TEMPLATE_FILE, own_template)


def copy_license(model_folder: Path, folder: Path) -> None:
    """The base's licence, where its folder has one."""
    for path in sorted(model_folder.iterdir()):
        if path.is_file() and path.name.upper().startswith(("LICENSE", "LICENCE", "USE_POLICY")):
            shutil.copyfile(path, folder / path.name)


def save_adapter(model: Any, run: RunDir, model_folder: Path, card: str, own_template: str = "") -> None:
    """Write the run's adapter: any script with PEFT loads it, on this machine by its folder alone."""
    with whole_folder(run.adapter) as folder:
        save_weights(model, folder)
        # An absolute path, so that it is found from anywhere; an export writes the model's name instead.
        set_base(folder, str(model_folder))
        copy_tokenizer(model_folder, folder, own_template)
        write_text(folder / "README.md", card)


def set_base(folder: Path, base: str) -> None:
    """Write into an adapter folder which base model it belongs to."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    if isinstance(config.get("target_modules"), list):
        config["target_modules"].sort()  # PEFT keeps a set: the same run should give the same file
    write_json(path, config)


def save_checkpoint(trainer: Any, run: RunDir, rng: RandomState) -> Path:
    """Write a checkpoint of the trainer's present step."""
    final = run.checkpoints / f"step-{trainer.state.global_step}"
    with whole_folder(final) as folder:
        save_weights(trainer.model, folder)
        _write_tree(trainer.optimizer.state_dict(), folder / "optimizer")
        write_json(folder / "scheduler.json", trainer.lr_scheduler.state_dict())
        rng.write(folder)
        trainer.state.save_to_json(str(folder / "trainer_state.json"))
    return final


def prune_checkpoints(run: RunDir, keep: int) -> list[int]:
    """Delete all but the newest `keep` checkpoints, if the newest is whole; returns the steps that went."""
    found = sorted((int(path.name.removeprefix("step-")), path) for path in run.checkpoints.glob("step-[0-9]*"))
    old = found[:-keep]
    if not old or verify_folder(found[-1][1]) is not None:
        return []
    for _, path in old:
        # Out of sight first: a kill in between must not leave half a checkpoint under its name.
        aside = path.rename(path.with_name(f".{path.name}.old"))
        shutil.rmtree(aside, ignore_errors=True)
    return [step for step, _ in old]


def _write_tree(tree: Mapping[str, Any], path: Path) -> None:
    """A nested state as two files: `.safetensors` for its tensors, `.json` for the rest, which names them."""
    from safetensors.torch import save_file

    tensors: dict[str, Any] = {}
    write_json(path.with_suffix(".json"), _split(tree, "", tensors))
    save_file(tensors, path.with_suffix(".safetensors"))


def _split(value: Any, name: str, tensors: dict[str, Any]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        # A copy of its own: 8-bit optimizers share tables between parameters, safetensors refuses shared storage.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {str(key): _split(item, f"{name}/{key}" if name else str(key), tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_split(item, f"{name}/{index}", tensors) for index, item in enumerate(value)]
    return value
