"""Dataclasses are compiled once, do what they do, and are compiled anew where nothing kept can be used."""

import dataclasses
import json
import marshal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from studio import kept_code

SCRIPT = """
import json, sys
from pathlib import Path
from studio import kept_code
kept_code._path = lambda name: Path(sys.argv[1]) / name
sys.dont_write_bytecode = False  # tests may run without
compiled = []
def audit(event, given):
    if event == "compile" and "__create_fn__" in str(given[0]):
        compiled.append(given[0])
sys.addaudithook(audit)
import dataclasses
with kept_code.keeping("test"):
    @dataclasses.dataclass(frozen=True, order=True)
    class Point:
        x: int
        y: int = 2
        among: list = dataclasses.field(default_factory=list, compare=False)
    of_it = len(compiled)
    import peft
point = Point(1)
try:
    point.x = 3
except dataclasses.FrozenInstanceError as error:
    refused = str(error)
print(json.dumps({
    "own": of_it,
    "compiled": len(compiled),
    "point": [repr(point), point < Point(1, 3), point == Point(1, 2, [1]), refused],
    "config": repr(peft.LoraConfig(r=4, target_modules=["q_proj"])),
}))
"""


def told(folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)], capture_output=True, text=True, check=True, timeout=120
    )
    return dict(json.loads(done.stdout))


def test_the_second_process_compiles_none_and_has_the_same(tmp_path: Path) -> None:
    first, second = told(tmp_path), told(tmp_path)
    assert first["own"] >= 3 and first["compiled"] > 1000
    assert second["own"] == second["compiled"] == 0
    assert first["point"] == ["Point(x=1, y=2, among=[])", True, True, "cannot assign to field 'x'"]
    assert first["point"] == second["point"] and first["config"] == second["config"]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kept_code, "_path", lambda name: tmp_path / name)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    return tmp_path / "some"


def point(default: int) -> Any:
    with kept_code.keeping("some"):
        return dataclasses.make_dataclass("Point", ["x", ("y", int, default)])(1)


def test_a_changed_class_is_compiled_anew(kept: Path) -> None:
    assert repr(point(2)) == "Point(x=1, y=2)" and kept.exists()
    assert repr(point(3)) == "Point(x=1, y=3)"
    with kept_code.keeping("some"):
        other = dataclasses.make_dataclass("Point", ["x", "z"])
    assert repr(other(1, 2)) == "Point(x=1, z=2)"
    assert "exec" not in vars(dataclasses)


@pytest.mark.parametrize(
    "spoilt", [b"", b"no marshal", marshal.dumps((b"another Python", {})), marshal.dumps(5), b"\xfb"]
)
def test_what_cannot_be_used_is_replaced(kept: Path, spoilt: bytes) -> None:
    kept.write_bytes(spoilt)
    assert point(2).y == 2
    assert kept_code._read(kept)


def test_what_nobody_asks_for_is_forgotten_in_time(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point(2)
    before = kept_code._read(kept).keys()
    monkeypatch.setattr(kept_code, "MOST", 3)
    with kept_code.keeping("some"):
        dataclasses.make_dataclass("Other", ["other"])
    assert kept_code._read(kept) and not kept_code._read(kept).keys() & before


def test_where_nothing_can_be_kept_it_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_code, "_path", lambda name: tmp_path / "nowhere" / name)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    assert point(2).y == 2
    assert not list(tmp_path.iterdir())
