"""A run that is killed or stopped anywhere and resumed goes on as if nothing had happened: every number that it
journals is bit for bit that of an uninterrupted run (float32, on a CPU).

STUDIO_TORTURE=N interrupts N runs at random instead of 6; with pytest -s it says how often, and where they went on.
"""

import json
import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from studio.recipe import Recipe
from studio.rundir import Exit, RunDir, create, read_events, verify_folder, write_json
from studio.services.core.keeper import Keeper
from studio.services.data import datasets
from studio.settings import Settings
from tests.conftest import write_jsonl
from tests.warm import Workers, resume

pytestmark = pytest.mark.engine

INTERRUPTIONS = int(os.environ.get("STUDIO_TORTURE", "6"))
ROWS: list[dict[str, object]] = [
    {"instruction": f"{n} + {n} = ?", "output": str(2 * n) * (1 + n % 5)} for n in range(23)
]
# 20 examples train in 10 batches of 2: three optimizer steps of 3 batches an epoch and one of the last.
QUICK = {
    "dataset": "sums", "dtype": "float32", "held_out": 0.15, "per_device_train_batch_size": 2, "r": 4,
    "lora_dropout": 0.05, "gradient_accumulation_steps": 3, "num_train_epochs": 5.0, "learning_rate": 1e-2,
    "warmup_ratio": 0.1, "save_steps": 3, "eval_steps": 5, "save_total_limit": 3, "num_virtual_tokens": 5,
}  # fmt: skip
NUMBERS = ("loss", "grad_norm", "learning_rate", "tokens", "token_accuracy", "epoch")


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    started = Workers()
    yield started
    started.close()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of this file are, and their dataset."""
    folder = tmp_path_factory.mktemp("resume")
    (folder / "runs").mkdir()
    with Keeper(Settings(home=folder / "home", offline=True)) as studio:
        (folder / "dataset").write_text(datasets.add(studio, write_jsonl(folder / "sums.jsonl", ROWS)).path)
    return folder


@pytest.fixture
def make(root: Path, tiny: Path) -> Any:
    def make_run(**values: Any) -> RunDir:
        dataset = (root / "dataset").read_text()
        pointer = {"id": Path(dataset).name, "path": dataset, "name": "sums", "sha256": Path(dataset).name}
        files = {
            "recipe.yaml": Recipe().with_values({**QUICK, **values}).to_yaml(),
            "dataset.json": json.dumps(pointer),
            "model.json": json.dumps({"id": "tiny", "path": str(tiny)}),
        }
        return create(root / "runs", f"r{len(list((root / 'runs').iterdir()))}", files)

    return make_run


def points(run: RunDir, kind: str = "metric") -> dict[int, dict[str, Any]]:
    """What is valid of the journal, by step: a worker that goes on does later steps anew."""
    found: dict[int, dict[str, Any]] = {}
    for event in read_events(run.events).events:
        if event.kind == "resumed":
            found = {step: point for step, point in found.items() if step <= event.payload["step"]}
        if event.kind == kind:
            found[event.payload["step"]] = event.payload
    return found


def kinds(run: RunDir, kind: str) -> list[dict[str, Any]]:
    return [event.payload for event in read_events(run.events).events if event.kind == kind]


def numbers(run: RunDir) -> dict[int, tuple[Any, ...]]:
    return {step: tuple(point[name] for name in NUMBERS) for step, point in points(run).items()}


def held_out_losses(run: RunDir) -> dict[int, float]:
    return {step: point["eval_loss"] for step, point in points(run, "eval").items()}


def assert_alike(run: RunDir, whole: RunDir) -> None:
    """All that the uninterrupted run journalled is in `run`, bit for bit, and so is what it learned."""
    expected, found = numbers(whole), numbers(run)
    assert {step: found.get(step) for step in expected} == expected
    assert held_out_losses(run) == held_out_losses(whole)
    learned, same = tensors(whole), tensors(run)
    assert learned.keys() == same.keys()
    assert [name for name, value in learned.items() if not bool((value == same[name]).all())] == []


def tensors(run: RunDir) -> dict[str, Any]:
    from safetensors.torch import load_file

    assert run.trained is not None and verify_folder(run.trained) is None
    return {name: value for path in run.trained.glob("*.safetensors") for name, value in load_file(path).items()}


def interrupt(workers: Workers, run: RunDir, how: str, at: int) -> None:
    """Start a worker and end it once `at` more events are in the journal; it may have finished before."""
    seen = len(read_events(run.events).events)
    pid = workers.start(run)
    deadline = time.monotonic() + 600
    while len(read_events(run.events).events) < seen + at and not run.exit.exists():
        assert time.monotonic() < deadline, run.log_tail()
        time.sleep(0.001)
    if how == "stop":
        run.ask("stop")
    elif not run.exit.exists():
        os.kill(pid, signal.SIGKILL)
    workers.wait()


WAYS: list[dict[str, Any]] = [
    {},
    {"logging_steps": 4},
    {"logging_steps": 3, "save_steps": 4, "lr_scheduler_type": "cosine", "num_train_epochs": 4.5},
    {"logging_steps": 7, "save_steps": 5, "gradient_accumulation_steps": 1, "max_steps": 33},
    {"logging_steps": 2, "eval_steps": 2, "early_stopping_patience": 2, "learning_rate": 0.3, "save_steps": 0},
]


@pytest.fixture(scope="module")
def uninterrupted() -> dict[int, RunDir]:
    return {}


@pytest.fixture(scope="module")
def tally() -> Iterator[Counter[str]]:
    counts: Counter[str] = Counter()
    yield counts
    print("\ninterruptions: " + ", ".join(f"{name} {count}" for name, count in counts.items()))


@pytest.mark.parametrize("seed", range(INTERRUPTIONS))
def test_interrupted_anywhere_it_goes_on_bit_for_bit(
    make: Any, workers: Workers, uninterrupted: dict[int, RunDir], tally: Counter[str], seed: int
) -> None:
    chance, way = random.Random(seed), seed % len(WAYS)
    if way not in uninterrupted:
        uninterrupted[way] = make(**WAYS[way])
        assert workers.work(uninterrupted[way]).cause == "finished"
    run, attempts = make(**WAYS[way]), 1
    while True:
        # A worker writes some 12 events before its first step; one at least is interrupted soon after.
        how = chance.choice(["stop", "kill"])
        interrupt(workers, run, how, chance.randrange(11, 24 if attempts == 1 else 45))
        end = Exit.read(run)
        if end is not None and end.state == "completed":
            break
        assert end is None or end.cause == "stopped", end
        attempts += 1
        resume(run)
        tally[f"by {how}"] += 1
    # A worker that was ended while it loaded has told nothing.
    told = [one["attempt"] for one in kinds(run, "resumed")]
    assert attempts > 1 and told == sorted(set(told)) and told[-1] == attempts
    assert_alike(run, uninterrupted[way])
    an_epoch = 10 if way == 3 else 4
    for step in (one["step"] for one in kinds(run, "resumed")):
        tally["on from the start" if not step else "inside an epoch" if step % an_epoch else "between epochs"] += 1
    tally["runs"] += 1
    tally["points alike, bit for bit"] += len(numbers(uninterrupted[way]))


BITS = {"dtype": "bfloat16", "quantization": "nf4"}
METHODS: dict[str, dict[str, Any]] = {
    "rslora, dora, biases": {"use_rslora": True, "use_dora": True, "bias": "all"},
    "lora plus": {"loraplus_lr_ratio": 16.0, "weight_decay": 0.01},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa, dora": {"init_lora_weights": "pissa", "use_dora": True},
    "olora": {"init_lora_weights": "olora"},
    "loftq, nf4": {"init_lora_weights": "loftq", **BITS},
    "nf4": BITS,
    "ia3": {"method": "ia3"},
    "prompt": {"method": "prompt"},
    "prefix": {"method": "prefix"},
    "full": {"method": "full", "learning_rate": 1e-3},
    "packing": {"packing": True, "max_length": 128, "gradient_accumulation_steps": 1},
    "neftune, checkpointing": {"neftune_noise_alpha": 5.0, "gradient_checkpointing": True},
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_on_bit_for_bit(make: Any, workers: Workers, name: str) -> None:
    values = {"max_steps": 6, "save_steps": 3, "held_out": 0.0, "logging_steps": 2, **METHODS[name]}
    whole = make(**values)
    assert workers.work(whole).cause == "finished", whole.log_tail()
    run = again_from(whole, "step-3")
    assert workers.work(run).cause == "finished", run.log_tail()
    assert kinds(run, "resumed") == [{"step": 3, "attempt": 2, "checkpoint": "checkpoints/step-3"}]
    assert_alike(run, whole)


def again_from(whole: RunDir, checkpoint: str, **longer: Any) -> RunDir:
    """A copy of a run, about to go on from one of its checkpoints; what it learned is taken away."""
    run = RunDir(whole.path.with_name(f"{whole.id}-{len(list(whole.path.parent.iterdir()))}"))
    shutil.copytree(whole.path, run.path)
    for learned in (run.adapter, run.model):
        shutil.rmtree(learned, ignore_errors=True)
    resume(run, run.checkpoints / checkpoint, **longer)
    return run


def test_a_completed_run_is_extended_on_the_schedule_of_the_new_total(make: Any, workers: Workers) -> None:
    constant = {"lr_scheduler_type": "constant", "warmup_ratio": 0.0, "held_out": 0.0, "logging_steps": 4}
    whole, short = make(max_steps=10, **constant), make(max_steps=6, **constant)
    assert workers.work(whole).cause == workers.work(short).cause == "finished"
    resume(short, max_steps=10)
    assert workers.work(short).message.startswith("Completed 10 steps")
    assert_alike(short, whole)
    assert kinds(short, "plan")[-1]["total_steps"] == 10

    linear = make(num_train_epochs=1.0, warmup_ratio=0.0, held_out=0.0)
    assert workers.work(linear).cause == "finished"
    assert points(linear)[4]["learning_rate"] == pytest.approx(1e-2 / 4)
    resume(linear, num_train_epochs=2.0)
    assert workers.work(linear).cause == "finished"
    rates = {step: point["learning_rate"] for step, point in points(linear).items()}
    assert list(rates) == list(range(1, 9))
    assert [rates[step] for step in (5, 8)] == pytest.approx([1e-2 * 4 / 8, 1e-2 / 8])
    assert "num_train_epochs: 1.0" in linear.recipe.read_text()

    resume(linear, max_steps=5)
    end = workers.work(linear)
    assert (end.state, end.cause) == ("failed", "error") and "step 8" in end.message


def test_killed_after_the_last_step_only_what_is_left_is_done(make: Any, workers: Workers) -> None:
    whole = make(max_steps=4)
    assert workers.work(whole).cause == "finished"
    run = again_from(whole, "step-4")
    lines = [line for line in run.events.read_bytes().splitlines(keepends=True) if b'"kind":"eval"' not in line]
    run.events.write_bytes(b"".join(lines) + b'{"seq":99,"torn')
    assert workers.work(run).cause == "finished"
    assert [point["step"] for point in kinds(run, "metric")] == [1, 2, 3, 4]
    assert_alike(run, whole)
    again = again_from(whole, "step-4")
    assert workers.work(again).cause == "finished"
    assert [point["step"] for point in kinds(again, "eval")] == [4]


def test_without_a_checkpoint_it_begins_anew(make: Any, workers: Workers) -> None:
    whole = make(max_steps=3, save_steps=0)
    assert workers.work(whole).cause == "finished"
    run = again_from(whole, "step-3")
    shutil.rmtree(run.checkpoints)
    resume(run)
    assert workers.work(run).cause == "finished"
    assert kinds(run, "resumed") == [{"step": 0, "attempt": 3, "checkpoint": ""}]
    assert_alike(run, whole)


def test_a_damaged_checkpoint_is_refused_and_later_ones_make_way(make: Any, workers: Workers) -> None:
    whole = make(max_steps=6, save_steps=2, held_out=0.0)
    assert workers.work(whole).cause == "finished"
    run = again_from(whole, "step-6")
    with (run.checkpoints / "step-6" / "optimizer.safetensors").open("r+b") as file:
        file.seek(200)
        file.write(b"damaged")
    (run.checkpoints / ".step-9.1.tmp").mkdir()
    end = workers.work(run)
    assert (end.state, end.cause) == ("failed", "error") and "optimizer.safetensors is damaged" in end.message
    resume(run)
    assert kinds(run, "resumed") == []
    assert workers.work(run).cause == "finished"
    assert kinds(run, "resumed")[0]["step"] == 4
    assert_alike(run, whole)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-2", "step-4", "step-6"]
    assert all(verify_folder(path) is None for path in run.checkpoints.iterdir())


@pytest.mark.parametrize("kind", ["AdamW8bit", "PagedAdamW8bit", "PagedAdamW32bit"])
def test_the_state_of_8_bit_optimizers_comes_back(tmp_path: Path, kind: str) -> None:
    import bitsandbytes
    import torch

    from studio.engine.artefacts.tensor_tree import write_tree
    from studio.engine.training import resume as resuming

    class Trainer:
        def __init__(self, weight: Any) -> None:
            self.weight = torch.nn.Parameter(weight)
            self.optimizer = getattr(bitsandbytes.optim, kind)([self.weight], lr=0.01)
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1 / (step + 1))

        def step(self, seed: int) -> None:
            self.weight.grad = torch.randn(self.weight.shape, generator=torch.Generator().manual_seed(seed))
            self.optimizer.step()
            self.lr_scheduler.step()

    first = Trainer(torch.ones(128, 64))
    for seed in range(3):
        first.step(seed)
    write_tree(first.optimizer.state_dict(), tmp_path / "optimizer")
    write_json(tmp_path / "scheduler.json", first.lr_scheduler.state_dict())
    second = Trainer(first.weight.detach().clone())
    resuming.load_optimizer(second, tmp_path)
    for seed in range(3, 6):
        first.step(seed)
        second.step(seed)
    assert torch.equal(first.weight, second.weight)


def test_a_start_made_otherwise_is_set_right(make: Any, workers: Workers, tiny: Path, tmp_path: Path) -> None:
    """PiSSA takes its start out of the base; another machine's can differ a little, and must not matter."""
    import torch
    from peft import LoraConfig, get_peft_model

    from studio.engine.artefacts.trained import Trained
    from studio.engine.inference.loading import load_base, pick_device

    def begun(seed: int) -> Trained:
        torch.manual_seed(seed)
        config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights="pissa_niter_1", task_type="CAUSAL_LM")
        return Trained.over_moved_base(get_peft_model(load_base(tiny, "float32", pick_device()), config).eval())

    ids = torch.arange(20, 44)[None]
    one, other = begun(1), begun(2)
    assert not all(torch.equal(one.start[name], other.start[name]) for name in one.start)
    with torch.no_grad():
        for name, parameter in one.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.05)
        one.save(tmp_path)
        other.resume(tmp_path)
        assert torch.allclose(one.model(input_ids=ids).logits, other.model(input_ids=ids).logits, atol=1e-5)
    assert all(torch.equal(one.start[name], other.start[name]) for name in one.start)
    assert one.differs(tmp_path) == other.differs(tmp_path) == ""
