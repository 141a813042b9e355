"""What libraries find while they are imported is kept, is what they would find, and is found anew once files change."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from studio.engine import import_cache

SCRIPT = """
import importlib.metadata, json, os, sys
from pathlib import Path
from studio.engine import import_cache
import_cache._path = lambda name: Path(sys.argv[1]) / name
sys.dont_write_bytecode = False  # tests may run without
read = set()
def audit(event, given):
    if event == "open" and "/transformers/models/" in str(given[0]) and str(given[0]).endswith(".py"):
        read.add(str(given[0]))
sys.addaudithook(audit)
looks = importlib.metadata.packages_distributions
with import_cache.remembering():
    import transformers.models.auto
    packages = importlib.metadata.packages_distributions()
folders = len(read)
from transformers.utils import import_utils as scanner
models = Path(transformers.__file__).parent / "models"
own = scanner.create_import_structure_from_path
print(json.dumps({
    "read": folders,
    "same": import_cache._sets(import_cache._exports(models, own)) == own(models) and packages == looks(),
    "own": own.__module__ == scanner.__name__ and importlib.metadata.packages_distributions is looks,
    "model": transformers.LlamaConfig.__name__,
}))
"""


def test_the_second_import_reads_nothing_anew_and_knows_the_same(tmp_path: Path) -> None:
    def told() -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
        )
        return dict(json.loads(done.stdout))

    first, second = told(), told()
    assert first["read"] > 1000 > 50 > second["read"]
    for one in (first, second):
        assert one["same"] and one["own"] and one["model"] == "LlamaConfig"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(import_cache, "_path", lambda name: tmp_path / "kept" / name)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept"


def test_a_changed_file_is_looked_at_anew(tmp_path: Path, kept: Path) -> None:
    module = tmp_path / "models" / "llama" / "modeling_llama.py"
    module.parent.mkdir(parents=True)
    asked: list[Path] = []

    def scan(folder: Path) -> dict[Any, Any]:
        asked.append(folder)
        return {"llama": {frozenset({"torch"}): {"modeling_llama": set(module.read_text().split())}}}

    def exports() -> Any:
        lists = import_cache._exports(tmp_path / "models", scan)
        return lists and import_cache._sets(lists)

    for text, times in (("Model", 1), ("Model", 1), ("Model Head", 2), ("Model Head", 2)):
        if not module.exists() or module.read_text() != text:
            module.write_text(text)
        wanted = {"llama": {frozenset({"torch"}): {"modeling_llama": set(text.split())}}}
        assert exports() == wanted
        assert len(asked) == times
    (kept / "exports").write_text("{")
    assert exports() == wanted
    assert len(asked) == 3


def test_what_is_said_in_another_way_is_not_kept(tmp_path: Path, kept: Path) -> None:
    for answer in ({("torch",): {"modeling_llama": ["Model"]}}, {"llama": ["Model"]}):
        assert import_cache._exports(tmp_path, lambda _, answer=answer: answer) is None  # type: ignore[misc]
    assert not list(kept.iterdir())


def test_what_is_installed_meanwhile_is_found(tmp_path: Path, kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site"), str(tmp_path / "run"), *sys.path])
    (tmp_path / "site").mkdir()
    look = importlib.metadata.packages_distributions
    assert "brought" not in import_cache._packages(look)
    folder = tmp_path / "site" / "bringing-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: bringing\nVersion: 1.0\n")
    (folder / "top_level.txt").write_text("brought\n")
    assert import_cache._packages(look)["brought"] == ["bringing"]
    # A run's own directory on the path is no reason to look again.
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").touch()
    assert import_cache._packages(lambda: pytest.fail("looked again"))["brought"] == ["bringing"]


def test_where_nothing_can_be_kept_it_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_cache, "_path", lambda name: tmp_path / "nowhere" / name)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert import_cache._packages(lambda: {"torch": ["torch"]}) == {"torch": ["torch"]}
    assert not list(tmp_path.iterdir())
