"""Base and adapters answer in one pass what plain transformers and PEFT answer one by one; here on a tiny model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from studio.engine.inference import generation, loading
from studio.engine.inference.adapter_slots import BASE, AdapterSlots

pytestmark = pytest.mark.engine
CPU = loading.Device("cpu", "CPU")
# Of different lengths, so that rows are padded.
PROMPTS = {BASE: [5, 80, 90, 100, 7], "one": [5, 80, 90], "two": [9, 8, 77, 66, 55, 44, 33], "dora": [5, 6, 120]}


@pytest.fixture(scope="module")
def adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three adapters with random weights: two of LoRA that differ in rank and layers, and one of DoRA."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    made = {}
    for seed, (name, options) in enumerate(
        {
            "one": {"r": 4, "target_modules": "all-linear"},
            "two": {"r": 8, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"], "use_rslora": True},
            "dora": {"r": 4, "target_modules": "all-linear", "use_dora": True},
        }.items()
    ):
        torch.manual_seed(seed)
        base = AutoModelForCausalLM.from_pretrained(tiny, dtype="float32")
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **options))
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.6)
        made[name] = tmp_path_factory.mktemp("adapters") / name
        model.save_pretrained(str(made[name]), save_embedding_layers=False)
    return made


@pytest.fixture
def seats(tiny: Path, adapters: dict[str, Path]) -> AdapterSlots:
    taken = AdapterSlots(tiny, "float32", CPU, lambda _: None)
    for name in ("one", "two", "dora"):
        taken.load(name, adapters[name])
    return taken


def ask(
    seats: AdapterSlots,
    names: Sequence[str],
    drawing: generation.SamplingOptions | None = None,
    limits: Sequence[int] = (24,) * 4,
) -> dict[str, list[int]]:
    """What each says, by the chat's loop."""
    said: dict[str, list[int]] = {name: [] for name in names}
    for group in seats.groups(names):

        def take(row: int, token: int, columns: list[str] = group.columns) -> bool:
            said[columns[row]].append(token)
            return len(said[columns[row]]) < limits[names.index(columns[row])]

        with group.as_wanted() as leave:
            rows = generation.Rows([PROMPTS[name] for name in group.columns], take, leave=leave)
            generation.answer(group.inner, rows, drawing or generation.SamplingOptions(), 0)
    return said


def plain(tiny: Path, adapters: dict[str, Path], name: str, **options: Any) -> list[int]:
    """What transformers and PEFT say, with nothing of ours."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny, dtype="float32")
    if name != BASE:
        model = PeftModel.from_pretrained(model, str(adapters[name]))
    ids = torch.tensor([PROMPTS[name]])
    with torch.no_grad():
        made = model.eval().generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, eos_token_id=None,
            pad_token_id=0, **options,
        )  # fmt: skip
    return [int(token) for token in made[0, ids.shape[1] :]]


def test_greedy_answers_are_those_of_plain_peft(seats: AdapterSlots, tiny: Path, adapters: dict[str, Path]) -> None:
    names = [BASE, "one", "two", "dora"]
    groups = [group.columns for group in seats.groups(names)]
    assert groups == [[BASE, "one", "two"], ["dora"]] and seats.why_alone("dora") and not seats.why_alone("one")
    said = ask(seats, names)
    assert said == {name: plain(tiny, adapters, name) for name in names}
    assert len({tuple(answer) for answer in said.values()}) == 4
    penalised = ask(seats, [BASE, "one"], generation.SamplingOptions(repetition_penalty=1.3))
    assert penalised == {name: plain(tiny, adapters, name, repetition_penalty=1.3) for name in (BASE, "one")}
    assert penalised != {name: said[name] for name in penalised}


def test_rows_end_by_themselves_and_nobody_changes_anybodys_answer(seats: AdapterSlots) -> None:
    names = [BASE, "one", "two"]
    drawing = generation.SamplingOptions(temperature=1.3, top_p=0.95, top_k=50, seed=7)
    whole = ask(seats, names, drawing)
    short = ask(seats, names, drawing, limits=(3, 24, 9))
    assert [len(short[name]) for name in names] == [3, 24, 9]
    assert all(whole[name][: len(short[name])] == short[name] for name in names)
    assert all(ask(seats, [name], drawing)[name] == whole[name] for name in names)
    assert ask(seats, names, generation.SamplingOptions(1.3, 0.95, 50, seed=8)) != whole


def test_adapters_come_and_go_and_the_base_stays(seats: AdapterSlots, adapters: dict[str, Path], tiny: Path) -> None:
    before = ask(seats, [BASE, "one", "two"])
    weights = next(seats.groups([BASE])).inner.get_input_embeddings().weight.data_ptr()
    for name in ("one", "dora", "two"):
        seats.drop(name)
        assert name not in seats.names
        assert ask(seats, [BASE])[BASE] == before[BASE]
    seats.load("two", adapters["two"])
    assert ask(seats, [BASE, "two"]) == {name: before[name] for name in (BASE, "two")}
    assert next(seats.groups([BASE])).inner.get_input_embeddings().weight.data_ptr() == weights


def test_an_answer_that_is_stopped_stops(seats: AdapterSlots) -> None:
    said: list[int] = []
    (group,) = seats.groups([BASE])

    def take(_: int, token: int) -> bool:
        said.append(token)
        return True

    with group.as_wanted():
        rows = generation.Rows([PROMPTS[BASE]], take, stopped=lambda: len(said) >= 5)
        generation.answer(group.inner, rows, generation.SamplingOptions(), 0)
    assert len(said) == 5
