"""Evaluate models against their base: `python -m studio.engine.workers.evaluate EVALUATION_DIR --nonce X`.

evaluation.json and prompts.jsonl hold the request (studio/evaluation/files.py). Columns that can share a generate call
answer a prompt in one batch, greedily. Every column's loss is over the same tokens: those of the dataset's held-out
rows, encoded and cut as the recipe of the first adapted column does for training. A result is written complete or not
at all. This worker does not decide when to start, and asks no judge.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from studio.dataset.record import Record
from studio.dataset.split import held_out_rows
from studio.dataset.store import read_records
from studio.dataset.tokens.encode import Encoder, Example, Refused
from studio.engine.inference import loading
from studio.engine.inference.adapter_slots import AdapterSlots
from studio.engine.inference.batch_eval import Ask, Asker
from studio.engine.inference.libraries import import_for_answers
from studio.engine.workers import harness
from studio.engine.workers.harness import Ended, Worker
from studio.evaluation import files, scores
from studio.evaluation.files import Column, Order, PromptSet
from studio.evaluation.prompts import Prompt
from studio.evaluation.scores import BASE, Row, SetScores
from studio.recipe.fields import Data
from studio.rundir import Exit

NOTHING = "Cancelled: nothing of this evaluation is kept."
PLAIN_TOKENS = 256  # limit of an answer when no reference shows how long it should be
MOST_TOKENS = 512


def main() -> int:
    return harness.serve("Evaluate adapters against their base.", evaluate)


def evaluate(work: Worker) -> Exit:
    """Run the evaluation requested in the directory."""
    order = Order.read(work.run.path)
    work.phase("Preparing the prompts")
    encoders = {column.name: Encoder(Path(order.model_folder), _data(column)) for column in order.columns}
    leading = order.columns[1]
    held_out = read_held_out(order)
    examples = encode(held_out, encoders[leading.name], _data(leading).max_length)
    prompts = files.read_prompts(work.run.path)
    work.phase("Loading the libraries")
    asker = open_models(work, order, encoders[leading.name])
    asks = prepare(order, encoders, prompts, {record.row: record for record in held_out})
    work.state("running")
    losses = asker.losses(examples, _reporter(work, "Measuring the loss", len(examples)))
    answers = asker.answers(asks, _reporter(work, "Answering", len(asks)))
    work.phase("Scoring")
    rows = []
    for place, (name, prompt) in enumerate(prompts):
        column_answers = {column.name: answers[place, column.name] for column in order.columns}
        texts = {column: text for column, (text, _) in column_answers.items()}
        rows.append(Row(name, prompt, texts, {column: end for column, (_, end) in column_answers.items()}))
    set_scores = score(order, rows, losses, lambda: leave_if_asked(work))
    files.write_result(work.run.path, rows, set_scores)
    return Exit("completed", _summary(set_scores, leading.name), cause="finished")


def open_models(work: Worker, order: Order, encoder: Encoder) -> Asker:
    """Load the base and the models trained on it."""
    import_for_answers()
    loading.quiet_libraries()
    device = loading.pick_device()
    work.identify(device.words)
    leave_if_asked(work)
    folders = {column.name: Path(column.folder) for column in order.columns if column.name != BASE}
    slots = AdapterSlots(Path(order.model_folder), order.dtype, device, work.phase)
    for name, folder in folders.items():
        leave_if_asked(work)
        slots.load(name, folder)
    leave_if_asked(work)
    return Asker(slots, [column.name for column in order.columns], device, order.dtype, encoder, lambda: _asked(work))


def read_held_out(order: Order) -> list[Record]:
    """Read the held-out rows that the order names, with the trainer's split."""
    if not order.rows:
        return []
    numbers = set(order.rows)
    records = read_records(Path(order.dataset_folder))
    out = held_out_rows(records, _data(order.columns[1]).held_out, order.seed)
    return [record for record in records if record.row in numbers and (record.held_out or record.row in out)]


def encode(records: Sequence[Record], encoder: Encoder, max_length: int) -> list[Example]:
    """Encode held-out rows as the trainer does, cut to `max_length`; rows without a trained token are left out."""
    wholes = encoder.encode(records, Refused())
    return [whole.cut(max_length) for whole in wholes if any(begin < max_length for begin, _ in whole.spans)]


def prepare(
    order: Order,
    encoders: Mapping[str, Encoder],
    prompts: Sequence[tuple[str, Prompt]],
    records: Mapping[int, Record],
) -> list[Ask]:
    """Encode the prompts. With a plain template, a held-out row is formatted as in training, with its own fields."""
    longest = {
        prompt_set.name: prompt_set.tokens or _longest(encoders[BASE], prompt_set, prompts) for prompt_set in order.sets
    }
    asks = []
    for place, (name, prompt) in enumerate(prompts):
        ids = {}
        for column in order.columns:
            record = records.get(prompt.row) if prompt.row else None
            ids[column.name] = _ids(encoders[column.name], _data(column), prompt, record)
        asks.append(Ask(place, ids, longest[name]))
    return asks


def _ids(encoder: Encoder, data: Data, prompt: Prompt, record: Record | None) -> list[int]:
    plain = data.template != "chat" and not data.own_chat_template
    if record is not None and plain and data.train_on != "everything":
        whole = encoder.encode([record])[0]
        if whole.spans:
            return whole.input_ids[: whole.spans[-1][0]]
    return encoder.prompt_ids([dict(turn) for turn in prompt.messages], prompt.tools)


def _longest(encoder: Encoder, prompt_set: PromptSet, prompts: Sequence[tuple[str, Prompt]]) -> int:
    """Token limit of an answer: 1.5 times the longest reference plus 8, at most MOST_TOKENS."""
    texts = [prompt.reference for name, prompt in prompts if name == prompt_set.name and prompt.reference]
    if not texts:
        return PLAIN_TOKENS
    most = max(len(encoding.ids) for encoding in encoder.tokenizer.encode_batch(texts, add_special_tokens=False))
    return min(MOST_TOKENS, most + most // 2 + 8)


def score(
    order: Order, rows: Sequence[Row], losses: Mapping[str, list[tuple[float, int]]], between: Callable[[], None]
) -> list[SetScores]:
    """Score each prompt set; the losses belong to the held-out set."""
    scored = []
    for prompt_set in order.sets:
        between()
        set_rows = [row for row in rows if row.set == prompt_set.name]
        set_losses = losses if prompt_set.kind == "held-out" else {}
        scored.append(scores.score_set(prompt_set.name, prompt_set.title, prompt_set.kind, set_rows, set_losses))
    return scored


def leave_if_asked(work: Worker) -> None:
    """End the work if a cancel or stop was requested. The request file stays, as its time is shown."""
    if _asked(work):
        work.state("stopping")
        raise Ended(Exit("stopped", NOTHING, cause="cancelled"))


def _asked(work: Worker) -> bool:
    work.progressed_now()
    return work.terminated or work.run.asked("cancel") or work.run.asked("stop")


def _reporter(work: Worker, what: str, of: int) -> Callable[[int], None]:
    def report(done: int) -> None:
        leave_if_asked(work)
        work.progress(what, done, of)

    return report


def _data(column: Column) -> Data:
    return Data.model_validate(column.data)


def _summary(scored: Sequence[SetScores], column: str) -> str:
    return " ".join(f"{item.title}: {item.sentences[column]}" for item in scored if column in item.sentences)


if __name__ == "__main__":
    raise SystemExit(main())
