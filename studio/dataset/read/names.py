"""Names that people give to columns and to splits."""

from studio.dataset.read.accounting import MEANINGFUL

# Names of columns, in lower case: a file that uses them names its columns.
COLUMNS = MEANINGFUL | frozenset(
    {
        "instruction", "instructions", "input", "inputs", "outputs", "prompt", "prompts", "question", "questions",
        "answers", "query", "request", "reply", "target", "source", "src", "tgt", "text", "content", "body", "title",
        "subject", "summary", "article", "document", "passage", "sentence", "translation", "message", "conversation",
        "dialog", "dialogue", "role", "user", "human", "assistant", "bot", "gpt", "from", "value", "type", "category",
        "class", "topic", "tag", "tags", "id", "key", "index", "row", "no", "number", "name", "date", "time",
        "timestamp", "created", "language", "lang", "url", "link", "file", "filename", "path", "author", "rating",
        "stars", "review", "comment", "note", "notes", "description", "problem", "solution", "rationale",
        "explanation", "code", "word", "term", "definition", "en", "de", "fr", "es", "it", "zh", "q", "a",
    }
)  # fmt: skip
_TRAIN = ("train", "training")
_HELD_OUT = ("test", "testing", "validation", "valid", "val", "eval", "evaluation", "dev", "heldout", "held_out")


def is_train(split: str) -> bool:
    """Whether a split of this name is trained on: train, training, train_sft."""
    return _begins(split, _TRAIN)


def is_held_out(split: str) -> bool:
    """Whether a split of this name is held out of training: test, validation, dev, test_sft."""
    return _begins(split, _HELD_OUT)


def _begins(split: str, names: tuple[str, ...]) -> bool:
    word = split.lower()
    return any(word == name or word.startswith((f"{name}_", f"{name}-", f"{name}.")) for name in names)


def and_list(items: list[str]) -> str:
    """Join texts for people: a, b and c."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def column_name(place: int) -> str:
    """The name of a column that has none. place: from 1."""
    return f"column {place}"
