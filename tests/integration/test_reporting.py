"""Reporting to TensorBoard, trackio and W&B beside the journal, with the real engine."""

import contextlib
import json
import sqlite3
from typing import Any

import numpy as np
import pytest

from studio.services.curves import tensorboard
from tests.integration.test_engine_train import events, make_run, work
from tests.unit.services.curves.test_curves import read_events

__all__ = ["make_run"]
pytestmark = pytest.mark.engine


def told(run: Any) -> list[tuple[Any, ...]]:
    return [(one["step"], one["loss"], one["grad_norm"]) for one in events(run, "metric")]


def test_tensorboard_files_are_in_the_run_directory_and_the_run_is_the_same(make_run: Any) -> None:
    values = {"max_steps": 4, "lora_dropout": 0.1, "seed": 3, "held_out": 0.25, "eval_steps": 2}
    plain, reported = make_run("plain", **values), make_run("reported", **values, report_to=["tensorboard"])
    assert work("train", plain.path) == 0 and work("train", reported.path) == 0
    assert told(plain) == told(reported) and len(told(plain)) == 4
    assert not (plain.path / "tensorboard").exists()
    theirs = read_events(reported.path / "tensorboard")
    assert "train/entropy" not in theirs and "eval/entropy" not in theirs  # the fast path does not work it out

    # A file made of the journal afterwards says the same under the same names.
    ours = {}
    for kind, tags in tensorboard.TAGS.items():
        for name, tag in tags.items():
            name = "eval_token_accuracy" if tag == "eval/mean_token_accuracy" else name
            ours.setdefault(tag, []).extend(
                (one["step"], np.float32(one[name])) for one in events(reported, kind) if one[name] is not None
            )
    own = {"train/tokens_per_s", "train/step_seconds", "train/memory"}
    assert set(ours) - set(theirs) == own
    for tag in set(ours) - own:
        found = [(step, value) for step, _, value in theirs[tag]]
        assert found == ours[tag] if tag != "train/epoch" else set(found) == set(ours[tag]), tag


@pytest.mark.parametrize("kind", ["trackio", "wandb"])
def test_trackio_and_wandb_have_every_loss_and_stay_on_this_machine(make_run: Any, kind: str) -> None:
    pytest.importorskip(kind)
    run = make_run("reported", max_steps=4, seed=3, report_to=[kind])
    assert work("train", run.path) == 0, run.log_tail()
    assert events(run, "note") == [] and events(run, "plan")[0]["engine"] == "fast"
    losses = [loss for _, loss, _ in told(run)]
    assert len(losses) == 4
    if kind == "trackio":
        with contextlib.closing(sqlite3.connect(run.path / "trackio" / "lora-studio.db")) as base:
            rows = [json.loads(one) for (one,) in base.execute("SELECT metrics FROM metrics ORDER BY id")]
        assert [row["train/loss"] for row in rows if "train/loss" in row] == losses
        assert not any("entropy" in name for row in rows for name in row)
    else:
        (path,) = (run.path / "wandb").rglob("offline-run-*/*.wandb")
        written = path.read_bytes()
        assert all(repr(loss).encode() in written for loss in losses) and b"entropy" not in written


def test_one_that_fails_is_left_out_with_a_note_and_the_run_goes_on(make_run: Any) -> None:
    run = make_run("reported", max_steps=3, report_to=["tensorboard"])
    (run.path / "tensorboard").mkdir()
    (run.path / "sitecustomize.py").write_text(
        "import torch.utils.tensorboard as there\n"
        "def broken(*_, **__): raise OSError('no room')\n"
        "there.SummaryWriter.add_scalar = broken\n"
    )
    import os

    os.environ["PYTHONPATH"] = f"{run.path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    try:
        assert work("train", run.path) == 0
    finally:
        os.environ["PYTHONPATH"] = os.environ["PYTHONPATH"].partition(os.pathsep)[2]
    assert len(told(run)) == 3
    assert [one["text"] for one in events(run, "note") if "TensorBoard" in one["text"]] == [
        "Reporting to TensorBoard ended (OSError: no room). Training goes on."
    ]
