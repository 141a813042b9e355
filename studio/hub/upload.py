"""`python -m studio.hub.upload ORDER.json`: publish the files of a folder as a repository on the hub.

The token is only in the environment of this process: it is not in the order, and is never printed or logged. Prints
JSON lines: {"doing", "done", "of"} in bytes, then {"url", "repo", "commit"} or {"error", "unavailable"}. All files are
uploaded first and published in one commit: a repository has all of them or none.
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

_EVERY = 0.3  # seconds between progress reports


class _Counted(io.BufferedReader):
    """A file that reports how far it has been read. It is read once for its checksum and once for the upload."""

    def __init__(self, path: Path, report: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path))
        self._report, self._passes, self._reached = report, 0, 0

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(size)
        self._reached = self.tell()
        if self._passes:
            self._report(self._reached)
        return chunk

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if offset == 0 and whence == 0 and self._reached:
            self._passes, self._reached = self._passes + 1, 0
        return super().seek(offset, whence)


def publish(order: dict[str, Any], token: str) -> dict[str, str]:
    """Create the repository, upload the files and commit them."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token, library_name="lora-studio")
    wanted, private, folder = str(order["repo"]), bool(order["private"]), Path(order["folder"])
    files = [folder / name for name in order["files"]]
    total = sum(path.stat().st_size for path in files)
    repo = _attempt(lambda: _repository(api, wanted, private, bool(order["update"])), wanted)
    done, last = 0, 0.0

    def report(reached: int) -> None:
        nonlocal last
        if time.monotonic() - last > _EVERY:
            last = time.monotonic()
            _send(doing=f"Sending {path.name}", done=done + reached, of=total)

    operations = []
    for path in files:
        _send(doing=f"Sending {path.name}", done=done, of=total)
        with _Counted(path, report) as file:
            operation = CommitOperationAdd(path.name, file)
            _attempt(lambda: api.preupload_lfs_files(repo, [operation], free_memory=True), repo)  # noqa: B023
            if operation.path_or_fileobj is file:
                operation = CommitOperationAdd(
                    path.name, path
                )  # not uploaded because it is small: it is sent with the commit
        operations.append(operation)
        done += path.stat().st_size
    _send(doing="Publishing", done=total, of=total)
    commit = _attempt(lambda: api.create_commit(repo, operations, commit_message=str(order["message"])), repo)
    return {"url": f"{api.endpoint}/{repo}", "repo": repo, "commit": str(commit.oid)}


def _repository(api: Any, wanted: str, private: bool, update: bool) -> str:
    """Create the repository, or check that the visibility of an existing one is as agreed; returns its full name."""
    if not update:
        return str(api.create_repo(wanted, private=private, repo_type="model").repo_id)
    info = api.model_info(wanted)
    if bool(info.private) != private:
        now = "private" if info.private else "public"
        raise BadInput(f"{wanted} is {now}. Publish it as {now}, or change that on the hub first.")
    return str(info.id)


def _attempt(act: Callable[[], Any], repo: str) -> Any:
    """Return the result of `act`; errors become a sentence, without any text from the hub or its client."""
    from huggingface_hub.errors import HFValidationError

    broken = connection_errors()
    try:
        return act()
    except StudioError:
        raise
    except HFValidationError:
        raise BadInput(
            f"{repo} is not a valid repository name: write NAME or OWNER/NAME, with letters, digits, - _ ."
        ) from None
    except Exception as error:
        status = _status(error)
        if status is not None:
            raise _refused(status, repo) from None
        if isinstance(error, broken):
            raise Unavailable(
                f"The hub cannot be reached, or the connection was interrupted ({type(error).__name__}). Nothing was "
                "published; try again."
            ) from None
        raise StudioError(f"The hub gave an unexpected answer ({type(error).__name__}).") from None


def _status(error: BaseException | None) -> int | None:
    """The HTTP status of an error, or of its cause."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(status, int):
            return status
        error = error.__cause__ or error.__context__
    return None


def _refused(status: int, repo: str) -> StudioError:
    known = {
        401: "The hub does not know this token: it is wrong or has expired. Create one with write access in the hub's "
        "settings, under Access Tokens.",
        402: f"The hub requires a paid plan for {repo}. Nothing was published.",
        403: f"This token may not write to {repo}. Use one with write access, and a name under your own account.",
        404: f"The hub has no {repo} that this token can write to. Check the owner's name.",
        409: f"There is already a repository {repo}. Choose another name, or choose to update it (--update).",
        413: f"The hub does not accept files of this size for {repo}.",
        429: "The hub receives too many requests at the moment. Try again in a few minutes.",
    }
    if status in known:
        return BadInput(known[status])
    return Unavailable(f"The hub could not do this (status {status}). Nothing was published; try again.")


def _send(**value: Any) -> None:
    print(json.dumps(value), flush=True)


def main(order: Path) -> None:
    token = os.environ.pop("HF_TOKEN", "")
    try:
        if not token:
            raise BadInput("There is no token. Enter one with write access.")
        _send(**publish(json.loads(order.read_text(encoding="utf-8")), token))
    except StudioError as error:
        _send(error=str(error), unavailable=isinstance(error, Unavailable))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
