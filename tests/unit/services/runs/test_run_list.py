"""The list of runs: search, filters, order; what a person says of a run; disk use. All of it from files, always."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from studio.errors import BadInput, Conflict, NotFound
from studio.recipe import Recipe
from studio.rundir import About, Exit, Journal, RunDir, read_json, write_json
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.runs import disk_usage, labels, queue, run_list, runs
from studio.services.runs.run_list import Query
from studio.settings import Settings
from tests.torture.house import new_run


def make(studio: Studio, name: str, **about: Any) -> RunDir:
    """A run that is over. loss, steps, state, model, dataset: of the run; the rest goes to about.json."""
    loss, steps, state = about.pop("loss", 1.0), about.pop("steps", 3), about.pop("state", "completed")
    model, dataset = about.pop("model", "tiny"), about.pop("dataset", "little")
    run = RunDir(studio.settings.runs / f"id-{name.replace(' ', '-')}")
    (run.path / "control").mkdir(parents=True)
    values = {"name": name, "model": model, "dataset": dataset}
    run.recipe.write_text(Recipe().with_values(values).to_yaml())
    write_json(run.about, {"name": name, "owner": "local", "created": 1000.0, **about})
    write_json(run.dataset, {"id": "d" * 64, "name": dataset})
    with Journal(run.events) as journal:
        journal.write("state", state="running")
        journal.write("plan", total_steps=steps, device="CPU")
        for step in range(1, steps + 1):
            journal.write("metric", step=step, loss=loss)
        if loss is not None:
            journal.write("eval", step=steps, eval_loss=loss + 0.1)
    Exit(state, "It ended.").write(run)
    return run


def names(studio: Studio, **query: Any) -> list[str]:
    return [info.name for info in run_list.find(studio, Query(**query)).runs]


@pytest.fixture
def several(studio: Studio) -> Studio:
    make(studio, "tickets 2", created=1.0, loss=0.5, tags=["good", "night"], notes="Über den Tisch\nlr 1e-4")
    make(studio, "tickets 10", created=2.0, loss=0.2, steps=9, state="failed", starred=True)
    make(studio, "poems", created=3.0, loss=None, model="other/tiny_2", dataset="verse", tags=["good"])
    make(studio, "100% sure", created=4.0, loss=0.9, state="stopped")
    make(studio, "another's", created=5.0, owner="somebody", tags=["secret"], notes="tickets")
    studio.refresh()
    return studio


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("", {"tickets 2", "tickets 10", "poems", "100% sure"}),
        ("TICKETS", {"tickets 2", "tickets 10"}),
        ("tick 10", {"tickets 10"}),
        ("ÜBER", {"tickets 2"}),
        ("1e-4", {"tickets 2"}),
        ("night", {"tickets 2"}),
        ("tiny_2", {"poems"}),
        ("verse", {"poems"}),
        ("id-poems", {"poems"}),
        ("%", {"100% sure"}),
        ("_", {"poems"}),
        ("'; drop table runs; --", set()),
        ("secret", set()),
        ("\\", set()),
    ],
)
def test_a_search_finds_parts_of_words_in_any_case(several: Studio, search: str, found: set[str]) -> None:
    assert set(names(several, search=search)) == found


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"state": "failed"}, ["tickets 10"]),
        ({"state": "failed,stopped"}, ["100% sure", "tickets 10"]),
        ({"model": "tiny"}, ["100% sure", "tickets 10", "tickets 2"]),
        ({"dataset": "verse"}, ["poems"]),
        ({"tag": "Good"}, ["poems", "tickets 2"]),
        ({"tag": "good", "search": "tick"}, ["tickets 2"]),
        ({"tag": "goo"}, []),
        ({"tag": "secret"}, []),
        ({"starred": True}, ["tickets 10"]),
        ({"sort": "newest"}, ["100% sure", "poems", "tickets 10", "tickets 2"]),
        ({"sort": "created", "down": False}, ["tickets 2", "tickets 10", "poems", "100% sure"]),
        ({"sort": "name"}, ["100% sure", "poems", "tickets 2", "tickets 10"]),
        ({"sort": "loss"}, ["tickets 10", "tickets 2", "100% sure", "poems"]),
        ({"sort": "loss", "down": True}, ["100% sure", "tickets 2", "tickets 10", "poems"]),
        ({"sort": "eval"}, ["tickets 10", "tickets 2", "100% sure", "poems"]),
        ({"sort": "progress"}, ["tickets 10", "100% sure", "poems", "tickets 2"]),
        ({"sort": "state"}, ["poems", "tickets 2", "100% sure", "tickets 10"]),
        ({"sort": "name", "limit": 2}, ["100% sure", "poems"]),
        ({"sort": "name", "limit": 2, "offset": 2}, ["tickets 2", "tickets 10"]),
    ],
)
def test_filters_and_orders(several: Studio, query: dict[str, Any], found: list[str]) -> None:
    assert names(several, **query) == found


def test_the_list_says_what_there_is_to_filter_by_of_ones_own(several: Studio) -> None:
    found = run_list.find(several, Query(search="poems", limit=1))
    assert found.total == 1 and found.kept.count == 4
    assert found.facets["state"] == {"completed": 2, "failed": 1, "stopped": 1}
    assert found.facets["model"] == {"other/tiny_2": 1, "tiny": 3}
    assert found.facets["dataset"] == {"little": 3, "verse": 1}
    assert found.facets["tag"] == {"good": 2, "night": 1}


def test_what_cannot_be_asked_is_said(several: Studio) -> None:
    with pytest.raises(BadInput, match=r"sorted by 'recipe'\. Known: created"):
        run_list.find(several, Query(sort="recipe"))
    with pytest.raises(BadInput, match="no state 'done'"):
        run_list.find(several, Query(state="done"))


def said(studio: Studio) -> list[Any]:
    listed = [run_list.find(studio, Query(sort="name", trashed=trashed)) for trashed in (False, True)]
    return [(one.runs, one.total, one.facets) for one in listed]


def test_all_of_it_survives_the_database(several: Studio) -> None:
    labels.rename(several, "id-poems", "verses")
    labels.note(several, "id-poems", "two\nlines")
    labels.tag(several, "id-poems", "Winter, night, winter")
    labels.star(several, "id-tickets-2")
    labels.star(several, "id-tickets-10", False)
    write_json(RunDir(several.settings.runs / "id-100%-sure").about, {"name": "x", "created": 4.0, "trashed": 9.0})
    before = said(several)
    assert [run.name for run in before[0][0]] == ["tickets 2", "tickets 10", "verses"]
    assert [run.name for run in before[1][0]] == ["x"]
    assert (before[0][0][2].notes, before[0][0][2].tags) == ("two\nlines", ("winter", "night"))
    runs.rebuild(several)
    assert said(several) == before
    settings = several.settings
    for path in settings.home.glob("studio.db*"):
        path.unlink()
    several.refresh()
    assert said(several) == before
    assert run_list.find(several, Query()).kept.bytes > 0


def test_a_database_of_before_learns_it_from_the_files(several: Studio) -> None:
    from studio.store import db

    before = said(several)
    settings = several.settings
    several.close()
    engine = db._engine(settings.database, 5.0)
    with engine.begin() as connection:  # as the migration leaves rows that were there
        connection.exec_driver_sql("DELETE FROM run_tags")
        connection.exec_driver_sql(
            "UPDATE runs SET about = '', notes = '', words = '', name_key = '', tags = '[]', starred = 0"
        )
    engine.dispose()
    settings.database.with_name("studio.db.sha256").unlink(missing_ok=True)
    with Keeper(settings) as again:
        assert said(again) == before and not again.notices


def test_what_is_said_stands_in_about_json_beside_the_rest(several: Studio) -> None:
    run = several.run_dir("id-poems")
    info = labels.change(several, "id-poems", name="  A “name”  ", notes="  n\r\nm ", tags=["#A b", "c"], starred=True)
    told = read_json(run.about)
    assert told == {"name": "A “name”", "owner": "local", "created": 3.0, "tags": ["a-b", "c"], "notes": "n\nm",
                    "starred": True}  # fmt: skip
    assert (info.name, info.notes, info.tags, info.starred) == ("A “name”", "n\nm", ("a-b", "c"), True)
    assert names(several, search="a-b “name”") == ["A “name”"]
    labels.change(several, "id-poems", notes="", tags="")
    assert names(several, tag="c") == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"name": "   "}, "needs a name"),
        ({"name": "a" * 81}, "has 81 characters; the limit is 80"),
        ({"name": "a\nb"}, "line break or another control character"),
        ({"name": "a\x00b"}, "control character"),
        ({"name": "gpj.\u202etxt"}, "control character"),
        ({"notes": "a" * 10_001}, "has 10,001 characters; the limit is 10,000"),
        ({"notes": "a\x1b[31mb"}, "has control characters"),
        ({"tags": "ok, <script>alert(1)</script>"}, r"The tag '<script>.*' cannot be used"),
        ({"tags": "a" * 41}, "up to 40 characters"),
        ({"tags": "---"}, "cannot be used"),
        ({"tags": ",".join(f"t{number}" for number in range(21))}, "at most 20 tags, not 21"),
    ],
)
def test_what_cannot_be_said_is_refused_and_nothing_of_it_written(
    several: Studio, change: dict[str, Any], why: str
) -> None:
    before = several.run_dir("id-poems").about.read_bytes()
    with pytest.raises(BadInput, match=why):
        labels.change(several, "id-poems", **({"starred": True} | change))
    assert several.run_dir("id-poems").about.read_bytes() == before


def test_nobody_changes_anothers_run(several: Studio) -> None:
    before = several.run_dir("id-another's").about.read_bytes()
    for act in (
        lambda: labels.rename(several, "id-another's", "mine"),
        lambda: labels.note(several, "id-another's", "mine"),
        lambda: labels.tag(several, "id-another's", "mine"),
        lambda: labels.star(several, "id-another's"),
    ):
        with pytest.raises(NotFound):
            act()
    assert several.run_dir("id-another's").about.read_bytes() == before


def test_a_hostile_about_json_is_read_for_what_makes_sense(studio: Studio) -> None:
    run = make(studio, "hostile")
    write_json(run.about, {
        "name": "<script>alert(1)</script>\n\u202eX" + "y" * 200, "owner": "local", "created": "yesterday", "tags":
        ["<b>", 7, None, "Fine Tag", "fine-tag", *[f"t{n}" for n in range(50)]], "notes": ["no"], "starred": "yes",
        "trashed": "never", "order": True,
    })  # fmt: skip
    (info,) = run_list.find(studio, Query()).runs
    assert info.name.startswith("<script>alert(1)</script>Xy") and len(info.name) == 80
    assert info.tags[0] == "fine-tag" and len(info.tags) == 20
    assert (info.notes, info.starred, info.trashed) == ("", False, None) and not studio.notices
    assert names(studio, search="<script>") == [info.name]
    write_json(run.about, {"name": "mended", "tags": "good"})
    assert names(studio) == ["mended"] and run_list.find(studio, Query()).facets["tag"] == {}


def test_a_damaged_about_json_is_never_written_over(several: Studio) -> None:
    run = several.run_dir("id-poems")
    run.about.write_text('{"name": "po')
    with pytest.raises(Conflict, match=r"about\.json cannot be read: fix it"):
        labels.star(several, "id-poems")
    assert run.about.read_text() == '{"name": "po'


def test_changes_of_many_at_once_are_all_kept(several: Studio) -> None:
    """A star, a note, a name and a place in the queue, set by five at once: each is read, changed and written whole."""
    run = several.run_dir("id-poems")
    acts = [
        lambda number: labels.note(several, run.id, f"note {number}"),
        lambda number: labels.tag(several, run.id, f"t{number}"),
        lambda number: labels.rename(several, run.id, f"name {number}"),
        lambda number: queue.set_place(run, float(number)),
        lambda number: labels.star(several, run.id, True),
    ]

    def work(act: Any) -> None:
        for number in range(12):
            act(number)

    threads = [threading.Thread(target=work, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = read_json(run.about) or {}
    assert {
        "name": "name 11",
        "notes": "note 11",
        "tags": ["t11"],
        "order": 11.0,
        "starred": True,
    }.items() <= told.items()
    info = runs.get(several, run.id)
    assert (info.name, info.notes, info.tags, info.starred) == ("name 11", "note 11", ("t11",), True)


def test_a_reader_writes_the_file_and_hears_when_the_keeper_has_followed(settings: Settings) -> None:
    keeper = Keeper(settings)
    with keeper as studio:
        make(studio, "one")
        studio.refresh()
        keeper.start()
        with Keeper(settings) as reader:
            assert not reader.keeping
            assert labels.rename(reader, "id-one", "other").name == "other"
            assert names(studio) == ["other"] and names(reader) == ["other"]


def test_a_waiting_run_can_be_named_before_it_starts(home: Settings) -> None:
    with Keeper(home) as studio:
        running = new_run(studio, "first", steps=100_000, delay=0.01)
        waits = new_run(studio, "second")
        studio.refresh()
        assert labels.rename(studio, waits.id, "later").position == 1
        queue.first(studio, waits.id)
        assert About.read(waits).name == "later" and runs.get(studio, waits.id).name == "later"
        assert "name: second" in waits.recipe.read_text()
        runs.cancel(studio, running.id)


def test_disk_use_counts_checkpoints_and_every_file_once(several: Studio, tmp_path: Path) -> None:
    run = several.run_dir("id-poems")
    before = disk_usage.taken(run.path)
    folder = run.checkpoints / "step-3"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"x" * 10_000)
    (folder / "same").hardlink_to(folder / "weights")
    (tmp_path / "large").write_bytes(b"x" * 50_000)
    (folder / "link").symlink_to(tmp_path / "large")
    assert disk_usage.taken(run.path) - before == 10_000 + (folder / "link").lstat().st_size
    assert disk_usage.taken(tmp_path / "not there") == 0
    runs.rebuild(several)
    several.refresh()
    infos = {info.name: info.bytes for info in run_list.find(several, Query(sort="disk")).runs}
    assert infos["poems"] == disk_usage.taken(run.path) and next(iter(infos)) == "poems"
    assert run_list.find(several, Query()).kept.bytes == sum(size or 0 for size in infos.values())


def test_the_command_line_finds_and_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from studio.cli.app import main

    def cli(*words: str) -> Any:
        try:
            main(["--home", str(tmp_path / "home"), "runs", *words, "--json"])
        except SystemExit as end:
            assert end.code == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    with Keeper(Settings(home=tmp_path / "home", offline=True)) as studio:
        make(studio, "a 2", tags=["x"])
        make(studio, "a 10", state="failed")
        shutil.copytree(studio.run_dir("id-a-2").path, studio.settings.runs / "id-b")
    assert cli("rename", "id-b", "b")["name"] == "b"
    assert cli("note", "id-b", "a note")["notes"] == "a note"
    assert cli("tag", "id-b", "One", "two,x")["tags"] == ["one", "two", "x"]
    assert cli("star", "id-b")["starred"] is True
    assert [run["name"] for run in cli("--search", "a", "--sort", "name")["runs"]] == ["a 2", "a 10", "b"]
    assert [run["name"] for run in cli("--tag", "x", "--state", "completed", "--sort", "name")["runs"]] == ["a 2", "b"]
    assert [run["name"] for run in cli("--starred")["runs"]] == ["b"]
    assert [run["name"] for run in cli("--model", "none")["runs"]] == []
    assert cli("star", "id-b", "--off")["starred"] is False
    assert cli("trash", "id-b", "id-a-2")["runs"][0]["trashed"] is not None
    assert [run["name"] for run in cli()["runs"]] == ["a 10"]
    assert {run["name"] for run in cli("--trash")["runs"]} == {"a 2", "b"}
    assert cli("restore", "id-b")["runs"][0]["name"] == "b"
    emptied = cli("empty-trash", "--yes")
    assert emptied["deleted"] == ["a 2"] and emptied["freed"] > 0 and emptied["kept"] == []
    assert {run["name"] for run in cli()["runs"]} == {"a 10", "b"}


@pytest.mark.parametrize("field", ["search", "model", "dataset", "tag"])
def test_half_of_a_character_is_refused_and_damages_nothing(several: Studio, field: str) -> None:
    """The database cannot be asked for it, which says nothing of the database: it is not set aside and made anew."""
    with pytest.raises(BadInput, match="half of a character"):
        names(several, **{field: "\ud800"})
    with pytest.raises(BadInput, match="half of a character"):
        runs.get(several, "\ud800")
    several.look()
    assert not several.database.lost() and several.notices == []
    assert not list(several.settings.home.glob("studio.db.damaged-*")) and len(names(several)) == 4
