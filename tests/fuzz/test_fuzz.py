"""Whatever a file holds, reading it ends in rows, in findings, or in a sentence that names the file."""

import os
import re
from pathlib import Path

import pytest

from studio.dataset.read.reader import ReadOptions
from tests.fuzz.driver import drive, examine, judge, watchdog
from tests.fuzz.mutate import mutated, seeds
from tests.fuzz.nasty import NASTY, Nasty

COUNT = int(os.environ.get("STUDIO_FUZZ", "600"))
FIRST = int(os.environ.get("STUDIO_FUZZ_FIRST", "0"))
# Far more than any of them needs, even on a slow machine.
PATIENCE = 120


@pytest.mark.parametrize("nasty", NASTY, ids=lambda nasty: nasty.name)
def test_nasty_files(nasty: Nasty, tmp_path: Path) -> None:
    path = nasty.write(tmp_path)
    try:
        with watchdog(PATIENCE):
            how = ReadOptions(nasty.encoding, nasty.delimiter)
            seen = drive(path, nasty.limits, how)
            whole = examine(path, tmp_path / "check", nasty.limits, how)
    finally:
        path.unlink()
    # What a person gave besides the file is named in place of it.
    if not (nasty.encoding or nasty.delimiter):
        judge(path, seen)
        judge(path, whole)
    assert bool(whole.refused) or not seen.refused, "a file that cannot be read became a dataset"
    if nasty.said:
        assert re.search(nasty.said, seen.refused, re.DOTALL), (seen.refused, seen.rows, seen.findings[:3])
    else:
        assert not seen.refused
        assert (seen.rows, len(seen.findings)) == (nasty.rows, nasty.findings), seen.findings[:5]


def test_there_are_many_nasty_files_and_each_has_a_name() -> None:
    assert len({nasty.name for nasty in NASTY}) == len(NASTY) >= 150


@pytest.mark.parametrize("name", sorted(seeds()))
def test_the_seeds_are_good(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(seeds()[name])
    seen = drive(path)
    assert (seen.refused, seen.rows, seen.findings) == ("", 10, [])


def test_mutated_files(tmp_path: Path) -> None:
    """STUDIO_FUZZ=10000 reads that many; STUDIO_FUZZ_FIRST=123 begins with that number, to see one again."""
    for seed in range(FIRST, FIRST + COUNT):
        name, data = mutated(seed)
        path = tmp_path / name
        path.write_bytes(data)
        try:
            with watchdog(PATIENCE):
                judge(path, drive(path))
                judge(path, examine(path, tmp_path / "check"))
        except Exception as error:
            pytest.fail(f"seed {seed}, file {path}: {type(error).__name__}: {error}")
        path.unlink()
