"""The commands for evaluations and prompt sets; each calls the same service as the page."""

from pathlib import Path
from typing import Annotated

import typer

from studio.cli import output as out
from studio.cli.datasets import Json, Maps, pairs
from studio.errors import BadInput, StudioError
from studio.services.core import jobs
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.data.checks import Options
from studio.services.evals import evaluations as evaluation_service
from studio.services.evals import judge, prompt_sets
from studio.services.evals.evaluations import EvaluationInfo, describe, evidence
from studio.ui.compare import evaluation_page

prompts_app = typer.Typer(help="Prompt sets of this home.", no_args_is_help=True)
_FORMS = (".json", ".html")


def evaluate(
    context: typer.Context,
    run: str,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="Prompt set: held-out, general, or one of your own. Repeat for several."),
    ] = None,
    against: Annotated[
        list[str] | None,
        typer.Option(help="Compare with another run, or a checkpoint as RUN@STEP. Repeat for several."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Prompts per set, at most.")] = evaluation_service.LIMIT,
    ask_judge: Annotated[bool, typer.Option("--judge", help="Also ask the judge at STUDIO_JUDGE_URL.")] = False,
    to_file: Annotated[Path | None, typer.Option("--out", help="Write it to a .html or .json file.")] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a run (or a checkpoint, RUN@STEP) against its base: loss, answers, and what was forgotten."""
    if to_file is not None and to_file.suffix not in _FORMS:
        raise BadInput(f"--out takes a name that ends in {' or '.join(_FORMS)}, not {to_file.name}.")
    with Keeper(context.obj) as studio:
        with out.progress(quiet=as_json) as progress:
            started = evaluation_service.start(studio, run, sets or (), against or (), limit)
            info = jobs.drive(evaluation_service.following(studio, started.id), progress)
            if info.state != "completed":
                raise StudioError(f"{info.message} {info.remedy}".strip())
            if ask_judge:
                jobs.drive(judge.judging(studio, info.id), progress)
        _show(studio, info, to_file, as_json)


def evaluations(
    context: typer.Context,
    evaluation: Annotated[str, typer.Argument(help="Show this evaluation. Default: list all.")] = "",
    to_file: Annotated[Path | None, typer.Option("--out", help="Write it to a .html or .json file.")] = None,
    as_json: Json = False,
) -> None:
    """List the evaluations, or show one."""
    if to_file is not None and (to_file.suffix not in _FORMS or not evaluation):
        raise BadInput(f"--out takes one evaluation and a name that ends in {' or '.join(_FORMS)}.")
    with Keeper(context.obj) as studio:
        if evaluation:
            _show(studio, evaluation_service.get(studio, evaluation), to_file, as_json)
            return
        infos = evaluation_service.list_evaluations(studio)
        out.table(infos, ("id", "name", "state", "columns", "sets"), as_json, "evaluations")


def _show(studio: Studio, info: EvaluationInfo, to_file: Path | None, as_json: bool) -> None:
    if to_file is not None:
        _write(studio, info, to_file)
    if as_json:
        out.show_json(evaluation_service.as_dict(studio, info.id))
        return
    if info.state != "completed":
        rest = f". {info.message} {info.remedy}".rstrip()
        out.say(f"Evaluation {info.id} of {info.name} is ", (info.state, info.state), rest)
        return
    out.say(f"Evaluation {info.id} of {info.name}, in {info.path}")
    for prompt_set in evaluation_service.result(studio, info.id).sets:
        out.heading(f"\n{prompt_set.title} ({prompt_set.prompts} prompts)")
        for column, sentence in prompt_set.sentences.items():
            out.say(f"  {info.columns[column]}: {sentence}")
        rows = []
        for score in prompt_set.scores:
            for column, difference in score.differences.items():
                figures = f"{describe(score, 'base')} -> {describe(score, column)}"
                rows.append((score.label, figures, (difference.word, difference.word), evidence(score, column)))
        out.grid(rows, "    {:<12} {:<24} {:<12} {}")
    judgement = evaluation_service.judgement(studio, info.id)
    if judgement:
        out.say(f"\nJudge: {judgement['sentence']}")


def _write(studio: Studio, info: EvaluationInfo, path: Path) -> None:
    """Write one self-contained file to share."""
    try:
        path.write_text(evaluation_page.share(studio, info.id, path.suffix[1:]), encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}.") from None
    out.say(f"Wrote {path}", err=True)


@prompts_app.command("add")
def prompts_add(
    context: typer.Context,
    file: Path,
    name: Annotated[str, typer.Option(help="Name of the set. Default: the file's name.")] = "",
    maps: Maps = None,
    as_json: Json = False,
) -> None:
    """Add a prompt set: a file in any format that datasets can have, or a .txt file with one prompt per line."""
    with Keeper(context.obj) as studio, out.progress(as_json, watched=True) as progress:
        if file.suffix == ".txt":
            info = prompt_sets.add_typed(studio, _text(file), name or file.stem)
        else:
            info = prompt_sets.add(studio, file, name, Options(mapping=pairs(maps)), progress)
    words = (
        f"{info.name}: {info.prompts} prompts, {info.with_reference} with a reference, {info.with_check} with a check."
    )
    out.show(info, words, as_json)


@prompts_app.command("list")
def prompts_list(context: typer.Context, as_json: Json = False) -> None:
    """List the prompt sets. A run's held-out rows are one more set, called held-out."""
    with Keeper(context.obj) as studio:
        columns = ("name", "prompts", "with_reference", "with_check", "source", "id")
        out.table(prompt_sets.list_sets(studio), columns, as_json, "prompts")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read as UTF-8 text: {error}.") from None
