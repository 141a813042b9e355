"""No code of strangers runs: nothing in the studio unpickles, evaluates, asks a shell or trusts a model's own code.

Read from the syntax and not from the text, so that a name in a sentence is no finding and a call in disguise is one.
What is allowed in spite of it stands in ALLOWED with its reason.
"""

import ast
from pathlib import Path

import pytest

STUDIO = Path(__file__).parents[3] / "studio"
FILES = sorted(STUDIO.rglob("*.py"))

# Modules that make objects or code of bytes, or that ask a shell.
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "pty", "commands", "imp", "runpy",
           "code", "codeop", "xmlrpc", "telnetlib", "ftplib", "xml", "lxml"}  # fmt: skip
# Names and attributes that do.
CALLS = {"eval", "exec", "compile", "__import__", "execfile", "input"}
ATTRIBUTES = {
    ("torch", "load"), ("torch", "hub"), ("os", "system"), ("os", "popen"), ("os", "execv"), ("os", "execve"),
    ("os", "spawnv"), ("os", "spawnl"), ("os", "startfile"), ("numpy", "load"), ("np", "load"), ("yaml", "load"),
    ("yaml", "full_load"), ("yaml", "unsafe_load"), ("yaml", "load_all"), ("subprocess", "getoutput"),
    ("subprocess", "getstatusoutput"), ("pandas", "read_pickle"), ("datasets", "load_dataset"), ("tempfile", "mktemp"),
    ("tarfile", "open"), ("shutil", "unpack_archive"), ("jinja2", "Template"),
    ("importlib", "import_module"), ("pkgutil", "resolve_name"),
}  # fmt: skip
# Arguments by which a library is told to trust what it reads. The value that is safe.
ARGUMENTS = {"trust_remote_code": False, "shell": False, "allow_pickle": False, "weights_only": True,
             "use_safetensors": True, "safe_serialization": True}  # fmt: skip

# (file, what) -> why it is no danger. Whatever stands here and is not found fails the test too.
ALLOWED = {
    ("recipe/yaml_loader.py", "yaml.load"): "by a SafeLoader that refuses references besides",
    ("dataset/tokens/template.py", "jinja2.Template"): "a type, in an annotation",
    ("launch/forkserver.py", "importlib.import_module"): "what `python -m` does: the name is the studio's own constant",
    (
        "engine/compat/contract.py",
        "pkgutil.resolve_name",
    ): "names of installed libraries, all of them our own constants",
}


def findings(path: Path, text: str | None = None) -> list[tuple[str, int]]:
    """What of the above a file does, and in which line."""
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8") if text is None else text)
    # np.load(…, allow_pickle=False) reads numbers and nothing else.
    plain = {
        id(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and any(ast.unparse(word) == "allow_pickle=False" for word in node.keywords)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(f"import {name.name}", node.lineno) for name in node.names if name.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {(node.module.split(".")[0], name.name) for name in node.names}
            found += [(f"from {module} import {name}", node.lineno) for module, name in names & ATTRIBUTES]
            if node.module.split(".")[0] in MODULES:
                found.append((f"import {node.module}", node.lineno))
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in ATTRIBUTES and id(node) not in plain:
                found.append((f"{node.value.id}.{node.attr}", node.lineno))
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in CALLS:
                found.append((f"{node.func.id}()", node.lineno))
            for given in node.keywords:
                told = given.value.value if isinstance(given.value, ast.Constant) else ...
                if given.arg in ARGUMENTS and told is not ARGUMENTS[given.arg]:
                    found.append((f"{given.arg}={ast.unparse(given.value)}", node.lineno))
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(STUDIO)))
def test_no_foreign_code_runs(path: Path) -> None:
    name = str(path.relative_to(STUDIO))
    bad = [f"line {line}: {what}" for what, line in findings(path) if (name, what) not in ALLOWED]
    assert not bad, f"{name}: {bad}; if it is no danger, say in ALLOWED why"


def test_what_is_allowed_is_still_done() -> None:
    done = {(str(path.relative_to(STUDIO)), what) for path in FILES for what, _ in findings(path)}
    assert ALLOWED.keys() <= done


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from pickle import loads", "import torch\ntorch.load('x')", "from torch import load",
     "eval('1')", "exec('1')", "import os\nos.system('x')", "subprocess.run('x', shell=True)", "run('x', shell=flag)",
     "AutoModel.from_pretrained('x', trust_remote_code=True)", "np.load('x')", "load('x', allow_pickle=True)",
     "load('x', weights_only=False)", "import yaml\nyaml.load('x')", "__import__('os')", "import marshal as m",
     "from datasets import load_dataset", "jinja2.Template('x')"],
)  # fmt: skip
def test_the_lint_finds_it(code: str) -> None:
    assert findings(Path("x"), code)
