"""Import torch, transformers and libraries built on them, with the garbage collector off.

Otherwise the collector would scan a million new objects again and again, all of which live until the worker ends.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Turn the garbage collector off inside the context; afterwards it ignores what was imported."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_for_answers() -> None:
    """Import what a worker needs to load a model, with or without adapters, and to generate."""
    with importing():
        import peft  # noqa: F401
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

        from studio.engine.inference import generation, streaming  # noqa: F401
