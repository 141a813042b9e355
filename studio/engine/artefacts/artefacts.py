"""Save a training run's adapters, models and checkpoints, each complete or not at all.

A checkpoint contains everything needed to resume from it, without pickle:

    adapter_model.safetensors, adapter_config.json   the adapter in PEFT's own layout, for the plain base (trained.py);
                                                     or model.safetensors, config.json: every weight, in float32
    optimizer.safetensors, optimizer.json            the optimizer's tensors, and its numbers and groups
    scheduler.json                                   state of the learning-rate schedule
    rng.safetensors, rng.json                        the random states: torch's, and Python's and numpy's
    window.json                                      sums since the last point, early stopping, guards (step_state.py)
    trainer_state.json                               the Hugging Face trainer's step, epoch and log

The order of the examples is not saved, as seed and epoch determine it. engine/training/resume.py resumes from a
checkpoint.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.engine.artefacts.tensor_tree import write_tree
from studio.engine.artefacts.trained import Trained
from studio.engine.inference.loading import TEMPLATE_FILE, TOKENIZER_FILES
from studio.engine.training.step_state import StepState
from studio.recipe.fields import Data
from studio.rundir import RunDir, verify_folder, whole_folder, write_json, write_text


def copy_tokenizer(model_folder: Path, folder: Path, own_template: str = "") -> None:
    """Copy the tokenizer and chat template used in training, byte for byte; own_template: the recipe's, if any."""
    for name in TOKENIZER_FILES:
        if (model_folder / name).is_file():
            shutil.copyfile(model_folder / name, folder / name)
    if own_template:
        # transformers prefers this file to a template in tokenizer_config.json.
        write_text(folder / TEMPLATE_FILE, own_template)


def copy_generation(model_folder: Path, folder: Path) -> None:
    """Copy the base's generation settings, which list every end-of-answer token."""
    path = model_folder / "generation_config.json"
    if path.is_file():
        shutil.copyfile(path, folder / path.name)


def copy_license(model_folder: Path, folder: Path) -> None:
    """Copy the base's licence, if its folder has one."""
    for path in sorted(model_folder.iterdir()):
        if path.is_file() and path.name.upper().startswith(("LICENSE", "LICENCE", "USE_POLICY")):
            shutil.copyfile(path, folder / path.name)


def save_adapter(trained: Trained, run: RunDir, model_folder: Path, card: str, own_template: str = "") -> None:
    """Save the run's adapter so that any script with PEFT loads it; on this machine its folder is enough."""
    with whole_folder(run.adapter) as folder:
        trained.save(folder)
        # An absolute path, so that it works from any directory; an export writes the model's name instead.
        set_base(folder, str(model_folder))
        copy_tokenizer(model_folder, folder, own_template)
        write_text(folder / "README.md", card)


def save_model(trained: Trained, run: RunDir, model_folder: Path, card: str, data: Data, dtype: str) -> None:
    """Save the run's whole model with the files that a script needs to load it."""
    with whole_folder(run.model) as folder:
        trained.save(folder, dtype)
        copy_tokenizer(model_folder, folder, data.own_chat_template)
        copy_generation(model_folder, folder)
        copy_license(model_folder, folder)
        write_text(folder / "README.md", card)


def set_base(folder: Path, base: str) -> None:
    """Write the base model into an adapter's config."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base
    for key in ("target_modules", "feedforward_modules"):
        if isinstance(config.get(key), list):
            config[key].sort()  # PEFT stores a set: sort it so that the same run gives the same file
    write_json(path, config)


def save_checkpoint(
    trainer: Any, trained: Trained, run: RunDir, moment: StepState, stopping: Mapping[str, Any]
) -> Path:
    """Save the checkpoint of the step that ended at `moment`; stopping: the state of early stopping."""
    final = run.checkpoints / f"step-{moment.step}"
    with whole_folder(final) as folder:
        write_checkpoint(trainer, trained, folder, moment, stopping)
    return final


def write_checkpoint(
    trainer: Any, trained: Trained, folder: Path, moment: StepState, stopping: Mapping[str, Any]
) -> None:
    """Write the files of a checkpoint to `folder`."""
    trained.save(folder)
    write_tree(trainer.optimizer.state_dict(), folder / "optimizer")
    write_json(folder / "scheduler.json", trainer.lr_scheduler.state_dict())
    moment.write(folder, stopping)
    trainer.state.save_to_json(str(folder / "trainer_state.json"))


def prune_checkpoints(run: RunDir, keep: int, spare: int, newest: int) -> list[int]:
    """Delete old checkpoints and return their steps.

    Keeps the newest `keep` checkpoints up to step `newest`, which was just saved, and that of step `spare`. Checkpoints
    of later steps come from an earlier worker whose steps were repeated, and are deleted. Nothing is deleted if the
    newest checkpoint is not intact.
    """
    checkpoints = sorted((int(path.name.removeprefix("step-")), path) for path in run.checkpoints.glob("step-[0-9]*"))
    valid = [(step, path) for step, path in checkpoints if step <= newest]
    kept = {step for step, _ in valid[-keep:]} | {spare}
    old = [(step, path) for step, path in checkpoints if step > newest or step not in kept]
    if not old or not valid or verify_folder(valid[-1][1]) is not None:
        return []
    for _, path in old:
        # Rename first: a kill in between must not leave half a checkpoint under its name.
        aside = path.with_name(f".{path.name}.old")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(path.rename(aside), ignore_errors=True)
    return [step for step, _ in old]


def sweep(run: RunDir) -> None:
    """Delete half-written and half-deleted checkpoints of a worker that was killed."""
    for path in run.checkpoints.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)
