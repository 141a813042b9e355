"""Paths of the bundled folders `static/` and `data/`: next to the package in a checkout, inside it in a wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).parent


def _bundled(name: str) -> Path:
    inside = _PACKAGE / f"_{name}"
    return inside if inside.is_dir() else _PACKAGE.parent / name


def static() -> Path:
    """Folder of the page's stylesheet, scripts and icons."""
    return _bundled("static")


def data() -> Path:
    """Folder of the bundled samples and presets."""
    return _bundled("data")
