"""The furnished home of the torture tests, for tests of runs without the real engine."""

from tests.torture.house import furnished, home

__all__ = ["furnished", "home"]
