"""Imports Gradio in half the time."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from studio.kept_code import keeping
from studio.on_import import Watch


@contextmanager
def importing() -> Iterator[None]:
    """What is imported within comes without type stubs, which Gradio makes anew from its sources at every import, and
    without the collector, which would look through all of it again and again; what its dataclasses compile is kept."""
    watch = Watch("gradio.component_meta", _without_stubs)
    sys.meta_path.insert(0, watch)
    gc.disable()
    try:
        with keeping("pages"):
            yield
    finally:
        gc.freeze()
        gc.enable()
        sys.meta_path.remove(watch)


def _without_stubs(module: ModuleType) -> None:
    if hasattr(module, "create_or_modify_pyi"):
        module.create_or_modify_pyi = lambda *_: None  # type: ignore[attr-defined]
