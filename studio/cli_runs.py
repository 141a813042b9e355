"""The commands about runs and their queue: each calls the same service as the page."""

import sys
from typing import Annotated

import typer

from studio import cli_output as out
from studio.cli_data import Json
from studio.errors import BadInput
from studio.services import queue, resuming, story
from studio.services import runs as run_service
from studio.services.studio import Studio

app = typer.Typer(help="Runs of this home.")
queue_app = typer.Typer(help="The runs that wait.", no_args_is_help=True)


@app.callback(invoke_without_command=True)
def runs(
    context: typer.Context,
    as_json: Json = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build the database again from the run directories.")
    ] = False,
) -> None:
    """List the runs."""
    if context.invoked_subcommand is not None:
        return
    with Studio(context.obj) as studio:
        if rebuild:
            count = run_service.rebuild(studio)
            print(f"Built the index of {count} runs again.", file=sys.stderr)
        out.show_runs(run_service.list_runs(studio), as_json, studio.notices)


@app.command("show")
def show(context: typer.Context, run: str, as_json: Json = False) -> None:
    """Tell the whole story of a run: recipe, states, workers, checkpoints, memory, its last words."""
    with Studio(context.obj) as studio:
        out.show_story(story.tell(studio, run), as_json)


def stop(
    context: typer.Context,
    run: str,
    cancel: Annotated[bool, typer.Option("--cancel", help="Do not save what it learned since its checkpoint.")] = False,
    as_json: Json = False,
) -> None:
    """Ask a run to save what it learned and stop; `studio resume` lets it go on."""
    with Studio(context.obj) as studio:
        out.show_run((run_service.cancel if cancel else run_service.stop)(studio, run), as_json)


def resume(
    context: typer.Context,
    run: str,
    force: Annotated[bool, typer.Option("--force", help="Also with other versions of the libraries.")] = False,
    epochs: Annotated[float | None, typer.Option(help="Train so many epochs more than was meant.")] = None,
    steps: Annotated[int | None, typer.Option(help="Train so many steps more than was meant.")] = None,
    as_json: Json = False,
) -> None:
    """Let a run go on from its newest whole checkpoint, or, with --epochs or --steps, longer than it was meant to."""
    with Studio(context.obj) as studio:
        if epochs is None and steps is None:
            info = resuming.resume(studio, run, force)
        else:
            info = resuming.extend(studio, run, epochs, steps, force)
        out.show_run(info, as_json)


@queue_app.command("move")
def move(
    context: typer.Context,
    run: str,
    first: Annotated[bool, typer.Option("--first", help="The next to start.")] = False,
    last: Annotated[bool, typer.Option("--last", help="After all others.")] = False,
    before: Annotated[str | None, typer.Option(help="Before this run.")] = None,
    now: Annotated[bool, typer.Option("--now", help="Start it at once, beside what runs, if memory allows.")] = False,
    as_json: Json = False,
) -> None:
    """Give a waiting run another place in the queue, or start it now."""
    if sum((first, last, now, before is not None)) != 1:
        raise BadInput("Say where to: one of --first, --last, --before RUN, --now.")
    with Studio(context.obj) as studio:
        if now:
            info = queue.start_now(studio, run)
        elif first:
            info = queue.first(studio, run)
        else:
            info = queue.reorder(studio, run, before)
        out.show_run(info, as_json)


@queue_app.command("list")
def waiting(context: typer.Context, as_json: Json = False) -> None:
    """List the runs that wait, the next to start first."""
    with Studio(context.obj) as studio:
        line = [info for info in run_service.list_runs(studio) if info.state == "queued"]
        out.show_runs(sorted(line, key=lambda info: info.position), as_json, studio.notices)
