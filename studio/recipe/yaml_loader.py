"""YAML as a recipe may be written: plain values, and no references.

The room of PyYAML's inside: it has no switch for references, so its composer is told. RELIES_ON names what of it is
used, and what would be broken without it; tests/unit/project/test_contracts.py holds the installed PyYAML to that.
"""

from typing import Any

import yaml

_REFERENCES = "a few lines of references in a recipe could take all memory"
RELIES_ON = {
    "yaml.SafeLoader.compose_node(self, parent, index)": _REFERENCES,
    "yaml.SafeLoader.check_event(self, *choices)": _REFERENCES,
    "yaml.SafeLoader.get_mark(self)": "a reference in a recipe would be told without its line",
    "yaml.AliasEvent": _REFERENCES,
    "yaml.MarkedYAMLError().problem_mark": "what is wrong in a recipe would be told without its line",
}


class _Plain(yaml.SafeLoader):
    """YAML without references: no recipe needs one, and a few lines of them can stand for more than fits anywhere."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="a reference", problem_mark=self.get_mark())
        return super().compose_node(parent, index)


def read(text: str) -> Any:
    """The document that a text of YAML holds; raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Plain)  # noqa: S506 a SafeLoader


def line_of(error: BaseException) -> int | None:
    """The line, from 1, at which reading found something wrong, if it told one."""
    mark = getattr(error, "problem_mark", None)
    return mark.line + 1 if mark else None
