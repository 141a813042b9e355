"""The dataset commands, `check` and `datasets add|list|show`, and the options that commands share."""

import time
from pathlib import Path
from typing import Annotated

import typer

from studio.cli import output as out
from studio.cli.show import show_check, show_dataset
from studio.errors import BadInput
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.data import checks, examples
from studio.services.data import datasets as dataset_service
from studio.services.data.checks import FORMATS, Options
from studio.services.models import models as model_service

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Maps = Annotated[
    list[str] | None, typer.Option("--map", help="Field and column: instruction=question. Repeat for several.")
]
Encoding = Annotated[str, typer.Option(help="Encoding of the file if it is not UTF-8, such as cp1252.")]
Delimiter = Annotated[str, typer.Option(help="Column separator of a csv file, if it is not detected.")]
Header = Annotated[
    bool | None,
    typer.Option(
        "--header/--no-header", help="Whether the first row of a csv file names its columns. Default: detected."
    ),
]
HeldOut = Annotated[Path | None, typer.Option(help="A second file with held-out examples, to evaluate on.")]
Form = Annotated[str, typer.Option("--format", help=f"Read the file as one of: {', '.join(FORMATS)}.")]
Ignored = Annotated[
    list[str] | None, typer.Option("--ignore", help="Leave out this column or message key. Repeat for several.")
]
Merge = Annotated[bool, typer.Option("--merge-turns", help="Join consecutive messages of the same role.")]
Drop = Annotated[
    bool,
    typer.Option("--drop-turns", help="Leave out answers before the first question, and questions without an answer."),
]
Sets = Annotated[list[str] | None, typer.Option("--set", help="Set a recipe field: max_steps=30. Repeat for several.")]
# A limit that no file reaches: all findings.
_ALL = 2**31

app = typer.Typer(help="Datasets of this home.", no_args_is_help=True)


def check(
    context: typer.Context,
    file: Path,
    model: Annotated[
        str | None, typer.Option(help="Count tokens with this model's tokenizer. Default: the first model listed.")
    ] = None,
    form: Form = "",
    maps: Maps = None,
    template: Annotated[str, typer.Option(help="chat, alpaca, or your own template (its text or a file).")] = "chat",
    max_length: Annotated[int, typer.Option(help="Examples are cut after this many tokens.")] = 1024,
    rejects: Annotated[
        Path | None, typer.Option(help="Write the rows that are left out, with reasons, to this .jsonl or .csv file.")
    ] = None,
    encoding: Encoding = "",
    delimiter: Delimiter = "",
    header: Header = None,
    held_out: HeldOut = None,
    ignore: Ignored = None,
    merge: Merge = False,
    drop: Drop = False,
    as_json: Json = False,
) -> None:
    """Check a dataset file without adding it: its format, what is wrong with it, how long its examples are."""
    started = time.monotonic()
    ignored, held = tuple(ignore or ()), str(held_out or "")
    options = Options(form, pairs(maps), encoding, delimiter, held, ignored, merge, drop, header)
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
            page_items = examples.findings(studio, checked.token, limit=_ALL).items
        finally:
            checks.discard(studio, checked.token)
    findings = [item.finding for item in page_items]
    show_check(checked, findings, lengths, (model, time.monotonic() - started), as_json)


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


def _template(text: str) -> dict[str, str]:
    """Recipe values for --template: a template's name, its text, or a file that contains it."""
    if text in ("chat", "alpaca"):
        return {"template": text}
    if "{" not in text:
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise BadInput(
                f"--template must be chat, alpaca, the text of a template, or a file that contains it, not {text!r}."
            ) from None
    return {"template": "custom", "custom_template": text}


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
    header: Header = None,
    ignore: Ignored = None,
    merge: Merge = False,
    drop: Drop = False,
    as_json: Json = False,
) -> None:
    """Add a dataset file (jsonl, json, csv, tsv, parquet, arrow, txt or md, also gzipped), or a folder of texts or of
    save_to_disk.

    `sample` adds the bundled dataset of tickets, `sample:tools` the one of tool calls.
    """
    ignored, held = tuple(ignore or ()), str(held_out or "")
    options = Options(form, pairs(maps), encoding, delimiter, held, ignored, merge, drop, header)
    with Keeper(context.obj) as studio, out.progress(as_json, watched=True) as progress:
        sample, _, which = str(file).partition(":")
        if sample == "sample":
            info = dataset_service.add_sample(studio, which or dataset_service.SAMPLE)
        else:
            info = dataset_service.add(studio, file, name, options, progress)
    show_dataset(info, as_json)


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
        show_dataset(info, as_json, examples.rows(studio, info.id, 0, rows))


def pairs(texts: list[str] | None) -> dict[str, str]:
    """Parse repeated name=value options; raises BadInput for any other form."""
    pairs = {}
    for text in texts or []:
        name, mark, value = text.partition("=")
        if not mark or not name or not value:
            raise BadInput(f"{text!r} is not of the form name=value.")
        pairs[name.strip()] = value.strip()
    return pairs
