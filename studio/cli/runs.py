"""The commands about runs and their queue: each calls the same service as the page."""

import sys
from typing import Annotated

import typer

from studio.cli import output as out
from studio.cli.datasets import Json
from studio.cli.show import show_emptied, show_labels, show_moved, show_run, show_runs, show_story, show_trash
from studio.errors import BadInput
from studio.services.core.keeper import Keeper
from studio.services.runs import history, labels, queue, resuming, run_list, trash
from studio.services.runs import runs as run_service
from studio.services.runs.run_list import Query

app = typer.Typer(help="Runs of this home.")
queue_app = typer.Typer(help="Runs waiting in the queue.", no_args_is_help=True)


@app.callback(invoke_without_command=True)
def runs(
    context: typer.Context,
    as_json: Json = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Rebuild the database from the run directories.")] = False,
    search: Annotated[
        str, typer.Option(help="Only runs with these words in their name, notes, tags, id, model or dataset.")
    ] = "",
    state: Annotated[str, typer.Option(help="Only runs in these states, such as failed,interrupted.")] = "",
    model: Annotated[str, typer.Option(help="Only runs of this base model.")] = "",
    dataset: Annotated[str, typer.Option(help="Only runs on the dataset with this name.")] = "",
    tag: Annotated[str, typer.Option(help="Only runs with this tag.")] = "",
    starred: Annotated[bool, typer.Option("--starred", help="Only runs with a star.")] = False,
    in_trash: Annotated[bool, typer.Option("--trash", help="List the runs in the trash instead.")] = False,
    sort: Annotated[str, typer.Option(help=f"Sort by: {', '.join(run_list.SORTS)}.")] = "created",
) -> None:
    """List the runs: all, or those that match the options."""
    if context.invoked_subcommand is not None:
        return
    with Keeper(context.obj) as studio:
        if rebuild:
            with out.progress(as_json, watched=True) as progress:
                progress("Rebuilding the index of the runs", 0, 0)
                count = run_service.rebuild(studio)
            out.say(f"Rebuilt the index of {count} runs.", err=True)
        query = Query(search, state, model, dataset, tag, starred, in_trash, sort, limit=run_list.MOST)
        infos = run_list.find_every(studio, query)
        show_runs(infos, as_json, studio.notices)


@app.command("show")
def show(context: typer.Context, run: str, as_json: Json = False) -> None:
    """Show everything about a run: recipe, states, workers, checkpoints, memory, last log lines."""
    with Keeper(context.obj) as studio:
        with out.progress(as_json, watched=True) as progress:
            progress("Reading the run and verifying its checkpoints", 0, 0)
            story = history.story_of(studio, run)
        show_story(story, as_json)


@app.command("rename")
def rename(context: typer.Context, run: str, name: str, as_json: Json = False) -> None:
    """Rename a run."""
    with Keeper(context.obj) as studio:
        show_labels(labels.rename(studio, run, name), as_json)


@app.command("note")
def note(context: typer.Context, run: str, text: str, as_json: Json = False) -> None:
    """Set the note of a run; an empty one ("") removes it."""
    with Keeper(context.obj) as studio:
        show_labels(labels.note(studio, run, text), as_json)


@app.command("tag")
def tag(
    context: typer.Context,
    run: str,
    tags: Annotated[list[str] | None, typer.Argument(help="Plain words; without any, all tags are removed.")] = None,
    as_json: Json = False,
) -> None:
    """Set the tags of a run, replacing the ones it has."""
    with Keeper(context.obj) as studio:
        show_labels(labels.tag(studio, run, ",".join(tags or [])), as_json)


@app.command("star")
def star(
    context: typer.Context,
    run: str,
    off: Annotated[bool, typer.Option("--off", help="Remove the star.")] = False,
    as_json: Json = False,
) -> None:
    """Star a run."""
    with Keeper(context.obj) as studio:
        show_labels(labels.star(studio, run, not off), as_json)


@app.command("trash")
def throw(context: typer.Context, runs: list[str], as_json: Json = False) -> None:
    """Move finished runs into the trash; `studio runs --trash` lists it, `studio runs restore` takes them out."""
    with Keeper(context.obj) as studio:
        show_moved([trash.throw(studio, run) for run in runs], "is in the trash", as_json)


@app.command("restore")
def restore(context: typer.Context, runs: list[str], as_json: Json = False) -> None:
    """Take runs out of the trash."""
    with Keeper(context.obj) as studio:
        show_moved([trash.restore(studio, run) for run in runs], "is out of the trash", as_json)


@app.command("empty-trash")
def empty_trash(
    context: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Delete the runs in the trash for good, after listing them with their sizes and asking."""
    with Keeper(context.obj) as studio:
        trashed = trash.contents(studio)
        if trashed and not yes:
            if as_json or not sys.stdin.isatty():
                raise BadInput("Deleting runs for good needs a yes: studio runs empty-trash --yes")
            show_trash(trashed)
            if not typer.confirm("Delete them for good?"):
                return
        show_emptied(trash.empty(studio, [info.id for info in trashed]), as_json)


def stop(
    context: typer.Context,
    run: str,
    cancel: Annotated[
        bool, typer.Option("--cancel", help="Stop without saving; training since the last checkpoint is lost.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Ask a run to save a checkpoint and stop; `studio resume` continues it."""
    with Keeper(context.obj) as studio:
        show_run((run_service.cancel if cancel else run_service.stop)(studio, run), as_json)


def resume(
    context: typer.Context,
    run: str,
    force: Annotated[
        bool, typer.Option("--force", help="Resume even if the installed library versions differ from the run's.")
    ] = False,
    epochs: Annotated[float | None, typer.Option(help="Train this many epochs more than planned.")] = None,
    steps: Annotated[int | None, typer.Option(help="Train this many steps more than planned.")] = None,
    as_json: Json = False,
) -> None:
    """Continue a run from its newest whole checkpoint; with --epochs or --steps, beyond its planned length."""
    with Keeper(context.obj) as studio:
        if epochs is None and steps is None:
            info = resuming.resume(studio, run, force)
        else:
            info = resuming.extend(studio, run, epochs, steps, force)
        show_run(info, as_json)


@queue_app.command("move")
def move(
    context: typer.Context,
    run: str,
    first: Annotated[bool, typer.Option("--first", help="Move it to the front.")] = False,
    last: Annotated[bool, typer.Option("--last", help="Move it to the end.")] = False,
    before: Annotated[str | None, typer.Option(help="Move it in front of this run.")] = None,
    now: Annotated[
        bool, typer.Option("--now", help="Start it at once, alongside running ones, if memory allows.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Move a waiting run in the queue, or start it now."""
    if sum((first, last, now, before is not None)) != 1:
        raise BadInput("Give one of --first, --last, --before RUN, --now.")
    with Keeper(context.obj) as studio:
        if now:
            info = queue.start_now(studio, run)
        elif first:
            info = queue.first(studio, run)
        else:
            info = queue.reorder(studio, run, before)
        show_run(info, as_json)


@queue_app.command("list")
def waiting(context: typer.Context, as_json: Json = False) -> None:
    """List the waiting runs, the next to start first."""
    with Keeper(context.obj) as studio:
        queued = [info for info in run_service.list_runs(studio) if info.state == "queued"]
        show_runs(sorted(queued, key=lambda info: info.position), as_json, studio.notices)
