"""The dry run with a real worker, and the measured peak that every run keeps."""

import dataclasses
import time
from pathlib import Path

import pytest

from studio.errors import BadInput, Conflict
from studio.recipe import Recipe
from studio.services.core.studio import Studio
from studio.services.planning import dry_runs, estimates
from studio.services.runs import runs

pytestmark = pytest.mark.engine
LITTLE = {"model": "tiny", "dataset": "little", "max_length": 64, "per_device_train_batch_size": 2}


def allocated(studio: Studio, recipe: Recipe) -> int:
    return estimates.allocated(estimates.estimate(studio, recipe))


def left_over(studio: Studio) -> list[Path]:
    return list(studio.settings.staging.iterdir()) + list(studio.settings.runs.iterdir())


# Packed rows are not quite as full as the estimate takes them to be.
PACKED = {"packing": True, "max_length": 512}


@pytest.mark.parametrize("values", [{}, PACKED, PACKED | {"gradient_accumulation_steps": 2}, {"method": "full"}])
def test_a_dry_run_measures_and_corrects_the_estimate(ready: Studio, values: dict[str, object]) -> None:
    recipe = Recipe().with_values(LITTLE | values)
    before = allocated(ready, recipe)
    told: list[str] = []
    found = dry_runs.run(ready, recipe, lambda doing, *_: told.append(doing))
    assert found.predicted == before
    assert before / (1.2 if values.get("packing") else 1.1) < found.measured < 1.1 * before
    assert found.rows == recipe.effective_batch
    assert 0 < found.length <= recipe.data.max_length
    assert found.step_seconds > 0 and found.eval_seconds > 0 and found.save_seconds > 0
    assert "Training on the longest examples" in told and "Saving a checkpoint" in told

    after = estimates.estimate(ready, recipe)
    assert after.exact
    assert allocated(ready, recipe) == pytest.approx(found.measured, abs=10)
    assert "dry run" in after.minutes_from and after.minutes > 0
    assert left_over(ready) == []


def test_another_rate_is_the_same_recipe_and_another_batch_is_near(ready: Studio) -> None:
    recipe = Recipe().with_values(LITTLE)
    found = dry_runs.run(ready, recipe)
    assert estimates.estimate(ready, recipe.with_values({"learning_rate": 1e-3, "num_train_epochs": 2})).exact
    larger = recipe.with_values({"per_device_train_batch_size": 4})
    told, plain = estimates.estimate(ready, larger), estimates.question(ready, larger).footprint(larger)
    assert told.dry_run is not None and not told.exact
    expected = plain.fixed + found.correction * (plain.allocated - plain.fixed)
    assert estimates.allocated(told) == pytest.approx(expected, abs=10)
    assert estimates.estimate(ready, recipe.with_values({"quantization": "nf4"})).dry_run is None


def test_a_dry_run_that_is_given_up_leaves_nothing(ready: Studio) -> None:
    job = dry_runs.running(ready, Recipe().with_values(LITTLE))
    next(job)
    assert estimates.dry_run_results.under_way(ready)
    job.close()
    assert not estimates.dry_run_results.under_way(ready)
    assert left_over(ready) == []


def test_what_cannot_be_trained_is_said_before_a_worker_starts(ready: Studio) -> None:
    with pytest.raises(BadInput, match="has no linear layer 'c_attn'"):
        dry_runs.run(ready, Recipe().with_values(LITTLE | {"target_modules": ["c_attn"]}))
    assert left_over(ready) == []


def test_a_run_waits_for_a_dry_run_and_the_other_way_round(ready: Studio) -> None:
    job = dry_runs.running(ready, Recipe().with_values(LITTLE))
    next(job)
    with pytest.raises(Conflict, match="Another dry run"):
        dry_runs.run(ready, Recipe().with_values(LITTLE))
    run = runs.start(ready, Recipe().with_values(LITTLE | {"num_train_epochs": 1}))
    assert runs.get(ready, run.id).state == "queued"
    job.close()
    assert runs.get(ready, run.id).state == "starting"
    with pytest.raises(Conflict, match="is training"):
        dry_runs.run(ready, Recipe().with_values(LITTLE))
    finished(ready, run.id)


def test_a_run_keeps_what_was_predicted_and_measured(ready: Studio) -> None:
    recipe = Recipe().with_values(LITTLE | {"num_train_epochs": 1})
    assert estimates.error(ready) == (0.0, 0)
    done = finished(ready, runs.start(ready, recipe).id)
    assert done.state == "completed"
    median, count = estimates.error(ready)
    assert count == 1
    assert 0 < median < 0.25  # a batch of this tiny model is little: what its rows are changes much
    assert runs.rebuild(ready) == 1
    assert estimates.error(ready) == (median, 1)


def finished(studio: Studio, run_id: str) -> runs.RunInfo:
    deadline = time.monotonic() + 300
    while not (info := runs.get(studio, run_id)).final:
        assert time.monotonic() < deadline, dataclasses.asdict(info)
        time.sleep(0.2)
    return info
