"""A comparison as HTML: questions, answers side by side, their figures, votes. Answers are escaped text.

While a turn is blind, the HTML contains nothing that reveals a side, neither as a class nor as a figure.
"""

from collections.abc import Callable, Sequence
from itertools import takewhile

from studio.services.chat.chat import Answer, Loaded
from studio.services.chat.comparisons import TIE, Comparison, Turn, Who, clean_text
from studio.services.chat.participants import BASE
from studio.ui.parts import text_diff
from studio.ui.parts.markup import esc

Tell = Callable[[Turn], str]  # the tally of votes on a turn's sides, in words
_ENDS = {"end": "", "length": "cut at the maximum length", "stopped": "stopped"}
_KINDS = ("adapted", "third")


def empty(sides: Sequence[tuple[str, str]]) -> str:
    """The view before the first question. sides: key and title of each."""
    kinds = _kinds([key for key, _ in sides])
    cards = "".join(
        _card(kind, title, "", '<span class="hint">Answers stream here.</span>', "")
        for kind, (_, title) in zip(kinds, sides, strict=True)
    )
    return f'<section class="turn"><div class="sides sides-{len(sides)}">{cards}</div></section>'


def turn(item: Turn, tell: Tell, status: str = "", marked: bool = False) -> str:
    """One question with its answers. data-asking, set while answers stream, shows Stop in place of Ask."""
    asking = not item.finished
    progress = f'<p class="doing" role="status">{esc(status)}</p>' if status else ""
    # Notes name their side, so they are hidden while the turn is blind.
    remarks = [] if item.hidden else list(item.notes)
    if marked and not asking and text_diff.too_long(*(answer.text for answer in item.answers)):
        remarks.append("These answers are too long to mark their differences.")
    notes = "".join(f'<p class="why">{esc(remark)}</p>' for remark in remarks)
    kinds = _kinds([who.key for who in item.sides])
    cards = "".join(
        _side(item, place, "blind" if item.hidden else kinds[place], number, marked and not asking)
        for number, place in enumerate(item.order, 1)
    )
    shows = " data-asking" if asking else ""
    return (
        f'<section class="turn" data-turn="{esc(item.id)}"{shows}>'
        f'<p class="asked" dir="auto">{_text(item.question)}</p>{progress}'
        f'<div class="sides sides-{len(item.sides)}">{cards}</div>{notes}{_votes(item, tell)}</section>'
    )


def turns(some: Sequence[Turn], tell: Tell, marked: bool = False) -> str:
    """Finished turns, oldest first."""
    return f'<div class="turns">{"".join(turn(one, tell, marked=marked) for one in some)}</div>' if some else ""


def links(comparison: Comparison) -> str:
    """Download links of the comparison, once no turn is blind."""
    if not comparison.turns:
        return ""
    if comparison.hidden:
        return '<p class="why">To download it, vote on every blind turn or switch Blind off.</p>'
    return '<p class="get">' + "".join(
        f'<a class="download" href="/comparison/{esc(comparison.id)}.{form}" download>Download {form.upper()}</a>'
        for form in ("html", "json")
    ) + "</p>"  # fmt: skip


def memory(now: Loaded) -> str:
    """The models in memory; data-loaded where they can be freed."""
    if now.model:
        adapters = {0: "", 1: " and an adapter"}.get(now.adapters, f" and {now.adapters} adapters")
        return f'<p class="why" data-loaded>In memory: {esc(now.model)}{adapters}.</p>'
    if now.made_room:
        words = f"The model was unloaded to make room for {now.made_room}; ask again to load it."
        return f'<p class="why" data-made-room role="status">{esc(words)}</p>'
    return ""


def shelf(prompts: Sequence[str]) -> str:
    """Held-out prompts: the run never saw them, so their answers are a fair test."""
    if not prompts:
        return ""
    start = _shared_start(prompts)
    items = "".join(
        f'<li><button type="button" class="prompt" data-pick data-prompt="{place}" title="{esc(text)}">'
        f"{esc(text[start:])}</button></li>"
        for place, text in enumerate(prompts)
    )
    return f'<div class="shelf-title">Held out: not used in training</div><ul class="prompts">{items}</ul>'


def _kinds(keys: Sequence[str]) -> list[str]:
    """The style of each side: the base always the same, the others in order."""
    others = iter((*_KINDS, "third"))
    return ["base" if key == BASE else next(others) for key in keys]


def _text(text: str) -> str:
    return esc(clean_text(text))


def _side(item: Turn, place: int, kind: str, number: int, marked: bool) -> str:
    """One answer; `number` names it while the turn is blind."""
    answer, who = item.answers[place], item.sides[place]
    waiting = not answer.text and not answer.done
    if waiting:
        body = '<span class="hint">Waiting</span>'
    elif answer.done and not answer.text.strip():
        body = f'<span class="hint">{"Only whitespace" if answer.text else "Empty answer"}</span>'
    elif marked and len(item.answers) > 1:
        against = item.answers[1 if place == 0 else 0].text
        body = text_diff.highlight_differences(clean_text(answer.text.rstrip()), clean_text(against.rstrip()))
    else:
        body = _text(answer.text.rstrip() if answer.done else answer.text)
    title, words = (f"Answer {number}", "") if item.hidden else (who.title, _words(who))
    figures = "" if item.hidden else _figures(answer)
    writing = " writing" if not item.finished and not answer.done and not waiting else ""
    return _card(kind + writing, title, words, body, figures)


def _card(kind: str, title: str, words: str, body: str, figures: str) -> str:
    foot = f"<footer>{figures}</footer>" if figures else ""
    return (
        f'<article class="side side-{kind}" aria-label="{esc(title)}"><header><i class="swatch" aria-hidden="true"></i>'
        f'<b>{esc(title)}</b><span>{esc(words)}</span></header><div class="said" dir="auto">{body}</div>'
        f"{foot}</article>"
    )


def _words(who: Who) -> str:
    return who.model if who.key == BASE else f"on {who.model}"


def _figures(answer: Answer) -> str:
    if not answer.done:
        return ""
    end = _ENDS.get(answer.reason, answer.reason)
    speed = f"{answer.tokens_per_s:.1f} tokens/s · first after {answer.first_token_s:.2f} s"
    return f"{answer.tokens:,} {'token' if answer.tokens == 1 else 'tokens'} · {speed}" + (
        f" · {esc(end)}" if end else ""
    )


def _votes(item: Turn, tell: Tell) -> str:
    """The voting buttons of a blind turn and, after the vote, the vote and the tally of all votes."""
    if not item.blind or not item.finished or len(item.sides) != 2:
        return ""
    if item.hidden:
        choices = (("1", "Answer 1 is better"), ("2", "Answer 2 is better"), ("0", "Tie"))
        buttons = "".join(
            f'<button type="button" class="ballot" data-pick data-vote="{key}" data-of="{esc(item.id)}">'
            f"<kbd>{key}</kbd>{words}</button>"
            for key, words in choices
        )
        return f'<div class="votes" role="group" aria-label="Which answer is better?">{buttons}</div>'
    if not item.vote:
        return '<p class="voted">Revealed without a vote.</p>'
    names = {who.key: who.title for who in item.sides}
    verdict = "You voted for a tie." if item.vote == TIE else f"You preferred {names.get(item.vote, item.vote)}."
    return f'<p class="voted" role="status"><b>{esc(verdict)}</b> {esc(tell(item))}</p>'


def _shared_start(prompts: Sequence[str]) -> int:
    """Length of the common prefix of all prompts (often an instruction); the list shows what follows it."""
    if len(prompts) < 2:
        return 0
    same = takewhile(lambda letters: len(set(letters)) == 1, zip(*prompts, strict=False))
    common = "".join(letters[0] for letters in same)
    return max(common.rfind("\n"), common.rfind(" ")) + 1
