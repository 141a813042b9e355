"""How a run steps, measures and saves."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, StringConstraints

from studio.recipe.fields.base import Theme, knob

Prompt = Annotated[str, StringConstraints(max_length=500)]


def lines(value: Any) -> Any:
    """Several texts as people and forms write them: one a line, empty ones left out."""
    if value is None:
        return []
    given = value.splitlines() if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        return given
    return [one.strip() if isinstance(one, str) else one for one in given if not isinstance(one, str) or one.strip()]


class Optimizer(Theme):
    optim: Literal["adamw_torch", "adamw_8bit", "paged_adamw_8bit", "paged_adamw_32bit"] = knob(
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
    packing: bool = knob(
        False,
        label="Packing",
        becomes="SFTConfig(packing=)",
        help="Lays short examples behind each other up to max_length, each seeing only itself: no padding, 2 to 5 "
        "times fewer and fuller rows. A batch then counts packed rows.",
    )
    neftune_noise_alpha: float = knob(
        0.0,
        label="NEFTune noise",
        becomes="SFTConfig(neftune_noise_alpha=)",
        help="Adds noise to the embeddings while training (Jain et al. 2023); 5 is usual and helps open-ended chat, "
        "0 turns it off.",
        ge=0,
        le=100,
    )
    gradient_checkpointing: bool = knob(
        False,
        label="Gradient checkpointing",
        becomes="SFTConfig(gradient_checkpointing=)",
        help="Computes activations twice instead of keeping them: much less memory, about 30% slower.",
    )
    engine: Literal["auto", "fast", "trl"] = knob(
        "auto",
        label="Engine",
        becomes="studio.engine.fast.choose",
        help="auto takes the fast path where it fits (LoRA on a CPU: 1.5 to 8 times as fast as TRL's own, the same "
        "losses but for rounding); fast takes it on a GPU too, where nobody has measured it yet; trl forces TRL's own.",
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
    early_stopping_patience: int = knob(
        0,
        label="Early stopping",
        becomes="EarlyStoppingCallback(early_stopping_patience=)",
        help="Stops after so many evaluations in a row without a better loss, and takes the adapter of the best one. "
        "3 is usual; 0 never stops early. Needs Evaluate every.",
        unit="evaluations",
        ge=0,
        le=1000,
    )
    sample_prompts: Annotated[list[Prompt], BeforeValidator(lines)] = knob(
        [],
        label="Sample prompts",
        becomes="generate(inputs=)",
        help="Up to 5 questions, one a line, that the model in training answers at every evaluation and at the end, "
        "greedily, so that you see what it learns. Empty: none.",
        max_length=5,
    )
    sample_tokens: int = knob(
        64,
        label="Sample length",
        becomes="generate(max_new_tokens=)",
        help="A sample answer is cut off after this many tokens. 64 is about 45 English words; each costs about as "
        "long as a forward pass.",
        unit="tokens",
        ge=1,
        le=512,
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
    report_to: Annotated[list[Literal["tensorboard", "trackio", "wandb"]], BeforeValidator(lines)] = knob(
        [],
        label="Report to",
        becomes="SFTConfig(report_to=)",
        help="Also writes the curves for tensorboard, trackio or wandb, into the run directory. Up to 3; each must "
        "be installed, and its keys stay where it keeps them. The studio's own curves need none of them.",
        max_length=3,
    )
