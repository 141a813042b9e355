"""What a Space reads of the repository, what stays after its restart, and what its admin and its visitors are given."""

import io
import json
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from fastapi.testclient import TestClient
from packaging.requirements import Requirement

from studio.errors import Conflict, NotFound, StudioError
from studio.evaluation import files
from studio.evaluation.prompts import Prompt
from studio.evaluation.scores import Row
from studio.launch import workers
from studio.recipe import Recipe
from studio.rundir import Exit, Journal, RunDir, write_json
from studio.services.chat.session import ChatSession
from studio.services.core import access, quotas
from studio.services.core.identity import LOCAL, Visitor, acting
from studio.services.core.keeper import Keeper, welcome
from studio.services.core.studio import Studio
from studio.services.curves import curves
from studio.services.data import checks, datasets
from studio.services.evals import evaluations, prompt_sets
from studio.services.exports import exports
from studio.services.host import admin, expiry, takeout
from studio.services.models import adapters
from studio.services.models.adapters import New
from studio.services.runs import history, run_list, runs, trash
from studio.settings import Settings
from studio.ui import account_panel
from studio.ui.parts import handlers
from studio.ui.web import app as pages
from studio.ui.web.auth import VisitorSessions
from studio.ui.web.server import make_app
from tests import lock, oidc
from tests.belongings import Things, make, rows
from tests.conftest import REPOSITORY, write_jsonl
from tests.unit.services.core.test_matrix import addresses, client, said_by

pytestmark = pytest.mark.slow

ANN, BEN = Visitor("anon-" + "a" * 32, kind="anonymous"), Visitor("account-7", "ben")
ADMIN = Visitor("account-1", "host", admin=True)


def test_the_front_matter_is_true() -> None:
    told = yaml.safe_load((REPOSITORY / "README.md").read_text(encoding="utf-8").split("---")[1])
    pins = lock.lines()
    assert (told["sdk"], f"gradio=={told['sdk_version']}" in pins) == ("gradio", True)
    assert (told["app_file"], told["python_version"], told["hf_oauth"]) == ("app.py", "3.11", True)
    assert (REPOSITORY / told["app_file"]).is_file() and len(told["short_description"]) <= 60
    # Without it a Space has half an hour, in which torch has to be installed and a model prepared.
    assert (told["suggested_hardware"], told["startup_duration_timeout"]) == ("cpu-upgrade", "1h")


def test_signing_in_asks_for_no_right_to_act(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who one is, and nothing else: what the Space is registered with, and what the provider is asked for."""
    told = yaml.safe_load((REPOSITORY / "README.md").read_text(encoding="utf-8").split("---")[1])
    with oidc.provider() as provider, Keeper(settings.model_copy(update={"hosted": True})) as studio:
        for name, value in {"SPACE_ID": "someone/studio", **provider.environment()}.items():
            monkeypatch.setenv(name, value)
        # More that a Space was registered for is not taken up.
        monkeypatch.setenv("OAUTH_SCOPES", "openid profile email write-repos manage-repos inference-api jobs")
        visitor = TestClient(make_app(studio, "hosted"), base_url="http://127.0.0.1", follow_redirects=False)
        sent = parse_qs(urlsplit(visitor.get("/sign-in").headers["location"]).query)
    assert sent["scope"] == ["openid profile"] and told["hf_oauth_scopes"] == ["openid", "profile"]


def test_what_is_said_of_sending_it_to_a_space_can_be_done() -> None:
    said = (REPOSITORY / "docs" / "space.md").read_text()
    (line,) = re.findall(r"^hf upload .*$", said, re.MULTILINE)
    assert line == "hf upload OWNER/NAME . . --repo-type space"
    hub = Path(sys.executable).with_name("hf")
    told = subprocess.run([hub, "upload", "--help"], capture_output=True, text=True, check=True, timeout=120).stdout
    assert "REPO_ID [LOCAL_PATH] [PATH_IN_REPO]" in told and "--repo-type" in told and "space" in told


def test_a_space_installs_what_the_package_needs() -> None:
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if line and line[0] not in "#-"]
    ranges = lock.project()["project"]["dependencies"]
    assert [Requirement(line).name for line in wanted] == [Requirement(line).name for line in ranges]
    # Each is as the lock pins it or as pyproject.toml bounds it; what results hang on is pinned.
    assert set(wanted) <= {*lock.lines(), *ranges}
    pinned = {Requirement(line).name for line in wanted if "==" in line}
    assert {"torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "gradio", "sqlalchemy"} <= pinned


def test_the_settings_of_a_space(tmp_path: Path) -> None:
    code = (
        "import runpy, sys, json; sys.path.insert(0, '.'); runpy.run_path('app.py')\n"
        "from studio.settings import Settings; s = Settings.from_env()\n"
        "print(json.dumps([s.host, s.port, s.hosted, s.admins, str(s.home)]))"
    )
    env = {"SPACE_ID": "ann/studio", "SPACE_AUTHOR_NAME": "ann", "HOME": str(tmp_path), "PATH": "/usr/bin",
           "PYTHONPATH": ":".join(sys.path)}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60
    )
    host, port, hosted, admins, home = json.loads(done.stdout)
    assert (host, port, hosted, admins) == ("0.0.0.0", 7860, True, "ann") and home.endswith("lora-studio")
    assert (
        not Settings.from_env({}).hosted
        and Settings.from_env({"SPACE_ID": "a/b", "STUDIO_HOSTED": "no"}).hosted is False
    )


def test_a_restart_knows_its_visitors_again(settings: Settings) -> None:
    hosted = settings.model_copy(update={"hosted": True})
    with Keeper(hosted) as studio:
        first = TestClient(make_app(studio, "hosted"), base_url="http://127.0.0.1")
        cookie = first.get("/").headers["set-cookie"].partition(";")[0]
    assert (hosted.home / "cookie.secret").stat().st_mode & 0o777 == 0o600
    with Keeper(hosted) as studio:
        again = TestClient(make_app(studio, "hosted"), base_url="http://127.0.0.1", headers={"Cookie": cookie})
        assert "set-cookie" not in again.get("/").headers


def test_all_share_the_sample_and_nobody_owns_it(settings: Settings) -> None:
    with Keeper(settings.model_copy(update={"hosted": True})) as studio:
        welcome(studio.open_to_visitors())
        for visitor in (ANN, BEN):
            with acting(visitor):
                assert [info.name for info in datasets.list_datasets(studio)] == ["tickets"]
                assert datasets.owner_of(studio, "tickets") == "everyone"


@pytest.fixture
def hosted(nothing_starts: None, ready: Studio, tmp_path: Path) -> Iterator[tuple[Studio, Things]]:
    ready.settings = ready.settings.model_copy(update={"hosted": True, "hosted_models": "tiny"})
    yield ready.open_to_visitors(), make(ready, ANN, "heron", tmp_path / "ann")
    ready.for_visitors = False


def test_what_is_ones_own_is_taken_home(hosted: tuple[Studio, Things]) -> None:
    studio, _ = hosted
    with acting(ANN), zipfile.ZipFile(io.BytesIO(b"".join(takeout.archive(studio)))) as packed:
        names = packed.namelist()
        assert packed.testzip() is None and "datasets/heron-data.jsonl" in names
        assert {Path(name).name for name in names} >= {"recipe.yaml", "adapter_config.json"}
        rows = packed.read("datasets/heron-data.jsonl").decode().splitlines()
        assert len(rows) == 24 and json.loads(rows[0])["messages"][-1]["role"] == "assistant"
    with acting(BEN), zipfile.ZipFile(io.BytesIO(b"".join(takeout.archive(studio)))) as packed:
        assert packed.namelist() == []


def test_what_is_taken_home_is_all_and_tells_nothing_of_this_machine(
    hosted: tuple[Studio, Things], tiny: Path, tmp_path: Path
) -> None:
    studio, things = hosted
    home = studio.settings.home
    (home / "models" / "tiny.json").unlink()
    shutil.copytree(tiny, home / "models" / "tiny")
    write_json(home / "models" / "tiny" / "studio.json", {"source": "me/tiny"})
    base = str(home / "models" / "tiny")
    for folder in (
        home / "runs" / things.ids["run"] / "adapter",
        home / "adapters" / things.ids["adapter"] / "adapter",
    ):
        write_json(folder / "adapter_config.json", {"r": 8, "base_model_name_or_path": base})
        write_json(folder.parent / "model.json", {"id": "tiny", "path": base})
        (folder / "README.md").write_text(f"Made for {base}, kept in {folder}.\n")
    merged = home / "exports" / things.ids["export"] / "merged"
    write_json(merged / "config.json", {"_name_or_path": base})
    evaluation = home / "evaluations" / things.ids["evaluation"]
    files.write_result(
        evaluation, [Row("own", Prompt(({"role": "user", "content": "heron?"},)), {"base": "yes"}, {})], []
    )
    Exit("completed", f"See {evaluation}.").write(RunDir(evaluation))
    with acting(ANN):
        packed = zipfile.ZipFile(io.BytesIO(b"".join(takeout.archive(studio))))
    members = {name: packed.read(name) for name in packed.namelist()}
    kinds = {name.partition("/")[0] for name in members}
    assert kinds == {"runs", "adapters", "datasets", "exports", "evaluations", "comparisons", "votes", "prompts"}
    assert not [name for name, content in members.items() if str(tmp_path).encode() in content]
    assert not [name for name, content in members.items() if ANN.owner.encode() in content]
    configs = [json.loads(content) for name, content in members.items() if name.endswith("adapter_config.json")]
    assert [(told["base_model_name_or_path"], told["r"]) for told in configs] == [("me/tiny", 8)] * 2
    cards = [content.decode() for name, content in members.items() if name.endswith("README.md")]
    assert len(cards) == 2 and all(card.startswith("Made for me/tiny, kept in …") for card in cards)
    (answers,) = (json.loads(content) for name, content in members.items() if name.startswith("evaluations/"))
    assert answers["rows"][0]["answers"] == {"base": "yes"}
    for noun in ("comparisons", "votes", "prompts"):
        assert all(b"heron" in content for name, content in members.items() if name.startswith(noun)), noun
    with acting(BEN):
        packed = zipfile.ZipFile(io.BytesIO(b"".join(takeout.archive(studio))))
    assert packed.namelist() == []


def test_two_things_of_one_name_are_both_taken_home(hosted: tuple[Studio, Things], tmp_path: Path) -> None:
    studio, things = hosted
    contents = tmp_path / "contents"
    contents.mkdir()
    recipe = Recipe().with_values({"model": "tiny", "dataset": things.ids["dataset"]})
    names = ("two words", "two:words", "Two-Words")
    with acting(ANN):
        for number, name in enumerate(names):
            file = write_jsonl(tmp_path / f"{number}.jsonl", rows(f"numbered{number}"))
            datasets.add(studio, checks.take_in(studio, file), name)
            (contents / "adapter_model.safetensors").write_bytes(f"numbered{number}".encode())
            adapters.put(studio, New(name, "imported", recipe, {}), contents)
            prompt_sets.add_typed(studio, f"numbered{number}?", name)
        packed = zipfile.ZipFile(io.BytesIO(b"".join(takeout.archive(studio))))
    members = packed.namelist()
    assert len({name.lower() for name in members}) == len(members)
    for place in ("datasets", "adapters", "prompts"):
        held = [packed.read(name) for name in members if name.startswith(place)]
        for number in range(len(names)):
            assert sum(f"numbered{number}".encode() in one for one in held) == 1, (place, number)
    # What belongs together stays together.
    folders = {name.lower().split("/")[1] for name in members if name.endswith("adapter_model.safetensors")}
    assert folders >= {"two-words", "two-words-2", "two-words-3"}


def test_a_base_that_only_this_machine_has_goes_by_its_name(hosted: tuple[Studio, Things], tiny: Path) -> None:
    studio, things = hosted
    config = studio.run_dir(things.ids["run"]).adapter / "adapter_config.json"
    write_json(config, {"base_model_name_or_path": str(tiny)})
    with acting(ANN), zipfile.ZipFile(io.BytesIO(b"".join(takeout.archive(studio)))) as packed:
        told = [json.loads(packed.read(name)) for name in packed.namelist() if name.endswith("adapter_config.json")]
        assert {one["base_model_name_or_path"] for one in told} == {"tiny"}
        assert exports.find(studio, things.ids["export"])[1]["model"]["id"] == "tiny"


def test_no_message_of_a_worker_tells_where_things_lie(hosted: tuple[Studio, Things], tiny: Path) -> None:
    studio, things = hosted
    home = studio.settings.home
    words = f"There is no model in {home}/models/x or {tiny}: config.json is missing."
    made = {noun: RunDir(home / f"{noun}s" / things.ids[noun]) for noun in ("run", "export", "evaluation", "adapter")}
    made["run"] = failed = studio.run_dir(things.ids["waiting"])
    journal = Journal(failed.events)
    journal.write("state", state="running", message=words)
    journal.write("note", level="warning", text=words)
    for folder in made.values():
        Exit("failed", words, f"Look into {home}/models.").write(folder)
    studio.look()
    with acting(ANN):
        told = history.story_of(studio, failed.id)
        sides = {
            "run": runs.get(studio, failed.id),
            "list": [one for one in run_list.find(studio, run_list.Query()).runs if one.id == failed.id],
            "current": run_list.current(studio),
            "story": (told.states, told.attempts, told.run.message),
            "marks": runs.points(studio, failed.id).marks,
            "curves": curves.window(studio, failed.id, curves.WindowRequest.parse("step", None, None, 400, 0.0)).marks,
            "export": exports.get(studio, things.ids["export"]),
            "evaluation": evaluations.get(studio, things.ids["evaluation"]),
            "shared": evaluations.as_dict(studio, things.ids["evaluation"]),
            "adapter": adapters.get(studio, things.ids["adapter"]),
        }
    for name, told_there in sides.items():
        text = re.sub(r"path='[^']*'", "", repr(told_there))  # what services go by
        assert "There is no model in …" in text or name == "current", name
        assert str(home) not in text and str(tiny) not in text, (name, text)
    assert (sides["run"].message, sides["run"].remedy) == (
        "There is no model in …/models/x or …: config.json is missing.", "Look into …/models.",
    )  # fmt: skip
    with acting(LOCAL):
        assert str(home) in access.for_reader(studio, words)


def test_the_admin_sees_who_uses_what_and_not_what_it_is(hosted: tuple[Studio, Things]) -> None:
    studio, _ = hosted
    quotas.note(studio, BEN, tokens=40)
    for visitor in (ANN, BEN):
        with acting(visitor):
            assert account_panel.admin(studio) == ""
            for act in (admin.stop, admin.would_clear, admin.clear):
                with pytest.raises(NotFound, match="nothing here"):
                    act(studio, "x")
            with pytest.raises(NotFound, match="nothing here"):
                admin.everyone(studio)
    with acting(ADMIN):
        shown = account_panel.admin(studio)
        assert "ben" in shown and "not signed in" in shown
        assert "heron" not in shown and ANN.owner not in shown
        use = next(use for use in admin.everyone(studio) if use.kind == "anonymous")
        assert (use.used.queued, use.used.starts) == (1, 2) and use.used.storage > 0
        with pytest.raises(NotFound, match="no such visitor"):
            admin.clear(studio, "x")


def _anns(studio: Studio) -> str:
    return next(use.key for use in admin.everyone(studio) if use.kind == "anonymous")


def test_the_admin_stops_all_that_is_at_work_of_one_visitor(
    hosted: tuple[Studio, Things], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    studio, things = hosted
    others = make(studio, BEN, "osprey", tmp_path / "ben")
    working: tuple[str, ...] = ()
    monkeypatch.setattr(workers, "find", lambda run: "alive" if run.id in working else "never")
    with acting(ANN), monkeypatch.context() as patched:
        patched.setattr(workers, "start", lambda *_, **__: True)
        export = exports.start(studio, things.ids["run"], "merged").id
        evaluation = evaluations.start(studio, things.ids["run"], [things.ids["prompts"]]).id
        made = adapters.put(studio, New("draft", "combined", runs.recipe_of(studio, things.ids["run"]), {})).id
        working = (export, made)
    line = studio.state(ChatSession).line
    with line.join(f"{BEN.owner}\0page") as bens, line.join(f"{ANN.owner}\0page") as anns:
        with acting(ADMIN):
            told = account_panel.stopped(admin.stop(studio, _anns(studio)))
        assert (anns.stopped, bens.stopped) == (True, False)
    for words in ("1 run", "1 export", "1 evaluation", "1 adapter", "1 question", "someone not signed in"):
        assert words in told, words
    assert "heron" not in told
    assert RunDir(studio.settings.exports / export).asked("cancel")
    assert RunDir(studio.settings.adapters / made).asked("cancel")
    with acting(ANN):
        assert runs.get(studio, things.ids["waiting"]).state == "stopped"
        assert evaluations.get(studio, evaluation).state == "stopped"
    with acting(BEN):
        assert runs.get(studio, others.ids["waiting"]).state == "queued"


def test_the_admin_clears_all_that_is_over_of_one_visitor(hosted: tuple[Studio, Things], tmp_path: Path) -> None:
    studio, things = hosted
    home = studio.settings.home
    make(studio, BEN, "osprey", tmp_path / "ben")

    def left(mark: str) -> list[Path]:
        skipped = ("studio.db", "staging", "cache")
        paths = [path for path in home.rglob("*") if path.is_file() and path.suffix != ".parquet"]
        paths = [path for path in paths if not str(path.relative_to(home)).startswith(skipped)]
        return [path for path in paths if mark in path.read_text(encoding="utf-8", errors="replace")]

    bens = left("osprey")
    with acting(ADMIN):
        key = _anns(studio)
        asked = account_panel.clearing(admin.would_clear(studio, key), key)
        for words in ("1 evaluation", "1 export", "1 comparison", "1 vote", "1 run", "1 adapter", "1 prompt set",
                      "in use: 1 run and 1 dataset", ">Delete<"):  # fmt: skip
            assert words in asked, words
        assert "heron" not in asked and len(left("heron")) > 10
        told = account_panel.cleared(admin.clear(studio, key))
        assert "Deleted for someone not signed in: 1 evaluation" in told and "in use: 1 run and 1 dataset" in told
    # What waits stays, with its examples.
    assert {path.relative_to(home).parts[1] for path in left("heron")} == {
        things.ids["waiting"],
        things.ids["dataset"],
    }
    with acting(ADMIN):
        admin.stop(studio, key)
        told = account_panel.cleared(admin.clear(studio, key))
        assert "Deleted for someone not signed in: 1 run and 1 dataset" in told and "in use" not in told
        assert "nothing finished to delete" in account_panel.clearing(admin.would_clear(studio, key), key)
    assert left("heron") == [] and left("osprey") == bens
    with acting(ANN):
        assert (runs.list_runs(studio), trash.contents(studio), datasets.list_datasets(studio)) == ([], [], [])
        assert quotas.used(studio).storage == 0
    assert not list(home.rglob("*.gone"))


def test_what_is_in_use_is_kept_and_said(hosted: tuple[Studio, Things], monkeypatch: pytest.MonkeyPatch) -> None:
    studio, things = hosted
    monkeypatch.setattr("studio.services.chat.chat.let_go", lambda *_: False)
    with acting(ADMIN):
        told = account_panel.cleared(admin.clear(studio, _anns(studio)))
    assert "in use: 2 runs and 1 dataset" in told
    with acting(ANN):
        assert {info.id for info in runs.list_runs(studio)} == {things.ids["run"], things.ids["waiting"]}
        assert datasets.get(studio, things.ids["dataset"]).name == "heron-data"
        with pytest.raises(Conflict, match="is needed by"):
            datasets.delete(studio, things.ids["dataset"])


def test_what_strangers_left_goes_with_their_cookie(hosted: tuple[Studio, Things], tmp_path: Path) -> None:
    studio, things = hosted
    own = make(studio, BEN, "osprey", tmp_path / "ben")
    assert expiry.sweep(studio) == 0
    assert expiry.sweep(studio, time.time() + 9 * 86_400) > 5
    with acting(ANN):
        # A run that is not over stays, and nothing else of hers.
        assert [info.name for info in runs.list_runs(studio)] == ["heron-waiting"]
        assert datasets.list_datasets(studio) == []
    assert not [path for path in studio.settings.home.rglob("*.jsonl") if "heron question" in path.read_text()]
    left = [path for path in studio.settings.home.rglob("*.json") if "heron" in path.read_text(errors="replace")]
    assert {path.parent.name for path in left} <= {things.ids["waiting"], things.ids["check"]}
    with acting(BEN):
        assert len(runs.list_runs(studio)) == 2 and datasets.get(studio, own.ids["dataset"])


def test_the_page_says_who_one_is_and_what_is_left(
    hosted: tuple[Studio, Things], monkeypatch: pytest.MonkeyPatch
) -> None:
    studio, _ = hosted
    with acting(ANN):
        said = account_panel.shown(studio)
        assert "You are not signed in" in said and "1 of 3" in said and "2 of 12" in said and "/mine.zip" in said
        assert "/sign-in" not in said and "Duplicate" not in said
    monkeypatch.setenv("SPACE_ID", "someone/<studio>")
    with acting(BEN):
        said = account_panel.shown(studio)
        assert "Signed in as <b>ben</b>" in said and "0 running, 1 waiting" in said and "heron" not in said
        assert "lost when this Space restarts" in said and "spaces/someone/&lt;studio&gt;?duplicate=true" in said
    studio.for_visitors = False
    assert account_panel.shown(studio) == ""


def test_no_error_tells_a_visitor_where_things_lie(
    hosted: tuple[Studio, Things], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However it is told: beside its cause, while something streams, by a route, by an endpoint; a bug's words too."""
    studio, things = hosted
    words = f"There is no model in {studio.settings.home}/models/x, says {sys.prefix}/lib/x.py."
    notice = handlers.view("notice")

    def fails(*_: object, **__: object) -> Any:
        raise StudioError(words)

    def streams(*_: object) -> Iterator[handlers.Updates]:
        yield {}
        fails()

    plain = handlers.with_notice(studio, notice, fails)
    stream = handlers.with_notice_while(studio, notice, streams, {})
    for visitor, told in ((ANN, True), (Visitor("local", kind="local"), False)):
        with acting(visitor):
            for said in (plain()[notice], list(stream())[-1][notice]):
                assert ("There is no model in …/models/x, says …/lib/x.py." in said) == told
                assert (str(studio.settings.home) in said) != told
    assert "does not know" in handlers.with_notice(studio, notice, lambda: runs.list_runs(studio))()[notice]  # type: ignore[arg-type,return-value]
    app = make_app(studio, "hosted")
    page = pages.build(studio, VisitorSessions(studio, "hosted"))
    ids = things.ids
    for place in ("runs.runs.get", "exports.exports.get", "chat.comparisons.load", "evals.evaluations.get",
                  "data.datasets.get", "data.checks.get", "curves.curves.csv", "runs.run_list.find",
                  "exports.reproduce.download"):  # fmt: skip
        monkeypatch.setattr(f"studio.services.{place}", fails)
    monkeypatch.setattr("studio.services.chat.chat._answered", fails)
    here, refused = client(app, studio, ANN), 0
    for key in (ids["run"], ids["export"], ids["comparison"]):
        for method, path, body in addresses(app, key):
            text = here.request(method, path, json=body if body is None else {"name": "x", "runs": [key]}).text
            assert str(studio.settings.home) not in text and sys.prefix not in text, (method, path)
            refused += "There is no model in …" in text
    assert refused > 20
    asking = [one for one in page.fns.values() if getattr(one.fn, "__qualname__", "") in ("_Page.ask", "_Calls.chat")]
    assert len(asking) > 2
    for function in asking:
        text = said_by(page, function, ids["run"], ANN, "ann")
        assert "There is no model in …" in text and str(studio.settings.home) not in text, text
    function = next(function for function in page.fns.values() if function.fn)
    function.fn, function.inputs = (lambda: (studio.settings.home / "nothing").read_text()), []
    assert "…/nothing" in (said := said_by(page, function, "", ANN, "ann")) and str(studio.settings.home) not in said


def test_every_error_that_leaves_is_worded_for_who_asks() -> None:
    for path in sorted((REPOSITORY / "studio" / "ui").rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            bare = re.search(r"\b(str|problem|note|repr)\(error\)|\{error\b", line)
            assert not bare or "UnknownVisitor" in line, f"{path.name}:{number}: use access.for_reader(studio, error)"
