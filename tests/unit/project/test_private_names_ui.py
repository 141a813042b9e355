"""No module takes a private name of a library but the room of that library. The engine's rooms have their own test.

Read from the syntax: names with an underscore on anything but one's own, modules of a library that it does not
document, and the undocumented names without an underscore that the rooms themselves say they rely on.
"""

import ast
import functools
import importlib.util
import re
from pathlib import Path

import pytest

from tests.contracts import ROOMS, place

STUDIO = Path(__file__).parents[3] / "studio"
COMPAT = {place(room).removeprefix("studio/") for room in ROOMS}
FILES = sorted(
    path for path in STUDIO.rglob("*.py")
    if path.relative_to(STUDIO).parts[0] != "engine" and path.parent.name != "gradio_compat"
    and str(path.relative_to(STUDIO)) not in COMPAT
)  # fmt: skip

# Library -> its documented modules that may be imported anywhere.
DOCUMENTED = {
    "gradio": {"gradio", "gradio.themes"},
    "fastapi": {"fastapi", "fastapi.responses"},
    "starlette": {f"starlette.{name}" for name in (
        "datastructures", "requests", "responses", "routing", "staticfiles", "types")},
    "uvicorn": {"uvicorn"},
    "jinja2": {"jinja2", "jinja2.ext", "jinja2.nodes", "jinja2.parser", "jinja2.sandbox"},
    "huggingface_hub": {"huggingface_hub", "huggingface_hub.errors"},
    "tensorboard": set(),
    "yaml": {"yaml"},
    "sqlalchemy": {"sqlalchemy", "sqlalchemy.dialects.sqlite", "sqlalchemy.event", "sqlalchemy.exc",
                   "sqlalchemy.orm"},
    "alembic": {f"alembic{name}" for name in (
        "", ".command", ".config", ".context", ".migration", ".op", ".script", ".util")},
    "pydantic": {"pydantic", "pydantic.fields"},
}  # fmt: skip
# What Python itself documents.
PYTHONS = {"_exit", "_replace", "_asdict", "_fields", "_make", "_name_", "_value_"}
# Of what the rooms rely on, names that are common words elsewhere: of them the syntax alone tells nothing.
COMMON = {"app", "blocks", "call", "capacity", "concat", "cycle", "loop", "problem_mark", "request",
          "session_hash", "started", "transport"}  # fmt: skip
LEAF = re.compile(r"[\w.()]*?(\w+)(?:\([\w*, ]+\))?")
RELIED = {LEAF.fullmatch(name)[1] for room in ROOMS for name in room.RELIES_ON}  # type: ignore[index]
UNDOCUMENTED = {name for name in RELIED - COMMON if not name.startswith("__") and name[:1].islower()}


@functools.cache
def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def own_names(tree: ast.AST) -> set[str]:
    """Names with an underscore that this file itself makes: functions, attributes of its objects, fields."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_own(node.value):
            found.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


def _is_own(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def findings(code: str) -> list[tuple[str, int]]:
    """Each private name that a file takes, and the line."""
    tree = ast.parse(code)
    found: list[tuple[str, int]] = []
    aliases = {
        alias.asname or alias.name: alias.name
        for node in ast.walk(tree) if isinstance(node, ast.Import)
        for alias in node.names if alias.name in DOCUMENTED
    }  # fmt: skip
    mine = own_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names if _is_inner(alias.name)]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            if _is_inner(node.module):
                found.append((node.module, node.lineno))
            elif node.module.partition(".")[0] in DOCUMENTED:
                inner = [name for name in names if name.rpartition(".")[2].startswith("_") or _is_hidden(name)]
                found += [(name, node.lineno) for name in inner]
        elif isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id in aliases:
                name = f"{aliases[node.value.id]}.{node.attr}"
                if node.attr.startswith("_") or _is_hidden(name):
                    found.append((name, node.lineno))
                    continue
            found += [(node.attr, node.lineno)] if _is_foreign(node.attr, node.value, mine) else []
        elif _names_by_text(node):
            assert isinstance(node, ast.Call) and isinstance(node.args[1], ast.Constant)
            name = str(node.args[1].value)
            found += [(name, node.lineno)] if _is_foreign(name, node.args[0], set()) else []
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name in UNDOCUMENTED:
            found.append((node.name, node.lineno))
    return found


def _is_inner(module: str) -> bool:
    """Whether a module is one of a library's that it does not document."""
    library = module.partition(".")[0]
    return library in DOCUMENTED and module not in DOCUMENTED[library]


def _is_hidden(name: str) -> bool:
    """Whether what is taken out of a library is a module of it that it does not document."""
    return _is_inner(name) and name.rpartition(".")[2].islower() and is_module(name) and not _is_exported(name)


def _is_exported(name: str) -> bool:
    """Whether a library gives something under this name that is no module, like pydantic.validate_call."""
    package, _, leaf = name.rpartition(".")
    return not isinstance(getattr(importlib.import_module(package), leaf, None), type(ast))


def _is_foreign(name: str, of: ast.expr, mine: set[str]) -> bool:
    """Whether a name with an underscore, or one that a room relies on, is taken of something that is not one's own."""
    if name in UNDOCUMENTED:
        return not _is_own(of)
    if not name.startswith("_") or name in PYTHONS or re.fullmatch(r"__\w+__", name):
        return name == "__mro__"
    return not _is_own(of) and name not in mine


def _names_by_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "setattr", "hasattr", "delattr")
        and len(node.args) > 1
        and isinstance(node.args[1], ast.Constant)
    )


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(STUDIO)))
def test_no_private_name_outside_of_its_room(path: Path) -> None:
    name = str(path.relative_to(STUDIO))
    bad = [f"line {line}: {what}" for what, line in findings(path.read_text(encoding="utf-8"))]
    assert not bad, f"{name}: {bad}; it belongs into the room of its library, with a line in RELIES_ON"


def test_what_the_rooms_rely_on_is_looked_for() -> None:
    assert {"call_function", "has_launched", "state_holder", "compose_node", "fns"} <= UNDOCUMENTED
    assert len(FILES) > 150


@pytest.mark.parametrize(
    "code",
    ["def f(event): return event._data", "page._queue", "part._id", "getattr(part, '_id')",
     "setattr(page, '_queue', 1)",
     "super()._parse(1)", "HfHubHTTPError.__mro__[1]", "operation._upload_mode", "page.has_launched = True",
     "app.state_holder = None", "class Page:\n    async def call_function(self): ...", "page.get_config_file()",
     "from gradio.state_holder import StateHolder", "import gradio.component_meta", "from gradio import route_utils",
     "import gradio as gr\ngr.blocks.Blocks", "import gradio as gr\ngr._simple_templates", "import uvicorn.protocols",
     "from uvicorn.protocols.http.auto import AutoHTTPProtocol", "from starlette._utils import is_async_callable",
     "from huggingface_hub._commit_api import CommitOperationAdd", "from jinja2.visitor import NodeTransformer",
     "from tensorboard.compat.proto.event_pb2 import Event", "from yaml.composer import Composer",
     "def late():\n    from sqlalchemy.engine.base import Engine", "from huggingface_hub.errors import _private"],
)  # fmt: skip
def test_the_lint_finds_it(code: str) -> None:
    assert findings(code)


@pytest.mark.parametrize(
    "code",
    ["self._thing = 1", "class A:\n    def _it(self): ...\n    def other(self, one): return one._it()", "os._exit(1)",
     "import gradio as gr\ngr.themes.sizes.text_sm", "from pydantic import validate_call", "type(error).__name__",
     "hasattr(event, 'open')", "from starlette.types import Scope", "from sqlalchemy import select, event, func"],
)  # fmt: skip
def test_the_lint_lets_it(code: str) -> None:
    assert not findings(code)
