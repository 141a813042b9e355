"""Steps two to four of the Data tab: what the model sees, findings (findings.py), lengths.

They share one model, one template and one max_length. The tokens of one example are shown immediately; counting all of
them may take a while and shows its progress.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from studio.recipe import find_field
from studio.services.core.studio import Studio
from studio.services.data import datasets, examples
from studio.services.data.examples import LengthView
from studio.services.models import models
from studio.ui.data import findings, lengths_view
from studio.ui.data import view as data_view
from studio.ui.data.findings import Findings
from studio.ui.parts import busy, editor, markup, tokens
from studio.ui.parts.busy import Busy
from studio.ui.parts.handlers import PRIVATE, QUEUED, Step, Updates, view, with_notice, with_notice_while

_LEAST_REACH = 1024  # tokens: the slider's maximum is at least this
_SESSIONS = 256
# The settings that change the examples themselves, each with what it does.
SHAPES = {
    "per_answer": "For conversations with thinking or many turns: each answer is trained as it is asked for.",
    "fold_system": "For templates without a system role.",
    "split_texts": "A text longer than the maximum length becomes several examples.",
}
_TEMPLATE = "{instruction}\n\n{input}\n\nAnswer:\n{output}"
_NO_MODEL = "There is no model yet whose tokenizer could be used. Add one under Train."


@dataclass(frozen=True)
class Steps:
    """The components.

    subject: the key of what they show, "" for nothing; a change of it requests tokens and lengths. measured: the
    lengths counted last; reach: the slider's maximum.
    """

    subject: gr.State
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
    wrong: Findings
    length: gr.Slider
    lengths: gr.HTML

    @property
    def parts(self) -> list[Any]:
        return [
            *(self.subject, self.measured, self.row, self.model, self.seen, self.editor, self.edit_notice, self.rows),
            *self.wrong.parts,
            self.lengths,
        ]


def build() -> Steps:
    with gr.Column(elem_id="data-steps"):
        view(
            "", markup.step(2, "What the model sees", "One example as tokens. Only the underlined tokens are learned.")
        )
        with gr.Row(elem_classes="fields", elem_id="see-controls"):
            row = gr.Number(1, label="Example", precision=0, minimum=1, min_width=70, elem_id="see-row")
            model = gr.Dropdown([], label="Model", min_width=150, elem_id="see-model", filterable=False)
            template = gr.Radio(_choices("template"), value="chat", label="Template", elem_id="see-template")
            on = gr.Radio(_choices("train_on"), value="completions", label="Train on", elem_id="see-train-on")
        own = gr.Textbox(_TEMPLATE, label="Custom template", lines=5, elem_id="see-custom",
                         info="Text with {output} exactly once, where the answer goes; or a chat template in Jinja. "
                         "The tokens are updated when you leave the field.")  # fmt: skip
        with gr.Row(elem_classes="fields three", elem_id="see-shape"):
            shape = [_switch(name) for name in SHAPES]
        seen = view("token-view")
        edit = gr.Button("Edit this example", elem_id="edit-example", size="md", elem_classes="quiet-button")
        edits = editor.build()
        saving, edit_notice = busy.build("save"), view("editor-notice")
        with gr.Accordion("System prompt", open=False, elem_classes="fold", elem_id="see-system-fold"):
            system = gr.Textbox(label="System prompt", lines=2, elem_id="see-system",
                                info="Added to every example that has no system prompt.")  # fmt: skip
        with gr.Accordion("All examples", open=False, elem_classes="fold", elem_id="all-examples"):
            rows = view("rows", picks=True)
        wrong = findings.build()
        view("", markup.step(4, "How long", "What the maximum length keeps and what it cuts."))
        length = gr.Slider(8, _LEAST_REACH, value=1024, step=8, label="Maximum length in tokens", elem_id="see-length")
        lengths = view("lengths", picks=True)
    return Steps(
        subject=gr.State(""),
        measured=gr.State(None),
        reach=gr.State(_LEAST_REACH),
        row=row,
        model=model,
        how=[template, own, system, on, length, *shape],
        seen=seen,
        edit=edit,
        editor=edits,
        edit_notice=edit_notice,
        saving=saving,
        rows=rows,
        wrong=wrong,
        length=length,
        lengths=lengths,
    )


def _switch(name: str) -> gr.Checkbox:
    field = find_field(name)
    return gr.Checkbox(False, label=field.label, info=SHAPES[name], elem_id=f"see-{name.replace('_', '-')}")


def _choices(name: str) -> list[str]:
    return list(find_field(name).choices)


def hidden(steps: Steps) -> Updates:
    """The updates that show nothing."""
    return {steps.subject: "", steps.measured: None}


def shown(studio: Studio, steps: Steps, key: str, total: int) -> Updates:
    """All steps of a dataset or checked file with `total` examples, from the first example; its tokens follow in a
    separate event.
    """
    return {
        steps.subject: key,
        steps.measured: None,
        steps.row: 1,
        steps.editor: "",
        steps.edit_notice: "",
        steps.rows: data_view.rows(studio, key, total, 0),
        **findings.shown(studio, steps.wrong, key),
        steps.lengths: markup.doing("Counting tokens"),
    }


def models_here(studio: Studio, picked: str | None) -> Any:
    """An update of the model dropdown: `picked` if it still exists, else the first."""
    options = [item.id for item in models.list_models(studio)]
    return gr.update(choices=options, value=picked if picked in options else next(iter(options), None))


def wire(
    studio: Studio, steps: Steps, held: gr.State, show: Callable[[str, str], Updates], whole: Sequence[Any]
) -> None:
    """Wire the events of these steps.

    held: the check waiting to be added; show: the tab's updates for a new version and such a check; whole: the
    components they update.
    """
    requested: OrderedDict[str, str] = OrderedDict()  # what each session wants counted now; older counts stop

    def want(session: str, request_key: str) -> None:
        requested[session] = request_key
        requested.move_to_end(session)
        if len(requested) > _SESSIONS:
            requested.popitem(last=False)

    def see(request: gr.Request, key: str, picked: str | None, which: float | None, *how: Any) -> Updates:
        values = data_view.shaping(*how)
        want(str(request.session_hash), _wish(key, picked, values))
        if not key or not picked:
            return {steps.seen: "" if not key else markup.note(_NO_MODEL)}
        return {
            steps.seen: tokens.strip(
                examples.tokens_of(studio, key, int(which or 1), picked, values), values["max_length"]
            )
        }

    def measure(request: gr.Request, key: str, picked: str | None, *how: Any) -> Iterator[Updates]:
        """Count all tokens with progress, until something else is requested."""
        session, values = str(request.session_hash), data_view.shaping(*how)
        request_key = _wish(key, picked, values)
        if not key or not picked:
            yield {steps.lengths: "" if not key else markup.note(_NO_MODEL)}
            return
        total = _total(studio, key)
        want(session, request_key)
        result: LengthView | None = None
        job = examples.measuring(studio, key, picked, values)
        try:
            while requested.get(session, request_key) == request_key:
                progress = next(job)
                yield {steps.lengths: markup.doing(progress.doing, progress.done, progress.of)}
        except StopIteration as end:
            result = end.value
        finally:
            job.close()
        if result is None:
            return
        yield {
            steps.lengths: lengths_view.show(result, total, values),
            steps.measured: result,
            steps.reach: _reach(result),
        }

    def open_editor(key: str, which: float | None) -> Updates:
        number = int(which or 1)
        return {steps.editor: editor.form(number, datasets.as_values(studio, key, number))}

    def save(request: gr.Request, event: gr.EventData, pending: str, key: str) -> Iterator[Updates]:
        if not hasattr(event, "save"):
            yield {steps.editor: ""}
            return
        number = int(event.save)
        yield {steps.edit_notice: ""}
        values = editor.typed(str(event.typed), datasets.as_values(studio, key, number))
        job = datasets.editing(studio, key, number, values)
        version = yield from steps.saving.follow(request, editor.REVISING, job)
        message = editor.saved(version.name, version.changes)
        if version.id == key:
            message = markup.note("Nothing was changed, so no new version was made.")
        yield {**show(version.id, pending), steps.row: number, steps.edit_notice: message}

    def turn_on(event: gr.EventData) -> list[Any]:
        """The fix of a remark where it is one of the switches."""
        return [True if name == getattr(event, "setting", "") else gr.skip() for name in SHAPES]

    def leaf(event: gr.EventData, key: str) -> Updates:
        """Another page of examples, or one of them as tokens."""
        if hasattr(event, "row"):
            return {steps.row: int(event.row)}
        total = _total(studio, key)
        return {steps.rows: data_view.rows(studio, key, total, int(event.offset))}

    quiet: Step = {"show_progress": "hidden", "queue": False, "api_visibility": PRIVATE}
    slow: Step = {"show_progress": "hidden", "api_visibility": PRIVATE, "concurrency_limit": 4}
    template, own, system, on, length, *shape = steps.how
    reshaped = [
        steps.subject.change,
        steps.model.change,
        template.input,
        own.blur,
        system.blur,
        on.input,
        length.change,
        *(switch.change for switch in shape),
    ]
    gr.on(
        [*reshaped, steps.row.change],
        with_notice(studio, steps.seen, see),
        [steps.subject, steps.model, steps.row, *steps.how],
        steps.seen,
        trigger_mode="always_last",
        **QUEUED,
    )
    counted = [steps.subject, steps.model, *steps.how]
    lengths = [steps.lengths, steps.measured, steps.reach]
    asked = [steps.subject, steps.model, steps.measured, *steps.how]
    findings.wire(studio, steps.wrong, asked, steps.measured, steps.row, held, show, whole)
    gr.on(
        reshaped,
        with_notice_while(studio, steps.lengths, measure, {}),
        counted,
        lengths,
        trigger_mode="always_last",
        **slow,
    )
    # Separate from the counting: an update of a slider that is not drawn yet would empty it.
    steps.reach.change(lambda far: gr.update(maximum=far), steps.reach, length, **quiet)
    steps.lengths.click(turn_on, None, shape, **quiet)
    steps.edit.click(
        with_notice(studio, steps.edit_notice, open_editor),
        [steps.subject, steps.row],
        [steps.edit_notice, steps.editor],
        **quiet,
    )
    steps.editor.click(
        with_notice_while(studio, steps.edit_notice, save, steps.saving.idle),
        [held, steps.subject],
        [steps.saving.said, *whole],
        **slow,
    )
    steps.rows.click(
        with_notice(studio, steps.wrong.notice, leaf),
        steps.subject,
        [steps.wrong.notice, steps.rows, steps.row],
        **quiet,
    )


def _wish(key: str, picked: str | None, values: Mapping[str, Any]) -> str:
    """Identifies what to count; max_length is not part of it, because the counts do not depend on it."""
    return f"{key} {picked} {sorted((name, value) for name, value in values.items() if name != 'max_length')}"


def _reach(result: LengthView) -> int:
    """The slider's maximum: the longest example, and at least the current value."""
    return max(_LEAST_REACH, result.max_length, -(-result.tokens["max"] // 64) * 64)


def _total(studio: Studio, key: str) -> int:
    checked = data_view.check_of(studio, key)
    return checked.report.ok if checked else datasets.get(studio, key).rows
