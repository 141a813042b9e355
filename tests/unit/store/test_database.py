"""The database is only an index: lost, damaged, locked or half migrated, it costs nobody a run or a point."""

import contextlib
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.exc import DatabaseError

from studio.errors import Unavailable
from studio.rundir import Exit, Journal, write_json
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.runs import runs
from studio.services.runs.runs import Points, RunInfo
from studio.settings import Settings
from studio.store import db
from tests.unit.services.core.test_keeper import journal_of, make_run

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("nothing_starts")]

RUNS, STEPS = 4, 150
# How often a bit is flipped; each place is another.
FLIPS = 25


def everything(studio: Studio) -> tuple[list[RunInfo], list[Points]]:
    infos = runs.list_runs(studio)
    return infos, [runs.points(studio, info.id) for info in infos]


def ended_runs(studio: Studio) -> None:
    for number in range(RUNS):
        run = make_run(studio, f"run-{number}")
        journal_of(run, STEPS)
        Exit("completed", "It ended.", cause="finished").write(run)


@pytest.fixture
def full(settings: Settings) -> tuple[Settings, Any]:
    """A home with some runs that are over, closed in order; and what it showed."""
    with Keeper(settings) as studio:
        ended_runs(studio)
        studio.refresh()
        return settings, everything(studio)


def opened(settings: Settings) -> tuple[Any, list[str]]:
    with Keeper(settings) as studio:
        return everything(studio), studio.notices


def flip(path: Path, dice: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def test_a_flipped_bit_anywhere_is_found(full: tuple[Settings, Any]) -> None:
    settings, before = full
    dice = random.Random(5)
    for number in range(FLIPS):
        flip(settings.database, dice)
        shown, notices = opened(settings)
        assert shown == before, number
        (notice,) = notices
        assert "damaged" in notice and "no run and no point is lost" in notice and "studio.db.damaged-" in notice
    assert len(list(settings.home.glob("studio.db.damaged-*"))) == FLIPS
    assert opened(settings) == (before, [])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_file_cut_short_is_found(full: tuple[Settings, Any], share: float) -> None:
    settings, before = full
    data = settings.database.read_bytes()
    settings.database.write_bytes(data[: int(len(data) * share)])
    shown, notices = opened(settings)
    assert shown == before and len(notices) == 1


def killed_in_use(settings: Settings) -> None:
    """Leave the home as a studio that was killed does: the latest writes in the WAL, no sum."""
    code = (
        "import os, signal, sys; from pathlib import Path; from studio.services.core.keeper import Keeper\n"
        "from studio.settings import Settings; from tests.unit.store.test_database import ended_runs\n"
        "studio = Keeper(Settings(home=Path(sys.argv[1]), offline=True)).studio\n"
        "ended_runs(studio); studio.refresh(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(settings.home)], check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == -9 and settings.database.with_name("studio.db-wal").stat().st_size


def test_a_damaged_wal_costs_nothing(settings: Settings, tmp_path: Path) -> None:
    killed_in_use(settings)
    shutil.copytree(settings.home, tmp_path / "kept")
    before, notices = opened(settings)
    assert len(before[0]) == RUNS and [len(one.metrics) for one in before[1]] == [STEPS] * RUNS and not notices
    dice = random.Random(7)
    for number in range(6):
        shutil.rmtree(settings.home)
        shutil.copytree(tmp_path / "kept", settings.home)
        side = settings.database.with_name("studio.db-wal")
        if number == 0:
            side.unlink()
        elif number == 1:
            side.write_bytes(side.read_bytes()[: side.stat().st_size // 2])
        else:
            flip(side, dice)
        assert opened(settings)[0] == before, number


@contextlib.contextmanager
def other_program(settings: Settings) -> Iterator[None]:
    """A program that holds the database for itself."""
    with contextlib.closing(sqlite3.connect(settings.database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def test_a_locked_database_is_said_and_not_taken_for_a_damaged_one(
    full: tuple[Settings, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, before = full
    monkeypatch.setattr(db.Database.__init__, "__defaults__", (True, 0.1))
    keeper = Keeper(settings)
    with keeper as studio, other_program(settings):
        run = make_run(studio, "another")
        keeper.look_safely()
        assert "locked by another program" in studio.notices[0]
    with Keeper(settings) as studio:
        assert runs.get(studio, run.id).name == "another" and not studio.notices
        with contextlib.closing(sqlite3.connect(settings.database, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode")
    other = sqlite3.connect(settings.database, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Unavailable, match="locked by another program"):
        Keeper(settings)
    other.close()
    assert len(opened(settings)[0][0]) == len(before[0]) + 1


def error_of(path: Path, query: str) -> Exception:
    """What reading a file of SQLite's ends with, as SQLAlchemy tells it."""
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})
    with pytest.raises(DatabaseError) as caught, engine.connect() as connection:
        connection.exec_driver_sql(query).all()
    engine.dispose()
    return caught.value


def test_an_error_says_whether_the_file_is_damaged_held_or_well(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE things (name)")
        connection.executemany("INSERT INTO things VALUES (?)", [("x" * 500,)] * 50)
        connection.commit()
    for query in ("SELECT * FROM others", "SELECT other FROM things"):  # what we made in it is not there
        assert db.is_damage(error_of(path, query))
    misused = error_of(path, "SELECT FROM things")
    assert not db.is_damage(misused) and not db.is_locked(misused)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        held = error_of(path, "SELECT * FROM things")
    assert db.is_locked(held) and not db.is_damage(held)
    written = path.read_bytes()
    for content in (b"no database " * 500, written[:6000], written[:44] + b"\x00\x00\x00\x09" + written[48:]):
        path.write_bytes(content)
        damaged = error_of(path, "SELECT * FROM things")
        assert db.is_damage(damaged) and not db.is_locked(damaged)


def test_damage_in_use_does_not_end_the_keeping(full: tuple[Settings, Any]) -> None:
    settings, before = full
    with Keeper(settings) as studio:
        size = settings.database.stat().st_size
        with settings.database.open("r+b") as file:
            for place in range(0, size, 4096):
                file.seek(place)
                file.write(b"\xff" * 4096)
        with contextlib.suppress(DatabaseError):
            everything(studio)
        assert everything(studio) == before
        assert "damaged while in use" in studio.notices[0]
        run = make_run(studio, "later")
        assert runs.get(studio, run.id).name == "later"
    assert len(opened(settings)[0][0]) == RUNS + 1


def test_a_database_deleted_in_use_is_made_again(full: tuple[Settings, Any]) -> None:
    settings, before = full
    with Keeper(settings) as studio:
        settings.database.unlink()
        assert everything(studio) == before
        assert settings.database.exists()
    assert opened(settings)[0] == before


def test_the_command_line_says_what_was_damaged(full: tuple[Settings, Any]) -> None:
    settings, _ = full
    settings.database.write_bytes(b"not a database at all" * 400)
    command = [sys.executable, "-m", "studio", "--home", str(settings.home), "runs", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "studio: The database was damaged" in done.stderr and "Traceback" not in done.stderr
    assert '"notices"' in done.stdout and done.stdout.count('"id"') == RUNS


OLD = Path(__file__).parents[3] / "studio" / "store" / "migrations"
KILLED = """
import os, signal, sys
from pathlib import Path
from sqlalchemy import event
from studio.store import db
path, after = Path(sys.argv[1]), int(sys.argv[2])
engine = db._engine(path, 5.0)
left = [after]
@event.listens_for(engine, "after_cursor_execute")
def count(connection, cursor, statement, parameters, context, many):
    if statement.lstrip().upper().startswith(("ALTER", "UPDATE", "CREATE", "INSERT")):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
db.migrate(engine, path)
"""


def old_database(path: Path) -> None:
    """A database of the first version, with a run in it."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(OLD))
    engine = db._engine(path, 5.0)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO runs (id, owner, name, model, dataset, dataset_name, recipe, path, created, state, step, "
            "total_steps, device, doing, message, remedy, plan, offset, last_seq) VALUES "
            "('old', 'local', 'old', 'm', 'd', 'd', '', '', 1, 'completed', 1, 1, '', '', '', '', '{}', 0, 0)"
        )
    engine.dispose()


@pytest.mark.parametrize("after", range(1, 8))
def test_a_migration_that_is_killed_leaves_old_or_new(tmp_path: Path, after: int) -> None:
    path = tmp_path / "studio.db"
    old_database(path)
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(after)], check=False, timeout=60)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        columns = {row[1] for row in connection.execute("PRAGMA table_info(runs)")}
        new = {"cause", "place", "attempt", "stalled_since"}
        assert (version, columns & new) in (("0001", set()), ("0002", new))
        assert connection.execute("SELECT id FROM runs").fetchall() == [("old",)]
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert done.returncode == (-9 if version == "0001" else 0)
    database = db.Database(path)
    assert database.set_aside is None
    with database.read() as session:
        from studio.store.tables import Run

        assert session.get_one(Run, "old").attempt == 1
    database.close()


@pytest.mark.parametrize("after", [1, 2, 5, 9])
def test_a_first_opening_that_is_killed_leaves_nothing_or_all(tmp_path: Path, after: int) -> None:
    path = tmp_path / "studio.db"
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(after)], check=False, timeout=60)
    assert done.returncode == -9
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == []
    database = db.Database(path)
    assert database.set_aside is None
    with database.read() as session:
        from studio.store.tables import Run

        assert session.query(Run).count() == 0
    database.close()


def test_a_database_of_a_newer_studio_is_set_aside(full: tuple[Settings, Any]) -> None:
    settings, before = full
    with contextlib.closing(sqlite3.connect(settings.database)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.commit()
    settings.database.with_name("studio.db.sha256").unlink()
    shown, notices = opened(settings)
    assert shown == before and "9999" in notices[0]


def test_points_that_were_superseded_stay_away(settings: Settings) -> None:
    with Keeper(settings) as studio:
        run = make_run(studio)
        journal_of(run, 10)
        with Journal(run.events) as journal:
            journal.write("resumed", step=6, attempt=2)
            for step in range(7, 13):
                journal.write("metric", step=step, loss=1.0)
        Exit("completed", "It ended.").write(run)
        write_json(run.about, {"name": "n", "owner": "local", "created": 1.0})
        shown = runs.points(studio, run.id)
        assert [point["step"] for point in shown.metrics] == list(range(1, 13))
        assert [point["loss"] for point in shown.metrics][5:7] == [0.5, 1.0] and not shown.evals
        runs.rebuild(studio)
        assert runs.points(studio, run.id) == shown


def test_what_is_read_at_once_is_of_one_moment(tmp_path: Path) -> None:
    database = db.Database(tmp_path / "studio.db")
    count = "SELECT count(*) FROM notes_of_a_test"

    def counted() -> int:
        with database.read() as session:
            return int(session.connection().exec_driver_sql(count).scalar_one())

    with database.write() as session:
        session.connection().exec_driver_sql("CREATE TABLE notes_of_a_test (id INTEGER)")
    with database.at_once():
        assert counted() == 0
        with database.write() as session:
            session.connection().exec_driver_sql("INSERT INTO notes_of_a_test VALUES (1)")
        assert counted() == 0
    assert counted() == 1
