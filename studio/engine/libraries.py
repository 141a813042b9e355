"""Imports torch, transformers and what is built on them: a worker's first seconds, made fewer."""

import functools
import gc
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from studio.engine.import_cache import remembering
from studio.kept_code import keeping
from studio.rundir import read_json
from studio.themes import Quantization


@contextmanager
def importing(with_bitsandbytes: bool = True) -> Iterator[None]:
    """What is imported within comes in half the time, and a fifth sooner still without bitsandbytes.

    transformers and PEFT import bitsandbytes, and scipy, wherever they are installed. They are then absent for as long
    as the process lives, as PEFT looks again whenever it makes a layer.
    """
    if not with_bitsandbytes:
        for name in ("bitsandbytes", "scipy"):
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # neither import nor find_spec finds it
    # Again and again the collector would look through a million objects, all of which stay.
    gc.disable()
    try:
        with remembering(), keeping("libraries"), _frames_by_name(), _compiled_when_called():
            yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def _frames_by_name() -> Iterator[None]:
    """Within, a frame's place is its file and line without the text there, and its module that of its name.

    torch asks for both wherever it registers an operator; inspect would read the source and look through the files of
    all modules.
    """
    place, module_of = inspect.getframeinfo, inspect.getmodule

    def module(of: Any, _filename: str | None = None) -> ModuleType | None:
        named = sys.modules.get(of.f_globals.get("__name__", "")) if inspect.isframe(of) else None
        return named or module_of(of, _filename)

    inspect.getframeinfo = functools.partial(place, context=0)
    inspect.getmodule = module  # type: ignore[assignment]
    try:
        yield
    finally:
        inspect.getframeinfo, inspect.getmodule = place, module_of


@contextmanager
def _compiled_when_called() -> Iterator[None]:
    """What is decorated with torch.compile within is compiled when it is first called, as it would be, and brings the
    compiler then: bitsandbytes decorates functions that a run seldom calls."""
    import torch

    at_once = torch.compile
    torch.compile = later(at_once)
    try:
        yield
    finally:
        torch.compile = at_once


def later(at_once: Callable[..., Any]) -> Any:
    """A torch.compile, of which `at_once` is told a function and its options when that function is first called."""

    def compile_later(model: Any = None, **options: Any) -> Any:
        if model is None:
            return functools.partial(compile_later, **options)
        if not inspect.isfunction(model):
            return at_once(model, **options)
        compiled = functools.cache(lambda: at_once(model, **options))
        return functools.wraps(model)(lambda *args, **kwargs: compiled()(*args, **kwargs))

    return compile_later


def needs_bitsandbytes(
    model_folder: Path, quantization: Quantization | None = None, optim: str = "adamw_torch"
) -> bool:
    """Whether a model is held, or trained, by bitsandbytes: all optimizers but torch's own are its."""
    return (
        (quantization is not None and quantization.quantization != "none")
        or optim != "adamw_torch"
        or "quantization_config" in (read_json(model_folder / "config.json") or {})
    )


def import_to_answer(model_folder: Path) -> None:
    """What it takes to load the model in this folder, with or without adapters, and to have it answer."""
    with importing(needs_bitsandbytes(model_folder)):
        import peft  # noqa: F401
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

        from studio.engine import generation, streaming  # noqa: F401
