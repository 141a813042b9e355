"""The commands for importing and sharing (adapters add, publish, reproduce); they call the pages' services."""

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
    source: Annotated[str, typer.Argument(help="Folder or zip of a PEFT adapter or merged model, or a hub id.")],
    base: Annotated[
        str, typer.Option(help="Base model of this home that it belongs to. Default: the one its config names.")
    ] = "",
    name: Annotated[str, typer.Option(help="Name in this home. Default: its own name.")] = "",
    as_json: Json = False,
) -> None:
    """Import an adapter or merged model: safetensors only, checked before it is added to the list."""
    with Keeper(context.obj) as studio, out.progress(quiet=as_json) as progress:
        info = _run_with_progress(
            imports.add(studio, source, imports.ImportRequest(base, name), folders=True), progress
        )
    out.show(info, f"{info.name} ({info.id}) {info.words}, on {info.model}", as_json)


def publish(
    context: typer.Context,
    export: Annotated[str, typer.Argument(help="Id of an export (see studio exports).")],
    repo: Annotated[str, typer.Option(help="Repository on the hub: NAME or OWNER/NAME.")],
    public: Annotated[bool, typer.Option("--public", help="Make it visible to everyone. Default: private.")] = False,
    update: Annotated[bool, typer.Option("--update", help="Update a repository that already exists.")] = False,
    preview: Annotated[bool, typer.Option("--preview", help="Only show what would be uploaded.")] = False,
    as_json: Json = False,
) -> None:
    """Publish an export on the Hugging Face hub, with the token in HF_TOKEN or one you type; it is never stored."""
    request = publishing.PublishRequest(repo, public, update)
    with Keeper(context.obj) as studio:
        upload = publishing.preview(studio, export, request)
        if preview and as_json:
            out.show_json(asdict(upload))
        if not as_json:
            _show(upload)
        if preview:
            return
        token = _ask() if publishing.needs_token(studio) else ""
        with out.progress(quiet=as_json) as progress:
            published = _run_with_progress(publishing.publish(studio, export, request, token), progress)
    out.show(published, f"Published: {published.url}", as_json)


def reproduce(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="The run to reproduce.")],
    to_folder: Annotated[Path, typer.Option("--out", help="Write a new folder in this one.")] = Path(),
    as_json: Json = False,
) -> None:
    """Write a run as recipe, rows, and a script and notebook in plain TRL and PEFT that give the same run."""
    with Keeper(context.obj) as studio:
        path = reproducing.write(studio, run, to_folder)
        reproduction = reproducing.of(studio, run)
    if as_json:
        info = {
            "run": reproduction.run,
            "path": str(path),
            "command": reproduction.command,
            "plain": reproduction.plain,
        }
        out.show_json(info | {"notes": list(reproduction.notes)})
        return
    out.say(f"{path}\nWithout the studio: {reproduction.plain}\nWith it: {reproduction.command}")


def _run_with_progress(steps: Any, progress: Any) -> Any:
    """Run a step-by-step task, showing its progress, and return its result."""
    try:
        while True:
            step = next(steps)
            progress(step.doing, step.done, step.of)
    except StopIteration as end:
        return end.value


def _show(preview: publishing.Preview) -> None:
    visibility = "private" if preview.private else "PUBLIC"
    out.say(f"To {preview.hub}/{preview.repo} ({visibility}), {preview.size:,} bytes:", err=True)
    out.grid([(name, f"{size:,}") for name, size in preview.files], "  {}  {:>}", err=True)
    for warning in preview.warnings:
        out.say(f"  Note: {warning}", err=True)


def _ask() -> str:
    """Ask for the token at the terminal, without showing it."""
    if not sys.stdin.isatty():
        raise BadInput("Publishing needs a token with write access: set HF_TOKEN, or run this in a terminal.")
    return getpass.getpass("Token with write access (not shown, not stored): ")
