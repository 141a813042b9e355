"""Evaluates models against their base: `python -m studio.engine.workers.evaluate EVALUATION_DIR --nonce X`.

evaluation.json and prompts.jsonl say what (studio/evaluation/files.py). Columns that can share a generate call answer
a prompt in one batch, greedily. The loss of each column is over the very same tokens: those of the dataset's held-out
rows as the first adapted column's recipe encodes and cuts them for training. What it does not do: decide when to start,
ask a judge, or keep half a result.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from studio.dataset.read.formats import Record
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
PLAIN_TOKENS = 256  # the longest answer where no reference tells how long one is
MOST_TOKENS = 512


def main() -> int:
    return harness.serve("Evaluate adapters against their base.", evaluate)


def evaluate(work: Worker) -> Exit:
    """Do what the directory's order says."""
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
    losses = asker.losses(examples, _telling(work, "Measuring the loss", len(examples)))
    answers = asker.answers(asks, _telling(work, "Answering", len(asks)))
    work.phase("Scoring")
    rows = []
    for place, (name, prompt) in enumerate(prompts):
        mine = {column.name: answers[place, column.name] for column in order.columns}
        texts = {column: text for column, (text, _) in mine.items()}
        rows.append(Row(name, prompt, texts, {column: end for column, (_, end) in mine.items()}))
    found = score(order, rows, losses, lambda: leave_if_asked(work))
    files.write_result(work.run.path, rows, found)
    return Exit("completed", _words(found, leading.name), cause="finished")


def open_models(work: Worker, order: Order, encoder: Encoder) -> Asker:
    """Load the base and what was trained on it."""
    import_for_answers()
    loading.quiet_libraries()
    device = loading.pick_device()
    work.identify(device.words)
    leave_if_asked(work)
    folders = {column.name: Path(column.folder) for column in order.columns if column.name != BASE}
    seats = AdapterSlots(Path(order.model_folder), order.dtype, device, work.phase)
    for name, folder in folders.items():
        leave_if_asked(work)
        seats.load(name, folder)
    leave_if_asked(work)
    return Asker(seats, [column.name for column in order.columns], device, order.dtype, encoder, lambda: _asked(work))


def read_held_out(order: Order) -> list[Record]:
    """The dataset's held-out rows that the order names, as the trainer splits it."""
    if not order.rows:
        return []
    wanted = set(order.rows)
    records = read_records(Path(order.dataset_folder))
    out = held_out_rows(records, _data(order.columns[1]).held_out, order.seed)
    return [record for record in records if record.row in wanted and (record.held_out or record.row in out)]


def encode(records: Sequence[Record], encoder: Encoder, max_length: int) -> list[Example]:
    """Held-out rows as the trainer measures on them: its encoding, its cut, and only those with a trained token."""
    wholes = encoder.encode(records, Refused())
    return [whole.cut(max_length) for whole in wholes if any(begin < max_length for begin, _ in whole.spans)]


def prepare(
    order: Order,
    encoders: Mapping[str, Encoder],
    prompts: Sequence[tuple[str, Prompt]],
    records: Mapping[int, Record],
) -> list[Ask]:
    """The prompts as token ids. A held-out row is put into a plain template as it was trained, with its own fields."""
    longest = {one.name: one.tokens or _longest(encoders[BASE], one, prompts) for one in order.sets}
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
    return encoder.prompt_ids([dict(turn) for turn in prompt.messages])


def _longest(encoder: Encoder, one: PromptSet, prompts: Sequence[tuple[str, Prompt]]) -> int:
    """Room for one and a half times the longest reference: an answer beyond that is none like it."""
    texts = [prompt.reference for name, prompt in prompts if name == one.name and prompt.reference]
    if not texts:
        return PLAIN_TOKENS
    most = max(len(found.ids) for found in encoder.tokenizer.encode_batch(texts, add_special_tokens=False))
    return min(MOST_TOKENS, most + most // 2 + 8)


def score(
    order: Order, rows: Sequence[Row], losses: Mapping[str, list[tuple[float, int]]], between: Callable[[], None]
) -> list[SetScores]:
    """The figures of each set; the losses belong to the held-out rows."""
    found = []
    for one in order.sets:
        between()
        mine = [row for row in rows if row.set == one.name]
        found.append(scores.score_set(one.name, one.title, one.kind, mine, losses if one.kind == "held-out" else {}))
    return found


def leave_if_asked(work: Worker) -> None:
    """End here when a cancel or stop was asked for. The wish stays, so that it is known since when."""
    if _asked(work):
        work.state("stopping")
        raise Ended(Exit("stopped", NOTHING, cause="cancelled"))


def _asked(work: Worker) -> bool:
    work.progressed_now()
    return work.terminated or work.run.asked("cancel") or work.run.asked("stop")


def _telling(work: Worker, what: str, of: int) -> Callable[[int], None]:
    def tell(done: int) -> None:
        leave_if_asked(work)
        work.progress(what, done, of)

    return tell


def _data(column: Column) -> Data:
    return Data.model_validate(column.data)


def _words(found: Sequence[SetScores], column: str) -> str:
    return " ".join(f"{one.title}: {one.sentences[column]}" for one in found if column in one.sentences)


if __name__ == "__main__":
    raise SystemExit(main())
