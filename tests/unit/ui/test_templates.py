"""The pages' templates: values are escaped, and a page never shows an empty place for what was not passed."""

import ast
import re
from pathlib import Path

import jinja2
import pytest
from jinja2 import nodes

from studio.ui.parts import markup, templates

HOSTILE = "<img src=x onerror=alert(1)> & \"double\" 'single'"
FOLDER = Path(templates.__file__).parent.parent / "templates"


@pytest.mark.parametrize(
    "html",
    [
        markup.note(HOSTILE),
        markup.problem(HOSTILE, HOSTILE),
        templates.macro("parts.html", "mark", "failed", HOSTILE),
        templates.macro("parts.html", "progress", 1, 2, HOSTILE),
        markup.code(HOSTILE, HOSTILE),
        markup.step(1, HOSTILE, HOSTILE),
    ],
)
def test_a_value_cannot_write_html(html: str) -> None:
    assert "<img" not in html
    assert "&lt;img" in html
    assert '"double"' not in html


def test_what_was_not_passed_is_an_error() -> None:
    with pytest.raises(jinja2.UndefinedError, match="not_passed"):
        templates.environment.from_string("{{ not_passed }}").render()


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.html")), ids=lambda path: path.relative_to(FOLDER).as_posix())
def test_every_template_compiles(path: Path) -> None:
    templates.environment.get_template(path.relative_to(FOLDER).as_posix())


def test_only_the_icons_pass_unescaped() -> None:
    unescaped = set()
    for path in FOLDER.rglob("*.html"):
        tree = templates.environment.parse(path.read_text())
        assert not list(tree.find_all(nodes.ScopedEvalContextModifier)), f"{path.name} changes how values are escaped"
        unescaped |= {path.name for item in tree.find_all(nodes.Filter) if item.name == "safe"}
    assert unescaped == {"parts.html"}


def test_pages_hold_no_html_of_their_own() -> None:
    """All tags stand in templates, where every value is escaped. gradio_compat rewrites Gradio's own page."""
    ui = FOLDER.parent
    tag = re.compile(r"(?<!\(\?P)</?[a-z][a-z0-9]*[ >/]")
    found = [
        f"{path.relative_to(ui)}:{node.lineno} {node.value[:60]!r}"
        for path in ui.rglob("*.py")
        if path.parent.name != "gradio_compat"
        for tree in [ast.parse(path.read_text())]
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and tag.search(node.value)
        and not any(ast.get_docstring(owner, clean=False) == node.value for owner in ast.walk(tree)
                    if isinstance(owner, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef))
    ]  # fmt: skip
    assert found == []
