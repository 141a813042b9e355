"""Every command and program that README, CONTRIBUTING and the docs show works, run as it is shown.

Commands run in one home, in the order of the pages, with the tiny model under the sample model's name. RUN is the run
that the README's own `studio train` makes; the rest of what they name (FOLDER, ID, OWNER/NAME …) is made here or by the
commands before. The hub is one of our own.
"""

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from studio.cli.app import main
from studio.rundir import RunDir, newest_checkpoint, read_json, write_json
from studio.services.models.models import SAMPLE
from studio.settings import Settings
from tests import hub
from tests.conftest import REPOSITORY, write_jsonl
from tests.docs import Shown, blocks, commands
from tests.e2e.conftest import serve
from tests.tiny import tiny_model

pytestmark = pytest.mark.engine

# What is shown and not run here, and why; where a file is named, the same command or service is run there.
NOT_RUN = {
    "make run": "installs everything and serves, as `studio serve` does below",
    "make test": "installs everything and runs every test",
    "hf upload": "makes a Space on the hub",
    "export STUDIO_JUDGE_URL": "a service on the network: tests/unit/services/evals/test_evaluations.py",
    "studio eval RUN --judge": "a service on the network: tests/unit/services/evals/test_evaluations.py",
    "studio export RUN --to gguf": "compiles for minutes: tests/integration/test_gguf.py",
    "studio eval RUN  ": "runs as the README shows it, with --out",
    "studio adapters combine RUN OTHER": "runs as docs/export.md shows it, with more options",
}
PASSWORD = "correct horse battery"


def reason(shown: Shown) -> str | None:
    """Why this command is not run here."""
    return next((why for start, why in NOT_RUN.items() if shown.text.startswith(start)), None)


class Home:
    """A home, a working folder and what the commands name."""

    def __init__(self, folder: Path, made: hub.Hub) -> None:
        self.settings = Settings(home=folder / "home").prepare()
        self.folder = folder / "work"
        self.folder.mkdir()
        self.hub = made
        self.run = self.other = self.waiting = ""
        tiny_model(self.settings.models / SAMPLE)
        rows = "".join(f"What is {n} plus {n}?,{2 * n}.\n" for n in range(24))
        (self.folder / "faq.csv").write_text(f"question,answer\n{rows}")
        words = "".join(f"{n},French,le {n}\n" for n in range(8))
        (self.folder / "words.csv").write_text(f"word,language,translation\n{words}")
        write_jsonl(
            self.folder / "seeds.jsonl",
            [{"instruction": f"Add {n}.", "instances": [{"input": "1", "output": str(n + 1)}]} for n in range(8)],
        )
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
        write_jsonl(self.folder / "turns.jsonl", [{"turns": turns}])
        write_jsonl(self.folder / "questions.jsonl", [{"question": "Who are you?"}, {"question": "Where is Lima?"}])

    def newest(self, kind: str) -> str:
        """The id of the newest of the home's runs, exports, evaluations or adapters."""
        folders = [path for path in (self.settings.home / kind).iterdir() if not path.name.startswith(".")]
        return max(folders, key=lambda path: path.stat().st_mtime).name

    def take_run(self) -> None:
        """Take the new run for RUN, two copies of it for other runs, and its adapter for one from elsewhere."""
        self.run = self.newest("runs")
        run = RunDir(self.settings.runs / self.run)
        last = newest_checkpoint(run)
        assert last is not None
        shutil.copytree(last, last.with_name("step-24"))
        self.other, self.waiting = (f"{self.run[:-6]}{end}" for end in ("0000aa", "0000bb"))
        for copy in (self.other, self.waiting):
            shutil.copytree(run.path, self.settings.runs / copy)
            about = self.settings.runs / copy / "about.json"
            write_json(about, (read_json(about) or {}) | {"name": copy})
        shutil.copytree(run.adapter, self.folder / "theirs")
        with zipfile.ZipFile(self.folder / "theirs.zip", "w") as packed:
            for path in run.adapter.iterdir():
                packed.write(path, path.name)
        files = {path.name: path.read_bytes() for path in run.adapter.iterdir()}
        self.hub.repos["me/theirs"] = {"private": False, "files": files}

    def words(self, shown: Shown) -> list[str]:
        """The command's words, with what the page leaves open filled in."""
        words = shown.words
        noun = " ".join(words[1:3])
        values = {
            "RUN": self.waiting if noun in ("resume RUN", "queue move") else self.run,
            "RUN_A": self.run,
            "OTHER": self.other,
            "RUN_B": self.other,
            "MODEL": SAMPLE,
            "NAME": "parcels",
            "OWNER/NAME": "me/theirs" if noun == "adapters add" else "me/parcels-for-all",
            "FOLDER": "theirs",
            "FILE.zip": "theirs.zip",
            "DIR": "elsewhere",
        }
        if "ID" in words:
            values["ID"] = self.newest(words[1])
        if "EXPORT" in words:
            values["EXPORT"] = self.newest("exports")
        return [
            ",".join(values.get(part, part) for part in re.sub(r"^RUN@\d+$", f"{self.run}@24", word).split(","))
            for word in words
        ]

    def run_shown(self, words: list[str]) -> None:
        """Run a command as its user would: with a terminal where it asks, until it answers where it serves."""
        if words[1] == "serve":
            serve(self.settings.home, options=words[2:]).end()
        elif words[1:3] in (["users", "add"], ["users", "passwd"]):
            typed(words, [PASSWORD, PASSWORD])
        elif words[1:3] == ["runs", "empty-trash"]:
            typed(words, ["y"])
        elif words[1] in ("resume", "queue"):
            with FileLock(self.settings.dry_run_lock, thread_local=False):  # nothing starts
                here(words[1:])
                if words[1] == "queue":
                    here(["stop", self.waiting, "--cancel"])
        else:
            here(words[1:])


def here(words: list[str]) -> None:
    """Run a command in this process; raises SystemExit if it fails."""
    try:
        main(words)
    except SystemExit as left:
        if left.code:
            raise


def typed(words: list[str], answers: list[str]) -> None:
    """Run a command in a terminal, and answer each time it asks."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", *words], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    said, left = "", list(answers)
    with os.fdopen(ours, "rb+", buffering=0) as terminal, contextlib.suppress(OSError):  # how Linux says: it is closed
        while part := terminal.read(4096):
            said += part.decode(errors="replace")
            if said.endswith(": ") and left:
                terminal.write(f"{left.pop(0)}\n".encode())
    print(said)
    if process.wait(60):
        raise SystemExit(process.returncode)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    with hub.served() as made:
        home = Home(tmp_path, made)
        monkeypatch.chdir(home.folder)
        monkeypatch.setenv("STUDIO_HOME", str(home.settings.home))
        monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a tiny model has nothing to share between threads
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        monkeypatch.setenv("HF_TOKEN", hub.TOKEN)
        yield home


def test_each_reason_is_of_a_command_that_is_shown() -> None:
    for start, why in NOT_RUN.items():
        assert any(shown.text.startswith(start) for shown in commands()), start
        for file in re.findall(r"tests/\S+", why):
            assert (REPOSITORY / file).is_file(), file


def test_every_command_shown_works(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    run: set[str] = set()
    failed = []
    for shown in commands():
        if reason(shown) or " ".join(shown.words) in run:
            continue
        run.add(" ".join(shown.words))
        try:
            assert shown.words[0] == "studio", "neither run nor in the table of this test"
            home.run_shown(home.words(shown))
        except (AssertionError, SystemExit) as error:
            said = capsys.readouterr()
            failed.append(f"{shown}\n{error} {said.out}{said.err}")
            continue
        said = capsys.readouterr()
        if "--json" in shown.words:
            json.loads(said.out)
        if shown.words[1] == "train":
            home.take_run()
    assert not failed, "\n\n".join(failed)


def test_the_program_of_the_api_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = blocks("python")
    settings = Settings(home=tmp_path / "home").prepare()
    tiny_model(settings.models / SAMPLE)
    with FileLock(settings.dry_run_lock, thread_local=False):  # its run waits
        served = serve(settings.home)
        try:
            assert "http://127.0.0.1:7860" in program.text
            exec(program.text.replace("http://127.0.0.1:7860", served.url), {})
        finally:
            served.end()
    assert capsys.readouterr().out == "True\nqueued\n"
