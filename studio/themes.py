"""The recipe's fields, one class a theme. Each field states once all that is known of it.

A field's help is what a person reads beside it: it says what the knob does and names a number. What this module does
not do: put the themes together, or read and write recipes (recipe.py).
"""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

# What a plain template may hold in braces: {instruction}, {input}, {system}, {output}.
PLACEHOLDERS = ("instruction", "input", "system", "output")
PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")


def knob(
    default: Any, *, label: str, becomes: str, help: str, unit: str | None = None, simple: bool = False, **bounds: Any
) -> Any:
    """A recipe field: what a person sees (`label`, `help`, `unit`) and the library argument it `becomes`."""
    return Field(
        default,
        title=label,
        description=help,
        json_schema_extra={"becomes": becomes, "unit": unit, "simple": simple},
        **bounds,
    )


class Theme(BaseModel):
    """Base of the recipe's parts: unknown names are refused, values are checked on every change."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)


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
        "float32 takes 4 and is exact to 7 digits.",
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


def _modules(value: Any) -> Any:
    """`q_proj,v_proj` and ["all-linear"] as people and forms write them."""
    if isinstance(value, str) and value != "all-linear":
        value = [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, (list, tuple)) and "all-linear" in value:
        if len(value) > 1:
            raise ValueError("all-linear stands alone: it already names every linear layer")
        return "all-linear"
    return value


class Method(Theme):
    r: int = knob(
        16,
        label="Rank",
        becomes="LoraConfig(r=)",
        help="Width of the adapter. Start at 16; 4 to 8 for a format or style, 32 to 64 for code, reasoning or "
        "much data.",
        simple=True,
        ge=1,
        le=1024,
    )
    lora_alpha: int = knob(
        32,
        label="Alpha",
        becomes="LoraConfig(lora_alpha=)",
        help="Strength: the update is scaled by lora_alpha / r, so 32 at r 16 doubles it. Raising alpha "
        "strengthens the update; it acts like a learning rate, so tune one of the two.",
        simple=True,
        ge=1,
        le=4096,
    )
    lora_dropout: float = knob(
        0.05,
        label="Dropout",
        becomes="LoraConfig(lora_dropout=)",
        help="Share of the adapter's inputs dropped at random against overfitting. 0.05 is usual, 0.1 for small "
        "models with little data; 0 is about 20% faster on a CPU.",
        unit="share",
        simple=True,
        ge=0,
        le=0.9,
    )
    target_modules: Annotated[Literal["all-linear"] | list[str], BeforeValidator(_modules)] = knob(
        "all-linear",
        label="Target modules",
        becomes="LoraConfig(target_modules=)",
        help="The layers that get an adapter. all-linear adapts all 7 kinds in a Llama layer and is the choice that "
        "matters most; q_proj and v_proj alone save memory and are 1 to 3% worse on hard tasks.",
        simple=True,
    )

    @property
    def scale(self) -> float:
        """What the update is multiplied with: lora_alpha / r (Hu et al. 2021, section 4.1)."""
        return self.lora_alpha / self.r

    @model_validator(mode="after")
    def _some_module(self) -> Self:
        if not self.target_modules:
            raise ValueError("target_modules is empty: name at least one layer, or use all-linear")
        return self


class Quantization(Theme):
    quantization: Literal["none", "nf4"] = knob(
        "none",
        label="Quantization",
        becomes="BitsAndBytesConfig(load_in_4bit=, bnb_4bit_quant_type=)",
        help="nf4 holds the frozen base in 4 bits (QLoRA): a quarter of the memory, a third slower a step. "
        "none keeps 16 or 32 bits.",
        simple=True,
    )
    bnb_4bit_use_double_quant: bool = knob(
        True,
        label="Double quantization",
        becomes="BitsAndBytesConfig(bnb_4bit_use_double_quant=)",
        help="Quantizes the scales of nf4 as well: saves 0.37 bits a parameter, 0.3 GB on a 7 B model.",
    )


class Optimizer(Theme):
    optim: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = knob(
        "adamw_torch",
        label="Optimizer",
        becomes="SFTConfig(optim=)",
        help="adamw_torch keeps 8 bytes of state a trained parameter; the 8-bit kinds keep 2; paged moves them to "
        "RAM in a spike (CUDA only; elsewhere adamw_torch is used and said).",
    )
    learning_rate: float = knob(
        2e-4,
        label="Learning rate",
        becomes="SFTConfig(learning_rate=)",
        help="Size of a step. 2e-4 is usual, 1e-4 from 33 B parameters; small models bear 5e-4 to 1e-3. "
        "5 to 10 times a full fine-tune's.",
        simple=True,
        gt=0,
        le=1,
    )
    weight_decay: float = knob(
        0.0,
        label="Weight decay",
        becomes="SFTConfig(weight_decay=)",
        help="Pulls the adapter towards 0. Mostly 0; 0.01 to 0.1 against overfitting.",
        ge=0,
        le=1,
    )
    max_grad_norm: float = knob(
        1.0,
        label="Gradient clipping",
        becomes="SFTConfig(max_grad_norm=)",
        help="Longer gradients are shortened to this norm. 1.0 is usual, the QLoRA paper used 0.3 against spikes; "
        "0 turns it off.",
        ge=0,
        le=1000,
    )


class Schedule(Theme):
    num_train_epochs: float = knob(
        1.0,
        label="Epochs",
        becomes="SFTConfig(num_train_epochs=)",
        help="How often each example is seen. 1 to 3; more when there are few clean ones.",
        simple=True,
        gt=0,
        le=1000,
    )
    max_steps: int = knob(
        -1,
        label="Maximum steps",
        becomes="SFTConfig(max_steps=)",
        help="Stops after this many optimizer steps, whatever the epochs say. -1: the epochs decide.",
        unit="steps",
        ge=-1,
        le=10_000_000,
    )
    per_device_train_batch_size: int = knob(
        4,
        label="Batch size",
        becomes="SFTConfig(per_device_train_batch_size=)",
        help="Examples computed at once. Memory grows with it; 4 to 16 is usual.",
        simple=True,
        ge=1,
        le=4096,
    )
    gradient_accumulation_steps: int = knob(
        1,
        label="Gradient accumulation",
        becomes="SFTConfig(gradient_accumulation_steps=)",
        help="Batches summed before a step: batch 4 with accumulation 4 learns as batch 16 does, in the memory of 4.",
        ge=1,
        le=4096,
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = knob(
        "linear",
        label="Schedule",
        becomes="SFTConfig(lr_scheduler_type=)",
        help="How the learning rate goes: linear or cosine down to 0, or constant.",
    )
    warmup_ratio: float = knob(
        0.03,
        label="Warmup",
        becomes="SFTConfig(warmup_steps=)",
        help="Share of the steps in which the learning rate rises from 0. 0.03 is the QLoRA paper's; 0 starts at once.",
        unit="share",
        ge=0,
        le=0.9,
    )
    gradient_checkpointing: bool = knob(
        False,
        label="Gradient checkpointing",
        becomes="SFTConfig(gradient_checkpointing=)",
        help="Computes activations twice instead of keeping them: much less memory, about 30% slower.",
    )
    seed: int = knob(
        0,
        label="Seed",
        becomes="SFTConfig(seed=)",
        help="Start of all random choices: the same seed, data and versions give the same run. 0 is as good as any.",
        ge=0,
        le=2**32 - 1,
    )


class Evaluation(Theme):
    eval_steps: int = knob(
        0,
        label="Evaluate every",
        becomes="SFTConfig(eval_steps=)",
        help="Measures the loss on held-out examples after every so many steps. 0: once, at the end.",
        unit="steps",
        ge=0,
        le=10_000_000,
    )
    per_device_eval_batch_size: int = knob(
        4,
        label="Evaluation batch",
        becomes="SFTConfig(per_device_eval_batch_size=)",
        help="Examples measured at once. 4 is safe; it needs no memory for gradients.",
        ge=1,
        le=4096,
    )


class Output(Theme):
    logging_steps: int = knob(
        1,
        label="Log every",
        becomes="SFTConfig(logging_steps=)",
        help="A point on the curves after every so many steps. 1 shows all.",
        unit="steps",
        ge=1,
        le=100_000,
    )
    save_steps: int = knob(
        0,
        label="Save every",
        becomes="SFTConfig(save_steps=)",
        help="Writes a checkpoint after every so many steps. 0: only at the end and when stopped.",
        unit="steps",
        ge=0,
        le=10_000_000,
    )
    save_total_limit: int = knob(
        2,
        label="Checkpoints kept",
        becomes="SFTConfig(save_total_limit=)",
        help="Older checkpoints than the newest so many are deleted. 2 keeps one to fall back on.",
        ge=1,
        le=1000,
    )
