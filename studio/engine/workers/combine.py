"""Combine adapters into a new one: `python -m studio.engine.workers.combine ADAPTER_DIR --nonce X`.

origin.json names the adapters, their weights and the method (services/models/combining.py). PEFT's
add_weighted_adapter combines them on the base with all of them loaded. The result appears as `adapter/`, complete or
not at all. Its quality is not checked here.
"""

from pathlib import Path
from typing import Any

from studio.engine.artefacts import cards
from studio.engine.artefacts.artefacts import copy_tokenizer, set_base
from studio.engine.artefacts.run_facts import Facts, license_of
from studio.engine.inference import loading
from studio.engine.workers import harness
from studio.engine.workers.harness import Worker
from studio.errors import BadInput
from studio.recipe import Recipe
from studio.rundir import Exit, free_space_or_raise, read_json, tidy, verify_folder, whole_folder, write_text

STOPPED = "Cancelled: nothing was combined."
NEW = "combined"


def main() -> int:
    return harness.serve("Combine adapters.", combine)


def combine(work: Worker) -> Exit:
    """Combine the adapters named in origin.json."""
    tidy(work.run.path)
    origin, model = read_json(work.run.path / "origin.json"), read_json(work.run.path / "model.json")
    if not origin or not model:
        raise BadInput("This adapter has no readable origin.json and model.json. Combine it again.")
    recipe = Recipe.load(work.run.recipe)
    folders = [Path(parent["folder"]) for parent in origin["parents"]]
    work.phase("Checking the adapters")
    for folder, parent in zip(folders, origin["parents"], strict=True):
        fault = verify_folder(folder)
        if fault is not None:
            raise BadInput(f"{parent['name']} is not whole: {fault}")
    size = sum(path.stat().st_size for folder in folders for path in folder.glob("*.safetensors"))
    free_space_or_raise(work.run.path, 2 * size + 2**24, "The combined adapter")
    work.state("running")
    base = Path(model["path"])
    work.phase("Loading the libraries")
    loading.quiet_libraries()
    device = loading.pick_device()
    work.identify(device.words)
    with whole_folder(work.run.adapter) as aside:
        _write(work, origin, folders, base, device, aside)
        work.leave_if_asked(STOPPED)
        set_base(aside, str(base))
        copy_tokenizer(base, aside, recipe.data.own_chat_template)
        facts = Facts(base_license=license_of(base), origin=origin)
        write_text(aside / "README.md", cards.adapter_card(recipe.name, str(model["id"]), "", recipe, facts=facts))
    return Exit("completed", f"{recipe.name} is ready.")


def _write(
    work: Worker, origin: dict[str, Any], folders: list[Path], base: Path, device: loading.Device, aside: Path
) -> None:
    import torch
    from peft import PeftModel

    work.phase("Loading the base model")
    # In float32: combining sums and decomposes small numbers.
    model = loading.load_base(base, "float32", device)
    names = []
    for number, folder in enumerate(folders):
        work.phase(f"Loading adapter {number + 1} of {len(folders)}")
        work.leave_if_asked(STOPPED)
        names.append(f"part{number}")
        if number == 0:
            model = PeftModel.from_pretrained(model, str(folder), adapter_name=names[0], local_files_only=True)
        else:
            model.load_adapter(str(folder), adapter_name=names[-1], local_files_only=True)
    work.phase("Combining")
    torch.manual_seed(int(origin.get("seed", 0)))
    try:
        model.add_weighted_adapter(
            names,
            [float(parent["weight"]) for parent in origin["parents"]],
            NEW,
            combination_type=origin["method"],
            density=origin.get("density"),
        )
    except ValueError as error:
        raise BadInput(f"These adapters cannot be combined by {origin['method']}: {error}") from None
    work.phase("Saving the new adapter")
    config = model.peft_config[NEW]
    # The combined weights include the parents' scales, so rsLoRA scaling must not be applied again.
    config.use_rslora, config.init_lora_weights = False, True
    model.save_pretrained(str(aside), selected_adapters=[NEW])
    for path in (aside / NEW).iterdir():
        path.rename(aside / path.name)
    (aside / NEW).rmdir()


if __name__ == "__main__":
    raise SystemExit(main())
