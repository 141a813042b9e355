"""YAML loader for recipes: plain values, no aliases.

PyYAML has no switch to refuse aliases, so this module overrides its composer. RELIES_ON lists the PyYAML internals in
use and what would break without each; tests/unit/project/test_contracts.py checks them against the installed PyYAML.
"""

from typing import Any

import yaml

_REFERENCES = "a few lines of references in a recipe could take all memory"
RELIES_ON = {
    "yaml.SafeLoader.compose_node(self, parent, index)": _REFERENCES,
    "yaml.SafeLoader.check_event(self, *choices)": _REFERENCES,
    "yaml.SafeLoader.get_mark(self)": "the error for a reference in a recipe would not name its line",
    "yaml.AliasEvent": _REFERENCES,
    "yaml.MarkedYAMLError().problem_mark": "errors in a recipe would not name their line",
}


class _Plain(yaml.SafeLoader):
    """Safe YAML loader without aliases: no recipe needs them, and a few lines of nested ones expand without bound."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="a reference", problem_mark=self.get_mark())
        return super().compose_node(parent, index)


def read(text: str) -> Any:
    """Parse YAML text into a document; raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Plain)  # noqa: S506 a SafeLoader


def line_of(error: BaseException) -> int | None:
    """Line number, from 1, of a YAML error, or None when the error has none."""
    mark = getattr(error, "problem_mark", None)
    return mark.line + 1 if mark else None
