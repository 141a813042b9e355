"""What a worker imports, and what it leaves out where nobody needs it."""

import inspect
import json
import linecache
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from studio.engine.libraries import importing, later, needs_bitsandbytes
from studio.themes import Quantization

SCRIPT = """
import gc, sys
from studio.engine.train import import_libraries
import_libraries(with_bitsandbytes={wanted})
from peft.import_utils import is_bnb_available
print(sys.modules.get("bitsandbytes") is not None, is_bnb_available(), gc.isenabled())
print("torch._inductor.compile_fx" in sys.modules, sys.modules["torch"].compile.__module__)
"""


@pytest.mark.parametrize("wanted", [True, False])
def test_bitsandbytes_is_left_out_where_nobody_needs_it(wanted: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(wanted=wanted)], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"{wanted} {wanted} True", "False torch"]  # torch's compiler is not brought


def test_a_frame_tells_its_place_and_module_without_a_look_at_sources() -> None:
    here: Any = (lambda: inspect.currentframe())()
    place, functions = inspect.getframeinfo(here), (inspect.getframeinfo, inspect.getmodule)
    with importing():
        linecache.clearcache()
        assert inspect.getframeinfo(here)[:3] == place[:3]
        assert inspect.getmodule(here) is sys.modules[__name__]
        assert inspect.getmodule(json.JSONDecoder) is sys.modules["json.decoder"]
    assert place.filename not in linecache.cache
    assert (inspect.getframeinfo, inspect.getmodule) == functions


def test_what_is_to_be_compiled_is_when_it_is_called() -> None:
    told: list[dict[str, Any]] = []

    def at_once(model: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        told.append(options)
        return lambda *args, **kwargs: ("compiled", model(*args, **kwargs))

    compile_later = later(at_once)

    @compile_later(dynamic=False)
    def twice(x: int, plus: int = 0) -> int:
        return 2 * x + plus

    once = compile_later(lambda: 1)
    assert (told, twice.__name__) == ([], "twice")
    assert [twice(1, plus=1), twice(2)] == [("compiled", 3), ("compiled", 4)]
    assert told == [{"dynamic": False}]
    assert once() == ("compiled", 1)
    assert compile_later(object, dynamic=True)() is not None and told[1:] == [{}, {"dynamic": True}]  # a class: at once


def test_who_needs_bitsandbytes(tmp_path: Path) -> None:
    assert not needs_bitsandbytes(tmp_path)
    assert not needs_bitsandbytes(tmp_path, Quantization(), "adamw_torch")
    assert needs_bitsandbytes(tmp_path, Quantization(quantization="nf4"), "adamw_torch")
    assert needs_bitsandbytes(tmp_path, Quantization(), "paged_adamw_32bit")
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "bitsandbytes"}}))
    assert needs_bitsandbytes(tmp_path)
