"""The chat command: it calls the same services as the Compare page."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from studio.cli import output as out
from studio.cli.datasets import Json
from studio.services.chat import chat as chats
from studio.services.chat import comparisons, participants
from studio.services.chat.chat import ChatState, Sampling
from studio.services.chat.participants import Side
from studio.services.core.keeper import Keeper


def chat(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A run, or RUN@STEP for what it had learned at a checkpoint.")],
    prompt: Annotated[str, typer.Option(help="The question.")],
    against: Annotated[
        str, typer.Option(help="Who else answers: base, RUN or RUN@STEP, with commas between.")
    ] = "base",
    system: Annotated[str, typer.Option(help="A system prompt, in place of the recipe's.")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, max=8192)] = 256,
    temperature: Annotated[float, typer.Option(min=0, max=5)] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.01, max=1)] = 1.0,
    top_k: Annotated[int, typer.Option(min=0)] = 0,
    repetition_penalty: Annotated[float, typer.Option(min=0.1, max=5)] = 1.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    as_json: Json = False,
) -> None:
    """Ask a run and others of the same base the same question; without --against, its base."""
    sampling = Sampling(max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed)
    with Keeper(context.obj) as studio:
        found = participants.resolve(studio, [*against.split(","), run])
        turn = comparisons.ask(found, prompt, sampling, system)
        talks = comparisons.messages(comparisons.new_comparison(), turn)
        *_, final = chats.ask(studio, found, talks, sampling, "command line")
    show_answers(found, final, as_json)


def show_answers(found: list[Side], state: ChatState, as_json: bool) -> None:
    """The answers. In JSON by who was asked: base, adapted for the run itself, and the others as they were given."""
    if as_json:
        names = [*(side.written for side in found[:-1]), "adapted"]
        answers: dict[str, Any] = {
            name: {"side": side.key, "title": side.title, **asdict(answer)}
            for name, side, answer in zip(names, found, state.answers, strict=True)
        }
        out.show_json({"answers": answers, "notes": list(state.notes)})
        return
    for side, answer in zip(found, state.answers, strict=True):
        print(f"[{side.title}, {answer.tokens} tokens, {answer.tokens_per_s:.1f} tokens/s]")
        print(f"{comparisons.clean_text(answer.text)}\n")
    for note in state.notes:
        print(note)
