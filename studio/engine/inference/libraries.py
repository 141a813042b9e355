"""Import torch, transformers and what is built on them, with the garbage collector off.

What it does not do: change any of the libraries. The collector is off because it would walk a million new objects again
and again, all of which stay until the worker ends.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Keep the garbage collector off within, and let it ignore afterwards what was imported."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def import_for_answers() -> None:
    """Import what a worker needs to load a model, with or without adapters, and to have it answer."""
    with importing():
        import peft  # noqa: F401
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

        from studio.engine.inference import generation, streaming  # noqa: F401
