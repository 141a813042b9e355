"""The walls: who may import whom, one home per library, and no torch in the studio's process."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

STUDIO = Path(__file__).parents[2] / "studio"

# Room -> the rooms it may import, besides itself.
GROUND = {"settings", "errors", "resources", "redaction", "processor", "__init__"}
CONTRACT = GROUND | {"recipe", "themes", "rundir", "fast_path"}
MAY = {
    "settings": {"errors"},
    "errors": set(),
    "resources": set(),
    "redaction": set(),
    "processor": set(),
    "__init__": set(),
    "themes": set(),
    "recipe": {"themes", "errors"},
    "fast_path": {"recipe", "processor"},
    "rundir": {"errors", "settings"},
    "dataset": CONTRACT,
    "memory": CONTRACT,
    "evaluation": CONTRACT,
    "store": CONTRACT,
    "launch": CONTRACT,
    "services": CONTRACT | {"store", "launch", "dataset", "memory", "evaluation"},
    "ui": CONTRACT | {"services"},
    "cli": CONTRACT
    | {
        "services",
        "cli_output",
        "cli_chat",
        "cli_data",
        "cli_eval",
        "cli_export",
        "cli_runs",
        "cli_share",
        "cli_users",
        "ui",
    },
    "cli_chat": CONTRACT | {"services", "cli_output", "cli_data"},
    "cli_data": CONTRACT | {"services", "cli_output"},
    "cli_eval": CONTRACT | {"services", "cli_output", "cli_data", "ui"},
    "cli_export": CONTRACT | {"services", "cli_output", "cli_data"},
    "cli_share": CONTRACT | {"services", "cli_output", "cli_data", "cli_export"},
    "cli_runs": CONTRACT | {"services", "cli_output", "cli_data"},
    "cli_users": CONTRACT | {"services", "cli_output", "cli_data"},
    "cli_output": CONTRACT | {"services"},
    "__main__": {"cli"},
    "engine": CONTRACT - {"settings", "resources"} | {"dataset", "evaluation", "launch"},
}
# Of another room, only these modules.
ONLY = {("engine", "launch"): {"studio.launch.gguf_tools", "studio.launch.compiling", "studio.launch.machine"}}
# Library -> the rooms that may import it.
HOMES = {
    "gradio": {"ui"},
    "fastapi": {"ui"},
    "sqlalchemy": {"store"},
    "alembic": {"store"},
    "itsdangerous": {"ui"},
    "authlib": {"ui"},
    "argon2": {"services"},
    "subprocess": {"launch"},
    "psutil": {"launch", "rundir"},
    "pynvml": {"launch"},
    "tensorboard": {"services"},
    "pyarrow": {"dataset"},
    "tokenizers": {"dataset", "engine"},
    "jinja2": {"dataset"},
    "datasketch": {"dataset"},
    "charset_normalizer": {"dataset"},
    "huggingface_hub": {"launch"},
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


def room(path: Path) -> str:
    parts = path.relative_to(STUDIO).parts
    return parts[0] if len(parts) > 1 else path.stem


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names if node.module == "studio")
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(STUDIO)))
def test_layers_and_homes(path: Path) -> None:
    here = room(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "studio" and rest:
            there = rest.partition(".")[0]
            there = there if there in MAY else "__init__"
            assert there == here or there in MAY[here], f"{path.name} in {here} imports {name}"
            only = ONLY.get((here, there))
            assert only is None or name == f"studio.{there}" or name in only, f"{path.name} in {here} imports {name}"
        elif top in HOMES:
            assert here in HOMES[top], f"{path.name} in {here} imports {name}"


def test_the_studio_never_imports_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from studio.settings import Settings\n"
        "from studio.services.keeper import Keeper; from studio.ui.server import make_app\n"
        "import studio.cli\n"
        "with Keeper(Settings(home=Path(sys.argv[1]), offline=True)) as studio: make_app(studio)\n"
        "heavy = {'torch', 'transformers', 'peft', 'trl', 'datasets', 'accelerate', 'sacrebleu', 'nltk'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
