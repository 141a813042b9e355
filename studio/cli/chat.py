"""The chat command; it calls the same services as the Compare page."""

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
    run: Annotated[str, typer.Argument(help="A run, or RUN@STEP for one of its checkpoints.")],
    prompt: Annotated[str, typer.Option(help="The question.")],
    against: Annotated[str, typer.Option(help="Compare with: base, RUN or RUN@STEP, separated by commas.")] = "base",
    system: Annotated[str, typer.Option(help="System prompt to use instead of the recipe's.")] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, max=8192, help="Longest answer, in tokens.")] = 256,
    temperature: Annotated[
        float, typer.Option(min=0, max=5, help="0 takes the most likely token each time; higher values vary more.")
    ] = 0.0,
    top_p: Annotated[
        float,
        typer.Option(
            min=0.01, max=1, help="0.9 samples from the smallest set of tokens holding 90% of the probability."
        ),
    ] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Sample from this many most likely tokens; 0 for all.")] = 0,
    repetition_penalty: Annotated[
        float, typer.Option(min=0.1, max=5, help="Above 1, tokens that already occurred become less likely.")
    ] = 1.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampling.")] = 0,
    as_json: Json = False,
) -> None:
    """Ask a run and others on the same base the same question; by default the run and its base."""
    sampling = Sampling(max_new_tokens, temperature, top_p, top_k, repetition_penalty, seed)
    with Keeper(context.obj) as studio:
        sides = participants.resolve(studio, [*against.split(","), run])
        turn = comparisons.ask(sides, prompt, sampling, system)
        conversations = comparisons.messages(comparisons.new_comparison(), turn)
        with out.progress(as_json, watched=True) as progress:
            for final in chats.ask(studio, sides, conversations, sampling, "command line"):
                progress(final.status, 0, 0)
    show_answers(sides, final, as_json)


def show_answers(sides: list[Side], state: ChatState, as_json: bool) -> None:
    """Print the answers. JSON keys: the names given to --against (such as base), and `adapted` for the run itself."""
    if as_json:
        names = [*(side.written for side in sides[:-1]), "adapted"]
        answers: dict[str, Any] = {
            name: {"side": side.key, "title": side.title, **asdict(answer)}
            for name, side, answer in zip(names, sides, state.answers, strict=True)
        }
        out.show_json({"answers": answers, "notes": list(state.notes)})
        return
    for side, answer in zip(sides, state.answers, strict=True):
        out.heading(f"[{side.title}, {answer.tokens} tokens, {answer.tokens_per_s:.1f} tokens/s]")
        out.say(f"{answer.text}\n")
    for note in state.notes:
        out.say(note)
