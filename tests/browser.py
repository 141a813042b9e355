"""Finds the Chromium that the browser tests drive, and gets one where there is none.

An installed Chromium or Chrome first, else Playwright's own, else the system's package where it may be installed.
`python -m tests.browser` makes sure of one and prints its path.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find() -> str | None:
    """Path of a browser that is there, or None."""
    told = os.environ.get("STUDIO_TEST_BROWSER")
    if told:
        return told
    for name in NAMES:
        path = shutil.which(name)
        if path:
            return path
    return _playwrights_own()


def _playwrights_own() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if path and Path(path).exists() else None


def ensure() -> str:
    """Path of a browser, installed if there was none; raises SystemExit with what to do."""
    path = find()
    if path is None:
        print("No Chromium found; fetching Playwright's own", flush=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False, timeout=600)
        path = find()
    if path is None and shutil.which("apt-get") and os.geteuid() == 0:
        print("Installing the system's chromium package", flush=True)
        quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=False, env=quiet)
        subprocess.run(["apt-get", "install", "-y", "-qq", "chromium"], check=False, env=quiet)
        path = find()
    if path is None:
        raise SystemExit("The browser tests need Chromium: install it, or name one in STUDIO_TEST_BROWSER.")
    return path


if __name__ == "__main__":
    print(f"Browser: {ensure()}")
