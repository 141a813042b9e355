"""What is there on a page is decided by the style sheet; docs/architecture.md says why."""

import re
from pathlib import Path

import studio.ui
from studio.services.core.studio import Studio
from studio.ui.web import app

STATIC = "hub-row"  # there or not for the whole life of a page: hub datasets need a network


def test_no_component_is_built_hidden(studio: Studio) -> None:
    page = app.build(studio)
    hidden = {block.elem_id for block in page.blocks.values() if getattr(block, "visible", True) is not True}
    assert hidden == {STATIC}


def test_no_update_shows_or_hides_a_component() -> None:
    lines = [line for path in Path(studio.ui.__path__[0]).rglob("*.py") for line in path.read_text().splitlines()]
    named = [line.strip() for line in lines if re.search(r"\bvisible\b[\"']?\s*[=:]", line)]
    assert named == [f'with gr.Row(visible=online, elem_id="{STATIC}"):']
