"""A home that an earlier version made opens and shows everything.

`tests/data/homes/VERSION.tar.xz` is a home made by that version's own commands: a tiny model, a dataset, two finished
runs (one with name, notes, tags and star), one in the trash, an export, an evaluation, two adapters combined, a prompt
set, a comparison with a vote. `VERSION.json` is what that version's commands printed about it, the home's path as HOME.
"""

import contextlib
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from studio.cli.app import main
from studio.services.chat import comparisons, votes
from studio.services.core.keeper import Keeper
from studio.settings import Settings

HOMES = Path(__file__).parents[3] / "data" / "homes"
MADE_IN = "/srv/lora/home"  # where the homes were when they were made
VERSIONS = sorted(path.name.removesuffix(".tar.xz") for path in HOMES.glob("*.tar.xz"))


def unpack(version: str, folder: Path) -> Path:
    with tarfile.open(HOMES / f"{version}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "home"


def printed(command: str, home: Path, capsys: pytest.CaptureFixture[str]) -> object:
    with contextlib.suppress(SystemExit):
        main(["--home", str(home), *command.split(), "--json"])
    return json.loads(capsys.readouterr().out.replace(str(home), "HOME").replace(MADE_IN, "HOME"))


def as_before(now: Any, before: Any) -> Any:
    """What is printed now, without the keys that later versions added, and sizes on disk, which are counted again."""
    if isinstance(now, dict) and isinstance(before, dict):
        return {key: as_before(part, before.get(key)) for key, part in now.items() if key in before and key != "bytes"}
    if isinstance(now, list) and isinstance(before, list) and len(now) == len(before):
        return [as_before(*pair) for pair in zip(now, before, strict=True)]
    return now


@pytest.mark.parametrize("index", ["as it was", "lost"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_command_prints_what_it_printed(
    version: str, index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STUDIO_OFFLINE", "1")
    home = unpack(version, tmp_path)
    if index == "lost":
        for path in home.glob("studio.db*"):
            path.unlink()
    expected = json.loads((HOMES / f"{version}.json").read_text(encoding="utf-8"))
    assert len(expected) > 10
    for command, before in expected.items():
        assert as_before(printed(command, home, capsys), before) == as_before(before, before), command


@pytest.mark.parametrize("version", VERSIONS)
def test_its_comparisons_and_votes_are_there(version: str, tmp_path: Path) -> None:
    with Keeper(Settings(home=unpack(version, tmp_path), offline=True)) as studio:
        (key,) = comparisons.mine(studio)
        (turn,) = comparisons.load(studio, key).turns
        assert [answer.text for answer in turn.answers] == ["answer 0", "answer 1"]
        assert (tally := votes.tally(studio, turn)).wins == 1 and tally.words.startswith("1 of 1")
        assert studio.notices == []
