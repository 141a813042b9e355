"""What the studio can do, short of training: models, datasets, estimates, runs that are refused."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from studio.errors import BadInput, Conflict, NotFound
from studio.machine import ram
from studio.recipe import Recipe
from studio.rundir import boot_id, create, write_json
from studio.services.chat import chat, participants
from studio.services.core.keeper import Keeper, welcome
from studio.services.core.studio import Studio
from studio.services.data import datasets, examples
from studio.services.exports import exports
from studio.services.host import machine, usage
from studio.services.models import models
from studio.services.planning import estimates, presets, speed
from studio.services.runs import runs
from tests.conftest import little_rows, write_jsonl
from tests.tiny import tiny_model

Write = Callable[[str, str | bytes], Path]


def quiet(*_: object) -> None:
    """A progress that nobody watches."""


def test_a_local_folder_becomes_a_model(ready: Studio, tiny: Path) -> None:
    (info,) = models.list_models(ready)
    assert (info.id, info.architecture, info.has_template) == ("tiny", "llama", True)
    assert models.add(ready, str(tiny), quiet) == info
    assert models.linear_modules(ready, "tiny")["q_proj"].layers == 2


@pytest.mark.parametrize(
    ("model", "name", "layers", "parameters", "attention"),
    [
        ("meta-llama/Llama-3.2-1B", "q_proj", 16, 16 * 2048 * 2048, ["q_proj", "k_proj", "v_proj", "o_proj"]),
        ("openai-community/gpt2", "c_attn", 12, 12 * 768 * 2304, ["c_attn"]),  # its c_proj is also the MLP's
        ("EleutherAI/pythia-1b", "dense", 16, 16 * 2048 * 2048, ["query_key_value", "dense"]),
    ],
)
def test_linear_layers_are_told_with_their_parameters(
    studio: Studio, model: str, name: str, layers: int, parameters: int, attention: list[str]
) -> None:
    found = models.linear_modules(studio, model)
    assert (found[name].layers, found[name].parameters) == (layers, parameters)
    assert [name for name, kind in found.items() if kind.attention] == attention


def test_another_folder_of_the_same_name_is_refused(ready: Studio, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="already names"):
        models.add(ready, str(tiny_model(tmp_path / "tiny")), quiet)


@pytest.mark.parametrize("name", ["nothing", "../models", "/etc", "..", "", "a/b/c", "tiny/../tiny"])
def test_a_model_that_is_not_there_is_named_with_the_way_out(ready: Studio, name: str) -> None:
    with pytest.raises(NotFound, match=r"known: tiny|neither a folder"):
        models.get(ready, name)


def test_a_model_whose_folder_vanished_is_not_offered(studio: Studio, tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "away")
    models.add(studio, str(folder), quiet)
    folder.rename(tmp_path / "gone")
    assert models.list_models(studio) == []


def test_the_same_file_added_twice_is_one_dataset(studio: Studio, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "little.jsonl", little_rows())
    first, second = datasets.add(studio, path), datasets.add(studio, path, name="again")
    assert first == second
    assert [info.name for info in datasets.list_datasets(studio)] == ["little"]


def test_the_sample_is_there_at_the_first_visit(studio: Studio) -> None:
    welcome(studio)
    info = datasets.get(studio, "tickets")
    assert (info.rows, info.held_out, info.format) == (360, 60, "alpaca")
    welcome(studio)
    assert len(datasets.list_datasets(studio)) == 1


def test_the_index_of_datasets_is_found_again_on_disk(ready: Studio) -> None:
    ready.database.close()
    settings = ready.settings
    ready.close()
    settings.database.unlink()
    with Keeper(settings) as studio:
        assert datasets.get(studio, "little").rows == 24


def test_what_the_model_sees_is_marked_token_by_token(ready: Studio) -> None:
    view = examples.tokens_of(ready, "little", 1, "tiny")
    assert "".join(token.text for token in view.tokens) == view.text
    trained = "".join(token.text for token in view.tokens if token.trained)
    assert trained == "1<|im_end|>" and view.trained == len([t for t in view.tokens if t.trained])
    assert [token.text for token in view.tokens if token.special] == ["<|im_start|>", "<|im_end|>"] * 2
    short = examples.tokens_of(ready, "little", 1, "tiny", {"max_length": 10})
    assert short.cut == short.total - 10 and short.trained == 0 and "left out" in short.note


def recipe(**values: object) -> Recipe:
    return Recipe().with_values({"model": "tiny", "dataset": "little", **values})


def test_an_estimate_adds_up_and_counts_steps(ready: Studio) -> None:
    found = estimates.estimate(ready, recipe(per_device_train_batch_size=4, held_out=0.25))
    assert found.total == sum(item.bytes for item in found.items)
    assert (found.examples, found.steps) == (18, 5)
    assert found.fits and found.advice == []


def test_an_estimate_that_does_not_fit_says_what_would(ready: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    small = dataclasses.replace(machine.look(ready), device_total=2**20, device_used=0)
    monkeypatch.setattr(machine, "look", lambda _: small)
    found = estimates.estimate(ready, recipe(engine="trl"))
    assert not found.fits and any("gradient_checkpointing" in line for line in found.advice)


@pytest.mark.parametrize(
    ("files", "given_up"),
    [
        (("memory.max", "memory.current"), "inactive_file"),
        (("memory.limit_in_bytes", "memory.usage_in_bytes"), "total_inactive_file"),
    ],
    ids=["control groups of the second kind", "of the first"],
)
def test_in_a_container_it_is_that_ones_memory(
    ready: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: tuple[str, str], given_up: str
) -> None:
    """On a server with much more. What the system remembers of files it gives up when it must: that is not taken."""
    mine = "" if files[0] == "memory.max" else "memory"
    monkeypatch.setattr(ram, "groups", lambda controller, _: [tmp_path] if controller == mine else [])
    for name, text in zip(
        (*files, "memory.stat"), ("50000000", "40000000", f"file 1\n{given_up} 10000000"), strict=True
    ):
        (tmp_path / name).write_text(f"{text}\n")
    found = estimates.estimate(ready, recipe(engine="trl"))
    assert (found.available, found.fits) == (20_000_000, False)
    seen = usage.now(ready, 0).samples[-1]
    assert (seen.memory_used, seen.memory_total) == (30_000_000, 50_000_000)
    (tmp_path / files[0]).write_text("max\n" if mine == "" else f"{2**63 - 4096}\n")  # not bounded
    assert machine.look(ready).memory_total == psutil.virtual_memory().total


def test_warnings_come_with_numbers(ready: Studio) -> None:
    wild = recipe(learning_rate=0.1, lora_alpha=512, r=4, max_length=4096)
    few = {"max_steps": 1, "held_out": 0, "per_device_train_batch_size": 1}
    found = estimates.estimate(ready, wild.with_values(few))
    text = " ".join(found.warnings)
    for words in ("0.1 is high", "lora_alpha / r is 128", "exceeds the 1024 positions", "1 steps see 4%"):
        assert words in text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": "absent"}, "no model 'absent'"),
        ({"dataset": "absent"}, "no dataset 'absent'"),
        ({"dataset": ""}, "No dataset is chosen"),
        ({"target_modules": ["q_proj", "w_proj"]}, "no linear layer 'w_proj'. It has: down_proj"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_anything_is_written(
    ready: Studio, values: dict[str, object], said: str
) -> None:
    with pytest.raises(BadInput) as error:
        runs.start(ready, recipe(**values))
    assert said in str(error.value)
    assert list(ready.settings.runs.iterdir()) == []


def test_every_preset_is_a_valid_recipe(ready: Studio) -> None:
    for preset in presets.list_presets(ready):
        made = Recipe().with_values(preset.values)
        assert preset.title and preset.why
        assert made.get("learning_rate") > 0
    with pytest.raises(NotFound, match="Known: sample"):
        presets.get(ready, "absent")


def test_what_a_killed_export_left_half_written_is_removed(ready: Studio) -> None:
    spec = {"kind": "merged", "run_id": "r", "owner": ready.owner, "name": "r", "created": 1.0}
    spec |= {"model": {"id": "tiny", "path": "-"}}
    export = create(ready.settings.exports, "0123456789abcdef", {"export.json": json.dumps(spec)})
    write_json(export.claim, {"nonce": "n", "time": 1.0, "boot_id": boot_id(), "pid": 2**22 + 1})
    (export.path / ".merged.77.tmp").mkdir()
    (export.path / ".merged.77.tmp" / "model.safetensors").write_bytes(b"half")
    (export.path / ".r-adapter.zip.tmp").write_bytes(b"half")
    info = exports.get(ready, export.id)
    assert (info.state, info.path) == ("interrupted", None)
    assert sorted(path.name for path in export.path.iterdir()) == ["claim.json", "control", "export.json"]


def test_questions_and_exports_want_a_run_with_an_adapter(ready: Studio) -> None:
    with pytest.raises(NotFound):
        participants.resolve(ready, ["base", "absent"])
    with pytest.raises(BadInput, match="Choose a run"):
        participants.resolve(ready, ["base"])
    with pytest.raises(BadInput, match="Write a question"):
        list(chat.ask(ready, [], [[{"role": "user", "content": "  "}]]))
    with pytest.raises(BadInput, match="no export to 'floppy'"):
        exports.start(ready, "absent", "floppy")
    for name in ("absent", "../../etc", "0" * 16):
        with pytest.raises(NotFound):
            exports.get(ready, name)
    assert issubclass(Conflict, BadInput)


def test_bfloat16_on_a_processor_without_it_is_told_as_slow_as_it_is(ready: Studio) -> None:
    """On the reference path; the fast one multiplies in float32 instead."""
    recipe = Recipe().with_values({"model": "tiny", "dataset": "little"})
    here = dataclasses.replace(machine.look(ready), device_kind="cpu", bf16_fast=False)
    fast, trl, exact = (
        speed.of(ready, recipe.with_values(values), here).rate
        for values in ({}, {"engine": "trl"}, {"engine": "trl", "dtype": "float32"})
    )
    assert trl < exact / 10 and fast > exact
    assert speed.of(ready, recipe.with_values({"dtype": "float32"}), here).rate == fast
