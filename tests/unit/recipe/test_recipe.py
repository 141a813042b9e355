"""The recipe: one description from which form, tooltips, YAML, command line and worker derive."""

import re
from pathlib import Path

import pytest

from studio.errors import BadInput
from studio.recipe import Recipe, all_fields, find_field, from_text


def test_yaml_comes_back_the_same(tmp_path: Path) -> None:
    recipe = Recipe().with_values({"r": 8, "target_modules": ["q_proj", "v_proj"], "name": "für später"})
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.load(path) == recipe


def test_every_field_has_a_label_a_library_argument_and_help_with_a_number() -> None:
    for known in all_fields():
        assert known.label and known.becomes, known.name
        assert re.search(r"\d", known.help), f"{known.name}: its help names no number"


def test_numbers_have_bounds_and_names_are_unique() -> None:
    fields = list(all_fields())
    assert len({known.name for known in fields}) == len(fields)
    for known in fields:
        if known.kind in (int, float):
            low, high = known.bounds
            assert low is not None and high is not None, f"{known.name} has no bounds"


def test_raising_alpha_strengthens_the_update() -> None:
    weak, strong = (Recipe().with_values({"r": 16, "lora_alpha": alpha}).method.scale for alpha in (16, 64))
    assert (weak, strong) == (1.0, 4.0)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"method": {"rank": 4}}, "method.rank is not a recipe field; did you mean method.r?"),
        ({"method": {"r": 0}}, "method.r must be at least 1, not 0"),
        ({"method": {"r": "many"}}, "method.r must be a whole number, not 'many'"),
        ({"optimizer": {"learning_rate": float("nan")}}, "optimizer.learning_rate must be a number"),
        ({"optimizer": {"learning_rate": 2}}, "optimizer.learning_rate must be at most 1"),
        ({"method": {"target_modules": []}}, "target_modules is empty"),
        ({"quantization": {"quantization": "nf3"}}, "'none', 'int8', 'nf4' or 'fp4', not 'nf3'"),
        ({"version": 99}, "version 99 is unknown"),
        (["model"], "is not a recipe"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(document: object, said: str) -> None:
    with pytest.raises(BadInput, match=re.escape(said)) as error:
        Recipe.parse(document, "mine.yaml")
    assert str(error.value).startswith("mine.yaml")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"method": "full", "quantization": "nf4"}, "quantization nf4 freezes them"),
        ({"init_lora_weights": "pissa", "quantization": "int8"}, "init_lora_weights pissa decomposes the base"),
        ({"init_lora_weights": "olora", "quantization": "fp4"}, "init_lora_weights olora decomposes the base"),
        ({"init_lora_weights": "loftq"}, "set quantization to nf4 or fp4"),
        ({"init_lora_weights": "loftq", "quantization": "int8"}, "set quantization to nf4 or fp4"),
        ({"loraplus_lr_ratio": 16, "optim": "adamw_8bit"}, "loraplus_lr_ratio works with optim adamw_torch"),
        ({"method": "prompt", "packing": True}, "method prompt needs its virtual tokens"),
        ({"method": "prefix", "packing": True}, "method prefix needs its virtual tokens"),
        ({"method": "prefix", "gradient_checkpointing": True}, "gradient_checkpointing drops"),
        ({"early_stopping_patience": 3}, "set eval_steps as well"),
    ],
    ids=str,
)
def test_what_cannot_go_together_is_refused_in_words(values: dict[str, object], said: str) -> None:
    with pytest.raises(BadInput, match=re.escape(said)):
        Recipe().with_values(values)


def test_a_field_of_another_method_is_no_hindrance() -> None:
    Recipe().with_values({"method": "ia3", "init_lora_weights": "pissa", "quantization": "nf4"})
    Recipe().with_values({"method": "full", "loraplus_lr_ratio": 16, "optim": "adamw_8bit"})


@pytest.mark.parametrize("text", ["a: [", "\t- x: y: z", "{" * 2000, "!!python/object/apply:os.system ['true']"])
def test_a_file_that_is_no_yaml_is_refused_plainly(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(BadInput, match=r"broken\.yaml"):
        Recipe.load(path)


def test_unknown_names_get_the_nearest_one() -> None:
    with pytest.raises(BadInput, match="Did you mean lora_dropout"):
        find_field("dropout")
    assert from_text("gradient_checkpointing", "yes") is True
    with pytest.raises(BadInput, match="use true or false"):
        from_text("gradient_checkpointing", "maybe")


@pytest.mark.parametrize(
    ("examples", "values", "steps"),
    [
        (300, {"per_device_train_batch_size": 8}, 38),
        (300, {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}, 10),
        (300, {"per_device_train_batch_size": 8, "num_train_epochs": 2.5}, 95),
        (300, {"max_steps": 7}, 7),
        (1, {"gradient_accumulation_steps": 8}, 1),
    ],
)
def test_steps_are_counted_as_the_trainer_counts_them(examples: int, values: dict[str, object], steps: int) -> None:
    assert Recipe().with_values(values).total_steps(examples) == steps
