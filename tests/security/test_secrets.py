"""A seeded secret is sought byte by byte in everything that a studio writes, says, starts and shows."""

import http.client
import os
import subprocess
import sys
from pathlib import Path

import pytest

from studio.launch.environment import worker_environment
from studio.redaction import STRUCK, strike
from studio.services.core.keeper import Keeper
from studio.settings import Settings
from tests.conftest import little_rows, write_jsonl
from tests.e2e.conftest import serve
from tests.security.test_endpoints import OURS
from tests.unit.services.runs.test_run_list import make

TOKEN = "hf_seededTOKENforTHEbyteSEARCH0123456789"
KEY = "sk-seededKEYforTHEjudge0123456789"
WORD = "seededPASSWORDofTHEwebhook"
SECRETS = (TOKEN, KEY, WORD)


@pytest.mark.parametrize(
    "said",
    [f"no access with {TOKEN}", f"Authorization: Bearer {TOKEN}", f"headers={{'authorization': 'Bearer {KEY}'}}",
     f"https://me:{WORD}@hooks.example/x", f"https://hooks.example/x?token={WORD}", f"GET /cb?code={WORD}&state=1",
     f"Cookie: session={WORD}; other={WORD}", f"https://hooks.slack.com/services/T0/B0/{WORD}",
     f"Authorization: Basic {WORD}",
     f"eyJhbGciOiJIUzI1NiJ9.{WORD}.{WORD}"],
)  # fmt: skip
def test_what_looks_like_a_secret_is_struck_out(said: str) -> None:
    struck = strike(said)
    assert STRUCK in struck and not any(secret in struck for secret in SECRETS)


@pytest.mark.parametrize(
    "said",
    ["Completed 8 steps in 28 s.", "hf_hub_download failed", "HuggingFaceTB/SmolLM2-135M-Instruct", "loss 1.2e-05",
     "http://127.0.0.1:7860/?tab=runs&run=260101-101010-abcdef", "The token 5 is not 'a' there.", "/home/me/sk-1/x"],
)  # fmt: skip
def test_what_does_not_stays(said: str) -> None:
    assert strike(said) == said


def test_a_process_says_none_in_logs_and_tracebacks() -> None:
    code = (
        "import logging, sys, traceback\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "from studio.redaction import guard_logs\n"
        "guard_logs(); guard_logs()\n"
        f"logging.getLogger('a.library').warning('asked with %s', {TOKEN!r})\n"
        f"try: raise ValueError('Bearer {KEY}')\n"
        "except ValueError:\n    logging.exception('it failed')\n    traceback.print_exc()\n"
        f"raise SystemError('https://me:{WORD}@hooks.example')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    # The line of code itself is no file here, so a traceback cannot quote it.
    assert done.stderr.count(STRUCK) >= 4 and "it failed" in done.stderr and "SystemError" in done.stderr
    assert not any(secret in done.stdout + done.stderr for secret in SECRETS), done.stderr


def test_a_worker_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "STUDIO_JUDGE_KEY", "STUDIO_WEBHOOK_URL", "OPENAI_API_KEY",
             "WANDB_API_KEY", "OAUTH_CLIENT_SECRET", "STUDIO_ADMIN_PASSWORD", "STUDIO_COOKIE_SECRET")  # fmt: skip
    for name in names:
        monkeypatch.setenv(name, TOKEN)
    assert TOKEN not in str(worker_environment())


def held(path: Path) -> list[str]:
    """Files below a folder that hold a secret, by name or by content."""
    found = []
    for one in path.rglob("*"):
        content = one.read_bytes() if one.is_file() else b""
        found += [f"{secret} in {one}" for secret in SECRETS if secret in str(one) or secret.encode() in content]
    return found


def test_a_served_studio_keeps_none_and_tells_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("STUDIO_JUDGE_KEY", KEY)
    monkeypatch.setenv("STUDIO_JUDGE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("STUDIO_WEBHOOK_URL", f"http://me:{WORD}@127.0.0.1:9/hook")
    home = tmp_path / "home"
    with Keeper(Settings(home=home, offline=True)) as studio:
        run = make(studio, "one")
    served = serve(home)
    try:
        added = served.cli("datasets", "add", str(write_jsonl(tmp_path / "little.jsonl", list(little_rows()))))
        assert added["rows"]
        pages = ["/", "/config", "/gradio_api/info", "/theme.css"]
        pages += [path.split()[1] for path in OURS if path.startswith("GET") and "{" not in path]
        pages += [f"/runs/{run.id}.json", f"/points/{run.id}.csv", f"/curves/{run.id}", f"/reproduce/{run.id}.py"]
        for path in pages:
            connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
            connection.request("GET", path)
            answer = connection.getresponse()
            text = str(answer.getheaders()).encode() + answer.read()
            assert not any(secret.encode() in text for secret in SECRETS), path
        for one in (served.process, *served.process.children(recursive=True)):
            assert not any(secret in " ".join(one.cmdline()) for secret in SECRETS)
        folders = [path for path in (home, *home.iterdir()) if path.is_dir()]
        assert not [str(path) for path in folders if path.stat().st_mode & 0o077]
    finally:
        served.end()
    assert not held(tmp_path)


def test_a_home_that_was_open_is_closed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "runs").mkdir(parents=True)
    home.chmod(0o755)
    (home / "runs").chmod(0o777)
    Settings(home=home).prepare()
    assert [oct(path.stat().st_mode & 0o777) for path in (home, home / "runs", home / "cache")] == [oct(0o700)] * 3
    assert os.access(home, os.W_OK)
