"""Publishing on a hub of our own: what goes up, what is said when it cannot, and that the token stays nowhere."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from studio.errors import BadInput, Conflict, StudioError, Unavailable
from studio.rundir import Exit, RunDir, whole_folder, write_json
from studio.services.core.jobs import Progress
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.exports import publishing
from studio.services.exports.publishing import Published, PublishRequest
from studio.settings import Settings
from tests.hub import TOKEN, Hub, served

pytestmark = pytest.mark.slow

EXPORT = "0123456789abcdef"
WEIGHTS = bytes(range(256)) * 20_000


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    with served() as made:
        monkeypatch.setenv("HF_ENDPOINT", made.url)
        yield made


@pytest.fixture
def online(settings: Settings) -> Iterator[Studio]:
    """A studio that may reach the hub, with an export that is whole."""
    with Keeper(settings.model_copy(update={"offline": False})) as studio:
        exported(studio)
        yield studio


def exported(studio: Studio, export_id: str = EXPORT, card: str = "base_model: someone/base\n") -> Path:
    run = RunDir(studio.settings.exports / export_id)
    (run.path / "control").mkdir(parents=True)
    write_json(
        run.path / "export.json",
        {"kind": "merged", "run_id": "r", "name": "sums", "owner": studio.owner, "created": 1.0,
         "model": {"id": "someone/base", "path": "x"}},
    )  # fmt: skip
    with whole_folder(run.path / "merged") as folder:
        (folder / "model.safetensors").write_bytes(WEIGHTS)
        (folder / "config.json").write_text("{}")
        (folder / "README.md").write_text(f"---\n{card}---\n# sums\n")
    Exit("completed", "Ready.").write(run)
    return run.path


def publish(studio: Studio, wish: PublishRequest, token: str = TOKEN) -> tuple[Published, list[Progress]]:
    steps, seen = publishing.publish(studio, EXPORT, wish, token), []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as end:
            return end.value, seen


def nowhere(home: Path, secret: str) -> None:
    """No file of the home, by name or by content, holds the secret."""
    found = [path for path in home.rglob("*") if secret in str(path)]
    found += [path for path in home.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert not found


def test_what_would_go_up_is_shown_first(online: Studio, hub: Hub) -> None:
    told = publishing.preview(online, EXPORT, PublishRequest("sums"))
    assert told.private and told.hub == hub.url
    assert dict(told.files).keys() == {"README.md", "config.json", "model.safetensors"}
    assert told.size == sum(size for _, size in told.files) and not told.warnings
    assert (
        "Everyone will see it" in publishing.preview(online, EXPORT, PublishRequest("me/sums", public=True)).warnings[0]
    )
    for odd in ("", "a/b/c", "../x", "me/su ms", "me/x.git", "-x"):
        with pytest.raises(BadInput, match="not a repository name"):
            publishing.preview(online, EXPORT, PublishRequest(odd))
    assert not hub.asked, "a preview asks nobody"


def test_a_card_that_names_a_folder_of_this_machine_is_said(online: Studio, hub: Hub) -> None:
    exported(online, "f" * 16, card="base_model: /home/me/models/base\n")
    assert "names the base by a folder" in publishing.preview(online, "f" * 16, PublishRequest("sums")).warnings[0]


def test_it_is_published_and_the_token_is_nowhere(online: Studio, hub: Hub) -> None:
    made, seen = publish(online, PublishRequest("sums"))
    assert (made.repo, made.url, made.private, made.commit) == ("me/sums", f"{hub.url}/me/sums", True, "c0ffee")
    assert hub.repos["me/sums"]["private"] is True and hub.tokens == {TOKEN}
    files = hub.files("me/sums")
    assert files.keys() == {"README.md", "config.json", "model.safetensors"} and files["model.safetensors"] == WEIGHTS
    assert seen[-1].done == seen[-1].of == made.size
    assert publishing.published(online, EXPORT) == [made]
    assert TOKEN not in json.dumps(dict(os.environ))
    assert not list(online.settings.staging.iterdir())
    online.close()
    nowhere(online.settings.home, TOKEN)


def test_a_repository_is_taken_or_updated_as_private_as_it_is(online: Studio, hub: Hub) -> None:
    publish(online, PublishRequest("me/sums", public=True))
    assert hub.repos["me/sums"]["private"] is False
    with pytest.raises(BadInput, match="already a repository me/sums"):
        publish(online, PublishRequest("me/sums"))
    with pytest.raises(BadInput, match="me/sums is public"):
        publish(online, PublishRequest("me/sums", update=True))
    made, _ = publish(online, PublishRequest("me/sums", public=True, update=True))
    assert [one.repo for one in publishing.published(online, EXPORT)] == ["me/sums"] * 2 and not made.private


@pytest.mark.parametrize(
    ("end", "status", "why"),
    [
        ("/create", 401, "does not know this token"),
        ("/create", 403, "may not write to me/sums"),
        ("/create", 500, "status 500"),
        ("/preupload/main", 403, "may not write"),
        ("/commit/main", 403, "may not write"),
        ("/commit/main", 404, "has no me/sums"),
        ("/validate-yaml", 429, "too many requests"),
    ],
)
def test_what_the_hub_refuses_is_said_plainly(online: Studio, hub: Hub, end: str, status: int, why: str) -> None:
    hub.fails[end] = status
    with pytest.raises(StudioError, match=why) as refused:
        publish(online, PublishRequest("me/sums"))
    assert TOKEN not in str(refused.value)
    assert not publishing.published(online, EXPORT) and not list(online.settings.staging.iterdir())
    nowhere(online.settings.home, TOKEN)


def test_a_wrong_token_and_none(online: Studio, hub: Hub) -> None:
    with pytest.raises(BadInput, match="does not know this token"):
        publish(online, PublishRequest("sums"), "hf_wrongwrongwrong")
    with pytest.raises(BadInput, match="needs a token"):
        publish(online, PublishRequest("sums"), "")
    with pytest.raises(BadInput, match="not a token: it has spaces"):
        publish(online, PublishRequest("sums"), "hf_a b\nc hf_a b")


def test_a_hub_that_is_not_there(online: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="cannot be reached"):
        publish(online, PublishRequest("sums"))
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    with pytest.raises(BadInput, match="over https only"):
        publish(online, PublishRequest("sums"))


def test_cancelled_nothing_appears(online: Studio, hub: Hub) -> None:
    import threading

    hub.holds = threading.Event()
    steps = publishing.publish(online, EXPORT, PublishRequest("sums"), TOKEN)
    while not hub.sending.is_set():
        next(steps)
    with contextlib.closing(steps):
        pass
    hub.holds.set()
    assert not hub.files("me/sums") and not publishing.published(online, EXPORT)
    assert not list(online.settings.staging.iterdir())
    nowhere(online.settings.home, TOKEN)


def test_the_machine_s_token_is_its_own_person_s(settings: Settings, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with Keeper(settings.model_copy(update={"offline": False})) as studio:
        exported(studio)
        assert not publishing.needs_token(studio)
        publish(studio, PublishRequest("mine"), "")
    hub.tokens.clear()
    served = {"offline": False, "home": settings.home / "served", "host": "0.0.0.0"}
    with Keeper(settings.model_copy(update=served)) as studio:
        exported(studio)
        assert publishing.needs_token(studio)
        with pytest.raises(BadInput, match="needs a token"):
            publish(studio, PublishRequest("theirs"), "")
        with pytest.raises(BadInput, match="does not know this token"):
            publish(studio, PublishRequest("theirs"), "hf_visitorsown")
    assert hub.tokens == {"hf_visitorsown"}


def test_only_what_is_whole_is_published(online: Studio, hub: Hub) -> None:
    path = exported(online, "e" * 16)
    (path / "exit.json").unlink()
    with pytest.raises(Conflict, match="only one that is completed"):
        publishing.preview(online, "e" * 16, PublishRequest("sums"))


def test_the_command_asks_nobody_for_a_token_that_is_there(online: Studio, hub: Hub) -> None:
    online.close()
    command = [sys.executable, "-m", "studio", "--home", str(online.settings.home), "publish", EXPORT, "--repo", "sums",
               "--json"]  # fmt: skip
    env = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=env | {"HF_TOKEN": TOKEN},
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["repo"] == "me/sums" and TOKEN not in done.stdout + done.stderr
    nowhere(online.settings.home, TOKEN)
    without = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=env, stdin=subprocess.DEVNULL
    )
    assert without.returncode == 2 and "HF_TOKEN" in without.stderr
