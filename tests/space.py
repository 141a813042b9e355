"""app.py as a Space runs it: its environment, its start."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import REPOSITORY


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def begin(home: Path, port: int, more: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Start the Space and wait until it answers. more: of its environment, the provider's secrets say."""
    env = {
        **os.environ, "SPACE_ID": "someone/studio", "SPACE_HOST": f"127.0.0.1:{port}", "SPACE_AUTHOR_NAME": "host",
        "SYSTEM": "spaces", "STUDIO_HOST": "127.0.0.1", "STUDIO_PORT": str(port), "STUDIO_HOME": str(home),
        "STUDIO_HOSTED_MODELS": "tiny", "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", **more,
    }  # fmt: skip
    log = home.with_name("space.log")
    with log.open("ab") as out:
        process = subprocess.Popen([sys.executable, str(REPOSITORY / "app.py")], stdout=out, stderr=out, env=env)
    deadline = time.monotonic() + 300  # a busy machine is no failure
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=2):
                return process
        except OSError:
            time.sleep(0.1)
        assert process.poll() is None, log.read_text()
    process.kill()
    raise AssertionError("the Space did not answer")
