"""A run as a plain script: what depends on the versions that it asks for."""

import pytest

from studio.recipe import Recipe
from studio.services.exports.trl_script import Facts, script


@pytest.mark.parametrize(("version", "named"), [
    ("5.20.1", "gradient_checkpointing=True"),
    ("5.22", "gradient_checkpointing=True"),
    ("5.23.0", "activation_checkpointing=True"),
    ("6.0.0", "activation_checkpointing=True"),
])  # fmt: skip
def test_checkpointing_goes_by_the_name_that_the_version_knows(version: str, named: str) -> None:
    recipe = Recipe().with_values({"gradient_checkpointing": True})
    facts = Facts("a run", "a/model", ["torch==2.13.0", f"transformers=={version}"], ">=3.11", ["q_proj"], [])
    assert [line.strip(" ,") for line in script(recipe, facts).splitlines() if "checkpointing=" in line] == [named]
