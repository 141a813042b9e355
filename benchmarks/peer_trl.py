"""The peer: a plain TRL script on Alpaca rows, as TRL's users write it. It imports nothing from the studio.

    python benchmarks/peer_trl.py MODEL_FOLDER ROWS.jsonl --dtype bfloat16 --steps 10 [--quantization nf4]

Prints one JSON object: the loss of every step, unpadded tokens per second (first step left out) and peak memory.
"""

import argparse
import json
import resource
import tempfile
import time
from typing import Any

import psutil
import torch
from datasets import Dataset
from peft import LoraConfig, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """Record the seconds of each step and the time at which the first one began. batch: rows per batch."""

    def __init__(self, trainer: Any, batch: int) -> None:
        self.trainer, self.batch = trainer, batch
        self.seconds: list[float] = []
        self.first = 0.0
        self._began = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.first = self.first or time.time()
        self._began = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self._began)
        if len(self.seconds) == 1:
            self._try_the_longest()

    def _try_the_longest(self) -> None:
        """Run the longest batch, as the studio does after its first step, so that both peaks include it."""
        rows = sorted(self.trainer.train_dataset, key=lambda row: -len(row["input_ids"]))[: self.batch]
        inputs = self.trainer._prepare_inputs(self.trainer.data_collator(rows))
        with self.trainer.compute_loss_context_manager():
            loss = self.trainer.compute_loss(self.trainer.model, inputs)
        loss.backward()
        self.trainer.model.zero_grad()


# ChatML as the model's own template writes it, with TRL's marks around the assistant's answers and their end token.
MARKED = """\
{{ OPENING }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}\
{% if message['role'] == 'assistant' %}\
{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}\
{% else %}{{ message['content'] + '<|im_end|>' + '\n' }}{% endif %}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def marked_tokenizer(folder: str) -> Any:
    """Load the tokenizer with the marked template, which must render the same text as the model's own."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Good day."}]
    own = tokenizer.apply_chat_template(messages, tokenize=False)
    # Some models' templates start with a system prompt.
    opening = own.partition("<|im_start|>user")[0]
    tokenizer.chat_template = MARKED.replace("OPENING", json.dumps(opening))
    if tokenizer.apply_chat_template(messages, tokenize=False) != own:
        raise SystemExit("The model's template is not ChatML, which this script is written for.")
    return tokenizer


def talks(path: str) -> Dataset:
    """Load the rows as conversations for TRL."""
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - as a plain script would
        rows = [json.loads(line) for line in file]
    conversations = []
    for row in rows:
        question = row["instruction"] + (f"\n\n{row['input']}" if row.get("input") else "")
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": row["output"]}]
        conversations.append({"messages": messages})
    return Dataset.from_list(conversations)


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("rows")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--quantization", choices=["none", "nf4"], default="none")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--accumulation", type=int, default=1, help="batches per step")
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument("--max-length", type=int, default=1024)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--tuned", action="store_true", help="no autocast, as experts with enough memory train")
    return parser.parse_args()


def main() -> None:
    args = asked()
    set_seed(0)
    dtype = getattr(torch, args.dtype)
    quantized = args.quantization == "nf4"
    options = {}
    if quantized:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype, **options)
    if quantized:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=args.gradient_checkpointing)
    arguments = SFTConfig(
        output_dir=tempfile.mkdtemp(), max_steps=args.steps, per_device_train_batch_size=args.batch,
        gradient_accumulation_steps=args.accumulation, learning_rate=args.learning_rate,
        lr_scheduler_type="constant", logging_steps=1, report_to="none",
        assistant_only_loss=True, save_strategy="no", max_length=args.max_length,
        use_cpu=not torch.cuda.is_available(),
        bf16=args.dtype == "bfloat16" and not args.tuned, seed=0, disable_tqdm=True,
        activation_checkpointing=args.gradient_checkpointing,
    )  # fmt: skip
    lora = LoraConfig(
        r=16, lora_alpha=32, lora_dropout=args.dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=talks(args.rows), peft_config=lora,
        processing_class=marked_tokenizer(args.model),
    )  # fmt: skip
    clock = Clock(trainer, args.batch)
    trainer.add_callback(clock)
    trainer.train()
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    tokens = log[-1]["num_tokens"] - log[0]["num_tokens"]
    print(
        json.dumps(
            {
                "losses": [entry["loss"] for entry in log],
                "tokens_per_s": tokens / sum(clock.seconds[1:]),
                "first_step_s": clock.first - psutil.Process().create_time(),
                "peak_rss_mib": torch.cuda.max_memory_allocated() // 2**20
                if torch.cuda.is_available()
                else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            }
        )
    )


if __name__ == "__main__":
    main()
