"""Parity check: whether an artefact answers like the model in the chat. Figures, bounds and sentences; no torch.

Measured by engine/artefacts/parity.py: the trained model, loaded as in the chat, answers some held-out prompts
greedily. The artefact, loaded from disk by the loader that others will use, then reads the same prompts and answers. At
the last positions of each prompt and at each token of the answer two figures are computed:

    correlation   Pearson's, between the two rows of logits over the whole vocabulary, at each position
    agreement     whether the most likely next token is the same, over the positions of the answer

and for each prompt whether the artefact's own tokenizer and template give the same token ids for the same messages. An
artefact is offered when every correlation and their mean reach the bound of its kind and all token ids are equal.
Bounds are below the values measured on sound artefacts (docs/export.md) and above those of damaged ones.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Bound:
    """Minimum correlation at any position (least), and minimum of the mean over all positions (mean)."""

    least: float
    mean: float


# An adapter and a merged model compute the same as the chat, up to rounding; in float32 there is hardly any.
BOUNDS = {
    "adapter": Bound(0.99, 0.998),
    "merged": Bound(0.98, 0.995),
    "merged float32": Bound(0.98, 0.995),
    "F16": Bound(0.98, 0.995),
    "Q8_0": Bound(0.97, 0.99),
    "Q6_K": Bound(0.95, 0.98),
    "Q4_K_M": Bound(0.85, 0.95),
}
LOADERS = {
    "adapter": "peft.AutoPeftModelForCausalLM",
    "merged": "transformers.AutoModelForCausalLM",
    "gguf": "llama.cpp",
}


@dataclass(frozen=True, slots=True)
class Parity:
    """Result of a parity check.

    correlation: minimum over all positions; mean: their mean; max_abs: largest difference of two logits; agreement:
    share of the answers' positions with the same most likely token; alike: prompts with identical answers; template,
    own_template: sha256 of the template used in the chat and of the artefact's, empty for plain text; same_tokens:
    prompts with equal token ids.
    """

    kind: str
    loader: str
    prompts: int
    places: int
    tokens: int
    correlation: float
    mean: float
    max_abs: float
    agreement: float
    alike: int
    template: str
    own_template: str
    same_tokens: int
    passed: bool = False
    reason: str = ""

    @classmethod
    def read(cls, value: Mapping[str, Any] | None) -> Self | None:
        """From the content of parity.json; None if it is missing or invalid."""
        try:
            return cls(**value) if value is not None else None
        except TypeError:
            return None

    @property
    def bound(self) -> Bound:
        return BOUNDS[self.kind]

    @property
    def words(self) -> str:
        """The result in a sentence."""
        same = "every" if self.alike == self.prompts else f"{self.alike} of {self.prompts}"
        return (
            f"Loaded again by {self.loader}, its logits correlate {digits(self.correlation)} at the worst of "
            f"{self.places:,} places ({digits(self.mean)} on average) with those of the model in the chat; the "
            f"likeliest next token is the same at {self.agreement:.1%} of {self.tokens:,} places, and {same} greedy "
            f"answer{'' if self.prompts == 1 else 's'} of {self._length} tokens {'is' if same == 'every' else 'are'} "
            "the same."
        )

    @property
    def _length(self) -> str:
        return f"{self.tokens // max(1, self.prompts)}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def digits(correlation: float) -> str:
    """Format a correlation with all its nines, so that .99999 is not shown as 1."""
    for places in (3, 4, 5, 6, 7):
        if round(correlation, places) < 1:
            return f"{correlation:.{places}f}"
    return "1.000" if correlation <= 1 else f"{correlation:.3f}"


def fault(found: Parity) -> str:
    """Reason to withhold an artefact, from its figures; empty if they reach the bound."""
    if found.same_tokens < found.prompts:
        what = (
            "its chat template differs from the one used in training and chat"
            if found.template != found.own_template
            else "its tokenizer splits the same text differently"
        )
        return (
            f"{found.prompts - found.same_tokens} of {found.prompts} prompts have different tokens in the artefact: "
            f"{what}. Its prompts would differ from those it was trained on."
        )
    if found.template != found.own_template:
        return "Its chat template differs from the one used in training and chat."
    bound = found.bound
    # Written so that NaN fails the check.
    if not (found.correlation >= bound.least and found.mean >= bound.mean):
        return (
            f"Its logits correlate {found.correlation:.3f} at the worst place and {found.mean:.4f} on average with "
            f"those of the model in the chat; at least {bound.least:g} and {bound.mean:g} are required."
        )
    return ""
