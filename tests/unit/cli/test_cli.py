"""The command line, as a user runs it: a process, its status, what it prints where."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from studio.cli.app import main
from tests.conftest import write_jsonl

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def cli(tmp_path: Path) -> Run:
    """cli("datasets", "list"): the finished command in a home of its own."""
    env = os.environ | {"STUDIO_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}

    def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "studio", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=env, check=False, timeout=120)

    return run


@pytest.mark.slow
def test_the_path_of_a_dataset(cli: Run, tmp_path: Path, tiny: Path) -> None:
    path = write_jsonl(tmp_path / "qa.jsonl", [{"q": "who?", "a": "me"}, {"q": "where?", "a": ""}])
    maps = ("--map", "instruction=q", "--map", "output=a")
    look = json.loads(cli("check", path, *maps, "--json").stdout)
    assert (look["format"], look["rows"], look["ok"]) == ("mapped", 2, 1)
    (refused,) = look["rejected"]
    assert (refused["row"], refused["field"], refused["reason"]) == (2, "a", "the field is empty") and refused["fix"]
    assert (look["duplicates"], look["near_duplicates"], look["tokens"], look["model"]) == (0, 0, None, None)
    added = json.loads(cli("datasets", "add", path, *maps, "--name", "qa", "--json").stdout)
    assert added["rows"] == 1
    assert json.loads(cli("datasets", "list", "--json").stdout)["datasets"][0]["id"] == added["id"]
    assert "who?" in cli("datasets", "show", "qa").stdout
    assert cli("models", "add", tiny).returncode == 0
    rejects = tmp_path / "rejects.csv"
    counted = json.loads(cli("check", path, *maps, "--max-length", 26, "--rejects", rejects, "--json").stdout)
    assert counted["tokens"].keys() == {"min", "p50", "p95", "max", "total", "trained"}
    assert (counted["model"], counted["truncated"], counted["answers_lost"]) == ("tiny", 1, 0)
    assert counted["tokens"]["trained"] == len("me") + 1 and counted["seconds"] > 0
    assert "the field is empty" in rejects.read_text() and "where?" in rejects.read_text()
    own = cli("check", path, *maps, "--template", "Q: {instruction} A: {output}")
    assert own.returncode == 0 and "1 of 2 rows can be used (1 empty)" in own.stdout
    found = json.loads(cli("estimate", "--model", "tiny", "--dataset", "qa", "--set", "r=4", "--json").stdout)
    assert found["total"] == sum(found["items"].values()) and found["fits"] is True
    assert json.loads(cli("runs", "--json").stdout) == {"runs": []}
    assert "torch" in cli("doctor").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "absent.jsonl"], "absent.jsonl"),
        (["check", "{qa}"], "none of the known formats"),
        (["check", "{qa}", "--format", "parrot"], "no format 'parrot'"),
        (["check", "{qa}", "--format", "alpaca"], "needs the columns instruction and output"),
        (["check", "{qa}", "--encoding", "klingon"], "klingon"),
        (
            ["check", "{qa}", "--map", "instruction=q", "--map", "output=a", "--template", "nothing"],
            "--template must be chat",
        ),
        (["check", "{qa}", "--map", "text=q", "--rejects", "{folder}/r.xlsx"], ".jsonl or .csv, not as .xlsx"),
        (["check", "{qa}", "--map", "text=q", "--rejects", "{folder}/none/r.csv"], "cannot be written"),
        (["datasets", "show", "absent"], "no dataset 'absent'"),
        (["datasets", "add", "{qa}"], "--map instruction=COLUMN"),
        (["datasets", "add", "{qa}", "--map", "instruction=q"], "has no output"),
        (["datasets", "add", "{qa}", "--map", "q"], "not of the form name=value"),
        (["models", "add", "absent"], "neither a folder nor a hub id"),
        (["models", "add", "{folder}"], "no readable config.json"),
        (["train"], "Give a recipe file"),
        (["train", "absent.yaml"], "no recipe file absent.yaml"),
        (["train", "--model", "absent", "--dataset", "x"], "no model 'absent'"),
        (["train", "--model", "m", "--set", "rank=4"], "no field 'rank'. Did you mean r?"),
        (["estimate", "--model", "m", "--set", "r=0"], "method.r must be at least 1"),
        (["train", "--preset", "absent"], "no preset 'absent'"),
        (["stop", "absent"], "no run 'absent'"),
        (["runs", "show", "absent"], "no run 'absent'"),
        (["chat", "absent", "--prompt", "Hi"], "no run 'absent'"),
        (["export", "absent", "--to", "adapter"], "no run 'absent'"),
        (["export", "absent", "--to", "floppy"], "no export to 'floppy'"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    (tmp_path / "folder").mkdir()
    qa = write_jsonl(tmp_path / "qa.jsonl", [{"q": "who?", "a": "me"}])
    words = [word.format(qa=qa, folder=tmp_path / "folder") for word in arguments]
    with pytest.raises(SystemExit) as left:
        main(["--home", str(tmp_path / "home"), *words])
    done = capsys.readouterr()
    assert left.value.code == 2
    assert said in done.err and done.err.startswith("studio: ") and done.err.count("\n") == 1
    assert done.out == ""


@pytest.mark.slow
def test_a_taken_port_is_said_with_the_way_out(cli: Run) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = cli("serve", "--port", port)
    assert done.returncode == 1
    assert f"Port {port}" in done.stderr and f"--port {port + 1}" in done.stderr and "Traceback" not in done.stderr
