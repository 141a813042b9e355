"""The run directory: a journal that loses nothing, folders that are whole or not there."""

import json
import math
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.rundir import (
    Beat,
    Journal,
    RunDir,
    newest_checkpoint,
    read_events,
    read_json,
    resident_bytes,
    verify_folder,
    whole_folder,
    write_json,
)


def test_a_torn_last_line_is_ignored_and_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Journal(path) as journal:
        journal.write("metric", step=1, loss=2.5)
        journal.write("metric", step=2, loss=2.25)
    with path.open("ab") as file:
        file.write(b'{"seq":3,"time":1.0,"kind":"metric","payl')
    first = read_events(path)
    assert [event.seq for event in first.events] == [1, 2]
    with Journal(path) as journal:
        journal.write("metric", step=3, loss=2.0)
    assert [event.seq for event in read_events(path, first.offset).events] == [3]
    assert [event.payload["step"] for event in read_events(path).events] == [1, 2, 3]


def test_a_damaged_line_in_the_middle_is_passed_over_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Journal(path) as journal:
        for step in range(3):
            journal.write("metric", step=step)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"step":1', b'"step":7')
    path.write_bytes(b"".join(lines))
    reading = read_events(path)
    assert [event.seq for event in reading.events] == [1, 3]
    assert reading.damaged == 1


def test_numbers_that_json_lacks_are_kept_by_name(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with Journal(path) as journal:
        journal.write("metric", loss=math.nan, grads=[math.inf])
    assert read_events(path).events[0].payload == {"loss": "nan", "grads": ["inf"]}
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


_PAYLOADS = st.dictionaries(st.text(max_size=8), st.text(max_size=20) | st.floats() | st.none(), max_size=4)


@given(st.lists(_PAYLOADS, max_size=6), st.integers(0, 400))
def test_whatever_is_cut_off_the_whole_lines_before_it_are_read(payloads: list[dict[str, object]], cut: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "events.jsonl"
        with Journal(path) as journal:
            for payload in payloads:
                journal.write("note", values=payload)
        data = path.read_bytes()
        kept = data[: max(0, len(data) - cut)]
        path.write_bytes(kept)
        reading = read_events(path)
        assert len(reading.events) == kept.count(b"\n")
        with Journal(path) as journal:
            assert journal.write("note").seq == len(reading.events) + 1


def test_what_a_killed_writer_acknowledged_is_there(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    code = (
        "import os, signal, sys; from pathlib import Path; from studio.rundir import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for step in range(500): print(journal.write('metric', step=step).seq, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    acknowledged = [int(line) for line in done.stdout.split()]
    assert done.returncode < 0 and len(acknowledged) == 500
    assert [event.seq for event in read_events(path).events] == acknowledged


FULL = """
import resource, sys
from pathlib import Path
from studio.rundir import Journal
path, limit = Path(sys.argv[1]), int(sys.argv[2])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
with Journal(path) as journal:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        while True:
            print(journal.write("metric", step=journal.seq + 1).seq)
    except OSError:
        pass
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    print(journal.write("state", state="failed").seq)
"""


@pytest.mark.parametrize("limit", [0, 1, 400, 437, 1000])
def test_a_journal_on_a_full_disk_goes_on_with_what_it_acknowledged(tmp_path: Path, limit: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "events.jsonl"), str(limit)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    reading = read_events(tmp_path / "events.jsonl")
    assert [event.seq for event in reading.events] == [int(line) for line in done.stdout.split()]
    assert reading.damaged == 0 and [event.kind for event in reading.events].count("state") == 1


def test_a_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    final = tmp_path / "step-1"
    with pytest.raises(RuntimeError), whole_folder(final) as aside:
        (aside / "weights").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with whole_folder(final) as aside:
        (aside / "weights").write_text("all")
    assert verify_folder(final) is None
    with pytest.raises(RuntimeError), whole_folder(final) as aside:
        raise RuntimeError
    assert (final / "weights").read_text() == "all"


def test_the_newest_checkpoint_that_verifies_is_found(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for step in (9, 10, 11):
        with whole_folder(run.checkpoints / f"step-{step}") as aside:
            (aside / "weights").write_text(f"of step {step}")
    (run.checkpoints / "step-11" / "weights").write_text("of step 12")
    assert newest_checkpoint(run) == run.checkpoints / "step-10"
    assert "damaged" in str(verify_folder(run.checkpoints / "step-11"))


def test_wishes_are_taken_once(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.ask("stop")
    assert run.consume("stop") and not run.consume("stop")


def test_the_log_tail_shows_what_a_progress_bar_last_showed(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.log.write_text("first\n 10%\r 50%\r100%\nlast\n")
    assert run.log_tail() == "first\n100%\nlast\n"
    assert run.log_tail(limit=7) == "last\n"
    assert read_json(tmp_path / "nothing.json") is None


def test_the_log_tail_of_a_line_without_end_is_its_last_words(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.log.write_text("first\n" + "\r".join(f"{done}% of the file" for done in range(5000)))
    assert run.log_tail() == "4999% of the file"
    run.log.write_text("word " * 5000 + "last")
    assert run.log_tail(limit=9) == "word last"


def test_of_a_huge_log_only_the_end_is_read(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with run.log.open("wb") as file:
        file.seek(50 * 2**20)
        file.write(b"\nthe end\n")
    tracemalloc.start()
    try:
        assert run.log_tail(limit=10) == "the end\n"
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_a_heartbeat_tells_of_memory_and_older_ones_are_read(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    write_json(run.heartbeat, {"time": 2.0, "progress": 1.0, "step": 3})
    assert Beat.read(run) == Beat(2.0, 1.0, 3, memory=0)
    Beat(2.0, 1.0, 3, memory=resident_bytes()).write(run)
    beat = Beat.read(run)
    assert beat is not None and 2**20 < beat.memory < 2**40
