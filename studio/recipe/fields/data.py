"""The recipe's base model and data."""

import re
from typing import Literal, Self

from pydantic import model_validator

from studio.recipe.fields.base import Theme, knob

# What a plain template may hold in braces: {instruction}, {input}, {system}, {output}.
PLACEHOLDERS = ("instruction", "input", "system", "output")
PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")


class Model(Theme):
    model: str = knob(
        "smollm2-135m-instruct",
        label="Base model",
        becomes="from_pretrained(pretrained_model_name_or_path)",
        help="The model that is adapted: a name from `studio models list`. 135 M parameters train on a laptop, "
        "7 B and more want a GPU.",
        simple=True,
        min_length=1,
    )
    dtype: Literal["bfloat16", "float32"] = knob(
        "bfloat16",
        label="Weight type",
        becomes="from_pretrained(dtype=)",
        help="How the frozen base's numbers are held and computed with. bfloat16 takes 2 bytes a parameter, "
        "float32 takes 4 and is exact to 7 digits. A processor without bfloat16 arithmetic multiplies in float32 "
        "either way.",
    )


class Data(Theme):
    dataset: str = knob(
        "",
        label="Dataset",
        becomes="SFTTrainer(train_dataset=)",
        help="The examples to learn from: a name or id from `studio datasets list`. 300 clean ones often teach "
        "a format; behaviour wants thousands.",
        simple=True,
    )
    template: Literal["chat", "alpaca", "custom"] = knob(
        "chat",
        label="Template",
        becomes="the text of each example",
        help="chat: the model's own chat template, the better choice for instruct models (1 turn = 1 message). "
        "alpaca: the 2 or 3 headings of the Alpaca authors, for base models without a template. custom: your own.",
    )
    custom_template: str = knob(
        "",
        label="Own template",
        becomes="the text of each example",
        help="Used with template custom. A text with {instruction}, {input}, {system} and exactly 1 {output}, or a "
        "chat template in Jinja, which the adapter then carries.",
        max_length=50_000,
    )
    system_prompt: str = knob(
        "",
        label="System prompt",
        becomes="the first message of each example",
        help="Put before every example that has none of its own. Empty (0 characters): the template's default.",
        max_length=20_000,
    )
    train_on: Literal["completions", "assistant", "everything"] = knob(
        "completions",
        label="Train on",
        becomes="labels (-100 where not trained)",
        help="completions: only the last answer counts in the loss (its tokens and the 1 that ends it). "
        "assistant: every answer of a conversation. everything: the question's tokens too.",
    )
    max_length: int = knob(
        1024,
        label="Maximum length",
        becomes="SFTConfig(max_length=)",
        help="Examples are cut after this many tokens. 1024 is about 750 English words; memory grows with it.",
        unit="tokens",
        ge=8,
        le=131_072,
    )
    held_out: float = knob(
        0.05,
        label="Held out",
        becomes="SFTTrainer(eval_dataset=)",
        help="Share of the examples kept out of training to measure on. 0.05 keeps 1 in 20; 0 measures nothing.",
        unit="share",
        ge=0,
        le=0.5,
    )

    @property
    def own_chat_template(self) -> str:
        """The recipe's own template where it is a chat template (Jinja), else empty."""
        return self.custom_template if self.template == "custom" and _is_jinja(self.custom_template) else ""

    @model_validator(mode="after")
    def _whole_template(self) -> Self:
        if self.template == "custom" and not self.custom_template.strip():
            raise ValueError("template custom needs custom_template: write one, or use chat or alpaca")
        if self.template == "custom" and not _is_jinja(self.custom_template):
            names = PLACEHOLDER.findall(self.custom_template)
            unknown = sorted(set(names) - set(PLACEHOLDERS))
            if unknown:
                known = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
                raise ValueError(f"custom_template has no value for {{{unknown[0]}}}: it may hold {known}")
            if "output" in names[:-1] and names.count("output") == 1:
                raise ValueError(f"custom_template has {{{names[-1]}}} behind {{output}}: the answer must come last")
            if names.count("output") != 1:
                raise ValueError(
                    f"custom_template must hold {{output}} exactly once, where the answer stands, not "
                    f"{names.count('output')} times"
                )
        return self


def _is_jinja(text: str) -> bool:
    return "{%" in text or "{{" in text
