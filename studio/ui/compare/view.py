"""The conversation of the Compare page: questions, answers side by side, their figures, votes.

While a turn is blind, its HTML contains nothing that reveals a side, neither as a class nor as a figure.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from markupsafe import Markup

from studio.services.chat.chat import Answer, Loaded
from studio.services.chat.comparisons import TIE, Comparison, Turn, clean_text
from studio.services.chat.participants import BASE
from studio.ui.parts import text_diff
from studio.ui.parts.templates import macro

Tell = Callable[[Turn], str]  # the tally of votes on a turn's sides, in words
_KINDS = ("adapted", "third")


@dataclass(frozen=True, slots=True)
class SideView:
    """One side of a turn as it is shown.

    kind: its style; hint: shown in place of a text; answer: the one whose figures are shown.
    """

    kind: str
    title: str
    words: str = ""
    text: str = ""
    hint: str = ""
    answer: Answer | None = None
    writing: bool = False


@dataclass(frozen=True, slots=True)
class TurnView:
    """One question with its answers as it is shown.

    verdict: which side was preferred, empty without a vote; system, settings: shown above the answers if not empty.
    """

    id: str
    question: str
    sides: Sequence[SideView]
    remarks: Sequence[str]
    status: str
    asking: bool
    hidden: bool
    votable: bool
    verdict: str
    tally: str
    system: str = ""
    settings: str = ""


def empty(sides: Sequence[tuple[str, str]]) -> Markup:
    """The view before the first question. sides: key and title of each."""
    kinds = _kinds([key for key, _ in sides])
    titles = [title for _, title in sides]
    return _part("waiting", [SideView(*side, hint="Answers stream here.") for side in zip(kinds, titles, strict=True)])


def turn(item: Turn, tell: Tell, status: str = "", marked: bool = False) -> Markup:
    """One question with its answers."""
    return _part("turn", turn_view(item, tell, status, marked))


def turns(some: Sequence[Turn], tell: Tell, marked: bool = False) -> Markup:
    """Finished turns, oldest first."""
    return _part("turns", [turn_view(one, tell, marked=marked) for one in some])


def links(comparison: Comparison) -> Markup:
    """Download links of the comparison, once no turn is blind."""
    return _part("links", comparison)


def memory(now: Loaded) -> Markup:
    """The models in memory."""
    return _part("memory", now)


def shelf(prompts: Sequence[str]) -> Markup:
    """Held-out prompts: the run never saw them, so their answers are a fair test."""
    return _part("held_out", prompts, _shared_start(prompts))


def turn_view(item: Turn, tell: Tell, status: str = "", marked: bool = False) -> TurnView:
    """What the template shows of a turn; `marked` marks the differences between its answers."""
    asking = not item.finished
    # Notes name their side, so they are hidden while the turn is blind.
    remarks = [] if item.hidden else list(item.notes)
    if marked and not asking and text_diff.too_long(*(answer.text for answer in item.answers)):
        remarks.append("These answers are too long to mark their differences.")
    kinds = _kinds([who.key for who in item.sides])
    sides = [
        _side(item, place, "blind" if item.hidden else kinds[place], number, marked and not asking)
        for number, place in enumerate(item.order, 1)
    ]
    votable = item.blind and item.finished and len(item.sides) == 2
    voted = votable and item.vote != ""
    return TurnView(
        id=item.id,
        question=clean_text(item.question),
        sides=sides,
        remarks=remarks,
        status=status,
        asking=asking,
        hidden=item.hidden,
        votable=votable,
        verdict=_verdict(item) if voted else "",
        tally=tell(item) if voted else "",
    )


def _part(name: str, *values: Any) -> Markup:
    return macro("compare/conversation.html", name, *values)


def _kinds(keys: Sequence[str]) -> list[str]:
    """The style of each side: the base always the same, the others in order."""
    others = iter((*_KINDS, "third"))
    return ["base" if key == BASE else next(others) for key in keys]


def _side(item: Turn, place: int, kind: str, number: int, marked: bool) -> SideView:
    """One answer; `number` names it while the turn is blind."""
    answer, who = item.answers[place], item.sides[place]
    hint, text = "", clean_text(answer.text.rstrip() if answer.done else answer.text)
    waiting = not answer.text and not answer.done
    if waiting:
        hint = "Waiting"
    elif answer.done and not answer.text.strip():
        hint = "Only whitespace" if answer.text else "Empty answer"
    elif marked and len(item.answers) > 1:
        against = item.answers[1 if place == 0 else 0].text
        text = text_diff.highlight_differences(clean_text(answer.text.rstrip()), clean_text(against.rstrip()))
    writing = not item.finished and not answer.done and not waiting
    if item.hidden:
        return SideView(kind, f"Answer {number}", text=text, hint=hint, writing=writing)
    words = who.model if who.key == BASE else f"on {who.model}"
    return SideView(kind, who.title, words, text, hint, answer if answer.done else None, writing)


def _verdict(item: Turn) -> str:
    names = {who.key: who.title for who in item.sides}
    return "You voted for a tie." if item.vote == TIE else f"You preferred {names.get(item.vote, item.vote)}."


def _shared_start(prompts: Sequence[str]) -> int:
    """Length of the common prefix of all prompts (often an instruction); the list shows what follows it."""
    if len(prompts) < 2:
        return 0
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*prompts, strict=False))
    common = "".join(letters[0] for letters in same)
    return max(common.rfind("\n"), common.rfind(" ")) + 1
