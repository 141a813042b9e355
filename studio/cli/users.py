"""`studio users`: the accounts of a studio shared by a team. Changes take effect at once in a running studio."""

import sys
from dataclasses import dataclass
from typing import Annotated

import typer

from studio.cli import output as out
from studio.cli.datasets import Json
from studio.errors import BadInput
from studio.services.core import accounts
from studio.services.core.accounts import Account
from studio.settings import Settings

app = typer.Typer(help="Accounts of a studio shared by a team.", no_args_is_help=True)
FromStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input, one line.")]


@dataclass(frozen=True, slots=True)
class Shown:
    """An account as it is printed, without its password hash."""

    name: str
    created: float


@app.command()
def add(context: typer.Context, name: str, password_stdin: FromStdin = False, as_json: Json = False) -> None:
    """Add an account; the command asks for its password."""
    settings: Settings = context.obj
    account = accounts.add(settings, name, _password(password_stdin))
    out.show(_without_hash(account), f"{account.name} can sign in. From the next start on, everyone must.", as_json)


@app.command("list")
def list_users(context: typer.Context, as_json: Json = False) -> None:
    """List the accounts."""
    out.table(
        [_without_hash(account) for account in accounts.every(context.obj)], ("name", "created"), as_json, "users"
    )


@app.command()
def remove(context: typer.Context, name: str, as_json: Json = False) -> None:
    """Remove an account; what it made stays in the home."""
    account = accounts.remove(context.obj, name)
    out.show(
        _without_hash(account), f"{account.name} cannot sign in any more. What it made stays in the home.", as_json
    )


@app.command()
def passwd(context: typer.Context, name: str, password_stdin: FromStdin = False, as_json: Json = False) -> None:
    """Change a password; anyone signed in with the old one is signed out."""
    account = accounts.change_password(context.obj, name, _password(password_stdin))
    out.show(_without_hash(account), f"The password of {account.name} is changed.", as_json)


def _without_hash(account: Account) -> Shown:
    return Shown(account.name, account.created)


def _password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    if not sys.stdin.isatty():
        raise BadInput("There is no terminal to ask for the password. Pass it with --password-stdin.")
    return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
