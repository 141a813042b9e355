"""The commands for exports and adapters; each calls the same service as the Export page."""

from pathlib import Path
from typing import Annotated

import typer

from studio.cli import output as out
from studio.cli.datasets import Json
from studio.errors import BadInput, StudioError
from studio.services.core.keeper import Keeper
from studio.services.core.states import FINAL
from studio.services.core.studio import Studio
from studio.services.exports import downloads
from studio.services.exports import exports as export_service
from studio.services.exports.exports import ExportInfo, ExportRequest
from studio.services.models import adapters, combining

app = typer.Typer(help="Adapters that were combined or imported, not trained by a run.", no_args_is_help=True)


def export(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="A run, RUN@STEP for a checkpoint, or an adapter.")],
    to: Annotated[str, typer.Option("--to", help="What to make: adapter, merged or gguf.")],
    quant: Annotated[str, typer.Option(help="Type of a GGUF: F16, Q8_0, Q6_K or Q4_K_M.")] = "Q8_0",
    dtype: Annotated[
        str, typer.Option(help="Type the weights are merged in: float32, bfloat16 or float16. Default: the run's own.")
    ] = "",
    shard: Annotated[str, typer.Option(help="Size limit for each file of a merged model: 5GB or 500MB.")] = "5GB",
    to_folder: Annotated[Path | None, typer.Option("--out", help="Copy the result into this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Export an adapter (zip), a merged model or a GGUF, checked against the answers of the model in the chat."""
    with Keeper(context.obj) as studio, out.progress(quiet=as_json) as progress:
        info = export_service.start(studio, source, to, ExportRequest(to, dtype, shard, quant))
        try:
            info = _wait(studio, info, progress)
        except KeyboardInterrupt:
            export_service.cancel(studio, info.id)
            raise
        if info.state != "completed":
            raise StudioError(info.message)
        path = downloads.copy_to(studio, info.id, to_folder) if to_folder else Path(str(info.path))
    out.show(info, f"Exported to {path}\n{info.parity}".strip(), as_json, {"path": str(path)})


def _wait(studio: Studio, info: ExportInfo, progress: out.Report) -> ExportInfo:
    """Wait until an export is over, showing its progress."""
    while info.state not in FINAL:
        progress(info.doing or "Starting", info.done, info.of)
        info = export_service.pause(studio, info.id)
    return info


def exports(
    context: typer.Context,
    delete: Annotated[str, typer.Option("--delete", help="Delete this export and its files.")] = "",
    again: Annotated[str, typer.Option("--again", help="Restart this export, which did not finish.")] = "",
    as_json: Json = False,
) -> None:
    """List the exports."""
    with Keeper(context.obj) as studio:
        if delete:
            export_service.delete(studio, delete)
        if again:
            with out.progress(as_json, watched=True) as progress:
                _wait(studio, export_service.again(studio, again), progress)
        items = export_service.list_exports(studio)
        columns = ("id", "source", "kind", "about", "state", "size", "path", "message")
        out.table(items, columns, as_json, "exports")


@app.command("list")
def listed(context: typer.Context, as_json: Json = False) -> None:
    """List the combined and imported adapters."""
    with Keeper(context.obj) as studio:
        columns = ("id", "name", "kind", "state", "model", "draft", "size")
        out.table(adapters.list_adapters(studio), columns, as_json, "adapters")


@app.command("combine")
def combine(
    context: typer.Context,
    sources: Annotated[list[str], typer.Argument(help="Two or three of RUN, RUN@STEP or an adapter, of one base.")],
    weights: Annotated[str, typer.Option(help="One number per source, separated by commas: 0.7,0.3.")] = "",
    method: Annotated[str, typer.Option(help=f"One of: {', '.join(combining.METHODS)}.")] = "cat",
    density: Annotated[
        float | None,
        typer.Option(help="Share of the weights to keep, for ties, dare and magnitude_prune. Default: 0.5."),
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the new adapter.")] = "",
    draft: Annotated[
        bool, typer.Option("--draft", help="Make a draft to try; keep or remove it later (studio adapters keep).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Combine adapters by weight into a new one, which can be chatted with, evaluated and exported like a run."""
    with Keeper(context.obj) as studio, out.progress(quiet=as_json) as progress:
        info = combining.start(
            studio,
            combining.CombineRequest(tuple(sources), _numbers(weights, len(sources)), method, density, name, draft),
        )
        while info.state not in FINAL:
            progress(info.doing, 0, 0)
            info = combining.pause(studio, info.id)
        if not info.has_adapter:
            adapters.remove(studio, info.id)
            raise StudioError(info.message)
    out.show(info, f"{info.name} ({info.id}): {info.words}", as_json)


def _numbers(text: str, count: int) -> tuple[float, ...]:
    if not text.strip():
        return (1.0 / count,) * count
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"--weights must be numbers separated by commas, like 0.7,0.3, not {text!r}.") from None


@app.command("keep")
def keep(context: typer.Context, adapter: str, name: str = "", as_json: Json = False) -> None:
    """Keep a draft, under another name if --name is given."""
    with Keeper(context.obj) as studio:
        info = adapters.keep(studio, adapter, name)
    out.show(info, f"{info.name} is kept.", as_json)


@app.command("remove")
def remove(context: typer.Context, adapter: str, as_json: Json = False) -> None:
    """Delete an adapter; its exports stay."""
    with Keeper(context.obj) as studio:
        info = adapters.remove(studio, adapter)
    out.show(info, f"{info.name} is deleted.", as_json)
