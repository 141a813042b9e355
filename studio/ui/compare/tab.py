"""The Compare tab: a question answered side by side by a base model and its adapters, turn by turn."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from studio.errors import NotFound, StudioError
from studio.services.chat import chat, comparisons, votes
from studio.services.chat import participants as sides
from studio.services.chat.chat import ChatState
from studio.services.chat.comparisons import TIE, Comparison, Turn
from studio.services.core.studio import Studio
from studio.ui.compare import conversation, evaluation_fold
from studio.ui.compare import view as compare_view
from studio.ui.gradio_compat import once
from studio.ui.parts import markup
from studio.ui.parts.handlers import PRIVATE, Step, Updates, view, with_notice, with_notice_while
from studio.ui.web import pulse

_NONE_YET = ("Nothing to compare yet", "Once a run has an adapter, compare it with its base model here.")
PAUSE = 0.1  # seconds between two updates of the page while answers stream
Chosen = Sequence[str | None]


@dataclass(frozen=True)
class CompareTab:
    """What other tabs need: the question, the sides, and the steps that restore a draft question and show the tab."""

    question: gr.Textbox
    begun: Step
    reopen: Step
    train: gr.Button
    sides: list[gr.Dropdown]
    past: gr.State


def build(studio: Studio, wanted: gr.State) -> CompareTab:
    """Build the tab's components and wire their events. wanted: the id of the run that is open in another tab."""
    with gr.Column(elem_id="no-adapter"):
        none_yet = view("no-adapter-yet")
        train = gr.Button("Go to Train", variant="primary", size="md", elem_id="compare-go-train")
    parts = conversation.build()
    evaluation_fold.build_more(studio, parts.sides)
    page = _Page(studio, parts, none_yet)
    _wire(studio, page)
    awake = pulse.waker("compare")
    quiet: Step = {"show_progress": "hidden", "queue": False, "api_visibility": PRIVATE}
    awake.submit(page.look, parts.memory_seen, [parts.memory, parts.memory_seen], **quiet)
    reopen: Step = {
        "fn": with_notice(studio, parts.notice, page.reopen),
        "inputs": [wanted, parts.past, parts.kept, *parts.sides],
        "outputs": [
            none_yet,
            parts.notice,
            parts.past,
            parts.shelf,
            parts.system,
            *parts.sampling.values(),
            *parts.sides,
            *parts.shown,
        ],
        **quiet,
    }
    # In the browser, since a server response could arrive after the user has typed something else.
    begun: Step = {
        "fn": None,
        "js": "(asked, draft) => asked || draft || ''",
        "inputs": [parts.question, parts.draft],
        "outputs": parts.question,
        **quiet,
    }
    return CompareTab(parts.question, begun, reopen, train, list(parts.sides), parts.past)


def _wire(studio: Studio, page: "_Page") -> None:
    """Wire every button and field."""
    parts = page.parts
    quiet: Step = {"show_progress": "hidden", "api_visibility": PRIVATE}
    now: Step = {**quiet, "queue": False}
    given = [parts.past, parts.blind, parts.marked, parts.system, *parts.sides, *parts.sampling.values()]
    spoken = [parts.notice, parts.past, parts.kept, parts.question, parts.draft, *parts.shown]
    asks: Step = {"outputs": spoken, "concurrency_limit": 16, **quiet}
    parts.ask.click(with_notice_while(studio, parts.notice, page.ask, {}), [parts.question, *given], **asks)
    parts.question.submit(with_notice_while(studio, parts.notice, page.ask, {}), [parts.question, *given], **asks)
    seed = parts.sampling["seed"]
    parts.retry.click(
        with_notice_while(studio, parts.notice, page.retry, {}), given, **{**asks, "outputs": [*spoken, seed]}
    )
    parts.stop.click(with_notice(studio, parts.notice, page.stop), None, parts.notice, **now)
    changes = [parts.notice, parts.past, parts.kept, parts.question, *parts.shown]
    parts.edit.click(
        with_notice(studio, parts.notice, page.edit), [parts.past, parts.marked, *parts.sides], changes, **now
    )
    parts.anew.click(with_notice(studio, parts.notice, page.anew), parts.sides, changes, **now)
    chosen = once.choice("sides", *parts.sides)
    chosen.click(with_notice(studio, parts.notice, page.choose), parts.sides, [*changes, parts.shelf], **now)
    parts.blind.input(
        with_notice(studio, parts.notice, page.blinded),
        [parts.blind, parts.past, parts.marked, *parts.sides],
        changes,
        **now,
    )
    parts.marked.input(page.drawn, [parts.past, parts.marked, *parts.sides], parts.shown, **now)
    for place in (parts.earlier, parts.answers):
        place.click(
            with_notice(studio, parts.notice, page.vote), [parts.past, parts.marked, *parts.sides], changes, **now
        )
    parts.shelf.click(with_notice(studio, parts.notice, page.take), parts.sides, [parts.notice, parts.question], **now)
    freed = [parts.notice, parts.memory, parts.memory_seen]
    parts.free.click(with_notice(studio, parts.notice, page.free), None, freed, **now)
    # Gradio fires input for typing, but for pasting only blur, when the field is left.
    keep: Step = {
        "fn": lambda text: text,
        "inputs": parts.question,
        "outputs": parts.draft,
        "trigger_mode": "always_last",
    }
    gr.on([parts.question.input, parts.question.blur], **keep, **now)


@dataclass(frozen=True)
class _Page:
    """The event handlers of the conversation."""

    studio: Studio
    parts: conversation.Talk
    none_yet: gr.HTML

    def reopen(self, wanted: str, past: Comparison | None, kept: str, *chosen: str | None) -> Updates:
        """The available sides and the current or saved conversation."""
        parts = self.parts
        choices = sides.choices(self.studio)
        updates: Updates = {}
        if not choices:
            cleared = dict.fromkeys(parts.sides, gr.update(choices=[], value=None))
            return updates | cleared | {self.none_yet: markup.empty(*_NONE_YET), parts.answers: "", parts.past: None}
        keys = {key for _, key in choices} | {sides.BASE}
        if past is None and kept:
            with contextlib.suppress(NotFound):
                past = comparisons.load(self.studio, kept)
            if past and past.turns:
                last = past.turns[-1]
                chosen = tuple(who.written for who in last.sides)
                updates[parts.system] = last.system
                updates |= {part: getattr(last.sampling, name) for name, part in parts.sampling.items()}
        picked = [key if key in keys else "" for key in [*chosen, None, None, None][:3] if key is not None]
        if (wanted in keys and not any(key and key.startswith(wanted) for key in picked)) or not any(
            key and key != sides.BASE for key in picked
        ):
            picked, past = [sides.BASE, wanted if wanted in keys else choices[0][1], ""], None
        picked = [*picked, "", "", ""][:3]
        choices = [("Base", sides.BASE), *choices]
        updates |= {
            side: gr.update(choices=choices if place < 2 else [("None", ""), *choices], value=value)
            for place, (side, value) in enumerate(zip(parts.sides, picked, strict=True))
        }
        updates |= {self.none_yet: "", parts.past: past, parts.shelf: self._shelf(picked)}
        return updates | self.drawn(past, False, *picked)

    def drawn(self, past: Comparison | None, marked: bool, *chosen: str | None) -> Updates:
        """The conversation as it is now: its last turn where answers stream, earlier turns above."""
        parts = self.parts
        memory = compare_view.memory(chat.loaded(self.studio))
        updates: Updates = {parts.memory: memory, parts.memory_seen: memory}
        if past is None or not past.turns:
            return updates | {
                parts.earlier: "",
                parts.answers: compare_view.empty(self._names(chosen)),
                parts.links: "",
            }
        *before, last = past.turns
        return updates | {
            parts.earlier: compare_view.turns(before, self._tell, marked),
            parts.answers: compare_view.turn(last, self._tell, marked=marked),
            parts.links: compare_view.links(past),
        }

    def ask(
        self,
        request: gr.Request,
        asked: str,
        past: Comparison | None,
        blind: bool,
        marked: bool,
        system: str,
        *values: Any,
    ) -> Iterator[Updates]:
        """Stream all answers; a finished turn joins the earlier ones."""
        parts = self.parts
        chosen, knobs = values[:3], values[3:]
        past = past or comparisons.new_comparison()
        keys = [text for text in chosen if text]
        participants = sides.resolve(self.studio, keys)
        turn = comparisons.ask(participants, asked, conversation.sampling(knobs), system, blind)
        state = ChatState("Asking", turn.answers)
        last = 0.0
        earlier = compare_view.turns(past.turns, self._tell, marked)
        yield {parts.notice: "", parts.earlier: earlier, parts.answers: self._live(turn, state), parts.links: ""}
        messages = comparisons.messages(past, turn)
        try:
            for state in chat.ask(self.studio, participants, messages, turn.sampling, str(request.session_hash)):
                if time.monotonic() - last > PAUSE or state.finished:
                    last = time.monotonic()
                    yield {parts.answers: self._live(turn, state)}
        except StudioError:
            yield self.drawn(past, marked, *chosen)
            raise
        past = comparisons.add(past, comparisons.with_answers(turn, replace(state, status="", finished=True)))
        comparisons.save(self.studio, past)
        updates: Updates = {parts.past: past, parts.kept: past.id, parts.question: "", parts.draft: ""}
        yield updates | self.drawn(past, marked, *chosen)

    def retry(
        self, request: gr.Request, past: Comparison | None, blind: bool, marked: bool, system: str, *values: Any
    ) -> Iterator[Updates]:
        """Ask the last question again with the current settings; when sampling, with the next seed."""
        earlier, turn = comparisons.take_back(past or comparisons.new_comparison())
        chosen, knobs = values[:3], list(values[3:])
        names = list(self.parts.sampling)
        if (knobs[names.index("temperature")] or 0) > 0:
            knobs[names.index("seed")] = int(knobs[names.index("seed")] or 0) + 1
            yield {self.parts.sampling["seed"]: knobs[names.index("seed")]}
        try:
            for updates in self.ask(request, turn.question, earlier, blind, marked, system, *chosen, *knobs):
                # Keep a draft in the box: it is another question.
                yield {
                    part: value
                    for part, value in updates.items()
                    if part not in (self.parts.question, self.parts.draft)
                }
        except StudioError:
            yield self.drawn(past, marked, *chosen)
            raise

    def stop(self, request: gr.Request) -> Updates:
        chat.stop(self.studio, str(request.session_hash))
        return {}

    def edit(self, past: Comparison | None, marked: bool, *chosen: str | None) -> Updates:
        """Put the last question back in the box and remove its answers."""
        earlier, turn = comparisons.take_back(past or comparisons.new_comparison())
        return self._kept(earlier, marked, *chosen) | {self.parts.question: turn.question}

    def anew(self, *chosen: str | None) -> Updates:
        """Start a new conversation; the previous one stays in its file."""
        return {self.parts.past: None, self.parts.kept: ""} | self.drawn(None, False, *chosen)

    def choose(self, *chosen: str | None) -> Updates:
        """Start a new conversation with other sides: none should answer in a conversation of another."""
        return self.anew(*chosen) | {self.parts.shelf: self._shelf(chosen)}

    def blinded(self, blind: bool, past: Comparison | None, marked: bool, *chosen: str | None) -> Updates:
        if blind or past is None or not past.hidden:
            return {}
        return self._kept(comparisons.reveal(past), marked, *chosen)

    def vote(self, event: gr.EventData, past: Comparison | None, marked: bool, *chosen: str | None) -> Updates:
        """Record a vote and reveal the sides."""
        turn = next((item for item in past.turns if item.id == event.of), None) if past else None
        if past is None or turn is None or turn.vote:
            return {}
        place = str(event.vote)
        winner = TIE if place == "0" else turn.sides[turn.order[int(place) - 1]].key
        votes.cast(self.studio, turn, winner)
        return self._kept(comparisons.change(past, replace(turn, vote=winner)), marked, *chosen)

    def take(self, event: gr.EventData, *chosen: str | None) -> Updates:
        prompts = self._prompts(chosen)
        return {self.parts.question: prompts[int(event.prompt)]} if int(event.prompt) < len(prompts) else {}

    def free(self) -> Updates:
        chat.unload(self.studio)
        return self.look(None)

    def look(self, seen: str | None) -> Updates:
        """The models in memory, if they changed since `seen`."""
        memory = compare_view.memory(chat.loaded(self.studio))
        parts = self.parts
        # Gradio would treat an empty dictionary as a value.
        return {parts.memory: gr.skip()} if memory == seen else {parts.memory: memory, parts.memory_seen: memory}

    def _kept(self, past: Comparison, marked: bool, *chosen: str | None) -> Updates:
        """Save the conversation and show it."""
        comparisons.save(self.studio, past)
        return {self.parts.past: past, self.parts.kept: past.id} | self.drawn(past, marked, *chosen)

    def _live(self, turn: Turn, state: ChatState) -> str:
        return compare_view.turn(
            comparisons.with_answers(turn, replace(state, finished=False)), self._tell, state.status
        )

    def _tell(self, turn: Turn) -> str:
        return votes.tally(self.studio, turn).words

    def _names(self, chosen: Chosen) -> list[tuple[str, str]]:
        titles = {key: label for label, key in sides.choices(self.studio)}
        return [(key, titles.get(key, "Base")) for key in chosen if key]

    def _prompts(self, chosen: Chosen) -> list[str]:
        """Held-out prompts of the first run among the sides."""
        run = next((key.partition("@")[0] for key in chosen if key and key != sides.BASE), "")
        return chat.held_out_prompts(self.studio, run) if run else []

    def _shelf(self, chosen: Chosen) -> str:
        return compare_view.shelf(self._prompts(chosen))
