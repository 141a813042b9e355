"""Accounts of a team's studio: who may sign in. Passwords are stored as Argon2 hashes only.

Accounts are in accounts.json in the home, readable by its owner only. They are in a file, not in the database, like
everything that cannot be rebuilt from the run directories: a damaged database is replaced by an empty one, and the
accounts would be lost with it.
"""

import os
import re
import secrets
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from filelock import FileLock

from studio.errors import BadInput, NotFound
from studio.rundir import read_json, write_json
from studio.services.core.identity import Visitor
from studio.services.core.studio import Studio
from studio.settings import Settings

PREFIX = "team-"
SHORTEST = 10
_LONGEST = 256
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,38}")
_hasher = PasswordHasher()


@dataclass(frozen=True, slots=True)
class Account:
    """An account of a team's studio.

    id: key of everything it owns. hash: Argon2 hash of the password. since: sessions that began earlier are invalid.
    """

    id: str
    name: str
    hash: str
    created: float
    since: float

    @property
    def owner(self) -> str:
        return f"{PREFIX}{self.id}"


def every(settings: Settings) -> list[Account]:
    """All accounts, by name."""
    content = read_json(_file(settings)) or {}
    return sorted((Account(**entry) for entry in content.get("accounts", [])), key=lambda account: account.name)


def add(settings: Settings, name: str, password: str) -> Account:
    """Create an account; raises BadInput for a name that is taken or invalid, or a password of the wrong length."""
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name[:60]!r} is not a valid account name: use at most 39 letters, digits and . _ -")
    now = time.time()
    created = Account(secrets.token_hex(8), name, _hashed(password), now, now)
    with _changing(settings):
        known = every(settings)
        if any(account.name.lower() == name.lower() for account in known):
            raise BadInput(
                f"There is already an account called {name}. Change its password: studio users passwd {name}"
            )
        _write(settings, [*known, created])
    return created


def change_password(settings: Settings, name: str, password: str) -> Account:
    """Change the password of an account; sessions that began with the old one become invalid."""
    new_hash = _hashed(password)
    with _changing(settings):
        known = every(settings)
        previous = _named(known, name)
        changed = Account(previous.id, previous.name, new_hash, previous.created, time.time())
        _write(settings, [changed if account.id == previous.id else account for account in known])
    return changed


def remove(settings: Settings, name: str) -> Account:
    """Remove an account; what it owns stays in the home, visible to no one."""
    with _changing(settings):
        known = every(settings)
        removed = _named(known, name)
        _write(settings, [account for account in known if account.id != removed.id])
    return removed


def sign_in(studio: Studio, name: str, password: str) -> Visitor | None:
    """The visitor with this name and password; None if they are wrong, which takes the same time."""
    known = next((account for account in every(studio.settings) if account.name.lower() == name.lower()), None)
    given = password[:_LONGEST]
    try:
        if known is None:
            _hasher.hash(given)  # the same work, so that timing does not reveal which accounts exist
            return None
        _hasher.verify(known.hash, given)
    except (Argon2Error, InvalidHashError):
        return None
    return Visitor(known.owner, known.name)


def session() -> str:
    """A new session token of an account; it starts with the time at which the session began."""
    return f"{time.time():.6f}-{secrets.token_hex(16)}"


def is_current(studio: Studio, owner: str, session: str) -> bool:
    """Whether an account still exists and this session began after its last change of password."""
    known = next((account for account in every(studio.settings) if account.owner == owner), None)
    try:
        return known is not None and float(session.partition("-")[0]) >= known.since
    except ValueError:
        return False


def _named(known: list[Account], name: str) -> Account:
    match = next((account for account in known if account.name.lower() == name.lower()), None)
    if match is None:
        names = ", ".join(account.name for account in known) or "none yet"
        raise NotFound(f"There is no account called {name[:60]!r} (known: {names}).")
    return match


def _hashed(password: str) -> str:
    if not SHORTEST <= len(password) <= _LONGEST:
        raise BadInput(f"A password must have {SHORTEST} to {_LONGEST} characters.")
    return _hasher.hash(password)


def _file(settings: Settings) -> Path:
    return settings.home / "accounts.json"


def _changing(settings: Settings) -> Any:
    settings.prepare()
    return FileLock(settings.home / ".accounts.lock", timeout=30)


def _write(settings: Settings, accounts: list[Account]) -> None:
    path = _file(settings)
    if not path.exists():
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    write_json(path, {"accounts": [asdict(account) for account in accounts]})
    path.chmod(0o600)
