"""`python -m studio.hub.adapter ID FOLDER`: download the needed files of an adapter's repository.

Prints JSON lines: {"doing", "done", "of"} in bytes, then {"revision", "left"} or {"error", "unavailable"}. Names and
sizes are checked before anything is downloaded; only files in the repository's root are.
"""

import json
import re
import sys
import threading
from pathlib import Path
from typing import Any

from studio.errors import BadInput, StudioError, Unavailable
from studio.hub.compat import connection_errors
from studio.rundir import free_space_or_raise

_WANTED = re.compile(
    r"adapter_config\.json|adapter_model\.safetensors|tokenizer(_config)?\.json|chat_template\.jinja|added_tokens\.json|"
    r"special_tokens_map\.json|config\.json|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|README\.md"
)
_MOST = 512 * 2**30
_PATIENCE = 10.0


def fetch(hub_id: str, folder: Path) -> tuple[str, list[str]]:
    """Download the needed files; returns the revision and the names of the other files."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    broken = connection_errors(ValueError)
    try:
        info = HfApi().model_info(hub_id, files_metadata=True, timeout=_PATIENCE)
    except GatedRepoError:
        raise BadInput(f"{hub_id} is gated: accept its terms on the hub and set HF_TOKEN, then try again.") from None
    except RepositoryNotFoundError:
        raise BadInput(f"The hub has no model or adapter {hub_id} (or it is private: set HF_TOKEN).") from None
    except broken as error:
        raise Unavailable(f"The Hugging Face hub cannot be reached ({type(error).__name__}). Try again.") from None
    sizes = {item.rfilename: item.size or 0 for item in info.siblings or []}
    chosen = [name for name in sizes if _WANTED.fullmatch(name)]
    if "adapter_config.json" in chosen:  # some repositories contain the base as well
        chosen = [name for name in chosen if not name.startswith(("model", "config"))]
    if not any(name.endswith(".safetensors") for name in chosen):
        raise BadInput(f"{hub_id} has no safetensors weights. Pickles are refused: opening one can run foreign code.")
    total = sum(sizes[name] for name in chosen)
    if total > _MOST:
        raise BadInput(f"{hub_id} has {total / 2**30:,.0f} GiB; at most {_MOST // 2**30} GiB are allowed.")
    free_space_or_raise(folder, 2 * total, f"Downloading {hub_id}")
    done = threading.Event()
    threading.Thread(target=_watch, args=(folder, f"Downloading {hub_id}", total, done), daemon=True).start()
    try:
        for name in chosen:
            hf_hub_download(hub_id, name, revision=info.sha, local_dir=folder)
    except broken as error:
        raise Unavailable(f"The download of {hub_id} was interrupted ({type(error).__name__}). Try again.") from None
    finally:
        done.set()
    return info.sha or "", sorted(set(sizes) - set(chosen))


def _watch(folder: Path, what: str, size: int, done: threading.Event) -> None:
    while not done.wait(0.3):
        _send(doing=what, done=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()), of=size)


def _send(**value: Any) -> None:
    print(json.dumps(value), flush=True)


def main(hub_id: str, folder: str) -> None:
    try:
        revision, left = fetch(hub_id, Path(folder))
        _send(revision=revision, left=left[:100])
    except StudioError as error:
        _send(error=str(error), unavailable=isinstance(error, Unavailable))


if __name__ == "__main__":
    main(*sys.argv[1:])
