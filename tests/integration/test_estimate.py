"""The estimate against real training: a subset of benchmarks/estimator, and the catalogue against transformers."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.estimator import shapes
from benchmarks.estimator.__main__ import recipe_of, run
from benchmarks.estimator.configurations import Configuration, subset
from studio.machine import cpu
from studio.memory import catalogue
from studio.memory.shapes import read_shape
from studio.recipe import PLAIN_ATTENTION_TOKENS
from studio.recipe.fast_path import why_not

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("shapes")


def test_the_counter_counts_a_case_done_by_hand() -> None:
    """Two tensors of 4 MB at once are the peak; a third of 2 MB comes when one of them is gone."""
    import torch

    from studio.engine.training import peak_memory

    million = 1_000_000
    before = torch.zeros(million)
    base = peak_memory.live_bytes()
    with peak_memory.peak_of(base, cuda=False) as peak:
        first = torch.zeros(million)
        second = first + 1
        del first
        third = torch.zeros(million // 2)
    assert peak.bytes - base == pytest.approx(8 * million, abs=1000)
    assert peak_memory.live_bytes() - base == 4 * (second.numel() + third.numel())
    del before
    assert peak_memory.live_bytes() - base == 2 * million
    kept = torch.ops.mkldnn._reorder_linear_weight(torch.zeros(1000, 1000), 1024)
    assert peak_memory.live_bytes() - base == 2 * million + 4 * kept.numel()


@pytest.mark.parametrize("one", subset(), ids=lambda one: f"{one.model}-{one.words}")
def test_predicted_and_measured_peak(models: Path, one: Configuration) -> None:
    folder, bound = shapes.make(models, one.model), 0.1
    if emulated(one, folder) and one.length <= PLAIN_ATTENTION_TOKENS:  # beyond it, attention would be another
        # A third of the products, and a tighter bound: less of the peak is what comes and goes with the tokens.
        one, bound = replace(one, length=one.length // 3), 0.05
    result = run(one, folder, cuda=False)
    assert abs(result.error) < bound
    assert result.exact_parameters


def emulated(one: Configuration, folder: Path) -> bool:
    """Whether the reference path would multiply bfloat16 on a processor that has no such products."""
    recipe = recipe_of(one)
    reference = bool(why_not(recipe, read_shape(folder).config, cuda=False))
    return reference and recipe.model.dtype == "bfloat16" and not cpu.multiplies_bf16()


WIDENED = [{}, {"gradient_checkpointing": True}, {"target_modules": ["q_proj"]}, {"quantization": "nf4"}]


@pytest.mark.parametrize("values", WIDENED, ids=str)
def test_predicted_and_measured_peak_without_bfloat16(
    models: Path, values: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "multiplies_bf16", lambda: False)
    result = run(Configuration("llama", 2, 160, 0.1, values), shapes.make(models, "llama"), cuda=False)
    assert abs(result.error) < 0.05
    assert result.exact_parameters


@pytest.mark.parametrize(
    "name",
    [
        "HuggingFaceTB/SmolLM2-135M",
        "meta-llama/Llama-3.2-1B",
        "Qwen/Qwen3-0.6B",
        "mistralai/Mistral-7B-v0.3",
        "google/gemma-3-1b-it",
        "microsoft/phi-4",
        "HuggingFaceTB/SmolLM3-3B",
        "openai-community/gpt2",
        "EleutherAI/pythia-1b",
        "tiiuae/falcon-7b",
    ],
)
def test_a_known_models_tensors_are_those_transformers_makes(name: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shape = catalogue.shape(name)
    config = AutoConfig.for_model(**shape.config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    prefix = "transformer." if name.endswith("gpt2") else ""
    ours = {prefix + tensor.name: tensor.shape for tensor in shape.tensors}
    # transformers 5 calls GPT-NeoX's head lm_head in the model and embed_out in the file.
    filed = {"lm_head.weight": "embed_out.weight"} if "pythia" in name else {}
    theirs = {filed.get(name, name): tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert ours == theirs
