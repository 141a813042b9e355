"""The trash: out of every list, back again, gone for good; nothing in use goes, and nothing is left half deleted."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from studio.errors import Conflict, NotFound
from studio.rundir import Exit, RunDir, create, read_json, write_json
from studio.services.chat import participants
from studio.services.chat.session import ChatSession
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.evals import evaluations
from studio.services.exports import exports
from studio.services.runs import disk_usage, queue, resuming, run_list, runs, trash
from studio.services.runs.attempts import Plan
from studio.services.runs.run_list import Query
from studio.settings import Settings
from tests.torture.house import new_run, wait_for
from tests.unit.services.runs.test_run_list import make


@pytest.fixture
def two(studio: Studio) -> Studio:
    make(studio, "one")
    make(studio, "two", created=2000.0)
    make(studio, "another's", owner="somebody")
    studio.refresh()
    return studio


def listed(studio: Studio, trashed: bool = False) -> list[str]:
    return [info.name for info in run_list.find(studio, Query(trashed=trashed)).runs]


def test_there_and_back(two: Studio) -> None:
    before = runs.list_runs(two)
    thrown = trash.throw(two, "id-one")
    assert thrown.trashed is not None and abs(thrown.trashed - time.time()) < 60
    assert listed(two) == ["two"] and listed(two, trashed=True) == ["one"]
    assert [info.name for info in runs.list_runs(two)] == ["two"]
    assert [info.name for info in trash.contents(two)] == ["one"]
    found = run_list.find(two, Query())
    assert (found.trash.count, found.kept.count) == (1, 1) and found.trash.bytes == disk_usage.taken(
        two.run_dir("id-one").path
    )
    assert runs.get(two, "id-one").name == "one"  # a link to it still opens it
    assert trash.throw(two, "id-one").trashed == thrown.trashed
    runs.rebuild(two)
    assert listed(two) == ["two"] and listed(two, trashed=True) == ["one"]
    assert trash.restore(two, "id-one").trashed is None
    assert runs.list_runs(two) == before
    with pytest.raises(Conflict, match="not in the trash"):
        trash.restore(two, "id-one")


def test_emptying_deletes_says_how_much_and_takes_only_what_was_meant(two: Studio) -> None:
    size = disk_usage.taken(two.run_dir("id-one").path)
    for name in ("id-one", "id-two"):
        trash.throw(two, name)
    assert [info.name for info in trash.contents(two)] == ["two", "one"]
    size = disk_usage.taken(two.run_dir("id-one").path)
    emptied = trash.empty(two, ["id-one", "id-another's", "unknown"])
    assert emptied == trash.Emptied(size, ["one"], [])
    assert not two.run_dir("id-one").path.exists() and two.run_dir("id-two").path.exists()
    with pytest.raises(NotFound):
        runs.get(two, "id-one")
    assert trash.empty(two).deleted == ["two"]
    assert trash.empty(two) == trash.Emptied(0, [], [])
    assert {path.name for path in two.settings.runs.iterdir()} == {"id-another's", ".about.lock"}
    two.refresh()
    runs.rebuild(two)
    assert listed(two) == listed(two, trashed=True) == [] and not two.notices


def test_nobody_throws_or_empties_what_is_anothers(two: Studio) -> None:
    with pytest.raises(NotFound):
        trash.throw(two, "id-another's")
    write_json(two.run_dir("id-another's").about, {"owner": "somebody", "trashed": 1.0})
    two.refresh()
    with pytest.raises(NotFound):
        trash.restore(two, "id-another's")
    assert trash.contents(two) == [] and trash.empty(two).deleted == []
    assert two.run_dir("id-another's").path.is_dir()


def test_what_works_or_waits_stays(home: Settings) -> None:
    with Keeper(home) as studio:
        running, waits = new_run(studio, "running", steps=100_000, delay=0.01), new_run(studio, "waits")
        wait_for(studio, lambda: runs.get(studio, running.id).state == "running")
        for run, word in ((running, "running"), (waits, "queued")):
            with pytest.raises(Conflict, match=f"is {word}: stop it first"):
                trash.throw(studio, run.id)
        runs.cancel(studio, waits.id)
        trash.throw(studio, waits.id)
        for act in (resuming.resume, queue.first, queue.start_now):
            with pytest.raises(Conflict):
                act(studio, waits.id)
        with pytest.raises(Conflict, match="is in the trash: restore it first"):
            resuming.resume(studio, waits.id)
        # A wish to go on that was written all the same starts nothing while it is in the trash.
        Plan(2, "").write(waits)
        studio.refresh()
        assert runs.get(studio, waits.id).state == "stopped"
        assert trash.empty(studio).kept == [("waits", "it is waiting to be resumed. Cancel that first.")]
        waits.resume.unlink()
        assert trash.empty(studio).deleted == ["waits"]
        runs.cancel(studio, running.id)


def adapted(studio: Studio, name: str) -> RunDir:
    run = studio.run_dir(name)
    run.adapter.mkdir()
    write_json(run.adapter / "MANIFEST.json", {"files": {}})
    return run


def test_a_run_in_the_trash_is_no_choice_and_cannot_be_asked_or_exported(two: Studio) -> None:
    adapted(two, "id-one")
    assert [info.name for info in runs.with_adapter(two)] == ["one"]
    trash.throw(two, "id-one")
    assert runs.with_adapter(two) == [] and runs.newest(two) == runs.get(two, "id-two")
    with pytest.raises(Conflict, match="in the trash"):
        exports.start(two, "id-one", "adapter")
    with pytest.raises(Conflict, match="in the trash"):
        participants.resolve(two, ["base", "id-one"])
    with pytest.raises(Conflict, match="in the trash"):
        evaluations.start(two, "id-one")
    assert runs._next_name(two, "one") == "one-1"


def test_a_run_that_is_exported_stays_until_that_is_done(two: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {
        "kind": "adapter",
        "run_id": "id-one",
        "owner": "local",
        "name": "one",
        "created": 1.0,
        "model": {"id": "m"},
    }
    made = create(two.settings.exports, "0" * 16, {})
    write_json(made.path / "export.json", spec)
    monkeypatch.setattr("studio.launch.workers.find", lambda run: "alive" if run.path == made.path else "gone")
    with pytest.raises(Conflict, match="an export of it is being made"):
        trash.throw(two, "id-one")
    Exit("completed", "Done.").write(made)
    assert trash.throw(two, "id-one").trashed is not None


def test_a_run_that_is_being_asked_stays(two: Studio) -> None:
    two.state(ChatSession).answering = frozenset({"id-one"})
    with two.state(ChatSession).line.join("somebody"):
        with pytest.raises(Conflict, match="it is answering"):
            trash.throw(two, "id-one")
        trash.throw(two, "id-two")
        write_json(two.run_dir("id-one").about, {"name": "one", "trashed": 1.0})
        two.refresh()
        emptied = trash.empty(two)
        assert emptied.deleted == ["two"] and [name for name, _ in emptied.kept] == ["one"]
    assert trash.empty(two).deleted == ["one"]


def test_what_a_killed_emptying_left_is_deleted_at_the_next_start(settings: Settings) -> None:
    with Keeper(settings) as studio:
        make(studio, "one")
        studio.refresh()
        trash.throw(studio, "id-one")
        run = studio.run_dir("id-one")
        run.path.rename(run.path.with_name(".id-one.gone"))  # and then the power went
        (run.path.with_name(".id-one.gone") / "recipe.yaml").unlink()
    with Keeper(settings) as studio:
        assert listed(studio, trashed=True) == listed(studio) == []
        assert [path.name for path in settings.runs.iterdir()] == [".about.lock"] and not studio.notices


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from studio.services.runs import trash
from studio.services.core.keeper import Keeper
from studio.settings import Settings

count = 0
def dies(function):
    def wrapped(*values, **more):
        global count
        count += 1
        if count == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*values, **more)
    return wrapped

with Keeper(Settings(home=Path(sys.argv[1]), offline=True)) as studio:
    os.unlink, os.rmdir, os.rename = dies(os.unlink), dies(os.rmdir), dies(os.rename)
    Path.rename = dies(Path.rename)
    trash.empty(studio)
"""


@pytest.mark.slow
@pytest.mark.parametrize("at", [1, 2, 3, 5, 8])
def test_a_kill_at_any_moment_leaves_a_run_whole_or_gone(settings: Settings, at: int) -> None:
    with Keeper(settings) as studio:
        for name in ("one", "two"):
            make(studio, name)
            trash.throw(studio, f"id-{name}")
        files = sorted(path.name for path in studio.run_dir("id-one").path.rglob("*"))
    done = subprocess.run([sys.executable, "-c", KILLED, str(settings.home), str(at)], check=False,
                          cwd=Path(__file__).parents[4])  # fmt: skip
    assert done.returncode == -9
    with Keeper(settings) as studio:
        left = trash.contents(studio)
        for info in left:
            assert sorted(path.name for path in studio.run_dir(info.id).path.rglob("*")) == files
        assert sorted(path.name for path in settings.runs.iterdir()) == [".about.lock", *sorted(run.id for run in left)]
        assert trash.empty(studio).kept == []


def test_a_run_taken_out_meanwhile_is_not_deleted(two: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    trash.throw(two, "id-one")
    contents = trash.contents(two)
    trash.restore(two, "id-one")
    monkeypatch.setattr(trash, "contents", lambda _: contents)
    assert trash.empty(two) == trash.Emptied(0, [], [])
    assert (read_json(two.run_dir("id-one").about) or {})["trashed"] is None and listed(two) == ["two", "one"]


def test_a_reader_empties_and_the_keeper_forgets(settings: Settings) -> None:
    keeper = Keeper(settings)
    with keeper as studio:
        make(studio, "one")
        studio.refresh()
        keeper.start()
        with Keeper(settings) as reader:
            trash.throw(reader, "id-one")
            assert listed(studio) == [] and listed(reader, trashed=True) == ["one"]
            assert trash.empty(reader).deleted == ["one"] and trash.contents(reader) == []
            studio.look()
            assert listed(studio, trashed=True) == []


def test_a_folder_that_was_copied_back_is_a_run_again(two: Studio, tmp_path: Path) -> None:
    shutil.copytree(two.run_dir("id-one").path, tmp_path / "kept")
    trash.throw(two, "id-one")
    trash.empty(two)
    shutil.copytree(tmp_path / "kept", two.run_dir("id-one").path)
    two.refresh()
    assert listed(two) == ["two", "one"]
