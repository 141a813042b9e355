"""The commands about data: `check`, and `datasets add|list|show`; and the options that commands share."""

import time
from pathlib import Path
from typing import Annotated

import typer

from studio.cli import output as out
from studio.errors import BadInput
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.data import checks, examples
from studio.services.data import datasets as dataset_service
from studio.services.data.checks import FORMATS, Options
from studio.services.models import models as model_service

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Maps = Annotated[list[str] | None, typer.Option("--map", help="Which column is which: instruction=question.")]
Encoding = Annotated[str, typer.Option(help="The file's encoding, if it is not UTF-8: cp1252.")]
Delimiter = Annotated[str, typer.Option(help="What separates the columns of a csv file, if it is not found.")]
HeldOut = Annotated[Path | None, typer.Option(help="A second file of examples to measure on.")]
Form = Annotated[str, typer.Option("--format", help=f"Read it as one of: {', '.join(FORMATS)}.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="A recipe field by its own name: max_steps=30.")]
# More findings than a file can have: all of them.
_ALL = 2**31

app = typer.Typer(help="Datasets of this home.", no_args_is_help=True)


def check(
    context: typer.Context,
    file: Path,
    model: Annotated[str | None, typer.Option(help="Count the tokens of this model; by default of the newest.")] = None,
    form: Form = "",
    maps: Maps = None,
    template: Annotated[str, typer.Option(help="chat, alpaca, or a template of your own (text or file).")] = "chat",
    max_length: Annotated[int, typer.Option(help="Tokens after which an example is cut.")] = 1024,
    rejects: Annotated[
        Path | None, typer.Option(help="Write the rows that are left out, with reasons (.jsonl or .csv).")
    ] = None,
    encoding: Encoding = "",
    delimiter: Delimiter = "",
    held_out: HeldOut = None,
    as_json: Json = False,
) -> None:
    """Look at a dataset file without adding it: its format, what is wrong with it, how long its examples are."""
    started = time.monotonic()
    options = Options(form, pairs(maps), encoding, delimiter, str(held_out or ""))
    with Keeper(context.obj) as studio, out.progress(as_json, watched=True) as progress:
        checked = checks.check(studio, file, options, progress)
        try:
            if checked.report.format is None:
                raise checks.needs_mapping(checked)
            if rejects is not None:
                _write_rejects(studio, checked.token, rejects)
            shape = _template(template) | {"max_length": max_length}
            models = model_service.list_models(studio)
            model = model or (models[0].id if models else None)
            lengths = examples.measure(studio, checked.token, model, shape, progress) if model else None
            found = examples.findings(studio, checked.token, limit=_ALL).items
        finally:
            checks.discard(studio, checked.token)
    findings = [item.finding for item in found]
    out.show_check(checked, findings, lengths, (model, time.monotonic() - started), as_json)


def _write_rejects(studio: Studio, token: str, path: Path) -> None:
    lines = checks.rejects(checks.folder_of(studio, token), path.suffix.lstrip("."))
    aside = path.with_name(f".{path.name}.tmp")
    try:
        with aside.open("w", encoding="utf-8", newline="") as file:
            file.writelines(lines)
        aside.replace(path)
    except OSError as error:
        raise BadInput(f"The rejects cannot be written to {path}: {error.strerror}.") from None
    finally:
        aside.unlink(missing_ok=True)


def _template(told: str) -> dict[str, str]:
    """--template: the name of one, else a text or a file of one's own."""
    if told in ("chat", "alpaca"):
        return {"template": told}
    if "{" not in told:
        try:
            told = Path(told).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise BadInput(f"--template is chat, alpaca, a template's text, or a file with it; not {told!r}.") from None
    return {"template": "custom", "custom_template": told}


@app.command("add")
def datasets_add(
    context: typer.Context,
    file: Path,
    name: str | None = None,
    form: Form = "",
    maps: Maps = None,
    held_out: HeldOut = None,
    encoding: Encoding = "",
    delimiter: Delimiter = "",
    as_json: Json = False,
) -> None:
    """Add a dataset file (jsonl, json, csv, tsv, parquet, also gzipped); `sample` adds the bundled one."""
    options = Options(form, pairs(maps), encoding, delimiter, str(held_out or ""))
    with Keeper(context.obj) as studio, out.progress(as_json, watched=True) as progress:
        if str(file) == "sample":
            info = dataset_service.add_sample(studio)
        else:
            info = dataset_service.add(studio, file, name, options, progress)
    out.show_dataset(info, as_json)


@app.command("list")
def datasets_list(context: typer.Context, as_json: Json = False) -> None:
    """List the datasets."""
    with Keeper(context.obj) as studio:
        out.table(
            dataset_service.list_datasets(studio), ("name", "rows", "held_out", "format", "id"), as_json, "datasets"
        )


@app.command("show")
def datasets_show(context: typer.Context, dataset: str, rows: int = 3, as_json: Json = False) -> None:
    """Show a dataset and its first rows."""
    with Keeper(context.obj) as studio:
        info = dataset_service.get(studio, dataset)
        out.show_dataset(info, as_json, examples.rows(studio, info.id, 0, rows))


def pairs(texts: list[str] | None) -> dict[str, str]:
    pairs = {}
    for text in texts or []:
        name, mark, value = text.partition("=")
        if not mark or not name or not value:
            raise BadInput(f"{text!r} is not of the form name=value.")
        pairs[name.strip()] = value.strip()
    return pairs
