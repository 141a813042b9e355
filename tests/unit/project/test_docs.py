"""Docs are true: the settings table, the README's file tree, the architecture's rooms."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from studio.cli.app import app
from studio.settings import Settings, env_name
from tests.docs import PAGES, blocks, commands

ROOT = Path(__file__).parents[3]


def test_every_setting_is_documented_with_its_default_and_description() -> None:
    page = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `(STUDIO_\w+)` \| (.+) \|$", page, re.MULTILINE))
    assert list(table) == [env_name(name) for name in Settings.model_fields]
    for name, field in Settings.model_fields.items():
        default = "the platform's user-data directory" if name == "home" else f"`{field.default}`"
        row = re.sub(r"; see \[\w+\]\(\w+\.md\)$", "", table[env_name(name)])  # the page may add where to read more
        assert row == f"{default} | {field.description}", name


def test_the_file_tree_of_the_readme_is_the_tree() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (tree,) = re.findall(r"```\n(lora-studio/.*?)```", readme, re.DOTALL)
    folders: list[str] = []
    told = set()
    for line in tree.splitlines()[1:]:
        indent, name = re.match(r"( *)(\S+)", line).groups()  # type: ignore[union-attr]
        folders = [*folders[: len(indent) // 2 - 1], name]
        path = "".join(folders)
        assert (ROOT / path).exists(), f"the README names {path}, which is not there"
        told.add(path.rstrip("/"))
    for room in (ROOT / "studio").iterdir():
        if (room.suffix == ".py" and not room.name.startswith("__")) or (room / "__init__.py").exists():
            assert f"studio/{room.name}" in told, f"the README's tree lacks studio/{room.name}"


def test_the_architecture_names_every_room() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    for path in (ROOT / "studio").iterdir():
        if (path / "__init__.py").exists():
            assert f"`studio/{path.name}/`" in text, path.name


def test_links_in_the_docs_lead_somewhere() -> None:
    for page in [
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "benchmarks").glob("*.md")),
    ]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_make_target_in_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"`make (\w+)", (ROOT / "README.md").read_text(encoding="utf-8"))):
        assert re.search(rf"^{target}[ :]|^.*\b{target}\b.*: ", makefile, re.MULTILINE), target


def commands_named() -> list[tuple[str, str]]:
    """Page and text of each `studio …` command in a block or in a sentence."""
    shown = [(command.page, command.text) for command in commands()]
    said = [(page.name, text) for page in PAGES for text in re.findall(r"`(studio [^`]+)`", page.read_text("utf-8"))]
    return [(page, text) for page, text in shown + said if text.startswith("studio ")]


def test_commands_are_in_blocks_of_their_own() -> None:
    # tests/integration/test_docs_commands.py runs those.
    for block in blocks(""):
        assert not re.search(r"^ *(studio|make|python|pip|docker) ", block.text, re.MULTILINE), f"no ```sh: {block}"
    for page in PAGES:
        assert "\n    studio " not in page.read_text(encoding="utf-8"), f"{page.name} shows a command without ```sh"


@pytest.mark.parametrize(("page", "line"), commands_named(), ids=lambda part: part[:60])
def test_each_command_named_exists_with_its_options(page: str, line: str) -> None:
    command: Any = get_command(app)
    words = shlex.split(line, comments=True)[1:]
    context = command.make_context("studio", [], resilient_parsing=True)
    while words and hasattr(command, "get_command") and not words[0].startswith("-"):
        name = words.pop(0)
        command = command.get_command(context, name)
        assert command is not None, f"{page} shows {line!r}, and there is no command {name!r}"
        context = command.make_context(name, [], parent=context, resilient_parsing=True)
    known = {option for parameter in command.params for option in parameter.opts + parameter.secondary_opts}
    used = {word.split("=")[0] for word in words if word.startswith("--")}
    assert used <= known | {"--help"}, f"{page} shows {line!r}, whose options {used - known} do not exist"
