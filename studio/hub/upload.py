"""`python -m studio.hub.upload ORDER.json`: publishes the files of a folder as a repository of the hub.

The token is read from the environment of this process and is nowhere else: the order does not hold it, and nothing that
is printed or logged does. Prints JSON lines: {"doing", "done", "of"} in bytes, then {"url", "repo", "commit"} or
{"error", "unavailable"}. All files are sent first and appear by one commit: a repository has all of them or none.
"""

import io
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from studio.errors import BadInput, StudioError, Unavailable
from studio.hub.compat import connection_errors

_EVERY = 0.3  # seconds between two words on how far it is


class _Counted(io.BufferedReader):
    """A file that tells how far it is read. It is read once for its checksum and then once to be sent."""

    def __init__(self, path: Path, told: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path))
        self._told, self._passes, self._reached = told, 0, 0

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(size)
        self._reached = self.tell()
        if self._passes:
            self._told(self._reached)
        return chunk

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if offset == 0 and whence == 0 and self._reached:
            self._passes, self._reached = self._passes + 1, 0
        return super().seek(offset, whence)


def publish(order: dict[str, Any], token: str) -> dict[str, str]:
    """Create the repository, send the files and commit them."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token, library_name="lora-studio")
    wanted, private, folder = str(order["repo"]), bool(order["private"]), Path(order["folder"])
    files = [folder / name for name in order["files"]]
    total = sum(path.stat().st_size for path in files)
    repo = _attempt(lambda: _repository(api, wanted, private, bool(order["update"])), wanted)
    done, last = 0, 0.0

    def told(reached: int) -> None:
        nonlocal last
        if time.monotonic() - last > _EVERY:
            last = time.monotonic()
            _say(doing=f"Sending {path.name}", done=done + reached, of=total)

    operations = []
    for path in files:
        _say(doing=f"Sending {path.name}", done=done, of=total)
        with _Counted(path, told) as file:
            operation = CommitOperationAdd(path.name, file)
            _attempt(lambda: api.preupload_lfs_files(repo, [operation], free_memory=True), repo)  # noqa: B023
            if operation.path_or_fileobj is file:
                operation = CommitOperationAdd(path.name, path)  # not sent, since small: it comes with the commit
        operations.append(operation)
        done += path.stat().st_size
    _say(doing="Making it appear", done=total, of=total)
    made = _attempt(lambda: api.create_commit(repo, operations, commit_message=str(order["message"])), repo)
    return {"url": f"{api.endpoint}/{repo}", "repo": repo, "commit": str(made.oid)}


def _repository(api: Any, wanted: str, private: bool, update: bool) -> str:
    """The full name of the repository, new or, for an update, known to be as private as was agreed."""
    if not update:
        return str(api.create_repo(wanted, private=private, repo_type="model").repo_id)
    info = api.model_info(wanted)
    if bool(info.private) != private:
        now = "private" if info.private else "public"
        raise BadInput(f"{wanted} is {now}. Publish it as {now}, or change that on the hub first.")
    return str(info.id)


def _attempt(act: Callable[[], Any], repo: str) -> Any:
    """What `act` gives; what goes wrong is said in a sentence, without anything that the hub or its client wrote."""
    from huggingface_hub.errors import HFValidationError

    broken = connection_errors()
    try:
        return act()
    except StudioError:
        raise
    except HFValidationError:
        raise BadInput(
            f"{repo} is no name for a repository: write NAME or OWNER/NAME, letters, digits, - _ ."
        ) from None
    except Exception as error:
        status = _status(error)
        if status is not None:
            raise _refused(status, repo) from None
        if isinstance(error, broken):
            raise Unavailable(
                f"The hub cannot be reached, or the connection broke off ({type(error).__name__}). Nothing appeared "
                "there; try again."
            ) from None
        raise StudioError(f"The hub answered in a way that is not understood ({type(error).__name__}).") from None


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, or behind what it came from."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__ or error.__context__
    return None


def _refused(status: int, repo: str) -> StudioError:
    known = {
        401: "The hub does not know this token: it is wrong or has ended. Make one with write access in the hub's "
        "settings, under Access Tokens.",
        402: f"The hub wants a paid plan for {repo}. Nothing appeared there.",
        403: f"This token may not write to {repo}. Give one with write access, and a name under an owner of yours.",
        404: f"The hub has no {repo} that this token can write to. Check the owner's name.",
        409: f"There is already a repository {repo}. Choose another name, or say that it is to be updated (--update).",
        413: f"The hub takes no files of this size for {repo}.",
        429: "The hub is asked too often at the moment. Try again in some minutes.",
    }
    if status in known:
        return BadInput(known[status])
    return Unavailable(f"The hub could not do it (status {status}). Nothing appeared there; try again.")


def _say(**value: Any) -> None:
    print(json.dumps(value), flush=True)


def main(order: Path) -> None:
    token = os.environ.pop("HF_TOKEN", "")
    try:
        if not token:
            raise BadInput("There is no token. Give one with write access.")
        _say(**publish(json.loads(order.read_text(encoding="utf-8")), token))
    except StudioError as error:
        _say(error=str(error), unavailable=isinstance(error, Unavailable))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
