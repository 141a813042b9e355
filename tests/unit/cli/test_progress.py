"""Progress: a bar with the time left on a terminal, plain lines elsewhere, nothing where nothing is wanted."""

import re
import sys
import time

import pytest

from studio.cli import output, show
from studio.cli.bar import Bar
from studio.services.core.keeper import Keeper
from studio.services.runs import runs
from studio.settings import Settings
from tests.torture.house import new_run
from tests.unit.cli.conftest import Screen, Window

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def frames(screen: Screen) -> list[str]:
    """What the line of the bar said, one after the other."""
    return [text.rstrip() for text in re.split(r"[\r\n]+", CONTROL.sub("", screen.getvalue())) if text.strip()]


def until(screen: Screen, pattern: str, bar: Bar, what: str, of: int, amount: str = "") -> None:
    """Work until the bar says something."""
    deadline, done = time.monotonic() + 60, 0
    while not any(re.search(pattern, frame) for frame in frames(screen)):
        assert time.monotonic() < deadline, frames(screen)[-3:]
        bar.update(what, done, of, amount)
        done += 1 if of else 0
        time.sleep(0.02)


@pytest.mark.parametrize("width", [60, 120])
def test_a_bar_says_what_how_far_and_how_long(window: Window, width: int) -> None:
    screen = window("stderr", width)
    with Bar(screen, after=0) as bar:
        until(
            screen,
            r"^Downloading \[red\]model.*━+.* 80% \d:\d\d:\d\d left$",
            bar,
            "Downloading [red]model-1",
            3000,
            "80%",
        )
    assert all(len(frame) <= width for frame in frames(screen))
    assert screen.getvalue().endswith("\x1b[?25h\r\x1b[1A\x1b[2K"), "the cursor is back and the line is gone"


def test_a_narrow_window_cuts_a_long_text(window: Window) -> None:
    screen = window("stderr", 40)
    with Bar(screen, after=0) as bar:
        until(screen, "…", bar, "Downloading " + "x" * 60, 3000, "80%")
    assert all(len(frame) <= 40 for frame in frames(screen))


def test_what_is_over_soon_shows_no_bar(window: Window) -> None:
    screen = window("stderr")
    with Bar(screen, after=3600) as bar:
        bar.update("Reading", 1, 2)
    assert screen.getvalue() == ""
    with output.progress(quiet=False):
        pass
    assert screen.getvalue() == ""


def test_a_failure_takes_the_bar_away(window: Window) -> None:
    screen = window("stderr")
    with pytest.raises(KeyboardInterrupt), Bar(screen, after=0) as bar:
        until(screen, "Exporting", bar, "Exporting", 3000)
        raise KeyboardInterrupt
    assert screen.getvalue().endswith("\x1b[?25h\r\x1b[1A\x1b[2K")


def test_each_part_has_its_own_speed(window: Window) -> None:
    screen = window("stderr")
    with Bar(screen, after=0) as bar:
        until(screen, "First.* left", bar, "First", 3000)
        until(screen, "Second", bar, "Second", 0)
        until(screen, "Third.* left", bar, "Third", 4000)
    assert not any("Second" in frame and "left" in frame for frame in frames(screen)), "an end that is not known"


def test_lines_on_stderr_appear_above_and_stdout_stays_apart(
    window: Window, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = window("stderr")
    with Bar(screen, after=0) as bar:
        until(screen, "Training", bar, "Training", 3000)
        output.say("step 3  evaluation loss 0.5 [bold]", err=True)
        print("result")
    assert "step 3  evaluation loss 0.5 [bold]\n" in screen.getvalue()
    assert capsys.readouterr().out == "result\n"
    assert sys.stderr is screen


def test_names_in_progress_are_neither_markup_nor_control_sequences(window: Window) -> None:
    screen = window("stderr")
    with output.progress(quiet=False) as progress:
        for _ in range(15):
            progress("\x1b[31mx[bold]\n{task.id}", 1, 10)
            time.sleep(0.1)
    assert any(frame.startswith("\ufffd[31mx[bold] {task.id} ") and " 10%" in frame for frame in frames(screen))
    assert "\x1b[31m" not in screen.getvalue()


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_elsewhere_each_part_is_one_plain_line(
    capsys: pytest.CaptureFixture[str], window: Window, monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    screen = window("stderr") if term == "dumb" else None
    monkeypatch.setenv("TERM", term)
    with output.progress(quiet=False) as progress:
        for step in (("Reading", 0, 10), ("Reading", 5, 10), ("", 0, 0), ("Writing \x1b[2J", 0, 0)):
            progress(*step)
    done = capsys.readouterr()
    assert (screen.getvalue() if screen else done.err) == "Reading\nWriting \ufffd[2J\n"
    assert done.out == ""


@pytest.mark.parametrize(
    ("quiet", "watched", "terminal"), [(True, False, True), (True, True, True), (False, True, False)]
)
def test_quiet_is_quiet(
    window: Window, capsys: pytest.CaptureFixture[str], quiet: bool, watched: bool, terminal: bool
) -> None:
    screen = window("stderr") if terminal else None
    with output.progress(quiet, watched) as progress:
        for _ in range(12 if terminal else 1):
            progress("Reading", 1, 2)
            time.sleep(0.1)
    assert not (screen.getvalue() if screen else capsys.readouterr().err)


def test_a_run_is_followed(home: Settings, window: Window, capsys: pytest.CaptureFixture[str]) -> None:
    with Keeper(home) as studio:
        info = show.follow(studio, new_run(studio, "plain", steps=3).id, quiet=False)
        assert info.state == "completed"
        assert "step 3/3  loss 1.0000\n" in (plain := capsys.readouterr().err) and "\x1b" not in plain
        assert show.follow(studio, info.id, quiet=True) == runs.get(studio, info.id)
        assert capsys.readouterr().err == ""
        screen = window("stderr", 100)
        show.follow(studio, new_run(studio, "[bold]", steps=100, delay=0.03).id, quiet=False)
    running = [frame for frame in frames(screen) if "running" in frame]
    assert any(re.match(r"running ━*.* \d+/100, loss 0\.\d{4}", frame) for frame in running), running
    assert capsys.readouterr().out == ""
