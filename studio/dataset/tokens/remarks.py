"""Remarks on an example: what its template or tokenizer does to it that a person should know before training."""

from dataclasses import dataclass
from enum import IntFlag


class Remark(IntFlag):
    """Flags of an example, stored as one number with its token counts."""

    TOOLS_AS_TEXT = 1
    TEXT_BESIDE_CALL = 2
    THOUGHT_AS_TEXT = 4
    THOUGHT_LEFT_OUT = 8
    END_ADDED = 16
    END_AS_TEXT = 32
    MERGED_START = 64
    DOUBLE_BOS = 128
    SYSTEM_FOLDED = 256
    NEVER_TRAINED = 512
    SYSTEM_LEFT_OUT = 1024
    PLAIN_TEXT = 2048  # not a conversation: it may be split; says nothing to people
    CALLS_AS_TEXT = 4096
    CALLS_LEFT_OUT = 8192
    THOUGHT_OPENED = 16384


NOTHING = Remark(0)


@dataclass(frozen=True, slots=True)
class Meaning:
    """A remark for people. serious: whether something may be lost or learned wrong, so that the dataset is not ready.

    kind: its name in `studio check --json`.
    """

    kind: str
    text: str
    fix: str
    serious: bool


MEANINGS: dict[Remark, Meaning] = {
    Remark.SYSTEM_LEFT_OUT: Meaning(
        "system_left_out",
        "the template leaves out the system prompt",
        "turn on System prompt in the first message",
        serious=True,
    ),
    Remark.TEXT_BESIDE_CALL: Meaning(
        "text_beside_call",
        "the template leaves out the text beside a tool call",
        "use a template that keeps it, or move the text into a message of its own",
        serious=True,
    ),
    Remark.CALLS_LEFT_OUT: Meaning(
        "calls_left_out",
        "the template writes only one of several calls in a message",
        "use a template that writes all, or put each call into a message of its own, with its result after it",
        serious=True,
    ),
    Remark.THOUGHT_LEFT_OUT: Meaning(
        "thought_left_out",
        "the template leaves out the thinking of earlier answers, as it does when the model is used",
        "turn on one example per answer, and each answer is trained with its thinking",
        serious=True,
    ),
    Remark.THOUGHT_OPENED: Meaning(
        "thought_opened",
        "the template opens the answer with <think> when the model is used, and the trained answer has no thinking",
        "add thinking to the answers, or use a template that does not open it",
        serious=True,
    ),
    Remark.MERGED_START: Meaning(
        "merged_start",
        "white space before the answer becomes one token with the end of the prompt, which the model will not see so",
        "remove the white space at the start of the answers",
        serious=True,
    ),
    Remark.DOUBLE_BOS: Meaning(
        "double_bos",
        "the text begins with two begin tokens",
        "remove the one that the file or the template writes",
        serious=True,
    ),
    Remark.END_AS_TEXT: Meaning(
        "end_as_text",
        "the template ends answers with a mark that is several tokens for this tokenizer; it is trained as text, "
        "followed by the model's end token",
        "use a template that was made for this model",
        serious=True,
    ),
    Remark.END_ADDED: Meaning(
        "end_added",
        "the template ends the answer with no end token; the model's own is added, so that it learns to stop",
        "nothing to do",
        serious=False,
    ),
    Remark.TOOLS_AS_TEXT: Meaning(
        "tools_as_text",
        "the template knows no tools; they are written as text as in Hermes and Qwen 2.5 (<tools>, <tool_call>)",
        "nothing to do, or use a base whose template knows tools",
        serious=False,
    ),
    Remark.CALLS_AS_TEXT: Meaning(
        "calls_as_text",
        "the template lists the functions but knows no calls; they are written as text, as its list asks for them "
        "(<tool_call>)",
        "nothing to do, or use a base whose template knows calls",
        serious=False,
    ),
    Remark.THOUGHT_AS_TEXT: Meaning(
        "thought_as_text",
        "the template knows no thinking; it is written as <think> before the answer",
        "nothing to do, or use a base whose template knows thinking",
        serious=False,
    ),
    Remark.SYSTEM_FOLDED: Meaning(
        "system_folded",
        "the system prompt is at the start of the first user message, as you chose",
        "nothing to do",
        serious=False,
    ),
    Remark.NEVER_TRAINED: Meaning(
        "never_trained",
        "none of its answers is to be trained: the file gives them the weight 0",
        "nothing to do",
        serious=False,
    ),
}
