"""Recipe fields for the base model and the dataset."""

import re
from typing import Literal, Self

from pydantic import model_validator

from studio.recipe.fields.base import Theme, knob

# Placeholders of a plain template: {instruction}, {input}, {system}, {output}.
PLACEHOLDERS = ("instruction", "input", "system", "output")
PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")


class Model(Theme):
    model: str = knob(
        "smollm2-135m-instruct",
        label="Base model",
        becomes="from_pretrained(pretrained_model_name_or_path)",
        help="The model to fine-tune: a name from `studio models list`. Start with 135 M parameters, which train on "
        "a laptop; 7 B and more need a GPU.",
        simple=True,
        min_length=1,
    )
    dtype: Literal["bfloat16", "float32"] = knob(
        "bfloat16",
        label="Weight type",
        becomes="from_pretrained(dtype=)",
        help="Number format of the frozen base. Keep bfloat16 (2 bytes per parameter); choose float32 (4 bytes, 7 "
        "digits) to compare runs bit by bit. A CPU without bfloat16 instructions multiplies in float32 either way.",
    )


class Data(Theme):
    dataset: str = knob(
        "",
        label="Dataset",
        becomes="SFTTrainer(train_dataset=)",
        help="The examples to train on: a name or id from `studio datasets list`. 300 clean examples are often "
        "enough to teach a format; a change of behaviour needs thousands.",
        simple=True,
    )
    template: Literal["chat", "alpaca", "custom"] = knob(
        "chat",
        label="Template",
        becomes="the text of each example",
        help="chat: the model's own chat template; use it for instruct models (1 message per turn). "
        "alpaca: the Alpaca format with 2 or 3 headings; use it for base models that have no chat template. "
        "custom: the template you write below.",
    )
    custom_template: str = knob(
        "",
        label="Custom template",
        becomes="the text of each example",
        help="Used only when Template is custom. Either text with {instruction}, {input}, {system} and exactly 1 "
        "{output}, or a Jinja chat template, which is then saved with the adapter.",
        max_length=50_000,
    )
    system_prompt: str = knob(
        "",
        label="System prompt",
        becomes="the first message of each example",
        help="Added to every example that has no system prompt. Leave it empty (0 characters) to use the template's "
        "default.",
        max_length=20_000,
    )
    train_on: Literal["completions", "assistant", "everything"] = knob(
        "completions",
        label="Train on",
        becomes="labels (-100 where not trained)",
        help="Which tokens count in the loss. completions: the last answer and its 1 end token; the usual choice. "
        "assistant: every answer in a conversation. everything: the questions too.",
    )
    per_answer: bool = knob(
        False,
        label="One example per answer",
        becomes="the examples themselves",
        help="Turn it on for conversations with thinking or many turns: 1 example for each of the assistant's answers, "
        "with what came before it as the prompt, exactly as the model is asked when it is used. A conversation of "
        "5 answers then costs up to 5 times the tokens.",
    )
    fold_system: bool = knob(
        False,
        label="System prompt in the first message",
        becomes="the first user message of each example",
        help="Turn it on when the template has no system role, as Gemma 2's: the system prompt then comes first in "
        "the first user message, in training and in the chat. It needs 0 extra tokens.",
    )
    split_texts: bool = knob(
        False,
        label="Split long texts",
        becomes="the examples themselves",
        help="Turn it on for plain text, as in continued pretraining: a text longer than max_length becomes 2 or more "
        "examples, and all of it is trained. Otherwise its end is cut. Conversations are never split.",
    )
    max_length: int = knob(
        1024,
        label="Maximum length",
        becomes="SFTConfig(max_length=)",
        help="Examples are cut after this many tokens. 1024 is about 750 English words. Raise it when answers are "
        "cut off; lower it to save memory, which grows with it.",
        unit="tokens",
        ge=8,
        le=131_072,
    )
    held_out: float = knob(
        0.05,
        label="Held out",
        becomes="SFTTrainer(eval_dataset=)",
        help="Share of the examples kept out of training and used to measure the loss. 0.05 keeps 1 in 20; use 0.1 "
        "for a few hundred examples. 0 turns evaluation off.",
        unit="share",
        ge=0,
        le=0.5,
    )

    @property
    def own_chat_template(self) -> str:
        """The custom template if it is a Jinja chat template, else an empty string."""
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
                raise ValueError(f"custom_template has no value for {{{unknown[0]}}}: it may contain {known}")
            if "output" in names[:-1] and names.count("output") == 1:
                raise ValueError(f"custom_template has {{{names[-1]}}} after {{output}}: the answer must come last")
            if names.count("output") != 1:
                raise ValueError(
                    f"custom_template must contain {{output}} exactly once, where the answer goes, not "
                    f"{names.count('output')} times"
                )
        return self


def _is_jinja(text: str) -> bool:
    return "{%" in text or "{{" in text
