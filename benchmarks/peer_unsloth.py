"""The second peer, on an NVIDIA GPU: Unsloth as its documentation shows it, on the same rows in the same order.

    pip install unsloth; python benchmarks/peer_unsloth.py MODEL_FOLDER ROWS.jsonl --dtype bfloat16 --steps 10

Takes the arguments of peer_trl.py and prints the same JSON object, with the GPU's peak as memory. It has not run with
Unsloth itself yet, only with PEFT in its place (tests/integration/test_against_trl.py).
"""

import json
import tempfile
from typing import Any

# isort: off
import unsloth  # noqa: F401 - it changes the libraries below, so it must be imported first

# isort: on
import psutil
import torch
from datasets import Dataset
from peer_trl import Clock, asked, marked_tokenizer, talks
from trl import SFTConfig, SFTTrainer
from unsloth import FastLanguageModel

LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def count_tokens(trainer: Any) -> list[int]:
    """Return a list that gets the number of unpadded tokens of each batch as the trainer processes it."""
    counts: list[int] = []
    step = trainer.training_step

    def training_step(model: Any, inputs: dict[str, Any], *args: Any, **more: Any) -> Any:
        mask = inputs.get("attention_mask")
        counts.append(inputs["input_ids"].numel() if mask is None else int(mask.sum()))
        return step(model, inputs, *args, **more)

    trainer.training_step = training_step
    return counts


def main() -> None:
    args = asked()
    tokenizer = marked_tokenizer(args.model)
    model, _ = FastLanguageModel.from_pretrained(
        args.model, max_seq_length=args.max_length, dtype=getattr(torch, args.dtype),
        load_in_4bit=args.quantization == "nf4",
    )  # fmt: skip
    model = FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=32, lora_dropout=args.dropout, target_modules=LAYERS, bias="none", random_state=0,
        use_gradient_checkpointing="unsloth" if args.gradient_checkpointing else False,
    )  # fmt: skip
    rows = []
    for row in talks(args.rows):
        encoding = tokenizer.apply_chat_template(
            row["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        pairs = list(zip(encoding["input_ids"], encoding["assistant_masks"], strict=True))[: args.max_length]
        rows.append({"input_ids": [token for token, _ in pairs], "labels": [t if on else -100 for t, on in pairs]})
    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(), max_steps=args.steps, per_device_train_batch_size=args.batch,
        gradient_accumulation_steps=args.accumulation, learning_rate=args.learning_rate,
        lr_scheduler_type="constant", logging_steps=1, report_to="none",
        save_strategy="no", max_length=args.max_length, bf16=args.dtype == "bfloat16", seed=0, disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )  # fmt: skip
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    clock, tokens = Clock(trainer, args.batch), count_tokens(trainer)
    trainer.add_callback(clock)
    trainer.train()
    print(
        json.dumps(
            {
                "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
                "tokens_per_s": sum(tokens[args.accumulation :]) / sum(clock.seconds[1:]),
                "first_step_s": clock.first - psutil.Process().create_time(),
                "peak_rss_mib": torch.cuda.max_memory_allocated() // 2**20,
            }
        )
    )


if __name__ == "__main__":
    main()
