"""Train a run: `python -m studio.engine.workers.train RUN_DIR --nonce X`.

Uses TRL's SFTTrainer with a PEFT adapter or on all weights, on the rows exactly as the dataset package encoded them.
Starts from step 0 or, if the run has a resume.json, from a checkpoint (engine/training/resume.py). The dataset package
renders and tokenises examples; the launcher decides when to start.
"""

import time
from pathlib import Path
from typing import Any

from studio.dataset.tokens.encode import Example
from studio.dataset.tokens.packing import PackedRow, pack
from studio.dataset.tokens.training_set import Encoded, encode_dataset
from studio.engine.artefacts.cards import adapter_card, merged_card
from studio.engine.artefacts.trained import Trained
from studio.engine.inference import loading
from studio.engine.inference.libraries import importing
from studio.engine.training import methods, packing
from studio.engine.workers import harness
from studio.engine.workers.harness import Ended, Worker
from studio.engine.workers.inputs import Inputs
from studio.errors import StudioError
from studio.machine import compiling
from studio.recipe import Recipe
from studio.rundir import Exit, free_space_or_raise, read_json

NOTHING_DONE = "Stopped before the first step: nothing was trained and nothing saved."
# Bytes per trained parameter in a checkpoint: the parameter (4 bytes) and two moments of the same size.
CHECKPOINT_BYTES = 12
SLACK_BYTES = 64 * 2**20  # journal, log, tokenizer files


def main() -> int:
    return harness.serve("Train a run.", train)


def train(work: Worker) -> Exit:
    """Train the run in this worker's directory."""
    started = time.monotonic()
    inputs = Inputs.read(work.run)
    encoded = prepare_examples(work, inputs)
    work.phase("Loading the libraries")
    recipe = inputs.recipe
    import_libraries()
    loading.quiet_libraries()
    device = loading.pick_device()
    work.identify(device.words)
    work.leave_if_asked(_nothing_done(inputs))
    from studio.engine.training import resume
    from studio.engine.training.preflight import Preflight
    from studio.engine.training.sampling import Sampler

    checkpoint = resume.find_checkpoint(work, inputs)
    trainer, conductor = build_trainer(work, inputs, encoded, device)
    work.leave_if_asked(_nothing_done(inputs))
    resume.prepare(work, inputs, trainer, conductor, checkpoint)
    Preflight(work, recipe, trainer, conductor)
    sampler = Sampler(work, inputs, trainer, conductor)
    work.phase("Starting")
    run_trainer(work, inputs, trainer, conductor, checkpoint)
    how = finish(work, inputs, trainer, conductor, time.monotonic() - started)
    if how.state == "completed":
        sampler.at_end(conductor.best_step or trainer.state.global_step)
    return how


def import_libraries() -> None:
    """Import the slow libraries up front, so that the log shows their time as a separate phase."""
    compiling.start_compiling()
    with importing():
        import datasets  # noqa: F401
        import torch  # noqa: F401
        import trl  # noqa: F401
        from transformers import PrinterCallback  # noqa: F401
        from trl import SFTTrainer  # noqa: F401

        from studio.engine import fast  # noqa: F401


def prepare_examples(work: Worker, inputs: Inputs) -> Encoded:
    """Encode the examples; end the run if none has a token to train on."""
    what = "Preparing the examples"
    work.phase(what)

    def report(done: int, of: int) -> None:
        work.leave_if_asked(_nothing_done(inputs))
        work.progress(what, done, of)

    recipe = inputs.recipe
    folder, seed = inputs.dataset_folder, recipe.schedule.seed
    encoded = encode_dataset(folder, recipe.data, inputs.model_folder, seed, report, inputs.tokens)
    for text in encoded.notes:
        work.note("warning", text)
    if not encoded.train:
        raise Ended(
            Exit(
                "failed",
                f"None of the examples has a token to train on: {encoded.skipped} were left out.",
                f"Raise max_length (now {recipe.data.max_length}), or look at the examples on the Data page.",
                cause="unlearnable",
            )
        )
    return encoded


def build_trainer(work: Worker, inputs: Inputs, encoded: Encoded, device: loading.Device) -> tuple[Any, Any]:
    """Build SFTTrainer with model, data and callbacks; return it and its CheckpointControl."""
    from transformers import PrinterCallback, set_seed
    from trl import SFTTrainer

    from studio.engine import fast
    from studio.engine.compat.transformers import autocast
    from studio.engine.training import reporting
    from studio.engine.training.callbacks import CheckpointControl, JournalCallback
    from studio.engine.training.loss_guards import DivergenceGuard, FiniteGuard
    from studio.engine.training.loss_head import score_trained_positions_only
    from studio.engine.training.peak_memory import Meter
    from studio.engine.training.rng import undisturbed

    recipe = inputs.recipe
    set_seed(recipe.schedule.seed)
    rows, held_out = _rows(encoded.train), _rows(encoded.held_out) if encoded.held_out else None
    longest = max(len(example.input_ids) for example in encoded.train)
    if recipe.schedule.packing:
        packed = pack(encoded.train, recipe.data.max_length, recipe.schedule.seed)
        rows, longest = _packed_rows(packed), max(len(row.input_ids) for row in packed)
    model = load_model(work, inputs, device, longest, encoded)
    engine = fast.choose(recipe, model, device.is_cuda, encoded.train)
    if engine.fast:
        rows = _with_lengths(rows, encoded.train)
        held_out = held_out and _with_lengths(held_out, encoded.held_out)
    config = methods.adapter_config(model, recipe, inputs.model)
    work.phase("Adding the adapter" if config else "Setting up the training")
    reporting.prepare(work, list(recipe.output.report_to))
    arguments = training_arguments(work, recipe, device, bool(encoded.held_out))
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        peft_config=config,
        processing_class=loading.load_tokenizer(inputs.model_folder),
        train_dataset=rows,
        eval_dataset=held_out,
    )
    trained = methods.finish_setup(trainer.model, recipe, inputs.model_folder)
    methods.set_loraplus(trainer, recipe)
    causal = trainer.model.get_base_model() if trained.is_adapter else trainer.model
    if engine.fast:
        fast.take_over(trainer, causal, recipe)
    elif recipe.schedule.packing:
        packing.keep_apart(causal)
        tolerated = packing.TOLERATED_INT8 if recipe.quantization.quantization == "int8" else packing.TOLERATED
        first, last = encoded.train[0].input_ids, encoded.train[-1].input_ids
        with autocast(trainer):
            packing.check_apart(causal, first, last, inputs.model, tolerated)
        trainer.data_collator = packing.PackedCollator(trainer.data_collator)
    if not engine.fast:
        score_trained_positions_only(causal)
    trainer.remove_callback(PrinterCallback)
    reporting.keep_apart(work, trainer, engine.fast)
    trainable, parameters = methods.parameter_counts(trainer.model)
    _check_disk(work, recipe, trainable, doubled=bool(trained.start))
    plan = {
        "examples": len(encoded.train),
        "rows": len(rows),
        "held_out": len(encoded.held_out),
        "skipped": encoded.skipped,
        "truncated": encoded.truncated,
        "method": recipe.method.method,
        "trainable_parameters": trainable,
        "parameters": parameters,
        "device": device.words,
        "engine": engine.engine,
        "engine_why": engine.why,
        "dtype": recipe.model.dtype,
        "quantization": recipe.quantization.quantization,
        "optim": str(getattr(arguments.optim, "value", arguments.optim)),
        "effective_batch": recipe.effective_batch,
        **(read_json(work.run.path / "estimate.json") or {}),
    }
    # Evaluations must not change the random state: training continues the same with and without them, and from a
    # checkpoint taken during one.
    trainer.evaluate = undisturbed()(trainer.evaluate)
    guard = FiniteGuard(work, recipe)
    watch = DivergenceGuard(work, recipe, causal.config.get_text_config().vocab_size)
    recorder = JournalCallback(work, guard, plan)
    conductor = CheckpointControl(work, recipe, trained, {"guard": guard, "recorder": recorder, "watch": watch})
    guard.trainer = conductor.trainer = trainer
    # In this order, so that a step's metric point is journalled before its checkpoint.
    for callback in (guard, recorder, watch, conductor):
        trainer.add_callback(callback)
    longest_held_out = max((len(example.input_ids) for example in encoded.held_out), default=0)
    Meter(work, device.is_cuda, longest, longest_held_out).watch(trainer)
    return trainer, conductor


def load_model(work: Worker, inputs: Inputs, device: loading.Device, longest: int, encoded: Encoded) -> Any:
    """Load the base in the recipe's type and quantisation; longest: tokens of the longest training row."""
    from peft import prepare_model_for_kbit_training

    recipe = inputs.recipe
    work.phase("Loading the model")
    dtype = methods.base_dtype(recipe)
    if dtype != recipe.model.dtype:
        work.note(
            "info",
            f"Method full trains the weights in {dtype} and computes in {recipe.model.dtype}, because in "
            f"{recipe.model.dtype} small updates would round to zero. The model is saved in {recipe.model.dtype}.",
        )
    if recipe.evaluation.early_stopping_patience and not encoded.held_out:
        work.note("warning", "No example is held out, so early stopping is off. Raise held_out to use it.")
    model = loading.load_base(inputs.model_folder, dtype, device, recipe.quantization)
    held_out = max((len(example.input_ids) for example in encoded.held_out), default=0)
    loading.use_plain_attention_if_short(model, device, max(longest, held_out))
    if recipe.quantization.quantization != "none":
        model = prepare_model_for_kbit_training(
            model, use_gradient_checkpointing=recipe.schedule.gradient_checkpointing
        )
    return model


def training_arguments(work: Worker, recipe: Recipe, device: loading.Device, evaluates: bool) -> Any:
    """Translate the recipe to TRL's SFTConfig."""
    from trl import SFTConfig

    schedule = recipe.schedule
    return SFTConfig(
        output_dir=str(work.run.checkpoints),
        use_cpu=not device.is_cuda,
        # Autocast, the usual setting with TRL: adapter in float32, matrix products in bfloat16.
        bf16=recipe.model.dtype == "bfloat16",
        fp16=False,
        seed=schedule.seed,
        num_train_epochs=schedule.num_train_epochs,
        max_steps=schedule.max_steps,
        per_device_train_batch_size=schedule.per_device_train_batch_size,
        per_device_eval_batch_size=recipe.evaluation.per_device_eval_batch_size,
        gradient_accumulation_steps=schedule.gradient_accumulation_steps,
        activation_checkpointing=schedule.gradient_checkpointing,
        neftune_noise_alpha=schedule.neftune_noise_alpha or None,
        learning_rate=recipe.optimizer.learning_rate,
        weight_decay=recipe.optimizer.weight_decay,
        max_grad_norm=recipe.optimizer.max_grad_norm,
        optim=_optim(work, recipe, device),
        lr_scheduler_type=schedule.lr_scheduler_type,
        # A value below 1 is a share of the steps: transformers 5 has no warmup_ratio.
        warmup_steps=schedule.warmup_ratio,
        logging_steps=recipe.output.logging_steps,
        # Show a non-finite loss instead of replacing it by the mean of earlier ones.
        logging_nan_inf_filter=False,
        # With "steps" the trainer always evaluates after the last step; 0 means only then.
        eval_strategy="steps" if evaluates else "no",
        eval_steps=recipe.evaluation.eval_steps or 10**9,
        save_strategy="no",  # the studio saves its own verified checkpoints: studio.engine.training.callbacks
        report_to=list(recipe.output.report_to) or "none",
        run_name=recipe.name or work.run.id,
        project="lora-studio",
        disable_tqdm=True,
        dataloader_pin_memory=device.is_cuda,
        max_length=recipe.data.max_length,
        dataset_kwargs={"skip_prepare_dataset": True},
    )


def run_trainer(work: Worker, inputs: Inputs, trainer: Any, conductor: Any, checkpoint: Path | None) -> None:
    """Train to the end or until a stop, which saves a checkpoint of the last finished step."""
    from studio.engine.training.callbacks import Interrupted
    from studio.engine.training.rescue import GIVEN_UP, last_finite_weights

    try:
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    except Interrupted:
        if conductor.ending == "stop":
            conductor.save()
    except Ended as end:
        if end.how.cause not in GIVEN_UP:
            raise
        guard, watch = conductor.listeners["guard"], conductor.listeners["watch"]
        how, step = last_finite_weights(work.run, conductor, guard, watch, end.how)
        if step:
            work.phase("Saving the last usable weights")
            save(work, inputs, conductor.trained, step)
        raise Ended(how) from end


def finish(work: Worker, inputs: Inputs, trainer: Any, conductor: Any, seconds: float) -> Exit:
    """Save the adapter, unless the run was cancelled, and return how the run ended."""
    step, of = trainer.state.global_step, trainer.state.max_steps
    if conductor.ending == "cancel":
        return Exit("stopped", f"Cancelled at step {step} of {of}: its adapter was not saved.", cause="cancelled")
    if step == 0:
        return Exit("stopped", NOTHING_DONE, cause="stopped")
    conductor.take_best()
    work.phase("Saving the adapter" if conductor.trained.is_adapter else "Saving the model")
    save(work, inputs, conductor.trained, conductor.best_step or step)
    what = "adapter" if conductor.trained.is_adapter else "model"
    best = (
        f" The {what} is from step {conductor.best_step}, which has the best evaluation." if conductor.best_step else ""
    )
    if conductor.ending == "early":
        return Exit(
            "completed",
            f"Stopped early at step {step} of {of}: the held-out loss no longer fell.{best}",
            cause="finished",
        )
    if conductor.ending == "stop":
        saved = best or f" A checkpoint and the {what} of that step are saved."
        return Exit("stopped", f"Stopped at step {step} of {of}.{saved}", cause="stopped")
    return Exit("completed", f"Completed {of} steps in {_duration(seconds)}.{best}", cause="finished")


def save(work: Worker, inputs: Inputs, trained: Trained, step: int) -> None:
    """Save the run's adapter, or its whole model if every weight was trained."""
    from studio.engine.artefacts.artefacts import save_adapter, save_model

    recipe = inputs.recipe
    name = recipe.name or work.run.id
    if trained.is_adapter:
        card = adapter_card(name, inputs.model, inputs.dataset, recipe, step)
        save_adapter(trained, work.run, inputs.model_folder, card, recipe.data.own_chat_template)
    else:
        card = merged_card(name, inputs.model, inputs.dataset, recipe, step)
        save_model(trained, work.run, inputs.model_folder, card, recipe.data, recipe.model.dtype)


def _nothing_done(inputs: Inputs) -> str:
    if inputs.resume is None or not inputs.resume.checkpoint:
        return NOTHING_DONE
    return f"Stopped before training continued: {inputs.resume.checkpoint} is unchanged. Resume from it at any time."


def _optim(work: Worker, recipe: Recipe, device: loading.Device) -> str:
    requested = recipe.optimizer.optim
    # The fused kernel of the same AdamW is TRL's default: on bfloat16 weights it rounds once per step, the loop thrice.
    plain = "adamw_torch_fused"
    if requested == "adamw_torch":
        return plain
    if device.is_cuda:
        return requested
    note = (
        " It needs 8 instead of 2 bytes of optimizer state per trained parameter." if requested.endswith("8bit") else ""
    )
    work.note("info", f"{requested} needs an NVIDIA GPU; adamw_torch is used on this CPU.{note}")
    return plain


def _rows(examples: list[Example]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [example.input_ids for example in examples],
            "labels": [example.labels for example in examples],
        }
    )


def _with_lengths(rows: Any, examples: list[Example]) -> Any:
    """Add the column `seq_lengths`, the lengths of the examples in each row; packed rows have it already."""
    if "seq_lengths" in rows.column_names:
        return rows
    return rows.add_column("seq_lengths", [[len(example.input_ids)] for example in examples])


def _packed_rows(rows: list[PackedRow]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict(
        {
            "input_ids": [row.input_ids for row in rows],
            "labels": [row.labels for row in rows],
            "seq_lengths": [row.lengths for row in rows],
        }
    )


def _check_disk(work: Worker, recipe: Recipe, trainable: int, doubled: bool) -> None:
    """End the run if the disk has less than twice the space it will need; other programs write there too."""
    # One more than save_total_limit, as the oldest is deleted only after the newest is complete; early stopping keeps
    # another.
    checkpoints = recipe.output.save_total_limit + 1 + bool(recipe.evaluation.early_stopping_patience)
    weights = 8 if doubled else 4
    need = trainable * ((CHECKPOINT_BYTES + weights - 4) * checkpoints + weights) + SLACK_BYTES
    present = sum(path.stat().st_size for path in work.run.checkpoints.rglob("*") if path.is_file())
    try:
        free_space_or_raise(work.run.path, max(SLACK_BYTES, 2 * need - present), "Saving this run, with room to spare,")
    except StudioError as error:
        raise Ended(Exit("failed", str(error), "You can also lower save_total_limit or r.", cause="disk")) from None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


if __name__ == "__main__":
    raise SystemExit(main())
