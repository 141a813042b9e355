"""Reporting to TensorBoard beside the journal, with the real engine."""

from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_engine_train import events, make_run, work

__all__ = ["make_run"]
pytestmark = pytest.mark.engine


def told(run: Any) -> list[tuple[Any, ...]]:
    return [(one["step"], one["loss"], one["grad_norm"]) for one in events(run, "metric")]


def test_tensorboard_files_are_in_the_run_directory_and_the_run_is_the_same(make_run: Any) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    values = {"max_steps": 4, "lora_dropout": 0.1, "seed": 3}
    plain, reported = make_run("plain", **values), make_run("reported", **values, report_to=["tensorboard"])
    assert work("train", plain.path) == 0 and work("train", reported.path) == 0
    assert told(plain) == told(reported) and len(told(plain)) == 4
    folder: Path = reported.path / "tensorboard"
    reader = EventAccumulator(str(folder))
    reader.Reload()
    losses = [(one.step, round(one.value, 4)) for one in reader.Scalars("train/loss")]
    assert losses == [(step, round(loss, 4)) for step, loss, _ in told(reported)]
    assert not (plain.path / "tensorboard").exists()


def test_one_that_fails_is_left_out_with_a_note_and_the_run_goes_on(make_run: Any) -> None:
    pytest.importorskip("tensorboard")
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
