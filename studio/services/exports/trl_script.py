"""Write a run as a script and as a notebook in plain TRL and PEFT. Only text is made; nothing is run here.

Both consist of the same parts. Values that the recipe leaves empty are left out; values that the trainer replaces (such
as an optimizer that does not run on a CPU) are replaced in the script by the same rule.
"""

import json
import pprint
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studio.recipe import PLAIN_ATTENTION_TOKENS, Recipe
from studio.recipe.fields.method import ia3_modules


@dataclass(frozen=True, slots=True)
class Facts:
    """What a script needs besides the recipe.

    model: as others load it; packages: with exact versions; linear: names of the base's linear layers; notes: sentences
    for its docstring.
    """

    name: str
    model: str
    packages: Sequence[str]
    python: str
    linear: Sequence[str]
    notes: Sequence[str]


@dataclass(frozen=True, slots=True)
class _Part:
    title: str
    code: str


_DATA = '''
def read_rows(path):
    """Read token ids and labels, in the order of the run. Labels are -100 where nothing is trained."""
    rows = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            ids = tokenizer(row["text"], add_special_tokens=row["special"])["input_ids"]
            if zlib.crc32(" ".join(map(str, ids)).encode()) != row["check"]:
                raise SystemExit(f"This tokenizer gives other tokens than the run's: {row['text'][:60]!r}")
            labels = [-100] * len(ids)
            for start, end in row["trained"]:
                labels[start:end] = ids[start:end]
            part = slice(row.get("from", 0), row.get("from", 0) + MAX_LENGTH)
            rows.append({"input_ids": ids[part], "labels": labels[part], "pack": row.get("pack")})
    return rows


tokenizer = AutoTokenizer.from_pretrained(MODEL)
if tokenizer.pad_token is None:
    tokenizer.pad_token = tokenizer.eos_token
rows = read_rows(os.path.join(DATA, "train.jsonl"))
held_out_path = os.path.join(DATA, "held_out.jsonl")
held_out = read_rows(held_out_path) if os.path.exists(held_out_path) else []
'''
_UNPACKED = """
for row in rows + held_out:
    del row["pack"]
"""
_PACKED = """
# Short examples are concatenated; each attends only to itself and counts its positions from 0.
packed = {}
for row in rows:
    pack = packed.setdefault(row["pack"], {"input_ids": [], "labels": [], "seq_lengths": []})
    pack["input_ids"] += row["input_ids"]
    pack["labels"] += [-100, *row["labels"][1:]]
    pack["seq_lengths"].append(len(row["input_ids"]))
rows = [packed[number] for number in sorted(packed)]
for row in held_out:
    del row["pack"]
"""
_COLLATE = """
plain_collator = trainer.data_collator


def collate(batch):
    collated = plain_collator(batch)
    if "seq_lengths" in batch[0]:
        collated["position_ids"] = torch.zeros_like(collated["input_ids"])
        for number, row in enumerate(batch):
            positions = torch.cat([torch.arange(length) for length in row["seq_lengths"]])
            collated["position_ids"][number, : len(positions)] = positions
    return dict(collated)


def positions_instead_of_a_mask(module, args, kwargs):
    if kwargs.get("position_ids") is not None:
        kwargs["attention_mask"] = None
    return args, kwargs


trainer.data_collator = collate
causal = trainer.model.get_base_model() if hasattr(trainer.model, "get_base_model") else trainer.model
causal.base_model.register_forward_pre_hook(positions_instead_of_a_mask, with_kwargs=True)
"""
_FLOATS = """
# LoRA's A and B may stay in 16 bits, since they are near 0; in other parameters, small steps would be rounded away.
for name, parameter in trainer.model.named_parameters():
    if parameter.requires_grad and "lora_A" not in name and "lora_B" not in name:
        parameter.data = parameter.data.float()
"""
_RUN = '''
class Losses(TrainerCallback):
    """Print every loss, and stop after STEPS if it is set. The learning rate follows the schedule of the whole run."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            print(json.dumps({"step": state.global_step, "loss": logs["loss"]}), flush=True)

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = control.should_training_stop or bool(STEPS and state.global_step >= STEPS)
        return control


trainer.remove_callback(PrinterCallback)
trainer.add_callback(Losses())
trainer.train()
losses = [{"step": entry["step"], "loss": entry["loss"]} for entry in trainer.state.log_history if "loss" in entry]
os.makedirs(OUT, exist_ok=True)
with open(os.path.join(OUT, "losses.json"), "w", encoding="utf-8") as file:
    json.dump(losses, file, indent=1)
if held_out:
    print(json.dumps({"eval_loss": trainer.evaluate()["eval_loss"]}), flush=True)
trainer.model.save_pretrained(OUT)
tokenizer.save_pretrained(OUT)
'''
_ARGUMENTS = """
parser = argparse.ArgumentParser(description="Train the run again.")
parser.add_argument("--model", default=MODEL, help="hub id or folder of the base model")
parser.add_argument("--data", default=os.path.dirname(os.path.abspath(__file__)), help="folder of train.jsonl")
parser.add_argument("--steps", type=int, default=0, help="stop after this many steps; 0: the whole run")
parser.add_argument("--out", default=OUT, help="folder for the losses and the adapter")
args = parser.parse_args()
MODEL, DATA, STEPS, OUT = args.model, args.data, args.steps, args.out
"""


def script(recipe: Recipe, facts: Facts) -> str:
    """The run as one file for `uv run`, or for python with the packages installed."""
    head = ["# /// script", f'# requires-python = "{facts.python}"', "# dependencies = ["]
    head += [f'#   "{package}",' for package in facts.packages]
    head += ["# ]", "# ///", '"""' + _docstring(facts) + '"""', ""]
    parts = [*_parts(recipe, facts)]
    parts.insert(2, _Part("Command line options", _ARGUMENTS))
    body = "\n\n".join(f"# {part.title}\n{part.code.strip()}" for part in parts)
    return "\n".join(head) + "\n" + body.replace("import json\n", "import argparse\nimport json\n", 1) + "\n"


def notebook(recipe: Recipe, facts: Facts) -> str:
    """The run as a notebook of format 4.5."""
    cells = [_cell("markdown", f"# {facts.name}\n\n" + "\n\n".join(facts.notes))]
    cells.append(_cell("code", "%pip install -q " + " ".join(facts.packages)))
    for part in _parts(recipe, facts):
        cells += [_cell("markdown", f"## {part.title}"), _cell("code", part.code.strip())]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    value = {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(value, ensure_ascii=False, indent=1) + "\n"


def _cell(kind: str, text: str) -> dict[str, Any]:
    cell: dict[str, Any] = {"cell_type": kind, "metadata": {}, "source": text.splitlines(keepends=True)}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def _docstring(facts: Facts) -> str:
    lines = [
        f"Train the run {facts.name} again, in plain TRL and PEFT.",
        "",
        "    uv run train.py            with the exact versions above, in a separate environment",
        "    python train.py            with the installed versions; --help lists the options",
        "",
        *(line for note in facts.notes for line in textwrap.wrap(note, 110)),
    ]
    # The run's name is foreign text: it must not end the docstring.
    return "\n".join(lines).replace("\\", "/").replace('"', "'")


def _parts(recipe: Recipe, facts: Facts) -> list[_Part]:
    schedule = recipe.schedule
    return [
        _Part("Libraries", _imports(recipe)),
        _Part("Settings", _settings(recipe, facts)),
        _Part("Examples", _DATA + (_PACKED if schedule.packing else _UNPACKED)),
        _Part("Base model", _model(recipe)),
        _Part("Method and trainer", _method(recipe, facts) + _trainer(recipe, facts)),
        _Part("Training", _RUN),
    ]


def _imports(recipe: Recipe) -> str:
    peft = {"lora": "LoraConfig", "ia3": "IA3Config", "prompt": "PromptTuningConfig, PromptTuningInit",
            "prefix": "PrefixTuningConfig", "full": ""}[recipe.method.method]  # fmt: skip
    quantized = recipe.quantization.quantization != "none"
    peft = ", ".join(filter(None, (peft, "prepare_model_for_kbit_training" if quantized else "")))
    more = "BitsAndBytesConfig, " if quantized else ""
    lines = ["import json", "import os", "import zlib", "", "import torch", "from datasets import Dataset"]
    lines += [f"from peft import {peft}"] if peft else []
    lines += [
        "from transformers import AutoModelForCausalLM, AutoTokenizer, "
        f"{more}PrinterCallback, TrainerCallback, set_seed",
        "from trl import SFTConfig, SFTTrainer",
    ]
    return "\n".join(lines)


def _settings(recipe: Recipe, facts: Facts) -> str:
    return "\n".join(
        [
            f"MODEL = {facts.model!r}",
            'DATA = "."  # the folder of train.jsonl',
            'OUT = "out"',
            "STEPS = 0  # 0: the whole run",
            f"SEED = {recipe.schedule.seed}",
            f"MAX_LENGTH = {recipe.data.max_length}",
            "ON_GPU = torch.cuda.is_available()",
        ]
    )


def _model(recipe: Recipe) -> str:
    quantization, method = recipe.quantization, recipe.method
    dtype = "float32" if method.method == "full" else recipe.model.dtype
    lines = ["set_seed(SEED)", f'options = {{"dtype": torch.{dtype}, "use_safetensors": True}}']
    if quantization.four_bit:
        compute = dtype if quantization.bnb_4bit_compute_dtype == "same" else quantization.bnb_4bit_compute_dtype
        lines += [
            'options["quantization_config"] = BitsAndBytesConfig(',
            "    load_in_4bit=True,",
            f'    bnb_4bit_quant_type="{quantization.quantization}",',
            f"    bnb_4bit_use_double_quant={quantization.bnb_4bit_use_double_quant},",
            f"    bnb_4bit_compute_dtype=torch.{compute},",
            ")",
        ]
    elif quantization.quantization == "int8":
        lines.append('options["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)')
    lines += [
        "if ON_GPU:",
        '    options["device_map"] = {"": 0}',
        "model = AutoModelForCausalLM.from_pretrained(MODEL, **options)",
        f'if not ON_GPU and max(len(row["input_ids"]) for row in rows + held_out) <= {PLAIN_ATTENTION_TOKENS}:',
        '    model.set_attn_implementation("eager")  # faster than the flash kernel on a CPU; the run used it too',
    ]
    if quantization.quantization != "none":
        checkpointing = recipe.schedule.gradient_checkpointing
        if quantization.four_bit:
            lines += [
                "for module in model.modules():",
                '    if hasattr(module, "support_avx512bf16_for_cpu"):',
                "        module.support_avx512bf16_for_cpu = False  # repacking would break the gradients",
            ]
        lines.append(f"model = prepare_model_for_kbit_training(model, use_gradient_checkpointing={checkpointing})")
    return "\n".join(lines)


def _method(recipe: Recipe, facts: Facts) -> str:
    method = recipe.method
    if method.method == "full":
        return "peft_config = None  # every weight is trained\n"
    if method.method == "lora":
        start = {"gaussian": "gaussian", "olora": "olora", "pissa": "pissa_niter_16"}.get(
            method.init_lora_weights, True
        )
        return _call(
            "peft_config = LoraConfig",
            {
                "task_type": "CAUSAL_LM", "r": method.r, "lora_alpha": method.lora_alpha,
                "lora_dropout": method.lora_dropout, "target_modules": method.target_modules, "bias": method.bias,
                "use_rslora": method.use_rslora, "use_dora": method.use_dora, "init_lora_weights": start,
            },
        )  # fmt: skip
    if method.method == "ia3":
        scaled, feedforward = ia3_modules(facts.linear)
        return _call(
            "peft_config = IA3Config",
            {"task_type": "CAUSAL_LM", "target_modules": scaled, "feedforward_modules": feedforward},
        )
    kind = {"prompt": "PromptTuningConfig", "prefix": "PrefixTuningConfig"}[method.method]
    code = _call(f"peft_config = {kind}", {"task_type": "CAUSAL_LM", "num_virtual_tokens": method.num_virtual_tokens})
    if method.method == "prompt":
        code = code[: code.rindex(")")] + "    prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,\n)\n"
    return code


def _checkpointing(packages: Sequence[str]) -> str:
    """The name of the gradient checkpointing option in the version of transformers that the script pins."""
    version = next((package.partition("==")[2] for package in packages if package.startswith("transformers==")), "")
    numbers = [int(part) for part in version.split(".")[:2] if part.isdecimal()]
    return "gradient_checkpointing" if numbers and numbers < [5, 23] else "activation_checkpointing"


def _trainer(recipe: Recipe, facts: Facts) -> str:
    schedule, optimizer = recipe.schedule, recipe.optimizer
    optim = "adamw_torch_fused" if optimizer.optim == "adamw_torch" else optimizer.optim
    values: dict[str, Any] = {
        "output_dir": _Code("OUT"),
        "use_cpu": _Code("not ON_GPU"),
        "bf16": recipe.model.dtype == "bfloat16",
        "fp16": False,
        "seed": _Code("SEED"),
        "num_train_epochs": schedule.num_train_epochs,
        "max_steps": schedule.max_steps,
        "per_device_train_batch_size": schedule.per_device_train_batch_size,
        "per_device_eval_batch_size": recipe.evaluation.per_device_eval_batch_size,
        "gradient_accumulation_steps": schedule.gradient_accumulation_steps,
        _checkpointing(facts.packages): schedule.gradient_checkpointing,
        "neftune_noise_alpha": schedule.neftune_noise_alpha or None,
        "learning_rate": optimizer.learning_rate,
        "weight_decay": optimizer.weight_decay,
        "max_grad_norm": optimizer.max_grad_norm,
        "optim": optim if optim == "adamw_torch_fused" else _Code(f'"{optim}" if ON_GPU else "adamw_torch_fused"'),
        "lr_scheduler_type": schedule.lr_scheduler_type,
        "warmup_steps": schedule.warmup_ratio,
        "logging_steps": recipe.output.logging_steps,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": _Code("ON_GPU"),
        "max_length": _Code("MAX_LENGTH"),
        # The rows are already tokens and labels.
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    code = _call("arguments = SFTConfig", values)
    code += """trainer = SFTTrainer(
    model=model,
    args=arguments,
    peft_config=peft_config,
    processing_class=tokenizer,
    train_dataset=Dataset.from_list(rows),
    eval_dataset=Dataset.from_list(held_out) if held_out else None,
)
"""
    if recipe.method.method != "full":
        code += _FLOATS
    if recipe.method.method == "lora" and recipe.method.loraplus_lr_ratio:
        code += f"""
# LoRA+: B has a higher learning rate than A.
from peft.optimizers import create_loraplus_optimizer

kind, optimizer_options = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
trainer.optimizer = create_loraplus_optimizer(
    trainer.model,
    kind,
    loraplus_lr_ratio={recipe.method.loraplus_lr_ratio!r},
    loraplus_weight_decay={optimizer.weight_decay!r},
    **optimizer_options,
)
trainer.optimizer.param_groups = [group for group in trainer.optimizer.param_groups if group["params"]]
"""
    return code + (_COLLATE if schedule.packing else "")


class _Code(str):
    """Python code that is written as it is."""


def _call(what: str, values: Mapping[str, Any]) -> str:
    lines = [
        f"    {name}={value if isinstance(value, _Code) else pprint.pformat(value, width=100, compact=True)},"
        for name, value in values.items()
    ]
    return "\n".join([f"{what}(", *lines, ")"]) + "\n"
