"""The engine trains, stops and exports for real, on a model small enough for seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from studio.recipe import Recipe
from studio.rundir import Exit, Identity, RunDir, create, newest_checkpoint, read_events, verify_folder
from studio.services.core.keeper import Keeper
from studio.services.data import datasets
from studio.settings import Settings
from tests.conftest import write_jsonl

pytestmark = pytest.mark.engine

QUICK = {"dtype": "float32", "held_out": 0.0, "per_device_train_batch_size": 2, "lora_dropout": 0.0, "r": 4}


@pytest.fixture
def make_run(tmp_path: Path, tiny: Path) -> Any:
    """A run directory over twelve rows of arithmetic."""
    rows: list[dict[str, object]] = [{"instruction": f"{n} + {n} = ?", "output": str(2 * n)} for n in range(12)]
    with Keeper(Settings(home=tmp_path / "home", offline=True)) as studio:
        dataset = datasets.add(studio, write_jsonl(tmp_path / "sums.jsonl", rows))
    (tmp_path / "runs").mkdir()

    def make(run_id: str = "r1", **values: Any) -> RunDir:
        recipe = Recipe().with_values({"dataset": "sums", **QUICK, **values})
        return create(
            tmp_path / "runs",
            run_id,
            {
                "recipe.yaml": recipe.to_yaml(),
                "dataset.json": json.dumps(
                    {
                        "id": dataset.id,
                        "path": dataset.path,
                        "name": "sums",
                        "sha256": dataset.id,
                    }
                ),
                "model.json": json.dumps({"id": "tiny", "path": str(tiny)}),
            },
        )

    return make


def start(module: str, folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", f"studio.engine.workers.{module}", str(folder), "--nonce", "n"],
            stdout=log,
            stderr=log,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )


def work(module: str, folder: Path) -> int:
    return start(module, folder).wait(300)


def events(run: RunDir, kind: str) -> list[dict[str, Any]]:
    return [event.payload for event in read_events(run.events).events if event.kind == kind]


def ending(run: RunDir) -> Exit:
    end = Exit.read(run)
    assert end is not None, run.log_tail()
    return end


def wait_for_step(run: RunDir, step: int) -> None:
    deadline = time.monotonic() + 120
    while not any(point["step"] >= step for point in events(run, "metric")):
        assert time.monotonic() < deadline and not run.exit.exists(), run.log_tail()
        time.sleep(0.05)


def test_a_run_trains_evaluates_saves_and_ends(make_run: Any) -> None:
    run = make_run(
        held_out=0.25,
        max_steps=5,
        logging_steps=2,
        eval_steps=2,
        save_steps=2,
        save_total_limit=1,
        gradient_accumulation_steps=2,
    )
    assert work("train", run.path) == 0, run.log_tail()
    assert ending(run).state == "completed"
    assert [point["step"] for point in events(run, "metric")] == [2, 4, 5]
    assert [point["step"] for point in events(run, "eval")] == [2, 4, 5]
    assert [point["step"] for point in events(run, "checkpoint")] == [2, 4, 5]
    assert [path.name for path in run.checkpoints.iterdir()] == ["step-5"]
    plan = events(run, "plan")[0]
    assert (plan["total_steps"], plan["examples"], plan["held_out"]) == (5, 9, 3)
    assert [state["state"] for state in events(run, "state")] == ["starting", "running", "completed"]
    identity = Identity.read(run)
    assert identity is not None and identity.nonce == "n" and "torch" in identity.versions and identity.device
    assert verify_folder(run.adapter) is None


def test_the_adapter_loads_in_plain_peft(make_run: Any) -> None:
    run = make_run(max_steps=2, learning_rate=0.01)
    assert work("train", run.path) == 0, run.log_tail()
    script = (
        "import sys; from peft import AutoPeftModelForCausalLM as A; m = A.from_pretrained(sys.argv[1]);"
        "print(sum(float(p.abs().sum()) for n, p in m.named_parameters() if 'lora_B' in n) > 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(run.adapter)],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.stdout.strip() == "True", done.stderr
    assert "tiny" in (run.adapter / "README.md").read_text()


@pytest.mark.parametrize("by", ["control file", "SIGTERM"])
def test_a_stop_saves_the_last_step(make_run: Any, by: str) -> None:
    run = make_run(max_steps=100_000)
    worker = start("train", run.path)
    wait_for_step(run, 3)
    if by == "SIGTERM":
        worker.send_signal(signal.SIGTERM)
    else:
        run.ask("stop")
    assert worker.wait(60) == 0
    assert ending(run).state == "stopped"
    last = events(run, "metric")[-1]["step"]
    newest = newest_checkpoint(run)
    assert newest is not None and newest.name == f"step-{last}"
    assert verify_folder(run.adapter) is None
    assert [state["state"] for state in events(run, "state")][-2:] == ["stopping", "stopped"]


def test_a_cancel_saves_nothing_and_a_second_worker_leaves(make_run: Any) -> None:
    run = make_run(max_steps=100_000)
    worker = start("train", run.path)
    wait_for_step(run, 1)
    assert work("train", run.path) == 3
    run.ask("cancel")
    assert worker.wait(60) == 0
    assert ending(run).state == "stopped"
    assert not run.adapter.exists() and newest_checkpoint(run) is None


def test_nothing_to_train_on_is_said_before_the_model_is_loaded(make_run: Any) -> None:
    run = make_run(max_length=8)
    assert work("train", run.path) == 1
    end = ending(run)
    assert end.state == "failed" and "max_length" in end.remedy
    assert "Loading the model" not in run.log_tail()


def test_evaluating_a_4_bit_model_does_not_cut_its_gradients(tiny: Path) -> None:
    """bitsandbytes repacks 4-bit weights at the first evaluation on some CPUs; gradients then vanish silently."""
    import torch
    from peft import LoraConfig, get_peft_model

    from studio.engine.inference.loading import load_base, pick_device
    from studio.recipe.fields import Quantization

    device = pick_device()
    model = load_base(tiny, "bfloat16", device, Quantization(quantization="nf4"))
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    ids = torch.arange(1, 30, device=device.name)[None]

    def gradients() -> list[float]:
        model.zero_grad()
        model.train()
        with torch.autocast(device.name, torch.bfloat16):
            model(input_ids=ids, labels=ids).loss.backward()
        return [float(p.grad.norm()) for name, p in model.named_parameters() if "lora_B" in name]

    before = gradients()
    model.eval()
    with torch.no_grad(), torch.autocast(device.name, torch.bfloat16):
        model(input_ids=ids)
    assert all(value > 0 for value in before)
    assert gradients() == pytest.approx(before, rel=0.05)


@pytest.mark.parametrize("kind", ["adapter", "merged"])
def test_exports_are_whole_and_the_merged_model_answers_alike(
    make_run: Any, tmp_path: Path, tiny: Path, kind: str
) -> None:
    run = make_run(max_steps=3, learning_rate=0.01)
    assert work("train", run.path) == 0, run.log_tail()
    export = RunDir(tmp_path / "export")
    export.path.mkdir()
    (export.path / "export.json").write_text(
        json.dumps(
            {
                "kind": kind,
                "run": str(run.path),
                "source": str(run.adapter),
                "name": "sums 1",
                "model": {"id": "tiny", "path": str(tiny)},
            }
        )
    )
    assert work("export", export.path) == 0, export.log_tail()
    assert ending(export).state == "completed"
    if kind == "adapter":
        assert (export.path / "sums-1-adapter.zip").is_file()
        config = json.loads((export.adapter / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "tiny"
    else:
        assert verify_folder(export.path / "merged") is None
        assert events(export, "parity")[0]["correlation"] > 0.999


def test_chat_answers_side_by_side_as_each_model_does_alone(make_run: Any, tiny: Path) -> None:
    run = make_run(max_steps=6, learning_rate=0.02)
    assert work("train", run.path) == 0, run.log_tail()
    chat = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "studio.engine.workers.chat",
            "--model",
            str(tiny),
            "--dtype",
            "float32",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert chat.stdin is not None and chat.stdout is not None

    chat.stdin.write(json.dumps({"op": "load", "id": 0, "name": "adapted", "folder": str(run.adapter)}) + "\n")

    def ask(ask_id: int, *columns: str) -> dict[str, str]:
        asked = [{"role": "user", "content": "3 + 3 = ?"}]
        chat.stdin.write(
            json.dumps(
                {
                    "op": "ask",
                    "id": ask_id,
                    "sides": [{"column": name, "name": name, "messages": asked} for name in columns],
                    "max_new_tokens": 12,
                    "temperature": 0,
                }
            )
            + "\n"
        )
        chat.stdin.flush()
        texts = dict.fromkeys(columns, "")
        for line in chat.stdout:
            message = json.loads(line)
            assert message["kind"] != "error", message
            if message["kind"] == "delta":
                texts[message["column"]] += message["text"]
            if message["kind"] == "end":
                return texts
        raise AssertionError("the chat worker ended")

    both = ask(1, "base", "adapted")
    assert both == {**ask(2, "base"), **ask(3, "adapted")}
    assert both["base"] != both["adapted"]
    chat.stdin.close()
    assert chat.wait(30) == 0
