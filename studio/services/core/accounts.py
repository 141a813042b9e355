"""Accounts of a team's studio: who may sign in, with passwords that are kept as Argon2 hashes only.

accounts.json in the home, for its person only. A file and no table, as all that cannot be made again from the run
directories: a damaged database is set aside and built anew, and with it a team's doors would stand open or shut.
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
    """id: what its things are kept under; hash: Argon2 of the password; since: sessions begun before it are over."""

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
    told = read_json(_file(settings)) or {}
    return sorted((Account(**one) for one in told.get("accounts", [])), key=lambda account: account.name)


def add(settings: Settings, name: str, password: str) -> Account:
    """Make an account; raises BadInput for a name that is taken or a password that is too short."""
    if not _NAME.fullmatch(name):
        raise BadInput(f"{name[:60]!r} is no name for an account: letters, digits, . _ - and at most 39 of them.")
    now = time.time()
    made = Account(secrets.token_hex(8), name, _hashed(password), now, now)
    with _changing(settings):
        known = every(settings)
        if any(account.name.lower() == name.lower() for account in known):
            raise BadInput(
                f"There is already an account called {name}. Change its password: studio users passwd {name}"
            )
        _write(settings, [*known, made])
    return made


def change_password(settings: Settings, name: str, password: str) -> Account:
    """Give an account another password; who is signed in with the old one is signed out."""
    fresh = _hashed(password)
    with _changing(settings):
        known = every(settings)
        found = _named(known, name)
        changed = Account(found.id, found.name, fresh, found.created, time.time())
        _write(settings, [changed if account.id == found.id else account for account in known])
    return changed


def remove(settings: Settings, name: str) -> Account:
    """Take an account away; what it owns stays in the home and is nobody's to see."""
    with _changing(settings):
        known = every(settings)
        found = _named(known, name)
        _write(settings, [account for account in known if account.id != found.id])
    return found


def sign_in(studio: Studio, name: str, password: str) -> Visitor | None:
    """The visitor that this name and password are; None for wrong ones, which takes as long."""
    known = next((one for one in every(studio.settings) if one.name.lower() == name.lower()), None)
    given = password[:_LONGEST]
    try:
        if known is None:
            _hasher.hash(given)  # the same work, so that nobody learns who is there
            return None
        _hasher.verify(known.hash, given)
    except (Argon2Error, InvalidHashError):
        return None
    return Visitor(known.owner, known.name)


def session() -> str:
    """A new session of an account; it tells when it began."""
    return f"{time.time():.6f}-{secrets.token_hex(16)}"


def is_current(studio: Studio, owner: str, session: str) -> bool:
    """Whether an account is still there, and a session of it began after its password was changed last."""
    known = next((account for account in every(studio.settings) if account.owner == owner), None)
    try:
        return known is not None and float(session.partition("-")[0]) >= known.since
    except ValueError:
        return False


def _named(known: list[Account], name: str) -> Account:
    found = next((account for account in known if account.name.lower() == name.lower()), None)
    if found is None:
        there = ", ".join(account.name for account in known) or "none yet"
        raise NotFound(f"There is no account called {name[:60]!r} (known: {there}).")
    return found


def _hashed(password: str) -> str:
    if not SHORTEST <= len(password) <= _LONGEST:
        raise BadInput(f"A password has {SHORTEST} to {_LONGEST} characters.")
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
