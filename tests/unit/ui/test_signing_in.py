"""Signing in: by a provider on a Space, by name and password in a team; and what is refused."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import argon2
import httpx
import pytest
from fastapi.testclient import TestClient

from studio.cli import app as cli
from studio.errors import BadInput, NotFound
from studio.rundir import read_json
from studio.services.core import accounts
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.settings import Settings
from studio.ui.web import signing_in
from studio.ui.web.auth import COOKIE, VisitorSessions
from studio.ui.web.server import make_app
from tests import oidc

pytestmark = pytest.mark.slow

HERE = "http://127.0.0.1:7999"


def desk_of(app: Any) -> VisitorSessions:
    return next(layer.kwargs["desk"] for layer in app.user_middleware if "desk" in layer.kwargs)


def visitor(app: Any, client: TestClient) -> Any:
    from starlette.datastructures import Headers

    return desk_of(app).known(Headers({"cookie": f"{COOKIE}={client.cookies.get(COOKIE)}"}))


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[oidc.Provider]:
    with oidc.provider(HERE) as made:
        for name, value in (
            {"SPACE_ID": "someone/studio", "SPACE_HOST": "127.0.0.1:7999"} | made.environment()
        ).items():
            monkeypatch.setenv(name, value)
        yield made


@pytest.fixture
def space(studio: Studio, provider: oidc.Provider) -> Any:
    return make_app(studio, "hosted")


def browser(app: Any) -> TestClient:
    return TestClient(app, base_url=HERE, follow_redirects=False)


def at_provider(answer: httpx.Response, name: str) -> str:
    """What the provider sends a person back to who says it is them."""
    assert answer.status_code in (302, 303), answer.text
    page = httpx.get(answer.headers["location"]).text
    found = re.search(rf'id="as-{name}" href="([^"]+)"', page)
    assert found, page
    address = urlsplit(found[1].replace("&amp;", "&"))
    return f"{address.path}?{address.query}"


def test_an_account_signs_in_and_is_someone_else_than_before(space: Any) -> None:
    ann = browser(space)
    ann.get("/")
    before, cookie = visitor(space, ann), ann.cookies[COOKIE]
    back = ann.get(at_provider(ann.get("/sign-in"), "ann"))
    assert (back.status_code, back.headers["location"]) == (303, "/")
    after = visitor(space, ann)
    assert (before.kind, after.kind, after.owner, after.name) == ("anonymous", "account", "account-1001", "ann")
    assert ann.cookies[COOKIE] != cookie and not after.admin
    # The same account elsewhere is the same owner, under another session.
    other = browser(space)
    other.get(at_provider(other.get("/sign-in"), "ann"))
    assert visitor(space, other).owner == after.owner and other.cookies[COOKIE] != ann.cookies[COOKIE]


def test_what_was_not_begun_here_signs_nobody_in(space: Any, provider: oidc.Provider) -> None:
    ann, eve = browser(space), browser(space)
    back = at_provider(eve.get("/sign-in"), "ben")
    for answer in (
        ann.get(back),  # the way back of another browser: signing someone in as oneself
        ann.get("/login/callback?code=x&state=y"),
        ann.get("/login/callback?error=access_denied"),
    ):
        assert answer.status_code == 400 and "was not finished" in answer.text
        assert COOKIE not in answer.headers.get("set-cookie", "")
    assert eve.get(back).status_code == 303
    assert eve.get(back).status_code != 303  # a code is good for once
    provider.nonce = "another"
    answer = ann.get(at_provider(ann.get("/sign-in"), "ann"))
    assert answer.status_code in (400, 502) and COOKIE not in answer.headers.get("set-cookie", "")


def test_a_name_that_anyone_may_choose_makes_no_admin(
    studio: Studio, provider: oidc.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    from starlette.datastructures import Headers

    studio.settings = studio.settings.model_copy(update={"admins": "host"})
    space = make_app(studio, "hosted")
    host, eve = browser(space), browser(space)
    host.get(at_provider(host.get("/sign-in"), "host"))
    assert visitor(space, host).admin
    monkeypatch.setattr(oidc, "_claims", lambda name: {"sub": oidc.ACCOUNTS[name], "name": "Host"})
    eve.get(at_provider(eve.get("/sign-in"), "ben"))
    assert (visitor(space, eve).name, visitor(space, eve).admin) == ("Host", False)
    # A cookie of before, that does not say which kind of name it has.
    desk = desk_of(space)
    old = desk._signer.dumps(["account", "account-1002", "host", "x"])
    assert (desk.known(Headers({"cookie": f"{COOKIE}={old}"})).name, desk.known(Headers({})).owner) == ("host", "")
    assert not desk.known(Headers({"cookie": f"{COOKIE}={old}"})).admin
    # Who is no admin any more is none at once.
    desk.admins = set()
    assert not visitor(space, host).admin


def test_a_provider_that_is_gone_is_said(
    studio: Studio, provider: oidc.Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENID_PROVIDER_URL", "http://127.0.0.1:9")
    answer = browser(make_app(studio, "hosted")).get("/sign-in")
    assert answer.status_code == 502 and "does not respond" in answer.text


def test_without_the_secrets_of_a_space_there_is_no_signing_in(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    for missing in signing_in._NEEDED:
        for name in signing_in._NEEDED:
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.delenv(missing)
        assert not signing_in.openid()
        here = browser(make_app(studio, "hosted"))
        assert here.get("/login/callback?code=x").status_code == 404
        assert b"login/huggingface" not in here.get("/").content


def test_a_space_keeps_its_cookie_in_its_frame(space: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette.datastructures import Headers

    from studio.ui.web.auth import manner

    framed = manner(Headers({"host": "someone-studio.hf.space", "x-forwarded-proto": "https"}))
    assert framed == "Path=/; HttpOnly; SameSite=None; Secure; Partitioned"
    monkeypatch.delenv("SPACE_ID")
    assert manner(Headers({"host": "192.168.1.4:7860"})) == "Path=/; HttpOnly; SameSite=Lax"
    assert manner(Headers({"host": "a.example", "x-forwarded-proto": "https"})).endswith("Lax; Secure")


# A team


@pytest.fixture
def team(keeper: Keeper, settings: Settings) -> Any:
    accounts.add(settings, "ann", "correct horse battery")
    accounts.add(settings, "ben", "another long password")
    return make_app(keeper.studio, "team")


def sign_in(client: TestClient, name: str, password: str) -> httpx.Response:
    return client.post("/sign-in", data={"name": name, "password": password})  # type: ignore[return-value]


def test_a_team_signs_in_first(team: Any) -> None:
    ann = browser(team)
    assert (ann.get("/").status_code, ann.get("/").headers["location"]) == (303, "/sign-in")
    assert ann.get("/runs.json").status_code == 401 and ann.get("/config").status_code == 401
    assert ann.get("/healthz").status_code == 200 and "<form" in ann.get("/sign-in").text
    for name, password in (("ann", "wrong"), ("nobody", "correct horse battery"), ("", ""), ("ann", "x" * 3000)):
        answer = sign_in(ann, name, password)
        assert answer.status_code == 401 and "Wrong name or password" in answer.text
    assert sign_in(ann, "Ann", "correct horse battery").status_code == 303
    assert visitor(team, ann).name == "ann" and ann.get("/").status_code == 200
    ann.post("/sign-out")
    ann.cookies.clear()
    assert ann.get("/runs.json").status_code == 401


def test_who_signed_out_stays_out_when_the_studio_is_started_anew(
    keeper: Keeper, team: Any, settings: Settings
) -> None:
    ann, ben = browser(team), browser(team)
    sign_in(ann, "ann", "correct horse battery")
    sign_in(ben, "ben", "another long password")
    stolen = ann.cookies[COOKIE]
    ann.post("/sign-out")
    keeper.close()
    with Keeper(settings) as studio:
        app = make_app(studio, "team")
        thief, again = browser(app), browser(app)
        thief.cookies.set(COOKIE, stolen)
        again.cookies.set(COOKIE, ben.cookies[COOKIE])
        assert (thief.get("/runs.json").status_code, again.get("/runs.json").status_code) == (401, 200)


def test_a_name_that_nobody_has_is_refused_after_the_same_work(team: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the time it takes tells nobody who is there."""
    done: list[str] = []

    def counted(usual: Callable[..., Any]) -> Callable[..., Any]:
        def work(*given: Any) -> Any:
            done.append("one")
            return usual(*given)

        return work

    for work in ("hash", "verify"):
        monkeypatch.setattr(argon2.PasswordHasher, work, counted(getattr(argon2.PasswordHasher, work)))
    assert sign_in(browser(team), "ann", "wrong password").status_code == 401 and done == ["one"]
    assert sign_in(browser(team), "nobody", "wrong password").status_code == 401 and done == ["one"] * 2


def test_no_command_waits_for_the_hash_of_a_password(tmp_path: Path) -> None:
    """It takes a tenth of a second and 64 MiB, where nobody signs in."""
    program = "import argon2; argon2.PasswordHasher.hash = None; from studio.cli.app import main; main()"
    words = [sys.executable, "-c", program, "--home", str(tmp_path / "home"), "runs"]
    subprocess.run(words, check=True, timeout=300)


def test_many_wrong_tries_have_to_wait(team: Any) -> None:
    eve = browser(team)
    said = [sign_in(eve, "ann", "wrong password").status_code for _ in range(8)]
    assert said[:6] == [401] * 6 and said[6:] == [429] * 2
    assert sign_in(eve, "ann", "correct horse battery").status_code == 429


def test_another_password_ends_what_was_begun_with_the_old_one(team: Any, settings: Settings) -> None:
    ann, ben = browser(team), browser(team)
    sign_in(ann, "ann", "correct horse battery")
    sign_in(ben, "ben", "another long password")
    accounts.change_password(settings, "ann", "a new and long one")
    accounts.remove(settings, "ben")
    assert (ann.get("/runs.json").status_code, ben.get("/runs.json").status_code) == (401, 401)
    assert sign_in(ben, "ben", "another long password").status_code == 401
    assert sign_in(ann, "ann", "a new and long one").status_code == 303


def test_accounts_are_kept_as_hashes_for_their_person_only(settings: Settings) -> None:
    accounts.add(settings, "ann", "correct horse battery")
    path = settings.home / "accounts.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert "horse" not in path.read_text() and "$argon2id$" in path.read_text()
    for name, password, said in (("ann", "long enough here", "already"), ("x/y", "long enough here", "not a valid"),
                                 ("cy", "short", "10 to 256")):  # fmt: skip
        with pytest.raises(BadInput, match=said):
            accounts.add(settings, name, password)
    with pytest.raises(NotFound, match="known: ann"):
        accounts.remove(settings, "cy")
    assert len((read_json(path) or {})["accounts"]) == 1


def test_users_are_kept_by_command(tmp_path: Path) -> None:
    def users(*words: str, password: str = "") -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "studio", "--home", str(tmp_path / "home"), "users", *words]
        return subprocess.run(command, input=password, capture_output=True, text=True, check=False, timeout=120)

    assert users("add", "ann", "--password-stdin", password="correct horse battery\n").returncode == 0
    assert "ann" in users("list").stdout
    assert users("add", "ann", "--password-stdin", password="x\n").returncode == 2
    assert users("passwd", "ann", "--password-stdin", password="another long one\n").returncode == 0
    assert users("remove", "ann").returncode == 0 and "No users yet" in users("list").stdout


def test_others_are_let_in_only_when_it_is_known_who_they_are(settings: Settings) -> None:
    reachable = settings.model_copy(update={"host": "0.0.0.0"})
    with pytest.raises(BadInput, match="without signing in"):
        cli._mode(reachable, is_open=False)
    assert cli._mode(reachable, is_open=True) is None and cli._mode(settings, is_open=False) is None
    assert cli._mode(reachable.model_copy(update={"hosted": True}), is_open=False) == "hosted"
    accounts.add(settings, "ann", "correct horse battery")
    assert cli._mode(reachable, is_open=False) == "team"
