"""Adapters combined by weight: the sum is the sum, what cannot be combined is refused, and the result goes on."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from studio.engine.workers import combine, harness
from studio.errors import BadInput
from studio.launch import workers
from studio.rundir import Exit, RunDir, verify_folder, write_json
from studio.services.chat import participants
from studio.services.core.studio import Studio
from studio.services.exports import targets
from studio.services.models import adapters, combining, trained_weights
from studio.services.models.combining import CombineRequest
from tests.artefacts import adapter_run

pytestmark = pytest.mark.engine


@pytest.fixture
def two(ready: Studio, tiny: Path) -> Studio:
    """A studio with two runs of rank 4, one of rank 2, and one with rsLoRA."""
    for number, (name, values) in enumerate(
        {"one": {}, "two": {}, "small": {"r": 2}, "rs": {"use_rslora": True}}.items()
    ):
        adapter_run(ready.settings.runs / name, tiny, number, **values)
    ready.look()
    return ready


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker in this process: importing torch for each would take most of the time."""

    def start(run: RunDir, module: str) -> None:
        assert module == "studio.engine.workers.combine"
        write_json(run.claim, {"nonce": "n"})
        harness.serve("", combine.combine, [str(run.path), "--nonce", "n"])

    monkeypatch.setattr(workers, "start", start)


def change(folder: Path) -> dict[str, np.ndarray]:
    """What an adapter adds to each weight."""
    tensors = load_file(folder / "adapter_model.safetensors")
    config = json.loads((folder / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config["use_rslora"] else config["r"])
    return {
        name: scale * tensors[name.replace("lora_A", "lora_B")] @ tensor
        for name, tensor in tensors.items()
        if "lora_A" in name
    }


@pytest.mark.parametrize(
    ("parents", "method", "rank", "exact"),
    [
        (("one", "two"), "cat", 8, True),
        (("one", "small"), "cat", 6, True),
        (("rs", "one"), "cat", 8, True),
        (("one", "two"), "linear", 4, False),
        (("one", "small"), "svd", 4, False),
        (("one", "two"), "ties", 4, False),
        (("one", "two"), "dare_linear", 4, False),
    ],
)
def test_combined(two: Studio, parents: tuple[str, str], method: str, rank: int, exact: bool) -> None:
    info = combining.start(two, CombineRequest(parents, (0.7, -0.3), method, name="both", draft=True))
    assert (info.state, info.has_adapter, info.draft) == ("completed", True, True), info.message
    folder = Path(info.path) / "adapter"
    assert verify_folder(folder) is None
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["use_rslora"]) == (rank, False)
    made = change(folder)
    one, other = (change(two.run_dir(name).adapter) for name in parents)
    wanted = {name: 0.7 * one[name] - 0.3 * other[name] for name in one}
    apart = max(float(np.abs(made[name] - wanted[name]).max()) for name in wanted)
    assert (apart < 1e-5) is exact
    assert "0.7" in (folder / "README.md").read_text()
    # It stands where a run would.
    (side,) = participants.resolve(two, ["both"])
    assert side.folder == folder
    assert [target.kind for target in targets.find(two, "both")] == ["adapter", "merged", "gguf"]


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (CombineRequest(("one",), (1,)), "two or three"),
        (CombineRequest(("one", "two"), (1,)), "as many weights"),
        (CombineRequest(("one", "two"), (0, 0)), "at least one must not be 0"),
        (CombineRequest(("one", "two"), (1, 1), "soup"), "no method 'soup'"),
        (CombineRequest(("one", "two"), (1, 1), "ties", 1.5), "share above 0"),
        (CombineRequest(("one", "one"), (1, 1)), "chosen twice"),
        (
            CombineRequest(("one", "small"), (1, 1), "linear"),
            "needs equal ranks: one, step 12 has 4, small, step 12 has 2",
        ),
    ],
)
def test_what_cannot_be_combined_is_said_before_anything_is_written(
    two: Studio, wish: CombineRequest, words: str
) -> None:
    with pytest.raises(BadInput, match=words):
        combining.start(two, wish)
    assert adapters.list_adapters(two) == []


def test_a_combination_can_be_combined_again_and_a_failed_one_is_told(two: Studio) -> None:
    combining.start(two, CombineRequest(("one", "two"), (0.5, 0.5), name="both"))
    again = combining.start(two, CombineRequest(("both", "small"), (1, 1)))
    assert again.has_adapter and again.name == "both + small"
    assert trained_weights.held_out(two, again.id) == []
    (two.run_dir("one").adapter / "adapter_model.safetensors").write_bytes(b"")
    broken = combining.start(two, CombineRequest(("one", "two"), (1, 1)))
    assert (broken.state, broken.has_adapter) == ("failed", False) and "damaged" in broken.message
    assert Exit.read(adapters.folder_of(two, broken.id)) is not None
    adapters.remove(two, broken.id)
