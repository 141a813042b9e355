"""The `studio` command. Each command calls the same service as the page; this module parses and prints.

With --json a command prints one machine-readable object on stdout and nothing else. Exit status: 0 success, 2 bad
input, 1 any other failure; errors are one sentence on stderr.
"""

import gc
import logging
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from studio.cli import chat as chat_commands
from studio.cli import datasets as dataset_commands
from studio.cli import evaluations as evaluation_commands
from studio.cli import exports as export_commands
from studio.cli import output as out
from studio.cli import runs as run_commands
from studio.cli import sharing as sharing_commands
from studio.cli import users as user_commands
from studio.cli.datasets import Json, Sets, pairs
from studio.cli.show import follow as follow_run
from studio.cli.show import show_doctor, show_estimate, show_run, show_usage
from studio.errors import BadInput, StudioError, Unavailable
from studio.recipe import Recipe, from_text
from studio.redaction import guard_logs
from studio.services.core import accounts
from studio.services.core.identity import LOCAL, asking
from studio.services.core.keeper import Keeper, welcome
from studio.services.core.studio import Studio
from studio.services.host import doctor as doctor_service
from studio.services.host import usage
from studio.services.models import models as model_service
from studio.services.planning import dry_runs, estimates, presets
from studio.services.runs import runs as run_service
from studio.settings import LOOPBACK, Settings

app = typer.Typer(
    no_args_is_help=False,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="LoRA Studio: fine-tune language models with LoRA and QLoRA. Without a command: serve.",
)
RecipeFile = Annotated[Path | None, typer.Argument(help="A recipe file (YAML).")]
DatasetName = Annotated[str | None, typer.Option(help="A dataset of this home, by name or id.")]
Preset = Annotated[str | None, typer.Option(help="A preset whose values come before --model, --dataset and --set.")]
models_app = typer.Typer(help="Base models of this home.", no_args_is_help=True)
app.command()(dataset_commands.check)
app.add_typer(dataset_commands.app, name="datasets")
app.add_typer(models_app, name="models")
app.add_typer(run_commands.app, name="runs")
app.add_typer(evaluation_commands.prompts_app, name="prompts")
app.add_typer(run_commands.queue_app, name="queue")
app.command()(run_commands.stop)
app.command()(run_commands.resume)
app.command()(chat_commands.chat)
app.command("eval")(evaluation_commands.evaluate)
app.command()(evaluation_commands.evaluations)
app.command()(export_commands.export)
app.command()(export_commands.exports)
app.command()(sharing_commands.publish)
app.command()(sharing_commands.reproduce)
app.add_typer(export_commands.app, name="adapters")
app.add_typer(user_commands.app, name="users")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    home: Annotated[
        Path | None, typer.Option(help="Folder of runs, datasets and models. Default: STUDIO_HOME.")
    ] = None,
) -> None:
    settings = Settings.from_env(home=home)
    context.obj = settings
    if context.invoked_subcommand is None:
        _serve(settings)


@app.command()
def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    sample: Annotated[bool, typer.Option("--sample", help="Prepare the sample model first, if it is missing.")] = False,
    is_open: Annotated[
        bool,
        typer.Option(
            "--i-know-this-is-open",
            help="Listen beyond this machine without accounts. Anyone who can reach the studio can then use it.",
        ),
    ] = False,
) -> None:
    """Serve the studio in the browser (the default)."""
    settings: Settings = context.obj
    _serve(Settings.from_env(home=settings.home, host=host or None, port=port or None), sample, is_open)


def _serve(settings: Settings, sample: bool = False, is_open: bool = False) -> None:
    mode = _mode(settings, is_open)
    _port_is_free(settings)
    with Keeper(settings).start() as studio:
        if mode:
            studio.open_to_visitors()
        serve_pages = _import_pages_during(lambda: welcome(studio))
        if sample and mode == "hosted":
            if model_service.SAMPLE in settings.hosted_models:
                threading.Thread(target=_prepare_meanwhile, args=(studio,), name="sample", daemon=True).start()
        elif sample:
            _prepare_sample(studio)
        address = f"http://{settings.host}:{settings.port}"
        out.say(f"LoRA Studio: {address} (home {settings.home}; Ctrl-C stops it, runs continue)")
        serve_pages(studio, mode)


def _import_pages_during(task: Callable[[], None]) -> Callable[..., None]:
    """Import the page server while `task` runs, and return its `serve`.

    Importing Gradio takes a second, and no other command needs it.
    """
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(task)
        gc.disable()  # Gradio's objects are permanent: collecting during the import would only cost time
        try:
            from studio.ui.web.server import serve
        finally:
            gc.freeze()
            gc.enable()
        done.result()
    return serve


def serve_space() -> None:
    """Serve a hosted space (app.py): settings from the environment, the sample model prepared in the background."""
    _print_notices()
    try:
        _serve(Settings.from_env(), sample=True)
    except StudioError as error:
        _fail(error)


def _fail(error: StudioError) -> NoReturn:
    """Print an error and leave with its exit status."""
    out.say(("studio:", "bad"), f" {error}", err=True)
    raise SystemExit(error.exit_status) from None


def _mode(settings: Settings, is_open: bool) -> Literal["hosted", "team"] | None:
    """How visitors are identified: `hosted`, `team` (by account), or None when only the local person can connect.

    Raises BadInput when others could reach the studio without signing in.
    """
    if settings.hosted:
        return "hosted"
    if accounts.every(settings):
        return "team"
    if settings.host not in LOOPBACK and not is_open:
        raise BadInput(
            f"On {settings.host} others could use this studio without signing in. Add accounts first "
            "(studio users add NAME), or pass --i-know-this-is-open."
        )
    return None


def _prepare_meanwhile(studio: Studio) -> None:
    """Prepare the sample model while the pages are already served; the sidebar shows the progress."""
    asking.set(LOCAL)

    def report(what: str, done: int, of: int) -> None:
        share = f" ({done * 100 // of} %)" if of else ""
        studio.notice("all", f"The sample model is being prepared: {what}{share}.")

    try:
        model_service.add(studio, model_service.SAMPLE, report)
    except StudioError as error:
        studio.notice("all", f"The sample model is not ready: {error}")
    else:
        studio.notice("all", "")


def _prepare_sample(studio: Studio) -> None:
    """Prepare the sample model, or print why that failed: the studio is useful without it."""
    try:
        with out.progress(quiet=False) as progress:
            model_service.add(studio, model_service.SAMPLE, progress)
    except StudioError as error:
        out.say(f"studio: the sample model is not ready: {error}", err=True)


def _port_is_free(settings: Settings) -> None:
    """Raise Unavailable when the port cannot be bound."""
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            address = f"http://{settings.host}:{settings.port}"
            raise Unavailable(
                f"Port {settings.port} on {settings.host} cannot be used ({error.strerror}). If a studio is running "
                f"there, open {address}; otherwise: studio serve --port {settings.port + 1}"
            ) from None


@models_app.command("add")
def models_add(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="smollm2-135m-instruct (the sample), a local folder, or a hub id.")],
    as_json: Json = False,
) -> None:
    """Add a base model: the sample model, a local folder, or a model of the hub."""
    with Keeper(context.obj) as studio, out.progress(quiet=as_json) as progress:
        info = model_service.add(studio, source, progress)
    out.show(info, f"{info.id} is ready: {info.parameters / 1e6:.1f} M parameters in {info.path}", as_json)


@models_app.command("list")
def models_list(context: typer.Context, as_json: Json = False) -> None:
    """List the base models."""
    with Keeper(context.obj) as studio:
        out.table(
            model_service.list_models(studio), ("id", "architecture", "parameters", "dtype", "path"), as_json, "models"
        )


@app.command()
def estimate(
    context: typer.Context,
    recipe: RecipeFile = None,
    model: Annotated[
        str | None, typer.Option(help="A base model of this home, or a hub id; no weights are needed.")
    ] = None,
    dataset: DatasetName = None,
    preset: Preset = None,
    method: Annotated[
        str | None, typer.Option(help="Method: lora, qlora (LoRA on NF4), full, ia3, prompt or prefix.")
    ] = None,
    device_memory: Annotated[
        float | None, typer.Option(help="Estimate for a GPU with this many GiB instead of this machine.")
    ] = None,
    sets: Sets = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Train a few steps on the longest examples first, and correct the estimate by them."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Estimate the memory of a recipe file, or of --model with --method and --set."""
    if dry_run and device_memory is not None:
        raise BadInput("--dry-run measures this machine; leave --device-memory out.")
    if device_memory is not None and not 0 < device_memory <= 1e6:
        raise BadInput(f"--device-memory must be a number of GiB above 0, not {device_memory:g}.")
    with Keeper(context.obj) as studio:
        wanted = _recipe(studio, recipe, model, dataset, preset, [*_method(method), *(sets or [])])
        room = None if device_memory is None else int(device_memory * 2**30)
        if dry_run:
            with out.progress(quiet=as_json) as progress:
                dry_runs.run(studio, wanted, progress)
        show_estimate(estimates.estimate(studio, wanted, room, ask_hub=True), as_json)


def _method(name: str | None) -> list[str]:
    """Recipe settings for a method's name; qlora is the QLoRA paper's name for LoRA on a base in NF4."""
    if name is None:
        return []
    if name == "qlora":
        return ["method=lora", "quantization=nf4"]
    return [f"method={name}"]


@app.command()
def train(
    context: typer.Context,
    recipe: RecipeFile = None,
    model: Annotated[str | None, typer.Option(help="A base model of this home (see studio models list).")] = None,
    dataset: DatasetName = None,
    preset: Preset = None,
    sets: Sets = None,
    name: Annotated[str | None, typer.Option(help="Name of the run. Default: the recipe's.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Wait and show progress. The run continues if you leave with Ctrl-C.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start a run from a recipe file, or from --model and --dataset with --preset and --set."""
    with Keeper(context.obj) as studio:
        wanted = _recipe(studio, recipe, model, dataset, preset, sets)
        if name:
            wanted = wanted.with_values({"name": name})
        info = run_service.start(studio, wanted)
        if follow:
            info = follow_run(studio, info.id, quiet=as_json)
        show_run(info, as_json)
    if follow and info.state not in ("completed", "stopped"):
        raise typer.Exit(1)


@app.command()
def doctor(context: typer.Context, as_json: Json = False) -> None:
    """Check what this machine can do and what is missing."""
    with Keeper(context.obj) as studio:
        show_doctor(doctor_service.examine(studio), as_json)


@app.command()
def machine(context: typer.Context, as_json: Json = False) -> None:
    """Show how much of this machine is in use, and what uses its memory."""
    with Keeper(context.obj) as studio:
        show_usage(usage.now(studio), as_json)


def _recipe(
    studio: Studio,
    file: Path | None,
    model: str | None,
    dataset: str | None,
    preset: str | None,
    sets: list[str] | None,
) -> Recipe:
    """Build a recipe from a file and flags: the preset first, then model and dataset, then each --set."""
    if file is None and model is None and preset is None:
        raise BadInput("Give a recipe file, or --model and --dataset (see studio train --help).")
    recipe = Recipe.load(file) if file else Recipe()
    values: dict[str, Any] = dict(presets.get(studio, preset).values) if preset else {}
    values |= {key: value for key, value in (("model", model), ("dataset", dataset)) if value is not None}
    values |= {key: from_text(key, text) for key, text in pairs(sets).items()}
    return recipe.with_values(values) if values else recipe


class _Notices(logging.Handler):
    """Prints log records to stderr, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            out.say(f"studio: {self.format(record)}", err=True)
        except Exception:  # such as a closed stderr: logging must not end the work
            self.handleError(record)


def _print_notices() -> None:
    """Print what a studio logs about its home (such as a damaged database) to stderr."""
    logger = logging.getLogger("studio.services.core")
    logger.handlers, logger.propagate = [_Notices()], False


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the `studio` command."""
    guard_logs()
    _print_notices()
    try:
        app(arguments)
    except StudioError as error:
        _fail(error)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
