"""A child process that says nothing for a while does not keep its asker waiting."""

from pathlib import Path

import psutil
import pytest

from studio.errors import Unavailable
from studio.launch.duplex import ChatProcess
from studio.launch.short_tasks import Died, follow

pytestmark = pytest.mark.slow


def timed(statement: str) -> list[str]:
    """Arguments of timeit: run a statement once."""
    return ["-n", "1", "-r", "1", statement]


def test_a_silent_child_is_told_of(tmp_path: Path) -> None:
    words = ["print('{\"n\": 1}', flush=True); import time; time.sleep(1); print('{\"n\": 2}')"]
    lines = list(follow("timeit", timed(*words), tmp_path / "log.txt"))
    assert [line for line in lines if line] == [{"n": 1}, {"n": 2}]
    between = lines[lines.index({"n": 1}) : lines.index({"n": 2})]
    assert between.count({}) >= 2


def test_a_silent_child_ends_when_its_asker_leaves(tmp_path: Path) -> None:
    before = {one.pid for one in psutil.Process().children()}
    lines = follow("timeit", timed("import time; time.sleep(60)"), tmp_path / "log.txt")
    assert next(iter(lines)) == {}
    (child,) = [one for one in psutil.Process().children() if one.pid not in before]
    lines.close()  # type: ignore[attr-defined]
    assert not child.is_running()


def test_a_child_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(Died, match="no good"):
        list(follow("timeit", timed("raise SystemExit('no good')"), tmp_path / "log.txt"))


def test_the_last_words_of_a_chat_worker_are_its_own(tmp_path: Path) -> None:
    log = tmp_path / "chat.log"
    for statement, words in (("raise SystemExit('no good')", "no good"), ("import os; os._exit(1)", "left no message")):
        talker = ChatProcess("timeit", timed(statement), log)
        with pytest.raises(Unavailable, match=words):
            list(talker.replies(60))
        talker.close()
