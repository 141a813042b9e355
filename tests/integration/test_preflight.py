"""What runs beside the training: the preflight, the watches, the sample answers. None of it changes a number of it.

The runs go through the worker's own `train`, in this process.
"""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studio.engine.training.loss_guards import DIVERGED, DivergenceGuard
from studio.engine.workers import harness, train
from studio.engine.workers.harness import Ended
from studio.recipe import Recipe
from studio.rundir import Exit, RunDir, create, read_events, verify_folder
from studio.services.core.keeper import Keeper
from studio.services.data import datasets
from studio.settings import Settings
from tests.conftest import write_jsonl

pytestmark = pytest.mark.engine

ROWS: list[dict[str, object]] = [
    {"instruction": f"{n} + {n} = ?", "output": str(2 * n) * (1 + n % 5)} for n in range(20)
]
QUICK = {
    "dataset": "sums", "dtype": "float32", "held_out": 0.2, "per_device_train_batch_size": 4, "r": 4,
    "max_steps": 4, "learning_rate": 1e-2, "num_virtual_tokens": 5, "eval_steps": 2,
}  # fmt: skip

Drive = Callable[..., RunDir]


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sums")
    with Keeper(Settings(home=folder / "home", offline=True)) as studio:
        return Path(datasets.add(studio, write_jsonl(folder / "sums.jsonl", ROWS)).path)


@pytest.fixture
def drive(tmp_path: Path, sums: Path, tiny: Path) -> Drive:
    """drive(**values): train a run in this process; `beside` is called with it in a thread meanwhile."""

    def drive_one(beside: Callable[[RunDir], None] | None = None, **values: Any) -> RunDir:
        files = {
            "recipe.yaml": Recipe().with_values({**QUICK, **values}).to_yaml(),
            "dataset.json": json.dumps({"id": sums.name, "path": str(sums), "name": "sums"}),
            "model.json": json.dumps({"id": "tiny", "path": str(tiny)}),
        }
        (tmp_path / "runs").mkdir(exist_ok=True)
        run = create(tmp_path / "runs", f"r{len(list((tmp_path / 'runs').iterdir()))}", files)
        helper = threading.Thread(target=beside or (lambda _: None), args=(run,))
        helper.start()
        harness.serve("", train.train, [str(run.path), "--nonce", "n"])
        helper.join(60)
        return run

    return drive_one


def events(run: RunDir, kind: str) -> list[dict[str, Any]]:
    return [event.payload for event in read_events(run.events).events if event.kind == kind]


def ending(run: RunDir) -> Exit:
    end = Exit.read(run)
    assert end is not None
    return end


def numbers(run: RunDir) -> list[tuple[Any, ...]]:
    names = ("step", "loss", "grad_norm", "learning_rate", "tokens", "token_accuracy")
    return [tuple(point[name] for name in names) for point in events(run, "metric")] + [
        (point["step"], point["eval_loss"]) for point in events(run, "eval")
    ]


def notes(run: RunDir, level: str = "warning") -> list[str]:
    return [note["text"] for note in events(run, "note") if note["level"] == level]


# --- the preflight ----------------------------------------------------------------------------------------------

WAYS: dict[str, dict[str, Any]] = {
    "lora": {"gradient_accumulation_steps": 2},
    "neftune, checkpointing": {"neftune_noise_alpha": 5.0, "gradient_checkpointing": True},
    "packing": {"packing": True, "max_length": 128, "per_device_train_batch_size": 2},
    "full": {"method": "full", "learning_rate": 1e-3},
    "prefix": {"method": "prefix"},
    "pissa": {"init_lora_weights": "pissa"},
    "nf4": {"quantization": "nf4", "dtype": "bfloat16"},
}


@pytest.mark.parametrize("name", WAYS)
def test_preflight_and_samples_change_no_number(drive: Drive, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    run = drive(**WAYS[name], sample_prompts=["1 + 1 = ?", "Hello"], sample_tokens=8)
    assert ending(run).cause == "finished", ending(run)
    found = events(run, "preflight")
    assert len(found) == 1 and found[0]["longest"] > 20 and found[0]["checkpoint_bytes"] > 1000
    assert not (run.path / ".preflight").exists()
    # On a CPU nobody waits for it: the first point comes before.
    told = [(event.kind, event.payload.get("step")) for event in read_events(run.events).events]
    order = [one for one in told if one[0] in ("preflight", "metric")]
    assert order[:3] == [("metric", 1), ("preflight", None), ("metric", 2)]
    samples = events(run, "sample")
    assert [(one["step"], one["prompt"]) for one in samples] == [
        (step, prompt) for step in (2, 4) for prompt in ("1 + 1 = ?", "Hello")
    ], notes(run)
    assert all(0 < one["tokens"] <= 8 for one in samples)
    with monkeypatch.context() as patched:
        patched.setattr("studio.engine.training.preflight.Preflight._check", lambda *_: None)
        plain = drive(**WAYS[name])
    assert not events(plain, "preflight") and not events(plain, "sample")
    assert numbers(plain) == numbers(run)


@pytest.mark.parametrize("where", ["training_step", "prediction_step"])
def test_memory_that_does_not_suffice_is_said_with_what_to_change(
    drive: Drive, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    import torch
    from trl import SFTTrainer

    step = getattr(SFTTrainer, where)

    def short_of_memory(self: Any, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        if self.state.global_step and inputs["input_ids"].shape[1] > 35:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(self, model, inputs, *rest, **more)

    monkeypatch.setattr(SFTTrainer, where, short_of_memory)
    run = drive()
    end = ending(run)
    assert (end.state, end.cause) == ("failed", "memory")
    assert [point["step"] for point in events(run, "metric")] == [1]
    if where == "training_step":
        assert "longest batch (4 rows of up to 42 tokens)" in end.message
        assert "per_device_train_batch_size to 2 with gradient_accumulation_steps 2" in end.remedy
    else:
        assert "longest held-out batch (4 rows of up to" in end.message
        assert "per_device_eval_batch_size to 2" in end.remedy


def test_what_cannot_be_read_back_is_said(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    from studio.engine.artefacts.trained import Trained

    save = Trained.save

    def damaging(self: Trained, folder: Path, dtype: str = "") -> None:
        save(self, folder, dtype)
        path = folder / "adapter_model.safetensors"
        whole = bytearray(path.read_bytes())
        whole[-1] ^= 1
        path.write_bytes(whole)

    monkeypatch.setattr(Trained, "save", damaging)
    run = drive()
    assert ending(run).cause == "disk" and "lora_B" in ending(run).message
    assert not (run.path / ".preflight").exists()


def test_a_disk_without_room_to_spare_is_said(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=70 * 2**20))
    run = drive()
    assert ending(run).cause == "disk" and "GiB free" in ending(run).message
    assert not events(run, "metric")


# --- the watches ------------------------------------------------------------------------------------------------


class Notes:
    """Stands in for the worker."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, _level: str, text: str) -> None:
        self.said.append(text)


def watched(losses: list[float], vocabulary: int = 50_000) -> tuple[list[str], str]:
    """What is said over these points, and the cause of the end if it came to one."""
    notes = Notes()
    watch = DivergenceGuard(notes, Recipe(), vocabulary)  # type: ignore[arg-type]
    for step, loss in enumerate(losses, 1):
        try:
            watch.see(loss, 2e-4, step)
        except Ended as end:
            return notes.said, end.how.cause
    return notes.said, ""


def test_usual_losses_are_left_alone() -> None:
    import random

    chance = random.Random(0)
    falling = [0.1 + 3 * 0.97**step for step in range(300)]
    assert watched([loss * chance.choice([0.3, 0.7, 1, 1.5, 3]) for loss in falling]) == ([], "")
    assert watched([2.0] * 10 + [30.0] * 4 + [2.0] * 50) == ([], "")
    assert watched([30.0] * 10 + [12.0] * 100) == ([], "")  # virtual tokens begin far off


def test_a_rising_loss_is_said_once_and_a_lost_one_ended() -> None:
    said, cause = watched([1.5] * 20 + [7.0] * 100)
    assert len(said) == 1 and cause == ""
    assert "risen from 1.50" in said[0] and "learning_rate is probably too high: it is 0.0002" in said[0]
    said, cause = watched([1.5] * 20 + [60.0] * 100)
    assert len(said) == 1 and cause == "diverged"
    assert watched([1.5] * 20 + [60.0] * (DIVERGED - 5) + [3.0] * 100)[1] == ""
    assert watched([1.0] * 5 + [0.0] * 4 + [1.0] * 5) == (
        ["Step 8: the loss is exactly 0 for 3 points in a row. Nothing is learned from it."],
        "",
    )
    assert watched([0.0] * 100)[1] == "unlearnable"


def test_a_far_too_high_rate_is_said_and_then_ended(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    # A model that knows nothing has nothing to lose, and comes back sooner than a trained one.
    monkeypatch.setattr("studio.engine.training.loss_guards.DIVERGED", 6)
    run = drive(
        method="full", learning_rate=1.0, max_steps=100, max_grad_norm=0.0, save_steps=1, eval_steps=0, held_out=0.0,
        warmup_ratio=0.03, save_total_limit=60, lr_scheduler_type="constant_with_warmup", train_on="everything",
    )  # fmt: skip
    end = ending(run)
    assert (end.state, end.cause) == ("failed", "diverged"), (end, [p["loss"] for p in events(run, "metric")])
    assert sum("learning_rate is probably too high" in note for note in notes(run)) == 1
    assert "is saved" in end.message
    assert run.trained is not None and verify_folder(run.trained) is None
    last = events(run, "metric")[-1]["step"]
    kept = int(end.message.partition("model of step ")[2].partition(",")[0])
    assert 0 < kept <= 10 and kept < last


def test_numbers_that_are_not_finite_end_the_run_with_its_last_good_adapter(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trl import SFTTrainer

    compute = SFTTrainer.compute_loss

    def broken(self: Any, *given: Any, **more: Any) -> Any:
        loss = compute(self, *given, **more)
        return loss * float("nan") if self.state.global_step >= 2 and self.model.training else loss

    monkeypatch.setattr(SFTTrainer, "compute_loss", broken)
    run = drive(max_steps=20, eval_steps=0)
    end = ending(run)
    assert (end.state, end.cause) == ("failed", "nonfinite")
    assert "The adapter of step 2, the last with finite numbers, is saved." in end.message
    assert [point["loss"] for point in events(run, "metric")][2:] == ["nan", "nan"]
    assert verify_folder(run.adapter) is None


def test_without_one_finite_step_nothing_is_saved(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl import SFTTrainer

    compute = SFTTrainer.compute_loss
    monkeypatch.setattr(SFTTrainer, "compute_loss", lambda *given, **more: compute(*given, **more) * float("nan"))
    run = drive()
    assert ending(run).cause == "nonfinite" and "no adapter is saved" in ending(run).message
    assert run.trained is None


# --- sample answers ---------------------------------------------------------------------------------------------


def test_samples_without_held_out_examples_and_a_stop_between_tokens(drive: Drive) -> None:
    def stop_while_answering(run: RunDir) -> None:
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and not any(
            one["what"] == "Answering the sample prompts" for one in events(run, "progress")
        ):
            time.sleep(0.01)
        run.ask("stop")

    prompts = [f"{n} + {n} = ?" for n in range(5)]
    run = drive(
        stop_while_answering, held_out=0.0, max_steps=50, sample_prompts=prompts, sample_tokens=512, eval_steps=3
    )
    end = ending(run)
    assert end.cause == "stopped" and end.message.startswith("Stopped at step 3 of 50")
    assert len(events(run, "sample")) < 5
    assert [point["step"] for point in events(run, "checkpoint")] == [3]
    assert verify_folder(run.adapter) is None


def test_samples_answer_as_the_chat_does_and_are_of_the_weights_that_are_kept(drive: Drive, tiny: Path) -> None:
    import torch
    from peft import AutoPeftModelForCausalLM

    from studio.dataset.tokens.encode import Encoder

    run = drive(sample_prompts=["3 + 3 = ?"], sample_tokens=12, learning_rate=0.05)
    sample = events(run, "sample")[-1]
    assert sample["step"] == 4
    encoder = Encoder(tiny, Recipe().data)
    ids = torch.tensor([encoder.prompt_ids([{"role": "user", "content": "3 + 3 = ?"}])])
    model = AutoPeftModelForCausalLM.from_pretrained(run.adapter, dtype=torch.float32)
    made = model.generate(input_ids=ids, max_new_tokens=12, do_sample=False, eos_token_id=encoder.eos_ids)[0]
    assert sample["answer"] == encoder.tokenizer.decode(made[ids.shape[1] :].tolist(), skip_special_tokens=True)


def test_a_prompt_that_does_not_fit_is_left_out_and_said(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    run = drive(sample_prompts=["1", "long " * 100], sample_tokens=3, max_steps=1, system_prompt="x" * 900)
    assert any("A sample prompt has" in note for note in notes(run))
    assert [one["prompt"] for one in events(run, "sample")] == ["1"]


def test_prompts_as_they_are_written() -> None:
    recipe = Recipe().with_values({"sample_prompts": "What is 2 + 2?\n\n  Name a colour.  \n"})
    assert recipe.evaluation.sample_prompts == ["What is 2 + 2?", "Name a colour."]
    assert "- Name a colour." in recipe.to_yaml()
    for wrong in (["x"] * 6, ["x" * 501], 3):
        with pytest.raises(Exception, match="sample_prompts"):
            Recipe().with_values({"sample_prompts": wrong})
