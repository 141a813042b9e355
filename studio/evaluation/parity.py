"""Parity: whether an artefact answers as the model that was chatted with did. Figures, bounds and words; no torch.

What is compared (engine/artefacts/parity.py measures it): some held-out prompts are put to the trained model as the
chat loads it, and it answers greedily. The artefact, loaded from disk by the loader that others will use, then reads
the same prompts and answers. At the last places of each prompt and at each token of the answer two things are asked:

    correlation   Pearson's, between the two rows of logits over the whole vocabulary, at each place
    agreement     whether both hold the same token for the likeliest next one, over the places of the answer

and of each prompt whether the artefact's own tokenizer and template make the same token ids of the same messages. An
artefact is offered when every correlation and their mean reach the bound of its kind and all token ids are equal.
Bounds are below what was measured on sound artefacts (docs/export.md) and above what a damaged one reaches.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Bound:
    """The least correlation that any place may have, and the least that all may have on average."""

    least: float
    mean: float


# An adapter and a merged model compute what the chat computed, but for rounding; float32 hardly rounds.
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
    """What was found. correlation: the smallest of all places; mean: their mean; max_abs: the largest difference of two
    logits; agreement: share of the answers' places with the same likeliest token; alike: prompts answered the same
    from first to last token; template, own_template: sha256 of the template that was chatted with and of the
    artefact's, empty where prompts are plain text; same_tokens: prompts whose token ids are equal."""

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
        """From parity.json; None if that is none."""
        try:
            return cls(**value) if value is not None else None
        except TypeError:
            return None

    @property
    def bound(self) -> Bound:
        return BOUNDS[self.kind]

    @property
    def words(self) -> str:
        """The finding in a sentence or two."""
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
    """A correlation with as many nines as it has, so that .99999 is not shown as 1."""
    for places in (3, 4, 5, 6, 7):
        if round(correlation, places) < 1:
            return f"{correlation:.{places}f}"
    return "1.000" if correlation <= 1 else f"{correlation:.3f}"


def fault(found: Parity) -> str:
    """Why an artefact is withheld, as far as its figures tell; empty where they reach the bound."""
    if found.same_tokens < found.prompts:
        what = (
            "its chat template is another than the one that was trained and chatted with"
            if found.template != found.own_template
            else "its tokenizer splits the same text in another way"
        )
        return (
            f"{found.prompts - found.same_tokens} of {found.prompts} prompts become other tokens in the artefact: "
            f"{what}. It would be asked in words that it was not trained on."
        )
    if found.template != found.own_template:
        return "Its chat template is another than the one that was trained and chatted with."
    bound = found.bound
    # Written so that what is no number reaches no bound.
    if not (found.correlation >= bound.least and found.mean >= bound.mean):
        return (
            f"Its logits correlate {found.correlation:.3f} at the worst place and {found.mean:.4f} on average with "
            f"those of the model in the chat; at least {bound.least:g} and {bound.mean:g} are wanted."
        )
    return ""
