"""Recipe fields for the optimizer, schedule, evaluation and output."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, StringConstraints

from studio.recipe.fields.base import Theme, knob

Prompt = Annotated[str, StringConstraints(max_length=500)]


def lines(value: Any) -> Any:
    """Normalise a list of texts as typed in forms and files: one per line, empty lines dropped."""
    if value is None:
        return []
    given = value.splitlines() if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        return given
    return [
        text.strip() if isinstance(text, str) else text for text in given if not isinstance(text, str) or text.strip()
    ]


class Optimizer(Theme):
    optim: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"] = knob(
        "adamw_torch",
        label="Optimizer",
        becomes="SFTConfig(optim=)",
        help="adamw_torch keeps 8 bytes of state per trained parameter. When GPU memory is short use an 8-bit kind (2 "
        "bytes); a paged kind also moves its state to RAM during memory spikes. The others need CUDA: without it, "
        "adamw_torch is used and the run says so.",
    )
    learning_rate: float = knob(
        2e-4,
        label="Learning rate",
        becomes="SFTConfig(learning_rate=)",
        help="Size of each update. Start at 2e-4; 1e-4 from 33 B parameters, 5e-4 to 1e-3 for small models. Halve it "
        "when the loss spikes or diverges. LoRA uses 5 to 10 times the rate of full fine-tuning.",
        simple=True,
        gt=0,
        le=1,
    )
    weight_decay: float = knob(
        0.0,
        label="Weight decay",
        becomes="SFTConfig(weight_decay=)",
        help="Pulls the trained weights towards 0. Usually 0; use 0.01 to 0.1 against overfitting.",
        ge=0,
        le=1,
    )
    max_grad_norm: float = knob(
        1.0,
        label="Gradient clipping",
        becomes="SFTConfig(max_grad_norm=)",
        help="Gradients with a larger norm are scaled down to this one. Start at 1.0; use 0.3 (as the QLoRA paper "
        "does) when the loss spikes. 0 turns clipping off.",
        ge=0,
        le=1000,
    )


class Schedule(Theme):
    num_train_epochs: float = knob(
        1.0,
        label="Epochs",
        becomes="SFTConfig(num_train_epochs=)",
        help="How many times each example is used. 1 to 3; more for a few clean examples, fewer when the evaluation "
        "loss starts to rise.",
        simple=True,
        gt=0,
        le=1000,
    )
    max_steps: int = knob(
        -1,
        label="Maximum steps",
        becomes="SFTConfig(max_steps=)",
        help="Stops after this many optimizer steps and overrides Epochs; 30 is enough for a quick try. -1 leaves the "
        "length to Epochs.",
        unit="steps",
        ge=-1,
        le=10_000_000,
    )
    per_device_train_batch_size: int = knob(
        4,
        label="Batch size",
        becomes="SFTConfig(per_device_train_batch_size=)",
        help="Examples computed at once. 4 to 16 is usual. Memory grows with it: when memory is short, halve it and "
        "double Gradient accumulation.",
        simple=True,
        ge=1,
        le=4096,
    )
    gradient_accumulation_steps: int = knob(
        1,
        label="Gradient accumulation",
        becomes="SFTConfig(gradient_accumulation_steps=)",
        help="Batches whose gradients are summed before each step. Raise it instead of Batch size when memory is "
        "short: batch 4 with accumulation 4 trains like batch 16 in the memory of 4.",
        ge=1,
        le=4096,
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = knob(
        "linear",
        label="Schedule",
        becomes="SFTConfig(lr_scheduler_type=)",
        help="How the learning rate changes during the run. linear and cosine fall to 0 and suit most runs; constant "
        "stays at the set rate, constant_with_warmup does after the warmup.",
    )
    warmup_ratio: float = knob(
        0.03,
        label="Warmup",
        becomes="SFTConfig(warmup_steps=)",
        help="Share of the steps during which the learning rate rises from 0. 0.03 is the QLoRA paper's value; raise "
        "it to 0.1 when the loss spikes at the start. 0 turns warmup off.",
        unit="share",
        ge=0,
        le=0.9,
    )
    packing: bool = knob(
        False,
        label="Packing",
        becomes="SFTConfig(packing=)",
        help="Concatenates short examples up to max_length; attention stays within each example. Turn it on when most "
        "examples are much shorter than max_length: no padding and 2 to 5 times fewer rows. Batch size then counts "
        "packed rows.",
    )
    neftune_noise_alpha: float = knob(
        0.0,
        label="NEFTune noise",
        becomes="SFTConfig(neftune_noise_alpha=)",
        help="Adds noise to the embeddings during training (Jain et al. 2023). Try 5 for open-ended chat; 0 turns it "
        "off.",
        ge=0,
        le=100,
    )
    gradient_checkpointing: bool = knob(
        False,
        label="Gradient checkpointing",
        becomes="SFTConfig(gradient_checkpointing=)",
        help="Recomputes activations in the backward pass instead of storing them. Turn it on when memory is short: "
        "much less memory, about 30% slower.",
    )
    engine: Literal["auto", "fast", "trl"] = knob(
        "auto",
        label="Engine",
        becomes="studio.engine.fast.choose",
        help="auto uses the fast path where it applies (LoRA on a CPU: 1.5 to 8 times as fast as TRL, with the same "
        "losses up to rounding). fast uses it on a GPU too, where its speed has not been measured. trl always uses "
        "TRL's trainer.",
    )
    seed: int = knob(
        0,
        label="Seed",
        becomes="SFTConfig(seed=)",
        help="Starting point of all random choices: the same seed, data and versions give the same run. Any number "
        "will do, such as 0; use 2 or 3 different seeds to see how much results vary.",
        ge=0,
        le=2**32 - 1,
    )


class Evaluation(Theme):
    eval_steps: int = knob(
        0,
        label="Evaluate every",
        becomes="SFTConfig(eval_steps=)",
        help="Steps between measurements of the loss on the held-out examples. 50 is a good start for long runs; 0 "
        "measures once, at the end.",
        unit="steps",
        ge=0,
        le=10_000_000,
    )
    per_device_eval_batch_size: int = knob(
        4,
        label="Evaluation batch",
        becomes="SFTConfig(per_device_eval_batch_size=)",
        help="Examples evaluated at once. 4 is safe. 8 to 16 are often faster and fit where training fits, since "
        "evaluation needs no memory for gradients.",
        ge=1,
        le=4096,
    )
    early_stopping_patience: int = knob(
        0,
        label="Early stopping",
        becomes="EarlyStoppingCallback(early_stopping_patience=)",
        help="Stops after this many evaluations in a row without a better loss, and keeps the adapter with the best "
        "loss. 3 is usual; 0 never stops early. Needs Evaluate every.",
        unit="evaluations",
        ge=0,
        le=1000,
    )
    sample_prompts: Annotated[list[Prompt], BeforeValidator(lines)] = knob(
        [],
        label="Sample prompts",
        becomes="generate(inputs=)",
        help="Up to 5 questions, one per line. The model answers them greedily at every evaluation and at the end, so "
        "you can follow what it learns. Leave empty for none.",
        max_length=5,
    )
    sample_tokens: int = knob(
        64,
        label="Sample length",
        becomes="generate(max_new_tokens=)",
        help="Sample answers are cut off after this many tokens. 64 is about 45 English words; raise it for longer "
        "answers. Each token takes about as long as a forward pass.",
        unit="tokens",
        ge=1,
        le=512,
    )


class Output(Theme):
    logging_steps: int = knob(
        1,
        label="Log every",
        becomes="SFTConfig(logging_steps=)",
        help="Steps between points on the curves. 1 records every step; use 10 for runs of many thousands of steps.",
        unit="steps",
        ge=1,
        le=100_000,
    )
    save_steps: int = knob(
        0,
        label="Save every",
        becomes="SFTConfig(save_steps=)",
        help="Steps between checkpoints. Set it for runs of hours, such as 200, so that a crash costs at most that "
        "many steps. 0 saves only at the end and when stopped.",
        unit="steps",
        ge=0,
        le=10_000_000,
    )
    save_total_limit: int = knob(
        2,
        label="Checkpoints kept",
        becomes="SFTConfig(save_total_limit=)",
        help="How many of the newest checkpoints are kept; older ones are deleted. 2 keeps one to fall back on. Raise "
        "it to compare checkpoints, at the cost of disk space.",
        ge=1,
        le=1000,
    )
    report_to: Annotated[list[Literal["tensorboard", "trackio", "wandb"]], BeforeValidator(lines)] = knob(
        [],
        label="Report to",
        becomes="SFTConfig(report_to=)",
        help="Also writes the curves for tensorboard, trackio or wandb, into the run directory. Up to 3; each must "
        "be installed and configured with its own keys. The studio's own curves need none of them.",
        max_length=3,
    )
