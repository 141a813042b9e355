"""Steps two to four of the Data tab: what the model sees, what is wrong, how long.

One model, one template and one max_length hold for all of them. Tokens of one example are shown at once; counting all
of them may take a while and says how far it is.
"""

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.recipe import find_field
from studio.services import datasets, examples, models
from studio.services.checks import Progress
from studio.services.datasets import DatasetInfo
from studio.services.examples import LengthView
from studio.services.studio import Studio
from studio.ui import busy, data_view, editor, findings_view, lengths_view, markup, tokens
from studio.ui.busy import Busy
from studio.ui.handlers import PRIVATE, QUEUED, Step, Updates, told, told_while, view

_LEAST_REACH = 1024  # tokens that the slider goes up to at least
_SESSIONS = 256
_OF_LENGTH = ("untrained", "answer_cut", "cut")
_ALL = ("", 0)
_TEMPLATE = "{instruction}\n\n{input}\n\nAnswer:\n{output}"
_REVISING = "Making a new version"
_NO_MODEL = "No model is here yet to cut the text into tokens. Add one under Train."


@dataclass(frozen=True)
class Steps:
    """The components. subject: the key of what they show, "" for nothing; a change of it asks for tokens and
    lengths. looked: which findings are shown, their kind ("" for all) and how many stand before them; measured: the
    lengths counted last; reach: how far the slider goes.
    """

    subject: gr.State
    looked: gr.State
    measured: gr.State
    reach: gr.State
    row: gr.Number
    model: gr.Dropdown
    how: list[Any]
    seen: gr.HTML
    edit: gr.Button
    editor: gr.HTML
    edit_notice: gr.HTML
    saving: Busy
    rows: gr.HTML
    verdict: gr.HTML
    found: gr.HTML
    leave: gr.Button
    found_notice: gr.HTML
    leaving: Busy
    length: gr.Slider
    lengths: gr.HTML

    @property
    def parts(self) -> list[Any]:
        return [
            *(self.subject, self.looked, self.measured, self.row, self.model, self.seen),
            *(
                self.editor,
                self.edit_notice,
                self.rows,
                self.verdict,
                self.found,
                self.leave,
                self.found_notice,
                self.lengths,
            ),
        ]


def build() -> Steps:
    with gr.Column(elem_id="data-steps"):
        view("", markup.step(2, "What the model sees", "One example in tokens. Only the underlined are learned."))
        with gr.Row(elem_classes="fields", elem_id="see-controls"):
            row = gr.Number(1, label="Example", precision=0, minimum=1, min_width=70, elem_id="see-row")
            model = gr.Dropdown([], label="Model", min_width=150, elem_id="see-model", filterable=False)
            template = gr.Radio(_choices("template"), value="chat", label="Template", elem_id="see-template")
            on = gr.Radio(_choices("train_on"), value="completions", label="Train on", elem_id="see-train-on")
        own = gr.Textbox(_TEMPLATE, label="Own template", lines=5, elem_id="see-custom",
                         info="Holds {output} once, where the answer stands; or a chat template in Jinja. "
                         "What it makes is shown when you leave the field.")  # fmt: skip
        seen = view("token-view")
        edit = gr.Button("Edit this example", elem_id="edit-example", size="md", elem_classes="quiet-button")
        edits = editor.build()
        saving, edit_notice = busy.build("save"), view("editor-notice")
        with gr.Accordion("System prompt", open=False, elem_classes="fold", elem_id="see-system-fold"):
            system = gr.Textbox(label="System prompt", lines=2, elem_id="see-system",
                                info="Put before every example that has none of its own.")  # fmt: skip
        with gr.Accordion("All examples", open=False, elem_classes="fold", elem_id="all-examples"):
            rows = view("rows", picks=True)
        view("", markup.step(3, "What is wrong", "Rows that were left out, and rows that want a second look."))
        verdict = view("verdict", picks=True)
        leave = gr.Button("Leave these out", elem_id="leave-out", size="md")
        leaving, found_notice = busy.build("leave"), view("findings-notice")
        found = view("findings", picks=True)
        view("", markup.step(4, "How long", "What the maximum length keeps, and what it cuts."))
        length = gr.Slider(8, _LEAST_REACH, value=1024, step=8, label="Maximum length in tokens", elem_id="see-length")
        lengths = view("lengths")
    return Steps(
        subject=gr.State(""),
        looked=gr.State(_ALL),
        measured=gr.State(None),
        reach=gr.State(_LEAST_REACH),
        row=row,
        model=model,
        how=[template, own, system, on, length],
        seen=seen,
        edit=edit,
        editor=edits,
        edit_notice=edit_notice,
        saving=saving,
        rows=rows,
        verdict=verdict,
        found=found,
        leave=leave,
        found_notice=found_notice,
        leaving=leaving,
        length=length,
        lengths=lengths,
    )


def _choices(name: str) -> list[str]:
    return list(find_field(name).choices)


def hidden(steps: Steps) -> Updates:
    """Nothing to see yet."""
    return {steps.subject: "", steps.measured: None}


def shown(studio: Studio, steps: Steps, key: str, total: int) -> Updates:
    """All steps of a dataset or checked file with `total` examples, from the first on; its tokens follow by
    themselves."""
    return {
        steps.subject: key,
        steps.looked: _ALL,
        steps.measured: None,
        steps.row: 1,
        steps.editor: "",
        steps.edit_notice: "",
        steps.rows: data_view.rows(studio, key, total, 0),
        **_findings(studio, steps, key, "", 0, None, "", {}),
        steps.found_notice: "",
        steps.lengths: markup.doing("Counting tokens"),
    }


def models_here(studio: Studio, picked: str | None) -> Any:
    """An update of the choice of models: `picked` if it is still here, else the first."""
    options = [item.id for item in models.list_models(studio)]
    return gr.update(choices=options, value=picked if picked in options else next(iter(options), None))


def wire(
    studio: Studio, steps: Steps, held: gr.State, show: Callable[[str, str], Updates], whole: Sequence[Any]
) -> None:
    """What happens in these steps. held: the check that waits to be added; show: the tab's updates for a new version
    and such a check; whole: the parts they update.
    """
    wanted: OrderedDict[str, str] = OrderedDict()  # what each session wants counted now; older counting ends itself

    def want(session: str, wish: str) -> None:
        wanted[session] = wish
        wanted.move_to_end(session)
        if len(wanted) > _SESSIONS:
            wanted.popitem(last=False)

    def see(request: gr.Request, key: str, picked: str | None, which: float | None, *how: Any) -> Updates:
        values = shaping(*how)
        want(str(request.session_hash), _wish(key, picked, values))
        if not key or not picked:
            return {steps.seen: "" if not key else markup.note(_NO_MODEL)}
        return {
            steps.seen: tokens.strip(examples.see(studio, key, int(which or 1), picked, values), values["max_length"])
        }

    def measure(request: gr.Request, key: str, picked: str | None, *how: Any) -> Iterator[Updates]:
        """Counts all tokens, saying how far it is, until something else is wanted."""
        session, values = str(request.session_hash), shaping(*how)
        wish = _wish(key, picked, values)
        if not key or not picked:
            yield {steps.lengths: "" if not key else markup.note(_NO_MODEL)}
            return
        want(session, wish)
        result: LengthView | None = None
        job = examples.measuring(studio, key, picked, values)
        try:
            while wanted.get(session, wish) == wish:
                at = next(job)
                yield {steps.lengths: markup.doing(at.doing, at.done, at.of)}
        except StopIteration as end:
            result = end.value
        finally:
            job.close()
        if result is None:
            return
        yield {steps.lengths: lengths_view.show(result), steps.measured: result, steps.reach: _reach(result)}

    def turn(event: gr.EventData, looked: tuple[str, int]) -> Updates:
        """Another page or kind of findings, which `judge` then draws, or one of them as tokens."""
        if "row" in event._data:
            return {steps.row: int(event.row)}
        kind = event.kind if "kind" in event._data else looked[0]
        return {steps.looked: (kind, int(event.offset) if "offset" in event._data else 0)}

    def judge(key: str, picked: str | None, looked: tuple[str, int], result: LengthView | None, *how: Any) -> Updates:
        """What was found, of the kind that is looked at, with what the counting has added to it by now."""
        if not key:
            return {steps.found: gr.skip()}
        return _findings(studio, steps, key, *looked, result, picked, shaping(*how))

    def leave_out(
        request: gr.Request,
        waits: str,
        key: str,
        picked: str | None,
        looked: tuple[str, int],
        result: LengthView | None,
        *how: Any,
    ) -> Iterator[Updates]:
        kind = looked[0]

        def job() -> Generator[Progress, None, DatasetInfo]:
            places: list[int] = []
            if kind in _OF_LENGTH and result is not None:
                lengths = (str(picked), shaping(*how))
                many = result.counts_by_kind[kind]
                every = examples.findings(studio, key, findings_view.kinds(kind), 0, many, lengths=lengths)
                places = [found.example for found in every.items]
            return (yield from datasets.excluding(studio, key, kinds=findings_view.kinds(kind), examples=places))

        yield {steps.found_notice: ""}
        made = yield from steps.leaving.follow(request, _REVISING, job())
        yield {**show(made.id, waits), steps.found_notice: editor.saved(made.name, made.changes)}

    def open_editor(key: str, which: float | None) -> Updates:
        number = int(which or 1)
        return {steps.editor: editor.form(number, datasets.as_values(studio, key, number))}

    def save(request: gr.Request, event: gr.EventData, waits: str, key: str) -> Iterator[Updates]:
        if "save" not in event._data:
            yield {steps.editor: ""}
            return
        number = int(event.save)
        yield {steps.edit_notice: ""}
        job = datasets.editing(studio, key, number, editor.typed(str(event.typed)))
        made = yield from steps.saving.follow(request, _REVISING, job)
        said = editor.saved(made.name, made.changes)
        if made.id == key:
            said = markup.note("Nothing was changed, so there is no new version.")
        yield {**show(made.id, waits), steps.row: number, steps.edit_notice: said}

    def leaf(event: gr.EventData, key: str) -> Updates:
        """Another page of examples, or one of them as tokens."""
        if "row" in event._data:
            return {steps.row: int(event.row)}
        total = _total(studio, key)
        return {steps.rows: data_view.rows(studio, key, total, int(event.offset))}

    quiet: Step = {"show_progress": "hidden", "queue": False, "api_visibility": PRIVATE}
    slow: Step = {"show_progress": "hidden", "api_visibility": PRIVATE, "concurrency_limit": 4}
    template, own, system, on, length = steps.how
    reshaped = [
        steps.subject.change,
        steps.model.change,
        template.input,
        own.blur,
        system.blur,
        on.input,
        length.change,
    ]
    gr.on(
        [*reshaped, steps.row.change],
        told(steps.seen, see),
        [steps.subject, steps.model, steps.row, *steps.how],
        steps.seen,
        trigger_mode="always_last",
        **QUEUED,
    )
    doubts = [steps.verdict, steps.found, steps.leave]
    counted = [steps.subject, steps.model, *steps.how]
    lengths = [steps.lengths, steps.measured, steps.reach]
    about = [steps.subject, steps.model, steps.looked, steps.measured, *steps.how]
    gr.on(reshaped, told_while(steps.lengths, measure, {}), counted, lengths, trigger_mode="always_last", **slow)
    gr.on(
        [steps.verdict.click, steps.found.click],
        told(steps.found_notice, turn),
        steps.looked,
        [steps.found_notice, steps.row, steps.looked],
        **QUEUED,
    )
    # One handler alone draws them, so that an answer made before a kind was chosen cannot come after the choice's own.
    gr.on(
        [steps.looked.change, steps.measured.change],
        told(steps.found_notice, judge, clear=False),
        about,
        [steps.found_notice, *doubts],
        trigger_mode="always_last",
        **QUEUED,
    )
    # Apart from the counting: an update of a slider that is not drawn yet would empty it.
    steps.reach.change(lambda far: gr.update(maximum=far), steps.reach, length, **quiet)
    steps.leave.click(
        told_while(steps.found_notice, leave_out, steps.leaving.idle),
        [held, *about],
        [steps.leaving.said, *whole],
        **slow,
    )
    steps.edit.click(
        told(steps.edit_notice, open_editor), [steps.subject, steps.row], [steps.edit_notice, steps.editor], **quiet
    )
    steps.editor.click(
        told_while(steps.edit_notice, save, steps.saving.idle),
        [held, steps.subject],
        [steps.saving.said, *whole],
        **slow,
    )
    steps.rows.click(
        told(steps.found_notice, leaf), steps.subject, [steps.found_notice, steps.rows, steps.row], **quiet
    )


def shaping(template: str, own: str, system: str, on: str, length: float) -> dict[str, Any]:
    """The recipe's values that shape what the model sees."""
    return {
        "template": template,
        "custom_template": own if template == "custom" else "",
        "system_prompt": system or "",
        "train_on": on,
        "max_length": int(length),
    }


def _wish(key: str, picked: str | None, values: Mapping[str, Any]) -> str:
    """What is to be counted; max_length is no part of it, since the counts are the same."""
    return f"{key} {picked} {sorted((name, value) for name, value in values.items() if name != 'max_length')}"


def _reach(result: LengthView) -> int:
    """How far the slider goes: to the longest example, and never less than what is set."""
    return max(_LEAST_REACH, result.max_length, -(-result.tokens["max"] // 64) * 64)


def _total(studio: Studio, key: str) -> int:
    checked = data_view.check_of(studio, key)
    return checked.report.ok if checked else datasets.get(studio, key).rows


def _leave(added: bool, kind: str, counts: Mapping[str, int]) -> str:
    """What the button says that leaves rows of a kind out; only kept rows of a dataset can be, for others nothing."""
    kept = bool(kind) and (not findings_view.fault(kind).left_out or kind in _OF_LENGTH)
    number = counts.get(kind, 0)
    if not added or not kept or not number:
        return ""
    return f"Leave these {number:,} out" if number > 1 else "Leave this one out"


def _counts(studio: Studio, key: str) -> dict[str, int]:
    checked = data_view.check_of(studio, key)
    return dict(checked.report.counts) if checked else datasets.get(studio, key).findings


def _findings(
    studio: Studio,
    steps: Steps,
    key: str,
    kind: str,
    offset: int,
    result: LengthView | None,
    picked: str | None,
    values: Mapping[str, Any],
) -> Updates:
    """Step three: from the file alone until the lengths are counted, then from both."""
    checked = data_view.check_of(studio, key)
    counts = result.counts_by_kind if result else _counts(studio, key)
    kind = kind if counts.get(kind) else ""
    lengths = (str(picked), values) if result and picked else None
    page = examples.findings(studio, key, findings_view.kinds(kind), offset, findings_view.PAGE, lengths=lengths)
    if result:
        mark, text = result.verdict.mark, result.verdict.text
    elif checked:
        verdict = datasets.judged(checked)
        mark, text = verdict.mark, verdict.text
    else:
        info = datasets.get(studio, key)
        mark, text = info.mark, info.verdict
    leave = _leave(checked is None, kind, counts)
    return {
        steps.verdict: findings_view.verdict(mark, text, leaves=bool(leave))
        + findings_view.filters(counts, kind)
        + findings_view.downloads(key, findings_view.left_out(counts)),
        steps.found: findings_view.table(page, offset),
        steps.leave: leave or gr.skip(),
    }
