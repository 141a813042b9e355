"""A furnished home for every torture."""

from tests.torture.house import furnished, home

__all__ = ["furnished", "home"]
