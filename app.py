"""The entry of a Hugging Face Space: the same studio as `studio serve`, with a Space's settings.

Everything can be set by the variables of docs/settings.md. What differs from a studio at home is here: it listens to
all, strangers may visit it, and it lives on the Space's disk where there is one.
"""

import os
from pathlib import Path

DISK = Path("/data")

os.environ.setdefault("STUDIO_HOST", "0.0.0.0")  # noqa: S104 a Space's port is reached through its proxy alone
os.environ.setdefault("STUDIO_PORT", "7860")
os.environ.setdefault("STUDIO_HOSTED", "true")
kept = DISK.is_dir() and os.access(DISK, os.W_OK)
os.environ.setdefault("STUDIO_HOME", str((DISK if kept else Path.home()) / "lora-studio"))

if __name__ == "__main__":
    from studio.cli.app import serve_space

    serve_space()
