"""The commands that bring in and give away: adapters add, publish, reproduce. They call what the page calls."""

import getpass
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from studio.cli import output as out
from studio.cli.datasets import Json
from studio.cli.exports import app
from studio.errors import BadInput
from studio.services.core.keeper import Keeper
from studio.services.exports import publishing
from studio.services.exports import reproduce as reproducing
from studio.services.models import imports


@app.command("add")
def add(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="The folder or zip of a PEFT adapter or merged model, or a hub id.")],
    base: Annotated[str, typer.Option(help="The model of this home that it belongs to. Default: what it says.")] = "",
    name: Annotated[str, typer.Option(help="What it is called. Default: its own name.")] = "",
    as_json: Json = False,
) -> None:
    """Bring in someone's adapter: safetensors only, checked before it joins the list."""
    with Keeper(context.obj) as studio, out.progress(quiet=as_json) as progress:
        info = _followed(imports.add(studio, source, imports.ImportRequest(base, name), folders=True), progress)
    out.show(info, f"{info.name} ({info.id}) {info.words}, on {info.model}", as_json)


def publish(
    context: typer.Context,
    export: Annotated[str, typer.Argument(help="The id of an export (studio exports).")],
    repo: Annotated[str, typer.Option(help="NAME or OWNER/NAME on the hub.")],
    public: Annotated[bool, typer.Option("--public", help="For everyone to see. Default: private.")] = False,
    update: Annotated[bool, typer.Option("--update", help="The repository is there already.")] = False,
    preview: Annotated[bool, typer.Option("--preview", help="Only say what would go up.")] = False,
    as_json: Json = False,
) -> None:
    """Publish an export on the Hugging Face hub. The token is HF_TOKEN, or asked for; it is never kept."""
    wish = publishing.PublishRequest(repo, public, update)
    with Keeper(context.obj) as studio:
        told = publishing.preview(studio, export, wish)
        if preview and as_json:
            out.show_json(asdict(told))
        if not as_json:
            _show(told)
        if preview:
            return
        token = _ask() if publishing.needs_token(studio) else ""
        with out.progress(quiet=as_json) as progress:
            made = _followed(publishing.publish(studio, export, wish, token), progress)
    out.show(made, f"Published: {made.url}", as_json)


def reproduce(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The run to give away.")],
    to_folder: Annotated[Path, typer.Option("--out", help="Where its folder is written.")] = Path(),
    as_json: Json = False,
) -> None:
    """Write a run as recipe, rows, a script and a notebook in plain TRL and PEFT, which give the same run."""
    with Keeper(context.obj) as studio:
        path = reproducing.write(studio, run, to_folder)
        found = reproducing.of(studio, run)
    if as_json:
        told = {"run": found.run, "path": str(path), "command": found.command, "plain": found.plain}
        out.show_json(told | {"notes": list(found.notes)})
        return
    print(f"{path}\nWithout the studio: {found.plain}\nWith it: {found.command}")


def _followed(steps: Any, progress: Any) -> Any:
    """The result of a step-by-step task, whose steps are shown."""
    try:
        while True:
            step = next(steps)
            progress(step.doing, step.done, step.of)
    except StopIteration as end:
        return end.value


def _show(told: publishing.Preview) -> None:
    who = "private" if told.private else "PUBLIC"
    print(f"To {told.hub}/{told.repo} ({who}), {told.size:,} bytes:", file=sys.stderr)
    for name, size in told.files:
        print(f"  {name}  {size:,}", file=sys.stderr)
    for warning in told.warnings:
        print(f"  Note: {warning}", file=sys.stderr)


def _ask() -> str:
    """The token, from the person at the terminal; it is not shown."""
    if not sys.stdin.isatty():
        raise BadInput("Publishing needs a token with write access: set HF_TOKEN, or run this in a terminal.")
    return getpass.getpass("Token with write access (not shown, not kept): ")
