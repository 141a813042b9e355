"""A terminal of any width, in place of stdout or stderr."""

import io
from collections.abc import Callable

import pytest
from rich.ansi import AnsiDecoder


class Screen(io.StringIO):
    """What a program writes to a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """The lines, without the codes for colours."""
        return [line.plain for line in AnsiDecoder().decode(self.getvalue().removesuffix("\n"))]


Window = Callable[..., Screen]


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Window:
    """window("stdout", 60): the stream becomes a terminal that is 60 columns wide."""

    def place(stream: str = "stdout", width: int = 120) -> Screen:
        screen = Screen()
        for name in ("NO_COLOR", "FORCE_COLOR", "COLORTERM"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(f"sys.{stream}", screen)
        return screen

    return place
