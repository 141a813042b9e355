"""Docs are true: the settings table, the README's file tree, the architecture's rooms."""

import re
from dataclasses import MISSING, fields
from pathlib import Path

from studio.settings import Settings, env_name

ROOT = Path(__file__).parents[3]


def test_every_setting_is_documented_with_its_default() -> None:
    table = dict(re.findall(r"^\| `(STUDIO_\w+)` \| (.+?) \|", (ROOT / "docs/settings.md").read_text(), re.MULTILINE))
    assert set(table) == {env_name(field.name) for field in fields(Settings)}
    for field in fields(Settings):
        if field.default is not MISSING:
            assert table[env_name(field.name)] == f"`{field.default}`", field.name


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
