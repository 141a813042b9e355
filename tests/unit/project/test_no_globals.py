"""Nothing user-made is in a mutable global: what a person makes is in files, or in what belongs to one studio.

Read from the syntax: containers and objects of a module that a function changes, here or from another module, `global`,
containers that all objects of a class share, and caches that keep arguments. Each that is allowed says why.
"""

import ast
from pathlib import Path

import pytest

STUDIO = Path(__file__).parents[3] / "studio"
FILES = sorted(STUDIO.rglob("*.py"))
CHANGES = {"add", "append", "appendleft", "clear", "difference_update", "discard", "extend", "insert",
           "intersection_update", "move_to_end", "pop", "popitem", "popleft", "remove", "reverse", "setdefault", "sort",
           "subtract", "update"}  # fmt: skip
MADE = (ast.Call, ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)
CONTAINERS = MADE[1:]

# (file, name) -> why it may be. Whatever stands here and is not found fails the test too.
ALLOWED = {
    ("launch/workers.py", "_children"): "processes that this one started and must reap; by pid",
    ("launch/workers.py", "_codes"): "how they ended, by pid",
    ("services/planning/estimates.py", "_seen"): "this machine as it was a moment ago; nobody's",
    ("ui/web/uvicorn_compat.py", "_open"): "how many connections an address has open",
    ("dataset/tokens/template.py", "_Generation.tags"): "what Jinja asks an extension for; never changed",
    # Caches that keep arguments: by a path that was asked for behind the gate, or of what is nobody's.
    ("dataset/tokens/encode.py", "_read_tokenizer"): "tokenizers of models by path; models are everybody's",
    ("dataset/tokens/cache.py", "_hashed"): "hashes of tokenizer files",
    ("dataset/tokens/lengths.py", "_of_file"): "counts of a dataset, whose folder the gate gave",
    ("dataset/tokens/lengths.py", "_sampled"): "counts of a dataset, whose folder the gate gave",
    ("memory/catalogue.py", "_shape"): "the bundled catalogue",
    ("memory/estimate.py", "_stages"): "arithmetic",
    ("memory/estimate.py", "_evaluation"): "arithmetic",
    ("memory/structure.py", "block_of"): "arithmetic",
    ("services/runs/recipe_diff.py", "_read"): "recipes by path; runs.get stands before it",
    ("services/models/models.py", "_shape_of_hub"): "shapes of published models",
    ("services/models/models.py", "_shape_once"): "shapes of models by path; models are everybody's",
    ("services/planning/speed.py", "_recipe"): "recipes by their own text",
    ("store/series/file.py", "_layout"): "arithmetic",
}  # fmt: skip


def made_in(body: list[ast.stmt], kinds: tuple[type[ast.expr], ...] = MADE) -> set[str]:
    """Names that a module or class gives to something that can be changed."""
    found = set()
    for line in body:
        targets = (
            line.targets if isinstance(line, ast.Assign) else [line.target] if isinstance(line, ast.AnnAssign) else []
        )
        for target in targets:
            value = line.value  # type: ignore[attr-defined]
            pairs = (
                zip(target.elts, value.elts, strict=True)
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
                else [(target, value)]
            )
            found |= {a.id for a, made in pairs if isinstance(a, ast.Name) and isinstance(made, kinds)}
    return found


def _within(node: ast.AST, known: dict[str, str], names: set[str]) -> str:
    """The module's thing that an expression stands for: its name here, or MODULE.NAME of another's."""
    if isinstance(node, ast.Name) and node.id in names:
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
        return node.attr
    return ""


def findings(path: Path, text: str | None = None) -> set[str]:
    """What of a module, or of another that it imports, is changed by a function of it."""
    tree = ast.parse(path.read_text(encoding="utf-8") if text is None else text)
    imported = {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
                for alias in node.names if (node.module or "").startswith("studio")}  # fmt: skip
    modules = {name: name for name in imported}
    names = made_in(tree.body) | {name for name in imported if name.upper() == name}
    found = set()
    for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]:
        arguments = function.args
        own = {one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
        given = bool(own)
        own |= {
            node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        declared = {name for node in ast.walk(function) if isinstance(node, ast.Global) for name in node.names}
        found |= declared
        seen = names - own | declared
        others = {name: name for name in modules if name not in own}
        for node in ast.walk(function):
            changed: list[ast.AST] = []
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANGES:
                changed = [node.func.value]
            elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
                changed = [node.value, *([node] if isinstance(node, ast.Attribute) else [])]
            elif isinstance(node, ast.AugAssign):
                changed = [node.target]
            found |= {name for one in changed if (name := _within(one, others, seen))}
        cached = any(
            ast.unparse(one).split("(")[0].rpartition(".")[2] in ("cache", "lru_cache")
            for one in function.decorator_list
        )
        if cached and given:
            found.add(function.name)
    for node in ast.walk(tree):
        # Of a dataclass the fields are each object's own.
        if isinstance(node, ast.ClassDef) and not any("dataclass" in ast.unparse(one) for one in node.decorator_list):
            found |= {f"{node.name}.{name}" for name in made_in(node.body, CONTAINERS) if not name.startswith("__")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(STUDIO)))
def test_no_module_keeps_what_somebody_made(path: Path) -> None:
    name = str(path.relative_to(STUDIO))
    bad = sorted(what for what in findings(path) if (name, what) not in ALLOWED)
    assert not bad, f"{name}: {bad} outlives who made it; if it is nobody's, say in ALLOWED why"


def test_what_is_allowed_is_still_done() -> None:
    done = {(str(path.relative_to(STUDIO)), what) for path in FILES for what in findings(path)}
    assert ALLOWED.keys() <= done


@pytest.mark.parametrize(
    "code",
    ["a = {}\ndef f(): a['x'] = 1", "a = []\ndef f(x): a.append(x)", "a: set[int] = set()\ndef f(x): a.add(x)",
     "a, b = [], 1\ndef f(): a.clear()", "n = 0\ndef f():\n global n\n n += 1", "a = []\ndef f(): del a[0]",
     "a = Thing()\ndef f(x): a.x = x", "a = {}\ndef f():\n def g(): a.update(x=1)", "a = []\nasync def f(): a.pop()",
     "from studio.services.runs import runs\ndef f(x): runs.SEEN.append(x)",
     "from studio.services.runs import runs\ndef f(x): runs.last = x",
     "from studio.x import SEEN\ndef f(x): SEEN.add(x)",
     "@functools.lru_cache(maxsize=1)\ndef f(owner): ...", "@cache\ndef f(owner): ...", "class A:\n seen = []"],
)  # fmt: skip
def test_the_lint_finds_it(code: str) -> None:
    assert findings(Path("x"), code)


@pytest.mark.parametrize(
    "code",
    ["a = {}\nfor n in b: a[n] = 1", "a = {}\ndef f(): return a['x']", "def f(a): a['x'] = 1",
     "a = []\ndef f():\n a = []\n a.append(1)",
     "@functools.cache\ndef f(): ...", "@dataclass\nclass A:\n seen: list[int] = field(default_factory=list)"],
)  # fmt: skip
def test_the_lint_lets_pass_what_is_ones_own(code: str) -> None:
    assert not findings(Path("x"), code)
