"""The evaluator's figures are those of plain libraries: the same losses and answers, for every kind of adapter."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from studio.dataset.store import read_records
from studio.dataset.tokens.encode import Encoder
from studio.dataset.tokens.training_set import encode_dataset
from studio.engine.inference import batch_eval, loading
from studio.engine.inference.adapter_slots import AdapterSlots
from studio.engine.workers import evaluate as evaluating
from studio.engine.workers import harness, train
from studio.evaluation import files
from studio.evaluation.files import Column, Order, PromptSet
from studio.evaluation.prompts import Check, of_text
from studio.recipe import Recipe
from studio.rundir import Exit, RunDir, create, read_events
from studio.services.core.keeper import Keeper
from studio.services.data import datasets
from studio.services.evals import prompt_sets
from studio.settings import Settings
from tests.conftest import little_rows, write_jsonl
from tests.tiny import tiny_model

pytestmark = pytest.mark.engine
QUICK = {
    "dataset": "little", "dtype": "float32", "held_out": 0.4, "per_device_train_batch_size": 4, "lora_dropout": 0.0,
    "r": 4, "lora_alpha": 8, "max_steps": 3, "learning_rate": 1e-2, "lr_scheduler_type": "constant",
    "warmup_ratio": 0.0, "num_virtual_tokens": 5, "max_length": 64, "save_steps": 2, "save_total_limit": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small dataset, some of whose rows are cut by max_length."""
    folder = tmp_path_factory.mktemp("data")
    with Keeper(Settings(home=folder / "home", offline=True)) as studio:
        return Path(datasets.add(studio, write_jsonl(folder / "little.jsonl", little_rows())).path)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("base") / "tiny")


def trained(root: Path, data: Path, base: Path, **values: Any) -> RunDir:
    """A run that was trained in this process."""
    recipe = Recipe().with_values({**QUICK, **values})
    told = {"id": data.name, "path": str(data), "name": "little", "sha256": data.name}
    inputs = {"recipe.yaml": recipe.to_yaml(), "dataset.json": json.dumps(told),
              "model.json": json.dumps({"id": "tiny", "path": str(base)})}  # fmt: skip
    root.mkdir(exist_ok=True)
    run = create(root, f"r{len(list(root.iterdir()))}", inputs)
    harness.serve("", train.train, [str(run.path), "--nonce", "n"])
    end = Exit.read(run)
    assert end is not None and end.state == "completed", end
    return run


def held_out(run: RunDir, data: Path, base: Path) -> Any:
    recipe = Recipe.load(run.recipe)
    return encode_dataset(data, recipe.data, base, recipe.schedule.seed).held_out


def evaluated(
    root: Path, runs: list[Path], run: RunDir, data: Path, base: Path, tokens: int = 6
) -> tuple[RunDir, Exit]:
    """An evaluation done in this process: held-out rows and two prompts of different lengths."""
    recipe = Recipe.load(run.recipe)
    told = recipe.data.model_dump()
    names = ["adapted", *(f"other{number}" for number in range(1, len(runs)))]
    columns = [Column("base", "tiny", "", told)]
    columns += [Column(name, name, str(path), told) for name, path in zip(names, runs, strict=True)]
    examples = held_out(run, data, base)
    records = {record.row: record for record in read_records(data)}
    asked = [(prompt_sets.of_record(records[example.row]), example.row) for example in examples]
    sets = {
        "held-out": [replace(prompt, row=row) for prompt, row in asked],
        "mine": [of_text("Hi", check=Check("contains", ("z",))), of_text("Say something longer than that, please.")],
    }
    order = Order(
        run_id="r", run_name="r", owner="local", created=0.0, model="tiny", model_folder=str(base),
        dtype=recipe.model.dtype, dataset="little", dataset_folder=str(data), seed=recipe.schedule.seed,
        sets=[PromptSet("held-out", "Held-out", "held-out", len(asked), tokens),
              PromptSet("mine", "Mine", "own", 2, tokens)],
        columns=columns, rows=[example.row for example in examples],
    )  # fmt: skip
    root.mkdir(exist_ok=True)
    folder = create(root, f"e{len(list(root.iterdir()))}", {
        files.ORDER: json.dumps(asdict(order)), "prompts.jsonl": files.dump_prompts(sets.items()),
    })  # fmt: skip
    harness.serve("", evaluating.evaluate, [str(folder.path), "--nonce", "n"])
    end = Exit.read(folder)
    assert end is not None
    return folder, end


def plain(base: Path, folder: Path | None, whole: bool = False) -> Any:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder if whole else base, dtype="float32")
    return model.eval() if folder is None or whole else PeftModel.from_pretrained(model, folder).eval()


def losses(model: Any, examples: Any) -> tuple[float, int]:
    """Sum of losses and tokens, one example after the other, as transformers computes them."""
    import torch

    total, count = 0.0, 0
    for example in examples:
        ids, labels = torch.tensor([example.input_ids]), torch.tensor([example.labels])
        with torch.no_grad():
            found = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -ids.shape[1] :]
        wanted = labels[0, 1:]
        total += float(torch.nn.functional.cross_entropy(found[:-1].float(), wanted, reduction="sum"))
        count += int((wanted != -100).sum())
    return total, count


def answers(model: Any, encoder: Any, asked: list[list[int]], tokens: int) -> list[str]:
    """Greedy answers, one prompt alone at a time."""
    import torch
    from transformers import GenerationConfig

    found = []
    for prompt in asked:
        ids = torch.tensor([prompt])
        config = GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=encoder.eos_ids,
                                  pad_token_id=encoder.pad_id)  # fmt: skip
        with torch.no_grad():
            made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        row = made[0, ids.shape[1] :].tolist()
        end = next((place for place, token in enumerate(row) if token in encoder.eos_ids), len(row))
        found.append(encoder.tokenizer.decode(row[:end], skip_special_tokens=True))
    return found


@pytest.mark.parametrize(
    "values",
    [{}, {"use_dora": True}, {"method": "ia3"}, {"method": "prompt"}, {"method": "prefix"},
     {"method": "full", "learning_rate": 1e-3}, {"template": "alpaca", "max_length": 512}],
    ids=["lora", "dora", "ia3", "prompt", "prefix", "full", "alpaca"],
)  # fmt: skip
def test_figures_are_those_of_plain_libraries(tmp_path: Path, data: Path, base: Path, values: dict[str, Any]) -> None:
    run = trained(tmp_path / "runs", data, base, **values)
    assert run.trained is not None
    folder, end = evaluated(tmp_path / "evaluations", [run.trained], run, data, base)
    assert end.state == "completed", f"{end.message} {end.traceback}"
    result = files.read_result(folder.path)
    assert result is not None
    models = {"base": plain(base, None), "adapted": plain(base, run.trained, values.get("method") == "full")}
    examples, recipe = held_out(run, data, base), Recipe.load(run.recipe)
    (score,) = [score for score in result.sets[0].scores if score.metric == "loss"]
    assert score.rows == len(examples) > 3
    for column, model in models.items():
        total, count = losses(model, examples)
        assert score.values[column] == pytest.approx(total / count, rel=1e-4), column
    # The trainer's own evaluation of what it saved, over the same rows; it takes the mean of batches of 8.
    told = [event.payload["eval_loss"] for event in read_events(run.events).events if event.kind == "eval"][-1]
    assert score.values["adapted"] == pytest.approx(told, rel=0.05)
    assert math.isclose(math.exp(score.values["adapted"]), next(
        one for one in result.sets[0].scores if one.metric == "perplexity").values["adapted"])  # fmt: skip
    # A held-out row is asked as it was trained: what stands before its first trained token.
    encoder = Encoder(base, recipe.data)
    asked = [one.input_ids[: next(at for at, label in enumerate(one.labels) if label != -100)] for one in examples]
    asked += [encoder.prompt_ids([dict(turn) for turn in row.prompt.messages]) for row in result.rows[len(examples) :]]
    for column, model in models.items():
        assert [row.answers[column] for row in result.rows] == answers(model, encoder, asked, 6), column


def test_checkpoints_are_columns_of_the_same_table(tmp_path: Path, data: Path, base: Path) -> None:
    run = trained(tmp_path / "runs", data, base)
    assert run.trained is not None
    early = run.checkpoints / "step-2"
    folder, end = evaluated(tmp_path / "evaluations", [run.trained, early], run, data, base)
    assert end.state == "completed", f"{end.message} {end.traceback}"
    result = files.read_result(folder.path)
    assert result is not None
    score = result.sets[0].scores[0]
    examples = held_out(run, data, base)
    for column, path in (("adapted", run.trained), ("other1", early)):
        total, count = losses(plain(base, path), examples)
        assert score.values[column] == pytest.approx(total / count, rel=1e-4), column
    assert score.values["adapted"] != score.values["other1"]


def test_a_prompt_that_does_not_fit_takes_nothing_from_others(tmp_path: Path, data: Path, base: Path) -> None:
    run = trained(tmp_path / "runs", data, base)
    assert run.trained is not None
    ask = batch_eval.Ask
    seats = AdapterSlots(base, "float32", loading.Device("cpu", "CPU"), lambda _: None)
    seats.load("adapted", run.trained)
    encoder = Encoder(base, Recipe.load(run.recipe).data)
    asker = batch_eval.Asker(
        seats, ["base", "adapted"], loading.Device("cpu", "CPU"), "float32", encoder, lambda: False
    )
    short, tight, long = [20] * 10, [20] * 1020, [20] * 1024  # the model reads 1,024
    alone = asker.answers([ask(0, {"base": short, "adapted": short}, 9)], lambda _: None)
    asks = [ask(place, {"base": ids, "adapted": ids}, 9) for place, ids in enumerate((short, tight, long))]
    found = asker.answers(asks, lambda _: None)
    assert found[0, "base"] == alone[0, "base"] and found[0, "adapted"] == alone[0, "adapted"]
    assert found[2, "base"] == found[2, "adapted"] == ("", "too long")
    assert len(found[1, "base"][0]) <= 4


def test_a_cancel_ends_it_and_keeps_nothing(tmp_path: Path, data: Path, base: Path) -> None:
    run = trained(tmp_path / "runs", data, base)
    assert run.trained is not None
    original = evaluating.open_models

    def cancelled(work: Any, *given: Any) -> Any:
        asker = original(work, *given)
        work.run.ask("cancel")
        return asker

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evaluating, "open_models", cancelled)
        folder, end = evaluated(tmp_path / "evaluations", [run.trained], run, data, base, tokens=400)
    assert (end.state, end.cause, end.message) == ("stopped", "cancelled", evaluating.NOTHING)
    assert files.read_result(folder.path) is None and not list(folder.path.glob(".result*"))
