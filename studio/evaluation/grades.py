"""Grade of a single answer: a mark and a few words."""

from typing import Literal

from studio.evaluation import rules
from studio.evaluation.prompts import Prompt

Shape = Literal["good", "warn", "bad"]


def mark_of(prompt: Prompt, answer: str) -> tuple[Shape, str] | None:
    """Mark of an answer by its check or its reference; None when there is neither."""
    if prompt.check is not None:
        return ("good", "as expected") if rules.met(prompt.check, answer) else ("bad", "not as expected")
    if not prompt.reference:
        return None
    wanted = rules.json_object(prompt.reference)
    if wanted is None:
        return ("good", "the same") if rules.exact(answer, prompt.reference) else ("warn", "differs")
    if not rules.same_keys(answer, set(wanted)):
        return "bad", "wrong form"
    right = round(len(wanted) * rules.values_share(answer, wanted))
    words = f"right form, {right} of {len(wanted)} values"
    return ("good", words) if right == len(wanted) else ("warn", words)
