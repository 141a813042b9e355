"""What dataclasses have Python compile, kept from one process to the next as Python keeps what it compiles of files.

A dataclass writes the source of its own methods and has it compiled, at every import anew: four thousand of them, an
eighth of what a worker's libraries take. Here the code is looked up by that source, to the letter; what is not there,
or is of another Python, is compiled as elsewhere.
"""

import dataclasses
import marshal
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import MAGIC_NUMBER, cache_from_source
from pathlib import Path
from types import CodeType
from typing import Any

MOST = 20_000  # methods; beyond that, what nobody asked for this time is forgotten


@contextmanager
def keeping(name: str) -> Iterator[None]:
    """Dataclasses made within are compiled at most once for all processes that say the same name."""
    if "exec" in vars(dataclasses):  # someone else's, or ours already
        yield
        return
    path = _path(name)
    known = _read(path)
    used: dict[str, bytes] = {}

    def kept_exec(source: str, *scopes: Any) -> None:
        """exec, as dataclasses call it."""
        if source not in used:
            used[source] = known.get(source) or marshal.dumps(compile(source, "<string>", "exec", dont_inherit=True))
        code: CodeType = marshal.loads(used[source])  # noqa: S302 - whoever may write it may write bytecode too
        exec(code, *scopes)  # noqa: S102

    dataclasses.exec = kept_exec  # type: ignore[attr-defined]  # found before the built-in one
    try:
        yield
    finally:
        del dataclasses.exec  # type: ignore[attr-defined]
        if not used.keys() <= known.keys() and not sys.dont_write_bytecode:
            _write(path, used if len(known) + len(used) > MOST else known | used)


def _path(name: str) -> Path:
    return Path(cache_from_source(__file__)).with_suffix(f".{name}.marshal")


def _read(path: Path) -> dict[str, bytes]:
    with suppress(OSError, ValueError, TypeError, EOFError):
        of, codes = marshal.loads(path.read_bytes())  # noqa: S302 - see above
        if of == MAGIC_NUMBER and isinstance(codes, dict):
            return codes
    return {}


def _write(path: Path, codes: dict[str, bytes]) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with suppress(OSError):
        try:
            aside.write_bytes(marshal.dumps((MAGIC_NUMBER, codes)))
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
