"""`python -m studio.hub.dataset ID PART REVISION FOLDER MAX_BYTES`: download the data files of a hub dataset.

Prints JSON lines: {"doing", "done", "of"} in bytes, then {"files", "revision"} or {"error", "unavailable"}. Only data
files are downloaded; a dataset's loading script is never run.
"""

import json
import re
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from studio.errors import BadInput, StudioError, Unavailable
from studio.hub.compat import connection_errors
from studio.rundir import free_space_or_raise

# In order of preference when a dataset has several.
_KINDS = (".parquet", ".jsonl", ".jsonl.gz", ".ndjson", ".json", ".json.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz")
_PATIENCE = 10.0


def choose(files: Sequence[str], part: str, hub_id: str) -> list[str]:
    """Choose the files to train on: of one type and one folder, the train split if splits are named.

    part: a folder, split or file to restrict the choice. Raises BadInput that lists the parts if there are several.
    """
    data = [name for name in sorted(files) if name.endswith(_KINDS) and not Path(name).name.startswith("dataset_info")]
    if part:
        data = [name for name in data if name.startswith(part) or part in re.split(r"[/._-]", name)]
    if not data:
        what = f"nothing called {part!r} among its data files" if part else "no parquet, jsonl, json, csv or tsv file"
        raise BadInput(f"{hub_id} has {what}. Look at its files on the hub, or download one and add it as a file.")
    kind = next(kind for kind in _KINDS if any(name.endswith(kind) for name in data))
    data = [name for name in data if name.endswith(kind)]
    train = [name for name in data if "train" in re.split(r"[/._-]", name)]
    chosen = train or data
    stems = sorted({re.sub(r"-\d{5}-of-\d{5}.*", "", name) for name in chosen})
    if len(stems) > 1:
        raise BadInput(f"{hub_id} has several parts: {', '.join(stems[:12])}. Choose one: {hub_id}:{stems[0]}")
    return chosen


def fetch(hub_id: str, part: str, revision: str, folder: Path, max_bytes: int) -> tuple[list[Path], str]:
    """Download the chosen files (of the newest revision if none is given); returns their paths and the revision."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    broken = connection_errors(ValueError)
    _send(doing=f"Asking the hub for {hub_id}", done=0, of=0)
    try:
        info = HfApi().dataset_info(hub_id, revision=revision or None, files_metadata=True, timeout=_PATIENCE)
    except GatedRepoError:
        raise BadInput(f"{hub_id} is gated: accept its terms on the hub and set HF_TOKEN, then try again.") from None
    except RepositoryNotFoundError:
        raise BadInput(f"The hub has no dataset {hub_id} (or it is private: set HF_TOKEN).") from None
    except broken as error:
        raise Unavailable(f"The Hugging Face hub cannot be reached ({type(error).__name__}).") from None
    sizes = {item.rfilename: item.size or 0 for item in info.siblings or []}
    names = choose(list(sizes), part, hub_id)
    size = sum(sizes[name] for name in names)
    if size > max_bytes:
        raise BadInput(
            f"{hub_id} has {size / 2**20:,.0f} MiB of data; the limit is {max_bytes / 2**20:,.0f} MiB "
            "(STUDIO_MAX_FILE_MB)."
        )
    free_space_or_raise(folder, 2 * size, f"Downloading {hub_id}")
    done = threading.Event()
    threading.Thread(target=_watch, args=(folder, f"Downloading {hub_id}", size, done), daemon=True).start()
    try:
        paths = [
            Path(hf_hub_download(hub_id, name, repo_type="dataset", revision=info.sha, local_dir=folder))
            for name in names
        ]
    except broken as error:
        raise Unavailable(f"The download of {hub_id} was interrupted ({type(error).__name__}). Try again.") from None
    finally:
        done.set()
    return paths, info.sha or ""


def _watch(folder: Path, what: str, size: int, done: threading.Event) -> None:
    while not done.wait(0.3):
        _send(doing=what, done=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()), of=size)


def _send(**value: Any) -> None:
    print(json.dumps(value), flush=True)


def main(hub_id: str, part: str, revision: str, folder: str, max_bytes: str) -> None:
    try:
        paths, resolved = fetch(hub_id, part, revision, Path(folder), int(max_bytes))
        _send(files=[str(path) for path in paths], revision=resolved)
    except StudioError as error:
        _send(error=str(error), unavailable=isinstance(error, Unavailable))


if __name__ == "__main__":
    main(*sys.argv[1:])
