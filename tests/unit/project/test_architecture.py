"""The walls: layers, no import cycles, no crowded folder, one home per library, no torch in the studio's process."""

import ast
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

STUDIO = Path(__file__).parents[3] / "studio"

# Room -> the rooms it may import, besides itself.
GROUND = {"settings", "errors", "resources", "redaction", "__init__"}
CONTRACT = GROUND | {"recipe", "rundir"}
MAY = {
    "settings": {"errors"},
    "errors": set(),
    "resources": set(),
    "redaction": set(),
    "__init__": set(),
    "recipe": {"errors", "machine"},
    "rundir": {"errors", "settings"},
    "dataset": CONTRACT,
    "memory": CONTRACT | {"machine"},
    "evaluation": CONTRACT,
    "store": CONTRACT,
    "machine": CONTRACT,
    "launch": CONTRACT | {"machine"},
    "hub": CONTRACT | {"launch"},
    "services": CONTRACT | {"store", "launch", "hub", "machine", "dataset", "memory", "evaluation"},
    "ui": CONTRACT | {"services"},
    "cli": CONTRACT | {"services", "ui"},
    "__main__": {"cli"},
    "engine": CONTRACT - {"settings", "resources"} | {"dataset", "evaluation", "launch", "machine"},
}
# Of another room, only these modules.
ONLY = {
    ("engine", "launch"): {"studio.launch.gguf_tools"},
    ("engine", "machine"): {"studio.machine.facts", "studio.machine.cpu", "studio.machine.compiling"},
    ("recipe", "machine"): {"studio.machine.cpu"},
    ("memory", "machine"): {"studio.machine.cpu"},
}
# Library -> the rooms that may import it.
HOMES = {
    "gradio": {"ui"},
    "fastapi": {"ui"},
    "sqlalchemy": {"store"},
    "alembic": {"store"},
    "itsdangerous": {"ui"},
    "authlib": {"ui"},
    "argon2": {"services"},
    "subprocess": {"launch", "hub", "machine"},
    "psutil": {"launch", "machine", "rundir"},
    "rich": {"cli"},
    "pynvml": {"machine"},
    "tensorboard": {"services"},
    "pyarrow": {"dataset"},
    "tokenizers": {"dataset", "engine"},
    "jinja2": {"dataset", "ui"},
    "markupsafe": {"ui"},
    "datasketch": {"dataset"},
    "charset_normalizer": {"dataset"},
    "huggingface_hub": {"hub"},
    "sacrebleu": {"evaluation"},
    "rouge_score": {"evaluation"},
    "torch": {"engine"},
    "transformers": {"engine"},
    "peft": {"engine"},
    "trl": {"engine"},
    "bitsandbytes": {"engine"},
    "datasets": {"engine"},
    "accelerate": {"engine"},
    "liger_kernel": {"engine"},
}
FILES = sorted(STUDIO.rglob("*.py"))
# Files that one folder may hold, its __init__ aside.
MOST_FILES = 15


def room(path: Path) -> str:
    parts = path.relative_to(STUDIO).parts
    return parts[0] if len(parts) > 1 else path.stem


def module_of(path: Path, root: Path = STUDIO) -> str:
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, modules: frozenset[str] = frozenset()) -> set[str]:
    """The dotted names that a file imports, wherever it does, those under TYPE_CHECKING too.

    modules: names that are modules themselves, so that `from package import module` is told as that module.
    """
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                names.add(full if full in modules else node.module)
    return names


def import_graph(root: Path = STUDIO) -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports."""
    files = {module_of(path, root): path for path in sorted(root.rglob("*.py"))}
    modules = frozenset(files)
    return {name: (imports(path, modules) & modules) - {name} for name, path in files.items()}


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Some modules that import each other in a circle, or none."""
    done: set[str] = set()

    def search(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return []
        for imported in sorted(graph[module]):
            if circle := search(imported, [*trail, module]):
                return circle
        done.add(module)
        return []

    return next((circle for module in sorted(graph) if (circle := search(module, []))), [])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(STUDIO)))
def test_layers_and_homes(path: Path) -> None:
    here = room(path)
    for name in imports(path, frozenset(map(module_of, FILES))):
        top, _, rest = name.partition(".")
        if top == "studio" and rest:
            there = rest.partition(".")[0]
            there = there if there in MAY else "__init__"
            assert there == here or there in MAY[here], f"{path.name} in {here} imports {name}"
            only = ONLY.get((here, there))
            assert only is None or name in only, f"{path.name} in {here} imports {name}"
        elif top in HOMES:
            assert here in HOMES[top], f"{path.name} in {here} imports {name}"


def test_no_modules_import_each_other_in_a_circle() -> None:
    circle = cycle(import_graph())
    assert not circle, " imports ".join(circle)


def test_a_circle_is_found_also_under_type_checking(tmp_path: Path) -> None:
    package = tmp_path / "room"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("from room import two\n")
    (package / "two.py").write_text("def late():\n    from room.three import name\n")
    (package / "three.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from room.one import Thing\nname = 1\n"
    )
    assert cycle(import_graph(package)) == ["room.one", "room.two", "room.three", "room.one"]
    (package / "three.py").write_text("name = 1\n")
    assert cycle(import_graph(package)) == []


def test_no_folder_is_crowded() -> None:
    folders = {path.parent for path in FILES}
    crowded = {
        str(folder.relative_to(STUDIO.parent)): count
        for folder in folders
        if (count := len([path for path in folder.glob("*.py") if path.stem != "__init__"])) > MOST_FILES
    }
    assert not crowded


def test_unit_tests_stand_in_the_rooms_of_what_they_test() -> None:
    unit = Path(__file__).parents[1]
    folders = {path.parent.relative_to(unit) for path in unit.rglob("test_*.py")} - {Path("project")}
    assert all((STUDIO / folder).is_dir() and folder != Path() for folder in folders), folders


@pytest.mark.slow
def test_the_studio_never_imports_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from studio.settings import Settings\n"
        "from studio.services.core.keeper import Keeper; from studio.ui.web.server import make_app\n"
        "import studio.cli.app\n"
        "with Keeper(Settings(home=Path(sys.argv[1]), offline=True)) as studio: make_app(studio)\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'accelerate', 'sacrebleu', 'nltk'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
