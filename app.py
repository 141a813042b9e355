"""Entry point of a Hugging Face Space: the same studio as `studio serve`, with settings for a Space.

All settings of docs/settings.md apply. The defaults that differ from a local studio are set here: it listens on all
interfaces, is in hosted mode, and keeps its home on the Space's persistent disk if there is one.
"""

import os
from pathlib import Path

DISK = Path("/data")

os.environ.setdefault("STUDIO_HOST", "0.0.0.0")  # noqa: S104 a Space's port is reached through its proxy alone
os.environ.setdefault("STUDIO_PORT", "7860")
os.environ.setdefault("STUDIO_HOSTED", "true")
persistent = DISK.is_dir() and os.access(DISK, os.W_OK)
os.environ.setdefault("STUDIO_HOME", str((DISK if persistent else Path.home()) / "lora-studio"))

if __name__ == "__main__":
    from studio.cli.app import serve_space

    serve_space()
