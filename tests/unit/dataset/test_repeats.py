"""Rows that repeat each other, and what a split does with them."""

from studio.dataset.record import Record
from studio.dataset.repeats import Repeats
from studio.dataset.split import held_out_rows

STORY = "The quick brown fox jumps over the lazy dog near the old stone bridge while the sun sets behind the hills"
WORDS = f"{STORY} and the river carries its cold water slowly down to the far grey sea below".split()


def record(question: str, answer: str = "Yes.", row: int = 1, group: int = 0) -> Record:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Record(row, messages, group=group)


def test_exact_and_near_repeats_are_told_apart() -> None:
    repeats = Repeats()
    told = [
        repeats.add(record(text))
        for text in (" ".join(WORDS), "Something else entirely, about cats.", " ".join(WORDS), " ".join(WORDS[:-1]))
    ]
    assert told == [None, None, (0, True), (0, False)]
    assert repeats.groups() == [0, 1, 0, 0]


def test_questions_that_differ_in_a_number_are_different_examples() -> None:
    repeats = Repeats()
    for n in range(40):
        assert repeats.add(record(f"What is the sum of {n} and {n + 1}, and is it even?", str(2 * n + 1))) is None


def test_a_shared_instruction_does_not_make_rows_alike() -> None:
    repeats = Repeats()
    for message in ("My order is late.", "The app crashes on start."):
        messages = [{"role": "user", "content": f"{STORY}\n\n{message}"}, {"role": "assistant", "content": "{}"}]
        assert repeats.add(Record(1, messages, instruction=STORY, input=message)) is None


def test_the_same_words_by_another_speaker_are_not_the_same() -> None:
    repeats = Repeats()
    assert repeats.add(record("a", "b")) is None
    assert repeats.add(record("ab", "")) is None


def test_beyond_the_limit_only_exact_repeats_are_found() -> None:
    repeats = Repeats(most_near=1)
    assert repeats.add(record(" ".join(WORDS))) is None
    assert repeats.add(record(" ".join(WORDS[:-1]))) is None
    assert repeats.add(record(" ".join(WORDS))) == (0, True)


def test_a_split_never_parts_a_group() -> None:
    records = [record(f"q{n}", row=n + 1, group=n % 20 + 1) for n in range(80)]
    for seed in range(5):
        out = held_out_rows(records, 0.25, seed)
        assert len(out) == 20
        inside = {item.group for item in records if item.row not in out}
        assert not {item.group for item in records if item.row in out} & inside
    assert held_out_rows(records, 0.25, 1) != held_out_rows(records, 0.25, 2)


def test_a_split_is_the_same_each_time_and_keeps_equal_rows_together() -> None:
    records = [record(f"q{n % 40}", row=n + 1) for n in range(80)]
    out = held_out_rows(records, 0.25, seed=3)
    assert out == held_out_rows(records, 0.25, seed=3) != held_out_rows(records, 0.25, seed=4)
    assert len(out) == 20
    content = {row: records[row - 1].messages[0]["content"] for row in out}
    inside = {item.messages[0]["content"] for item in records if item.row not in out}
    assert not set(content.values()) & inside
