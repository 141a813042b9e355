"""The store of adapters: put in whole, found wherever a run may be named, kept, and removed; without torch."""

from pathlib import Path

import pytest

from studio.errors import BadInput, Conflict, NotFound
from studio.recipe import Recipe
from studio.rundir import Exit, read_json, verify_folder, whole_folder
from studio.services.chat import chat, participants
from studio.services.core.studio import Studio
from studio.services.evals import evaluations
from studio.services.models import adapters, trained_weights
from studio.services.models.adapters import New
from studio.services.runs import runs


def recipe(seed: int = 0, name: str = "sums") -> Recipe:
    return Recipe().with_values(
        {"model": "tiny", "dataset": "little", "name": name, "held_out": 0.4, "seed": seed, "max_steps": 1}
    )


def learned(studio: Studio, name: str = "sums", seed: int = 0) -> str:
    """A run that is over, with an adapter of nothing."""
    studio.look = lambda: None  # type: ignore[method-assign]  # the keeper is not to start it
    info = runs.start(studio, recipe(seed, name))
    del studio.look
    run = studio.run_dir(info.id)
    with whole_folder(run.adapter) as aside:
        (aside / "adapter_config.json").write_text("{}")
    Exit("completed", "Completed.").write(run)
    studio.look()
    return info.id


@pytest.fixture
def contents(tmp_path: Path) -> Path:
    folder = tmp_path / "brought"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def test_what_is_put_in_is_whole_and_stands_beside_the_runs(ready: Studio, contents: Path) -> None:
    run = learned(ready)
    new = New("brought", "imported", recipe(), {"from": "a friend"})
    info = adapters.put(ready, new, contents)
    assert (info.state, info.has_adapter, info.model, info.words) == ("completed", True, "tiny", "from a friend")
    assert verify_folder(Path(info.path) / "adapter") is None
    assert adapters.put(ready, new, contents).name == "brought-2"
    labels = [label for label, _ in participants.choices(ready)]
    assert labels == ["brought-2, imported", "brought, imported", "sums, step 0"]
    base, one, other = participants.resolve(ready, ["base", "brought", run])
    assert (base.key, one.key, one.title, other.key) == ("base", info.id, "brought", f"{run}@0")
    assert one.folder == Path(info.path) / "adapter" and one.words == "tiny + brought (from a friend)"
    assert trained_weights.find(ready, info.id[:16]).id in {item.id for item in adapters.list_adapters(ready)}
    with pytest.raises(BadInput, match="it has no checkpoints"):
        trained_weights.find(ready, "brought@4")


def test_a_half_put_adapter_is_not_there(ready: Studio, contents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space"):
        adapters.put(ready, New("brought", "imported", recipe(), {}), contents)
    assert adapters.list_adapters(ready) == [] and list(ready.settings.adapters.iterdir()) == []


def test_one_without_its_weights_is_told_and_goes(ready: Studio) -> None:
    info = adapters.put(ready, New("half", "combined", recipe(), {"parents": []}, draft=True))
    assert (info.state, info.has_adapter, info.draft) == ("interrupted", False, True)
    with pytest.raises(Conflict, match="half is not whole"):
        trained_weights.find(ready, "half")
    with pytest.raises(Conflict, match="cannot be kept"):
        adapters.keep(ready, "half")
    adapters.remove(ready, "half")
    with pytest.raises(NotFound, match="no adapter 'half'"):
        adapters.get(ready, "half")
    assert list(ready.settings.adapters.iterdir()) == []


def test_drafts_are_kept_under_a_name_of_ones_own(ready: Studio, contents: Path) -> None:
    adapters.put(ready, New("one", "imported", recipe(), {}, draft=True), contents)
    assert trained_weights.choices(ready)[0][0] == "one, draft"
    assert adapters.keep(ready, "one", "mine").name == "mine"
    assert trained_weights.choices(ready)[0][0] == "mine, imported"
    for wrong in ("", "a@b", "x" * 81):
        with pytest.raises(BadInput, match="A name must have"):
            adapters.put(ready, New(wrong, "imported", recipe(), {}), contents)


def test_only_its_owner_has_it(ready: Studio, contents: Path) -> None:
    info = adapters.put(ready, New("mine", "imported", recipe(), {}), contents)
    ready.home_owner = "someone else"
    assert adapters.list_adapters(ready) == []
    with pytest.raises(NotFound):
        adapters.folder_of(ready, info.id)


def test_rows_that_a_parent_was_trained_on_are_not_held_out(ready: Studio, contents: Path) -> None:
    one, other = learned(ready, "one", 1), learned(ready, "other", 2)
    rows = {key: {record.row for record in trained_weights.held_out(ready, key)} for key in (one, other)}
    assert rows[one] != rows[other] and rows[one] & rows[other]
    origin = {"parents": [{"id": one, "name": "one", "weight": 1}, {"id": f"{other}@0", "name": "o", "weight": 0.5}]}
    pointer = read_json(ready.run_dir(one).dataset) or {}
    new = New("both", "combined", recipe(1), {**origin, "method": "linear"}, pointer)
    info = adapters.put(ready, new, contents)
    assert info.words == "1 × one + 0.5 × o, linear"
    assert {record.row for record in trained_weights.held_out(ready, info.id)} == rows[one] & rows[other]
    assert chat.held_out_prompts(ready, info.id)


def test_it_is_evaluated_as_a_run_is(ready: Studio, contents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = learned(ready)
    monkeypatch.setattr(ready, "look", lambda: None)
    adapters.put(ready, New("brought", "imported", recipe(), {}), contents)
    info = evaluations.start(ready, "brought", ["general"], [run])
    assert info.columns == {"base": "tiny", "adapted": "brought", "other1": "sums, step 0"}
    assert [item.id for item in evaluations.list_evaluations(ready)] == [info.id]
