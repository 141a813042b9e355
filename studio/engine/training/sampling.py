"""Answer the recipe's sample prompts during training: at each evaluation, and with the saved weights at the end.

Greedy, one prompt at a time, with the chat's template code. Training is not affected: no gradient is computed and the
random state is restored. A stop or cancel takes effect between two tokens. Answers are not scored.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from transformers import StoppingCriteriaList, TrainerCallback

from studio.dataset.tokens.encode import Encoder
from studio.engine.compat.transformers import autocast
from studio.engine.inference.adapter_slots import Group
from studio.engine.inference.streaming import StopOn
from studio.engine.training.callbacks import CheckpointControl, Interrupted
from studio.engine.training.rng import undisturbed
from studio.engine.workers.harness import Worker
from studio.engine.workers.inputs import Inputs
from studio.errors import StudioError


class Sampler(TrainerCallback):
    """Have the model in training answer the recipe's sample_prompts; journal each answer as `sample`."""

    def __init__(self, work: Worker, inputs: Inputs, trainer: Any, conductor: CheckpointControl) -> None:
        self._work, self._trainer, self._conductor = work, trainer, conductor
        self._evaluation = inputs.recipe.evaluation
        self._encoder: Encoder | None = None
        self._group = Group(trainer.model, ["adapted"])
        self._done = 0  # last sampled step
        self._due = False
        self._prompts: dict[str, list[int]] = {}
        if self._evaluation.sample_prompts:
            self._prepare(Encoder(inputs.model_folder, inputs.recipe.data))
            trainer.add_callback(self)

    def on_evaluate(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        # The last step is sampled by `at_end`, as early stopping may choose other weights.
        if state.global_step < state.max_steps and not self._conductor.ending:
            self.sample(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        every = self._evaluation.eval_steps
        self._due = self._trainer.eval_dataset is None and bool(every) and state.global_step % every == 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **things: Any) -> None:
        # For runs without held-out examples: by now the step's metric point and checkpoint are written.
        if self._due:
            self._due = False
            self.sample(state.global_step)

    def at_end(self, step: int) -> None:
        """Sample the saved weights, which are those of `step`."""
        with contextlib.suppress(Interrupted):
            self.sample(step)

    def sample(self, step: int) -> None:
        """Answer all prompts with the current weights; raise Interrupted if the run should end."""
        if step == self._done or not self._prompts:
            return
        self._done = step
        try:
            with self._aside():
                for number, prompt in enumerate(self._prompts):
                    self._work.progress("Answering the sample prompts", number, len(self._prompts))
                    if not self._answer(step, prompt):
                        break
        except Exception as error:  # a failed sample must not end the training
            self._prompts = {}
            first = (str(error).splitlines() or [type(error).__name__])[0]
            self._work.note("warning", f"Sampling is off: the model could not answer. {first}")
        self._conductor.interrupt_if_asked()

    def _prepare(self, encoder: Encoder) -> None:
        self._encoder = encoder
        for prompt in self._evaluation.sample_prompts:
            try:
                ids = encoder.prompt_ids([{"role": "user", "content": prompt}])
            except StudioError as error:
                self._work.note("warning", f"Sampling is off: {error}")
                self._prompts = {}
                return
            if len(ids) < self._group.context:
                self._prompts[prompt] = ids
            else:
                self._work.note(
                    "warning",
                    f"A sample prompt has {len(ids)} tokens and is left out: the model reads {self._group.context}.",
                )

    def _answer(self, step: int, prompt: str) -> bool:
        """Answer one prompt; False if the run should end, in which case the cut-off answer is not journalled."""
        import torch
        from transformers import GenerationConfig

        assert self._encoder is not None
        encoder, prompt_ids = self._encoder, self._prompts[prompt]
        config = GenerationConfig(
            max_new_tokens=min(self._evaluation.sample_tokens, self._group.context - len(prompt_ids)),
            do_sample=False,
            repetition_penalty=1.0,
            eos_token_id=encoder.eos_ids,
            pad_token_id=encoder.pad_id,
            use_cache=True,
        )
        self._group.set_generation(config)
        ids = torch.tensor([prompt_ids], device=self._trainer.args.device)
        sequences = self._trainer.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            stopping_criteria=StoppingCriteriaList([StopOn(self._asked)]),
        )
        if self._asked():
            return False
        answer = sequences[0, len(prompt_ids) :].tolist()
        text = encoder.tokenizer.decode(
            [token for token in answer if token not in encoder.eos_ids], skip_special_tokens=True
        )
        self._work.journal.write("sample", step=step, prompt=prompt, answer=text, tokens=len(answer))
        return True

    def _asked(self) -> bool:
        self._work.progressed_now()
        run = self._work.run
        return self._work.terminated or run.asked("stop") or run.asked("cancel")

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Put the model into generation mode; restore its state afterwards."""
        import torch

        model = self._trainer.model
        models = [model, model.get_base_model()] if hasattr(model, "get_base_model") else [model]
        configs = [owner.generation_config for owner in models]
        was_training = model.training
        model.eval()
        try:
            # generate bypasses the forward that accelerate wrapped in autocast.
            with undisturbed(), torch.no_grad(), autocast(self._trainer):
                yield
        finally:
            model.train(was_training)
            for owner, config in zip(models, configs, strict=True):
                owner.generation_config = config
