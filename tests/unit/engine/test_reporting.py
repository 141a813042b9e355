"""Reporting elsewhere is asked for in the recipe and refused in a sentence where its library is missing."""

import importlib.machinery
import importlib.util
from typing import Any

import pytest
import yaml

from studio.errors import BadInput
from studio.recipe import Recipe
from studio.services.runs.runs import check_reporting
from studio.ui.train import form


def test_nothing_is_reported_unless_asked_for() -> None:
    assert Recipe().output.report_to == []
    check_reporting(Recipe())


@pytest.mark.parametrize("told", ["tensorboard", "tensorboard\nwandb", ["tensorboard"], ["trackio", "wandb"]])
def test_it_is_asked_for_as_forms_and_flags_write_it(told: Any) -> None:
    recipe = Recipe().with_values({"report_to": told})
    assert recipe.output.report_to == (told.split() if isinstance(told, str) else told)
    assert Recipe.parse(yaml.safe_load(recipe.to_yaml()), "test") == recipe
    assert form.for_form("report_to", recipe.output.report_to) == recipe.output.report_to


def test_an_unknown_one_is_refused() -> None:
    with pytest.raises(BadInput, match="report_to"):
        Recipe().with_values({"report_to": ["telegram"]})


def test_a_library_that_is_missing_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    there = importlib.machinery.ModuleSpec("tensorboard", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: there if name == "tensorboard" else None)
    check_reporting(Recipe().with_values({"report_to": ["tensorboard"]}))
    with pytest.raises(BadInput, match="pip install wandb"):
        check_reporting(Recipe().with_values({"report_to": ["tensorboard", "wandb"]}))
