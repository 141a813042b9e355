"""Limits on reading files. Each limit is a setting, named in the message when it is exceeded."""

from dataclasses import dataclass, fields
from typing import Self

from studio.settings import Settings, env_name


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that bound reading, under the same names as in studio/settings.py."""

    max_file_mb: int = 512
    max_rows: int = 2_000_000
    max_row_mb: int = 16
    max_field_mb: int = 4
    max_nesting: int = 64
    max_digits: int = 100
    max_compression_ratio: int = 200

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(**{item.name: getattr(settings, item.name) for item in fields(cls)})


def limit(name: str) -> str:
    """Text with which a message names a limit: the environment variable that sets it."""
    return f"the limit is set by {env_name(name)}"
