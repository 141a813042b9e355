"""Tables and lines: within the window on a terminal, plain and whole elsewhere, and never anything a text asks for."""

import contextlib
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from rich.cells import cell_len

from studio.cli import output, show
from studio.cli.app import main
from studio.memory.estimate import Item
from studio.services.host.doctor import Finding
from studio.services.planning.estimates import Estimate
from tests.conftest import write_jsonl
from tests.unit.cli.conftest import Window

COLUMNS = ("id", "name", "state", "position", "step", "loss", "model", "tags", "message")
ESCAPE = re.compile(r"\x1b\[([0-9;]*)m")
NASTY = "\x1b[31mx[bold]\x9b2J\x07 :smile: [/] {0}"
HARMLESS = "\ufffd[31mx[bold]\ufffd2J\ufffd :smile: [/] {0}"


@dataclass(frozen=True)
class Row:
    id: str = "261130-185757-e9d1d4"
    name: str = "Support tickets from March, second try"
    state: str = "completed"
    position: int = 0
    step: int = 1200
    loss: float | None = 0.51234
    model: str = "HuggingFaceTB/SmolLM2-360M-Instruct"
    tags: tuple[str, ...] = ()
    message: str = "Completed 1,200 steps in 12 min."


ROWS = [Row(), Row(name="b", state="failed", step=7, loss=None, model="tiny"), Row(name="日本語の名前", step=12)]


def table(*rows: Row) -> None:
    output.table(rows or ROWS, COLUMNS, False, "runs")


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_a_table_fits_the_window(window: Window, width: int) -> None:
    screen = window(width=width)
    table()
    assert all(cell_len(line.rstrip()) <= width for line in screen.lines)
    assert screen.getvalue().startswith("\x1b[1m") and "id" in screen.lines[0]
    if width > 40:
        assert "\x1b[32mcompleted" in screen.getvalue() and "\x1b[31mfailed" in screen.getvalue()
    shown = "\n".join(screen.lines)
    assert shown.count("261130-185757-e9d1d4") == 3
    assert ("Not shown for lack of room" in shown) is (width < 120)


def test_a_wide_window_shows_everything(window: Window) -> None:
    screen = window(width=250)
    table()
    heading, first, second, third = screen.lines
    assert heading.split() == [*COLUMNS]
    assert first.split("  ")[1] == ROWS[0].name and ROWS[0].model in first and ROWS[0].message in first
    right = heading.index(" step ") + len(" step")
    assert [line[:right].rsplit(" ", 1)[-1] for line in (first, second)] == ["1,200", "7"]
    assert third.index("completed") == first.index("completed") - len("日本語の名前"), "two cells for each character"


def test_a_narrow_window_cuts_texts_and_says_what_is_left_out(window: Window) -> None:
    screen = window(width=60)
    table()
    assert screen.lines[1].split("  ")[1].endswith("…")
    note = " ".join(" ".join(screen.lines[4:]).split())
    assert note == ("Not shown for lack of room: position, model, tags, message. A wider window or --json shows all.")


def test_messages_and_paths_are_folded(window: Window) -> None:
    @dataclass
    class Export:
        id: str
        path: str
        message: str

    path = "/srv/home/exports/" + "x" * 40
    screen = window(width=60)
    output.table(
        [Export("e" * 16, path, "There is not enough room on the disk.")], ("id", "path", "message"), False, "e"
    )
    assert len(screen.lines) > 3 and "…" not in screen.getvalue()
    assert "".join(line[18 : 18 + 22].strip() for line in screen.lines[1:]).startswith(path[:20])


def test_a_long_table_has_one_heading(window: Window) -> None:
    screen = window(width=120)
    table(*(replace(ROWS[0], name=f"run {number}") for number in range(250)))
    assert len([line for line in screen.lines if "run " in line]) == 250
    assert len([line for line in screen.lines if line.startswith("id ")]) == 1


@pytest.mark.parametrize("width", [60, 120])
@pytest.mark.parametrize("forced", ["", "1"])
def test_a_pipe_gets_plain_whole_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int, forced: str
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", forced)
    tags = tuple(f"tag-{number}" for number in range(100))
    table(Row(tags=tags, message="one\ntwo\tthree\r\nfour"), Row(name="b", tags=("c",)))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and len(shown.splitlines()) == 3
    assert "total" not in shown and shown.split("\n")[1].startswith("261130-185757-e9d1d4  Support tickets from March")
    assert ", ".join(tags) in shown and "one two three four" in shown and "1,200" in shown and "0.5123" in shown
    show.show_doctor([Finding("device", True, "CPU"), Finding("pip", False, "is missing")], False)
    output.say(("word", "bad"), " " + "y" * 300)
    assert capsys.readouterr().out == f"ok  device: CPU\n!!  pip: is missing\nword {'y' * 300}\n"


def test_no_color_leaves_the_words(window: Window, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = window()
    monkeypatch.setenv("NO_COLOR", "1")
    table()
    output.say(("failed", "failed"), " it")
    codes = {code for part in ESCAPE.findall(screen.getvalue()) for code in part.split(";")}
    assert codes <= {"", "0", "1", "2"}, "no colour: only bold and dim"
    assert "completed" in screen.getvalue() and screen.lines[-1] == "failed it"


def test_a_dumb_terminal_gets_what_a_pipe_gets(
    window: Window, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table()
    plain = capsys.readouterr().out
    screen = window()
    monkeypatch.setenv("TERM", "dumb")
    table()
    assert screen.getvalue() == plain


def test_a_terminal_without_unicode_gets_what_a_pipe_gets(window: Window) -> None:
    screen = window(width=60)
    screen.encoding = "iso-8859-1"
    table(ROWS[0])
    assert screen.getvalue().isascii() and "\x1b" not in screen.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_text_is_never_markup_nor_a_control_sequence(
    window: Window, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    screen = window(width=250) if terminal else None
    table(Row(name=NASTY))
    output.say(NASTY, (NASTY, "heading"))
    output.heading(NASTY)
    output.grid([((NASTY, "good"), NASTY)], "  {:12} {:>}")
    output.show(Row(), NASTY, as_json=False)
    written = screen.getvalue() if screen else capsys.readouterr().out
    shown = ESCAPE.sub("", written)
    assert shown.count(HARMLESS) == 7
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", shown), "rich's own codes for colours are all there is"
    assert {"31", "31;1"}.isdisjoint(ESCAPE.findall(written))


def test_json_is_the_same_on_a_terminal(window: Window, capsys: pytest.CaptureFixture[str]) -> None:
    output.table([Row(name=NASTY)], COLUMNS, True, "runs")
    output.show(Row(name=NASTY), "words", True, {"more": [1]})
    plain = capsys.readouterr().out
    screen = window(width=40)
    output.table([Row(name=NASTY)], COLUMNS, True, "runs")
    output.show(Row(name=NASTY), "words", True, {"more": [1]})
    assert screen.getvalue() == plain and "\x1b" not in plain


ITEMS = [
    Item(
        "weights", "Base weights", 270_000_000, "134,515,008 parameters in bfloat16, the embedding shared by the head"
    ),
    Item("adapter", "Adapter", 1_900_000, "460,800 parameters"),
]
ESTIMATE = Estimate(ITEMS, 271_900_000, 8 * 2**30, "CPU", True, 460_800, 134_975_808, 0, 0, 128, [], [])


def test_the_estimate_is_a_table(window: Window, capsys: pytest.CaptureFixture[str]) -> None:
    show.show_estimate(ESTIMATE, False)
    first, second, total, *_ = capsys.readouterr().out.splitlines()
    assert first == f"Base weights            0.251 GiB  {ITEMS[0].note}"
    assert second == "Adapter                 0.002 GiB  460,800 parameters"
    assert total == "Total                   0.253 GiB  fits in the 8.0 GiB free on CPU"
    for width in (60, 120):
        screen = window(width=width)
        show.show_estimate(ESTIMATE, False)
        rows = screen.lines[:-2]
        assert all(cell_len(line) <= width for line in rows) and len(rows) == (4 if width == 60 else 3)
        assert len({line.index(" GiB ") for line in rows if " GiB " in line}) == 1
        assert "\x1b[32mfits" in screen.getvalue()


def test_an_error_is_one_line_without_control_sequences(window: Window, tmp_path: Path) -> None:
    screen = window("stderr", 60)
    with pytest.raises(SystemExit):
        main(["--home", str(tmp_path), "check", f"{NASTY}{'.jsonl' * 30}"])
    assert len(screen.lines) == 1 and screen.getvalue().startswith("\x1b[31mstudio:\x1b[0m ")
    assert "x[bold]" in screen.lines[0] and {"", "0", "31"} >= set(ESCAPE.findall(screen.getvalue()))
    assert "\x9b" not in screen.getvalue()


def run_in_terminal(width: int, *command: str) -> str:
    """What `studio` writes to a real terminal of this width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    env = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "studio", *command], stdout=theirs, stderr=theirs, env=env | {"TERM": "xterm"}
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65_536)
        except OSError:  # Linux's way of saying that nobody has it open any more
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait(60) == 0, written
    return written.decode()


def test_a_nasty_name_on_a_real_terminal_and_in_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = ["--home", str(tmp_path / "home")]
    nasty = "\x1b[31mx[bold]"
    rows = [{"instruction": f"\x1b]0;title\x07 [red]{number}[/]", "output": "yes"} for number in range(3)]

    def studio(*words: str) -> str:
        with contextlib.suppress(SystemExit):
            main([*home, *words])
        return capsys.readouterr().out

    added = json.loads(studio("datasets", "add", str(write_jsonl(tmp_path / f"{nasty}.jsonl", rows)), "--json"))
    assert added["name"] == nasty, "JSON has it as it is"
    listed = studio("datasets", "list")
    assert "\n\ufffd[31mx[bold]  3  " in listed and "\x1b" not in listed
    shown = studio("datasets", "show", added["id"])
    assert "\ufffd]0;title\ufffd [red]0[/]" in shown and "\x1b" not in shown
    on_terminal = run_in_terminal(60, *home, "datasets", "list")
    assert "\ufffd[31mx[bold]" in on_terminal and "\x1b[31m" not in on_terminal and "\x1b[1mname" in on_terminal
    assert all(len(ESCAPE.sub("", line)) <= 60 for line in on_terminal.splitlines())
