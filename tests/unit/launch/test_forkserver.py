"""Work that is forked from a process with its imports done: told, ended and failed like any child's."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from studio.launch import forkserver
from studio.launch.forkserver import ForkServer
from studio.launch.short_tasks import Died, follow

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not forkserver.possible(), reason="forks on Linux alone")]
# `main` runs a statement; each fork prints as a module that is run would.
MODULE = "tests.forked"
PIDS = "import os, json; print(json.dumps({'pid': os.getpid(), 'parent': os.getppid()}), flush=True)"


@pytest.fixture
def server() -> Iterator[ForkServer]:
    made = ForkServer(MODULE)
    yield made
    made.close()


def run(server: ForkServer, statement: str, log: Path, seconds: float | None = None) -> list[dict[str, object]]:
    return [line for line in follow("timeit", [statement], log, seconds, server=server) if line]


def test_each_piece_of_work_has_a_process_of_its_own_and_no_imports_to_wait_for(
    server: ForkServer, tmp_path: Path
) -> None:
    first, second = (run(server, PIDS, tmp_path / "log.txt")[0] for _ in range(2))
    assert first["parent"] == second["parent"] != os.getpid()
    assert first["pid"] != second["pid"]
    said = run(server, "import json, sys; print(json.dumps({'here': 'pyarrow' in sys.modules}))", tmp_path / "log.txt")
    assert said == [{"here": True}]


def test_nothing_secret_comes_along(server: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    (told,) = run(server, "import os, json; print(json.dumps(dict(os.environ)))", tmp_path / "log.txt")
    assert "HF_TOKEN" not in told
    files = "import os, json; print(json.dumps({'files': [os.readlink(f'/proc/self/fd/{n}') for n in range(3, 50) "\
        "if os.path.exists(f'/proc/self/fd/{n}')]}))"  # fmt: skip
    assert run(server, files, tmp_path / "log.txt") == [{"files": []}]


@pytest.mark.parametrize(
    ("statement", "words", "number"),
    [
        ("raise ValueError('no good')", "no good", 0),
        ("raise SystemExit('no good')", "no good", 0),
        ("raise SystemExit(3)", "no reason", 0),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV", signal.SIGSEGV),
    ],
)
def test_how_it_failed_is_told(server: ForkServer, tmp_path: Path, statement: str, words: str, number: int) -> None:
    with pytest.raises(Died, match=words) as told:
        run(server, statement, tmp_path / "log.txt")
    assert (told.value.signal, told.value.timed_out) == (number, False)
    assert run(server, PIDS, tmp_path / "log.txt")  # it failed alone


def test_it_is_ended_at_its_limit(server: ForkServer, tmp_path: Path) -> None:
    with pytest.raises(Died) as told:
        run(server, "import time; time.sleep(60)", tmp_path / "log.txt", 0.5)
    assert told.value.timed_out


def test_it_ends_when_its_asker_leaves(server: ForkServer, tmp_path: Path) -> None:
    lines = follow("timeit", [f"{PIDS}; import time; time.sleep(60)"], tmp_path / "log.txt", server=server)
    pid = next(line["pid"] for line in lines if line)
    lines.close()  # type: ignore[attr-defined]
    assert not psutil.pid_exists(pid)


def test_several_ask_at_once(server: ForkServer, tmp_path: Path) -> None:
    found: list[object] = []

    def ask(number: int) -> None:
        found.extend(run(server, f"import time; time.sleep(0.2); print('{{\"n\": {number}}}')", tmp_path / str(number)))

    askers = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert sorted(json.dumps(line) for line in found) == [json.dumps({"n": number}) for number in range(8)]


def test_its_work_ends_with_it_and_the_next_begins_another(server: ForkServer, tmp_path: Path) -> None:
    lines = follow("timeit", [f"{PIDS}; import time; time.sleep(60)"], tmp_path / "log.txt", server=server)
    told = next(line for line in lines if line)
    os.kill(int(told["parent"]), signal.SIGKILL)
    with pytest.raises(Died, match="SIGKILL"):
        list(lines)
    gone(int(told["pid"]))
    (next_one,) = run(server, PIDS, tmp_path / "log.txt")
    assert next_one["parent"] != told["parent"]


def test_it_ends_with_its_starter(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys; from studio.launch import short_tasks as child, forkserver\n"
        f"server = forkserver.ForkServer({MODULE!r})\n"
        "lines = child.follow('timeit', [sys.argv[1]], pathlib.Path('log.txt'), server=server)\n"
        "print(*next(line for line in lines if line).values(), flush=True); os._exit(0)"
    )
    command = [sys.executable, "-c", program, f"{PIDS}; import time; time.sleep(60)"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    for pid in done.stdout.split():
        gone(int(pid))


def test_it_ends_when_it_has_had_nothing_to_do_for_a_while(tmp_path: Path) -> None:
    server = ForkServer(MODULE, idle=0.1)
    first = run(server, PIDS, tmp_path / "log.txt")[0]["parent"]
    gone(int(str(first)))
    assert run(server, PIDS, tmp_path / "log.txt")[0]["parent"] != first
    server.close()


def test_where_it_cannot_be_the_work_is_done_without(tmp_path: Path) -> None:
    server = ForkServer("tests.no_such_module")
    with (tmp_path / "log.txt").open("ab") as errors:
        assert server.begin([PIDS], errors) is None
    lines = list(follow("timeit", ["-n", "1", "-r", "1", PIDS], tmp_path / "log.txt", server=server))
    assert [line["parent"] for line in lines if "parent" in line] == [os.getpid()]


def gone(pid: int) -> None:
    """Waits until a process has ended; the test's time limit bounds it."""
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.05)
