"""Every method trains, saves, loads in plain libraries, answers in the chat and exports, on a model of 20,000 weights.

The runs go through the worker's own `train`, in this process: importing torch for each would take most of the time.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from studio.dataset.tokens.encode import Example
from studio.dataset.tokens.packing import pack
from studio.engine.compat.bitsandbytes import keep_trainable
from studio.engine.inference import adapter_slots, loading
from studio.engine.workers import export as exporting
from studio.engine.workers import harness, train
from studio.errors import BadInput
from studio.recipe import Recipe
from studio.rundir import Exit, RunDir, create, read_events, verify_folder
from studio.services.core.keeper import Keeper
from studio.services.data import datasets
from studio.settings import Settings
from tests.conftest import write_jsonl
from tests.tiny import HEADS, HIDDEN, KV_HEADS, LAYERS, tiny_model

pytestmark = pytest.mark.engine

CPU = loading.Device("cpu", "CPU")
ROWS = [{"instruction": f"{n} + {n} = ?", "output": str(2 * n) * (1 + n % 5)} for n in range(16)]
QUICK = {
    "dataset": "sums", "dtype": "float32", "held_out": 0.0, "per_device_train_batch_size": 4, "lora_dropout": 0.0,
    "r": 4, "lora_alpha": 8, "max_steps": 4, "learning_rate": 1e-2, "lr_scheduler_type": "constant",
    "warmup_ratio": 0.0, "num_virtual_tokens": 5,
}  # fmt: skip
BITS = {"bnb_4bit_use_double_quant": True, "dtype": "bfloat16"}
LORA = {
    "default": {},
    "gaussian": {"init_lora_weights": "gaussian"},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "bias all": {"bias": "all"},
    "bias of adapted layers": {"bias": "lora_only", "target_modules": ["q_proj", "v_proj"]},
    "lora plus": {"loraplus_lr_ratio": 16.0},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa, rslora, dora, biases": {
        "init_lora_weights": "pissa", "use_rslora": True, "use_dora": True, "bias": "all",
    },
    "olora": {"init_lora_weights": "olora"},
}  # fmt: skip
OTHERS = {
    "ia3": {"method": "ia3"},
    "prompt": {"method": "prompt"},
    "prefix": {"method": "prefix"},
    "full": {"method": "full", "learning_rate": 1e-3},
}
HELD = {
    f"{name}, {held}": {**values, **BITS, "quantization": held}
    for held in ("int8", "nf4", "fp4")
    for name, values in {
        "lora": {}, "dora": LORA["dora"], "biases": LORA["bias all"],
        "ia3": OTHERS["ia3"], "prompt": OTHERS["prompt"], "prefix": OTHERS["prefix"],
    }.items()
} | {
    f"loftq, {held}": {**BITS, "quantization": held, "init_lora_weights": "loftq"} for held in ("nf4", "fp4")
} | {
    "loftq, dora, nf4": {**BITS, "quantization": "nf4", "init_lora_weights": "loftq", "use_dora": True}
}  # fmt: skip


@dataclass
class Seen:
    """What a run in this process showed of itself."""

    run: RunDir
    fresh: Any = None  # logits before the first step
    base: Any = None  # the same with the adapter switched off
    trained: Any = None  # logits of the model that is saved
    trainer: Any = None
    without_gradient: set[str] = field(default_factory=set)
    rates: set[float] = field(default_factory=set)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event.payload for event in read_events(self.run.events).events if event.kind == kind]

    @property
    def losses(self) -> list[float]:
        return [float(point["loss"]) for point in self.events("metric")]

    @property
    def end(self) -> Exit:
        end = Exit.read(self.run)
        assert end is not None
        return end


Drive = Callable[..., Seen]


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with biases in its attention, so that there are some to train."""
    folder = tiny_model(tmp_path_factory.mktemp("biased") / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_bias": True}))
    tensors, random = load_file(folder / "model.safetensors"), np.random.default_rng(1)
    widths = {"q": HIDDEN, "k": HIDDEN // HEADS * KV_HEADS, "v": HIDDEN // HEADS * KV_HEADS, "o": HIDDEN}
    for layer in range(LAYERS):
        for name, width in widths.items():
            bias = random.normal(0, 0.05, width).astype(np.float32)
            tensors[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = bias
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a dataset of 16 sums."""
    folder = tmp_path_factory.mktemp("sums")
    with Keeper(Settings(home=folder / "home", offline=True)) as studio:
        return Path(datasets.add(studio, write_jsonl(folder / "sums.jsonl", ROWS)).path)


def new_run(root: Path, sums: Path, model: Path, values: dict[str, Any]) -> RunDir:
    recipe = Recipe().with_values({**QUICK, **values})
    pointer = {"id": sums.name, "path": str(sums), "name": "sums", "sha256": sums.name}
    files = {
        "recipe.yaml": recipe.to_yaml(),
        "dataset.json": json.dumps(pointer),
        "model.json": json.dumps({"id": "tiny", "path": str(model)}),
    }
    (root / "runs").mkdir(exist_ok=True)
    return create(root / "runs", f"r{len(list((root / 'runs').iterdir()))}", files)


def ids() -> Any:
    import torch

    return torch.arange(20, 44)[None]


def logits(model: Any, dtype: str = "float32") -> Any:
    import torch

    was = model.training
    model.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        found = model(input_ids=ids(), attention_mask=torch.ones_like(ids())).logits.float()
    model.train(was)
    # With a prompt before it, the answers to the tokens themselves.
    return found[0, -ids().shape[1] :]


def apart(one: Any, other: Any) -> float:
    """The largest difference, as a share of the logits' spread."""
    return float((one - other).abs().max() / one.std())


@pytest.fixture
def drive(tmp_path: Path, sums: Path, biased: Path, monkeypatch: pytest.MonkeyPatch) -> Drive:
    """drive(**values): train a run in this process and look over its shoulder."""
    from transformers import TrainerCallback

    def drive_one(**values: Any) -> Seen:
        seen = Seen(new_run(tmp_path, sums, biased, values))
        dtype = Recipe.load(seen.run.recipe).model.dtype
        build, save = train.build_trainer, train.save

        class Watch(TrainerCallback):
            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **things: Any) -> None:
                for name, parameter in things["model"].named_parameters():
                    if parameter.requires_grad and (parameter.grad is None or not parameter.grad.isfinite().all()):
                        seen.without_gradient.add(name)
                seen.rates |= {round(group["lr"], 9) for group in things["optimizer"].param_groups}

        def built(*given: Any) -> Any:
            trainer, conductor = build(*given)
            model = seen.trainer = trainer.model
            seen.trainer = trainer
            seen.fresh = logits(model, dtype)
            if hasattr(model, "disable_adapter"):
                with model.disable_adapter():
                    seen.base = logits(model, dtype)
            trainer.add_callback(Watch())
            return trainer, conductor

        def saved(work: Any, inputs: Any, trained: Any, step: int) -> None:
            seen.trained = logits(trained.model, dtype)
            save(work, inputs, trained, step)

        with monkeypatch.context() as patched:
            patched.setattr(train, "build_trainer", built)
            patched.setattr(train, "save", saved)
            harness.serve("", train.train, [str(seen.run.path), "--nonce", "n"])
        return seen

    return drive_one


def plain_base(folder: Path, **options: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32", **options)


def plain_peft(folder: Path, **options: Any) -> Any:
    from peft import AutoPeftModelForCausalLM

    return AutoPeftModelForCausalLM.from_pretrained(folder, **{"dtype": "float32", **options})


def check_trained(seen: Seen) -> None:
    assert seen.end.state == "completed", f"{seen.end}\n{seen.end.traceback}"
    assert all(math.isfinite(loss) for loss in seen.losses) and len(seen.losses) == 4
    assert not seen.without_gradient
    assert apart(seen.fresh, seen.trained) > 1e-3
    model, plan = seen.trainer.model, seen.events("plan")[0]
    assert plan["trainable_parameters"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
    if hasattr(model, "get_nb_trainable_parameters"):
        assert plan["trainable_parameters"] == model.get_nb_trainable_parameters()[0]


def exported(seen: Seen, tmp_path: Path, model: Path, kind: str) -> tuple[RunDir, Exit]:
    folder = RunDir(tmp_path / kind)
    folder.path.mkdir()
    order = {"kind": kind, "run": str(seen.run.path), "source": str(seen.run.adapter), "name": "sums",
             "model": {"id": "tiny", "path": str(model)}}  # fmt: skip
    (folder.path / "export.json").write_text(json.dumps(order))
    harness.serve("", exporting.export, [str(folder.path), "--nonce", "n"])
    end = Exit.read(folder)
    assert end is not None
    return folder, end


def check_chat(seen: Seen, base: Path) -> None:
    """The chat's columns answer as base and trained model do."""
    import torch

    assert seen.run.trained is not None
    taken = adapter_slots.AdapterSlots(base, "float32", CPU, lambda _: None)
    taken.load("adapted", seen.run.trained)
    expected = {"base": logits(plain_base(base)), "adapted": seen.trained}
    for group in taken.groups(["base", "adapted"]):
        with group.as_wanted(), torch.no_grad():
            model = group.model if group.virtual_tokens else group.inner
            rows = ids().repeat(len(group.columns), 1)
            found = model(input_ids=rows, attention_mask=torch.ones_like(rows)).logits[:, -ids().shape[1] :]
        for column, one in zip(group.columns, found, strict=True):
            assert apart(expected[column], one) < 1e-3, column
    # Dropped, the base is what it was.
    taken.drop("adapted")
    (group,) = taken.groups(["base"])
    assert apart(expected["base"], logits(group.inner)) < 1e-5


@pytest.mark.parametrize("name", list(LORA | OTHERS))
def test_a_method_trains_loads_elsewhere_chats_and_exports(
    drive: Drive, biased: Path, tmp_path: Path, name: str
) -> None:
    values = (LORA | OTHERS)[name]
    seen = drive(**values)
    check_trained(seen)
    method = values.get("method", "lora")
    if method in ("lora", "ia3"):
        # A fresh adapter changes nothing; those that move the base do so to rounding.
        bound = 1e-4 if values.get("init_lora_weights") in ("pissa", "olora") else 1e-5
        assert apart(logits(plain_base(biased)), seen.fresh) <= bound
    assert seen.run.trained is not None and verify_folder(seen.run.trained) is None
    loaded = plain_base(seen.run.model) if method == "full" else plain_peft(seen.run.adapter)
    assert apart(seen.trained, logits(loaded)) < 1e-3
    newest = seen.run.checkpoints / "step-4"
    if method != "full":
        from peft import PeftModel

        at_checkpoint = PeftModel.from_pretrained(plain_base(biased), newest)
        assert apart(seen.trained, logits(at_checkpoint)) < 1e-3
    check_chat(seen, biased)
    folder, end = exported(seen, tmp_path, biased, "merged")
    if method in ("prompt", "prefix"):
        assert end.state == "failed" and "cannot be merged" in end.message
    else:
        assert end.state == "completed", f"{end.message} {end.traceback}"
        assert apart(seen.trained, logits(plain_base(folder.path / "merged"))) < 1e-3
    _, end = exported(seen, tmp_path, biased, "adapter")
    assert end.state == ("failed" if method == "full" else "completed"), end.message


@pytest.mark.parametrize("name", list(HELD))
def test_a_method_trains_on_a_base_held_in_few_bits(drive: Drive, biased: Path, name: str) -> None:
    from transformers import BitsAndBytesConfig

    values = HELD[name]
    seen = drive(**values)
    check_trained(seen)
    if values.get("method", "lora") in ("lora", "ia3") and "init_lora_weights" not in values:
        assert apart(seen.base, seen.fresh) <= (0.05 if values.get("use_dora") else 1e-6)
    if "init_lora_weights" in values:
        exact = logits(plain_base(biased), "bfloat16")
        # The start makes up for part of the rounding, and what is saved is over the plain base.
        assert apart(exact, seen.fresh) < apart(exact, seen.base)
        left = apart(exact, seen.fresh)
        assert apart(seen.trained, logits(plain_peft(seen.run.adapter), "bfloat16")) < 1.5 * left
        assert json.loads((seen.run.adapter / "adapter_config.json").read_text())["r"] == 8
        return
    kind = values["quantization"]
    config = BitsAndBytesConfig(load_in_8bit=True) if kind == "int8" else BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=kind, bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype="bfloat16"
    )  # fmt: skip
    loaded = plain_peft(seen.run.adapter, quantization_config=config, dtype="bfloat16")
    # bitsandbytes' repacking for inference cannot do layers as narrow as these.
    keep_trainable(loaded)
    assert apart(seen.trained, logits(loaded, "bfloat16")) < 0.15


@pytest.mark.parametrize("name", ["default", "ia3", "prompt", "prefix", "full"])
def test_a_method_trains_in_bfloat16(drive: Drive, name: str) -> None:
    seen = drive(**(LORA | OTHERS)[name], dtype="bfloat16")
    check_trained(seen)
    assert all(p.dtype.itemsize == 4 for p in seen.trainer.model.parameters() if p.requires_grad) or name == "full"
    if name == "full":
        assert any("Method full" in note["text"] for note in seen.events("note"))
        assert json.loads((seen.run.model / "config.json").read_text())["dtype"] == "bfloat16"
        loaded = plain_base(seen.run.model)
    else:
        loaded = plain_peft(seen.run.adapter, dtype="bfloat16")
    assert apart(seen.trained, logits(loaded, "bfloat16")) < 0.1


def test_lora_plus_has_two_rates_and_our_weight_decay(drive: Drive) -> None:
    seen = drive(loraplus_lr_ratio=8.0, weight_decay=0.25, bias="all")
    assert seen.rates == {0.01, 0.08}
    optimizer = seen.trainer.optimizer.optimizer
    assert optimizer.defaults["fused"]
    names = {id(parameter): name for name, parameter in seen.trainer.model.named_parameters()}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["lr"] == (0.01 if "lora_A" in name else 0.08), name
            assert group["weight_decay"] == (0.0 if name.endswith(".bias") else 0.25), name
    assert drive().rates == {0.01}


@pytest.mark.parametrize("attention", ["eager", "sdpa", "studio_rows"])
@pytest.mark.parametrize("train_on", ["completions", "everything"])
def test_packed_losses_are_those_of_the_examples_alone(drive: Drive, attention: str, train_on: str,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    if attention == "sdpa":
        monkeypatch.setattr(loading, "PLAIN_ATTENTION_TOKENS", 0)
    values = {"train_on": train_on, "max_steps": 1, "num_train_epochs": 1, "max_length": 200,
              "engine": "auto" if attention == "studio_rows" else "trl"}  # fmt: skip
    # All examples in one batch: the same tokens, whatever the rows.
    together = drive(**values, packing=True, per_device_train_batch_size=16)
    alone = drive(**values, per_device_train_batch_size=16)
    assert together.trainer.model.config._attn_implementation == attention
    plan = together.events("plan")[0]
    assert plan["rows"] < plan["examples"] == 16
    assert together.losses == pytest.approx(alone.losses, rel=1e-5)
    one, other = together.events("metric")[0], alone.events("metric")[0]
    assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
    assert one["tokens"] == other["tokens"]
    assert apart(alone.trained, together.trained) < 1e-3


def test_packing_is_refused_where_examples_would_mix(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "transformers.masking_utils.find_packed_sequence_indices", lambda position_ids: None, raising=True
    )
    seen = drive(packing=True, max_length=200, engine="trl")
    assert seen.end.state == "failed" and "mixes up examples" in seen.end.message


@pytest.mark.parametrize("name", ["prompt", "prefix"])
def test_virtual_tokens_leave_the_loss_as_peft_has_it(drive: Drive, name: str) -> None:
    """Scoring only trained positions, with plain attention, against the model's own loss over all positions."""
    import torch

    seen = drive(**OTHERS[name], max_steps=1)
    model = seen.trainer.model.eval()
    batch = seen.trainer.data_collator(list(seen.trainer.train_dataset))
    with torch.no_grad():
        ours = float(seen.trainer.compute_loss(model, dict(batch)))
        whole = model(**batch).logits.float()
    whole = whole[:, -batch["labels"].shape[1] :][:, :-1]
    theirs = torch.nn.functional.cross_entropy(whole.flatten(0, 1), batch["labels"][:, 1:].flatten())
    assert ours == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize("name", ["prompt", "prefix", "dora", "ia3", "bias all"])
def test_generated_answers_are_those_of_whole_passes(drive: Drive, biased: Path, name: str) -> None:
    """The cache, the virtual tokens and the switched-off base, token by token."""
    import torch

    seen = drive(**(LORA | OTHERS)[name] | {"learning_rate": 0.3, "max_steps": 16})
    assert seen.run.trained is not None
    taken = adapter_slots.AdapterSlots(biased, "float32", CPU, lambda _: None)
    taken.load("adapted", seen.run.trained)
    alone = {"base": plain_base(biased), "adapted": plain_peft(seen.run.adapter)}
    answers = {}
    for group in taken.groups(["base", "adapted"]):
        (column,) = group.columns
        with group.as_wanted():
            made = group.model.generate(
                input_ids=ids(), attention_mask=torch.ones_like(ids()), max_new_tokens=8, do_sample=False,
                eos_token_id=1000, output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
        answers[column] = torch.cat(made.logits)
        for step in range(8):
            text = made.sequences[:, : ids().shape[1] + step]
            with torch.no_grad():
                last = alone[column](input_ids=text, attention_mask=torch.ones_like(text)).logits[0, -1]
            assert apart(last, answers[column][step]) < 1e-3, (column, step)
    assert apart(answers["base"], answers["adapted"]) > 0.05


@pytest.mark.parametrize("values", [{}, LORA["dora"], *OTHERS.values(), {"packing": True, "max_length": 200}], ids=str)
def test_gradient_checkpointing_changes_no_loss(drive: Drive, values: dict[str, Any]) -> None:
    if values.get("method") == "prefix":
        with pytest.raises(BadInput, match="gradient_checkpointing"):
            drive(**values, gradient_checkpointing=True)
        return
    thrifty, plain = drive(**values, gradient_checkpointing=True), drive(**values)
    check_trained(thrifty)
    assert thrifty.losses == pytest.approx(plain.losses, rel=1e-5)


def test_neftune_shakes_training_and_nothing_else(drive: Drive) -> None:
    shaken, calm = drive(neftune_noise_alpha=50.0), drive()
    assert apart(shaken.fresh, calm.fresh) == 0
    assert shaken.losses[0] != pytest.approx(calm.losses[0], rel=1e-4)


@pytest.mark.parametrize("values", [{}, LORA["pissa, rslora, dora, biases"], OTHERS["full"]], ids=str)
def test_early_stopping_takes_the_best_evaluation(
    drive: Drive, monkeypatch: pytest.MonkeyPatch, values: dict[str, Any]
) -> None:
    from studio.engine.training.callbacks import CheckpointControl

    judge, at = CheckpointControl._judge, {}

    def scripted(self: CheckpointControl, loss: float, step: int) -> None:
        # Best at step 4, no better after; what the model then answers is remembered.
        at[step] = logits(self.trained.model)
        judge(self, {2: 3.0, 4: 1.0, 6: 1.5, 8: float("nan"), 10: 1.0}.get(step, 9.0), step)

    monkeypatch.setattr(CheckpointControl, "_judge", scripted)
    seen = drive(
        **values, held_out=0.25, max_steps=40, eval_steps=2, early_stopping_patience=3, save_steps=1, save_total_limit=1
    )
    assert seen.end.state == "completed" and "Stopped early at step 10 of 40" in seen.end.message, seen.end
    assert "from step 4, which has the best evaluation" in seen.end.message
    assert sorted(path.name for path in seen.run.checkpoints.iterdir()) == ["step-10", "step-4"]
    assert apart(at[4], seen.trained) < 1e-4 < apart(at[10], seen.trained)
    assert any("Took the weights of step 4" in note["text"] for note in seen.events("note"))
    loaded = plain_base(seen.run.model) if seen.run.model.exists() else plain_peft(seen.run.adapter)
    assert apart(seen.trained, logits(loaded)) < 1e-3


def test_without_held_out_examples_nothing_is_stopped_early(drive: Drive) -> None:
    seen = drive(eval_steps=1, early_stopping_patience=1)
    assert seen.end.state == "completed" and len(seen.losses) == 4
    assert any("early stopping is off" in note["text"] for note in seen.events("note"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"target_modules": ["q_proj", "nowhere"]}, "no layers called nowhere"),
        ({"target_modules": ["lm_head"]}, "no layers called lm_head"),
        ({"init_lora_weights": "pissa", "r": 17}, "the narrowest adapted layer of tiny has 16"),
        ({"method": "prompt", "num_virtual_tokens": 1024}, "The model reads 1024 tokens"),
    ],
    ids=str,
)
def test_what_the_model_cannot_do_is_said_plainly(drive: Drive, values: dict[str, Any], said: str) -> None:
    seen = drive(**values)
    assert seen.end.state == "failed" and said in seen.end.message and seen.end.remedy, seen.end


def test_ia3_names_the_layers_of_a_model_it_does_not_know() -> None:
    import torch

    from studio.engine.training.methods import adapter_config
    from studio.engine.workers.harness import Ended

    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixer = torch.nn.Linear(2, 2)

        def get_output_embeddings(self) -> None:
            return None

    with pytest.raises(Ended, match=r"does not support the layers of the model odd: mixer"):
        adapter_config(Odd(), Recipe().with_values({"method": "ia3"}), "odd")


@pytest.mark.parametrize("name", ["prefix", "full"])
def test_as_processes_train_and_chat(tmp_path: Path, sums: Path, biased: Path, name: str) -> None:
    much = {"max_steps": 16, "learning_rate": 0.3 if name == "prefix" else 0.01}
    run = new_run(tmp_path, sums, biased, OTHERS[name] | much)
    command = [sys.executable, "-m", "studio.engine.workers.train", str(run.path), "--nonce", "n"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    command = [sys.executable, "-m", "studio.engine.workers.chat", "--model", str(biased), "--dtype", "float32"]
    asked = [{"role": "user", "content": "3 + 3 = ?"}]
    load = {"op": "load", "id": 1, "name": "adapted", "folder": str(run.trained)}
    sides = [{"column": name, "name": name, "messages": asked} for name in ("base", "adapted")]
    ask = {"op": "ask", "id": 2, "sides": sides, "max_new_tokens": 12}
    told: list[dict[str, Any]] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as chat:
        assert chat.stdin is not None and chat.stdout is not None
        print(json.dumps(load), json.dumps(ask), sep="\n", file=chat.stdin, flush=True)
        while not told or told[-1]["kind"] not in ("end", "error"):
            told.append(json.loads(chat.stdout.readline()))
        chat.stdin.close()
    assert next(one["alone"] for one in told if one["kind"] == "loaded")
    assert [one["kind"] for one in told].count("done") == 2 and told[-1]["kind"] == "end", told[-1]
    base, adapted = (
        [(one.get("text"), one.get("tokens")) for one in told if one.get("column") == column]
        for column in ("base", "adapted")
    )
    assert base != adapted


def examples(lengths: list[int]) -> Iterator[Example]:
    for row, length in enumerate(lengths):
        yield Example(row, [row] * length, [row] * length)


def test_packing_loses_nothing_and_wastes_little() -> None:
    lengths = [int(length) for length in np.random.default_rng(0).integers(1, 100, 2000)]
    rows = pack(list(examples(lengths)), 100, 0)
    assert rows == pack(list(examples(lengths)), 100, 0) != pack(list(examples(lengths)), 100, 1)
    assert all(sum(row.lengths) == len(row.input_ids) == len(row.labels) <= 100 for row in rows)
    assert sorted(token for row in rows for token in row.input_ids) == sorted(
        row for row, length in enumerate(lengths) for _ in range(length)
    )
    assert len(rows) <= 1.02 * math.ceil(sum(lengths) / 100)
    for row in rows:
        starts = [0, *np.cumsum(row.lengths)[:-1]]
        assert all(row.labels[start] == -100 for start in starts)
        assert sum(label == -100 for label in row.labels) == len(starts)
    assert pack([], 100, 0) == []


@pytest.mark.parametrize(
    "name", ["dora", "rslora", "olora", "bias all", "ia3", "prompt", "prefix", "full", "int8", "fp4"]
)
def test_the_losses_are_those_of_plain_peft_and_trl(drive: Drive, biased: Path, tmp_path: Path, name: str) -> None:
    """As TRL's users write it: no scoring of chosen positions, no plain attention, PEFT's config by hand."""
    import peft
    from transformers import BitsAndBytesConfig, set_seed
    from trl import SFTConfig, SFTTrainer

    held = name if name in ("int8", "fp4") else "none"
    values: dict[str, Any] = {"quantization": held} if held != "none" else (LORA | OTHERS)[name]
    dtype = "float32" if held == "none" else "bfloat16"
    ours = drive(**values, dtype=dtype)
    lora = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    modules = {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    tokens = {"task_type": "CAUSAL_LM", "num_virtual_tokens": 5}
    config = {
        "dora": peft.LoraConfig(**lora, use_dora=True),
        "rslora": peft.LoraConfig(**lora, use_rslora=True),
        "olora": peft.LoraConfig(**lora, init_lora_weights="olora"),
        "bias all": peft.LoraConfig(**lora, bias="all"),
        "ia3": peft.IA3Config(task_type="CAUSAL_LM", **modules),
        "prompt": peft.PromptTuningConfig(**tokens, prompt_tuning_init="SAMPLE_VOCAB"),
        "prefix": peft.PrefixTuningConfig(**tokens),
        "full": None,
    }.get(name, peft.LoraConfig(**lora))
    set_seed(0)
    options = {"int8": {"load_in_8bit": True}, "fp4": {
        "load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": "bfloat16",
    }}.get(held)  # fmt: skip
    model = plain_base(biased) if options is None else peft.prepare_model_for_kbit_training(
        loading_model(biased, BitsAndBytesConfig(**options)), use_gradient_checkpointing=False
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(tmp_path / "theirs"), use_cpu=True, bf16=dtype == "bfloat16", seed=0, max_steps=4,
            per_device_train_batch_size=4, learning_rate=values.get("learning_rate", 1e-2), logging_steps=1,
            lr_scheduler_type="constant", report_to="none", save_strategy="no", activation_checkpointing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        peft_config=config,
        processing_class=loading.load_tokenizer(biased),
        train_dataset=ours.trainer.train_dataset,
    )  # fmt: skip
    trainer.train()
    theirs = [float(point["loss"]) for point in trainer.state.log_history if "loss" in point]
    assert ours.losses == pytest.approx(theirs, rel=1e-4 if held == "none" else 1e-2)


def loading_model(folder: Path, quantization: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16", quantization_config=quantization)
