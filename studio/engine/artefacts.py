"""What a training run leaves on disk: adapters, models and checkpoints, whole or not there.

A checkpoint holds all that is needed to go on from it, without pickle:

    adapter_model.safetensors, adapter_config.json   the adapter in PEFT's own layout, for the plain base (weights.py);
                                                     or model.safetensors, config.json: every weight, in float32
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
from studio.engine.weights import Trained
from studio.rundir import RunDir, verify_folder, whole_folder, write_json, write_text
from studio.themes import Data


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


def copy_tokenizer(model_folder: Path, folder: Path, own_template: str = "") -> None:
    """The tokenizer and chat template, byte for byte as they were trained with; own_template: the recipe's, if any."""
    for name in TOKENIZER_FILES:
        if (model_folder / name).is_file():
            shutil.copyfile(model_folder / name, folder / name)
    if own_template:
        # transformers prefers this file to a template in tokenizer_config.json.
        write_text(folder / TEMPLATE_FILE, own_template)


def copy_generation(model_folder: Path, folder: Path) -> None:
    """The base's own generation settings: they name every token that ends an answer."""
    path = model_folder / "generation_config.json"
    if path.is_file():
        shutil.copyfile(path, folder / path.name)


def copy_license(model_folder: Path, folder: Path) -> None:
    """The base's licence, where its folder has one."""
    for path in sorted(model_folder.iterdir()):
        if path.is_file() and path.name.upper().startswith(("LICENSE", "LICENCE", "USE_POLICY")):
            shutil.copyfile(path, folder / path.name)


def save_adapter(trained: Trained, run: RunDir, model_folder: Path, card: str, own_template: str = "") -> None:
    """Write the run's adapter: any script with PEFT loads it, on this machine by its folder alone."""
    with whole_folder(run.adapter) as folder:
        trained.save(folder)
        # An absolute path, so that it is found from anywhere; an export writes the model's name instead.
        set_base(folder, str(model_folder))
        copy_tokenizer(model_folder, folder, own_template)
        write_text(folder / "README.md", card)


def save_model(trained: Trained, run: RunDir, model_folder: Path, card: str, data: Data, dtype: str) -> None:
    """Write the run's whole model, with what any script needs to load it."""
    with whole_folder(run.model) as folder:
        trained.save(folder, dtype)
        copy_tokenizer(model_folder, folder, data.own_chat_template)
        copy_generation(model_folder, folder)
        copy_license(model_folder, folder)
        write_text(folder / "README.md", card)


def set_base(folder: Path, base: str) -> None:
    """Write into an adapter folder which base model it belongs to."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    for key in ("target_modules", "feedforward_modules"):
        if isinstance(config.get(key), list):
            config[key].sort()  # PEFT keeps a set: the same run should give the same file
    write_json(path, config)


def save_checkpoint(trainer: Any, trained: Trained, run: RunDir, rng: RandomState) -> Path:
    """Write a checkpoint of the trainer's present step."""
    final = run.checkpoints / f"step-{trainer.state.global_step}"
    with whole_folder(final) as folder:
        trained.save(folder)
        _write_tree(trainer.optimizer.state_dict(), folder / "optimizer")
        write_json(folder / "scheduler.json", trainer.lr_scheduler.state_dict())
        rng.write(folder)
        trainer.state.save_to_json(str(folder / "trainer_state.json"))
    return final


def prune_checkpoints(run: RunDir, keep: int, spare: int = 0) -> list[int]:
    """Delete all but the newest `keep` checkpoints and that of step `spare`, if the newest is whole; returns the steps
    that went."""
    found = sorted((int(path.name.removeprefix("step-")), path) for path in run.checkpoints.glob("step-[0-9]*"))
    old = [(step, path) for step, path in found[:-keep] if step != spare]
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
