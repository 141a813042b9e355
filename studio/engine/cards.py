"""Model cards: the README.md that goes with an adapter or a merged model.

Our own, because PEFT's is blank and names a folder of this machine as the base. Text only; no torch.
"""

import yaml

from studio.recipe import Recipe

_PEFT = """from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(folder)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder)
"""

_PLAIN = """from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)
"""


def adapter_card(name: str, base: str, dataset: str, recipe: Recipe, steps: int | None = None) -> str:
    """The card of an adapter trained on `base`."""
    return _card(
        front={
            "base_model": base,
            "library_name": "peft",
            "pipeline_tag": "text-generation",
            "tags": ["lora", "lora-studio"],
        },
        name=name,
        intro=f"A LoRA adapter for **{base}**, trained with LoRA Studio on the dataset **{dataset}**. "
        "It holds only the change: the base model is needed as well.",
        code=_PEFT,
        recipe=recipe,
        steps=steps,
        more=f"`folder` is where this file lies, `base` the folder of {base} or its name on the Hugging Face hub.\n",
    )


def merged_card(name: str, base: str, dataset: str, recipe: Recipe, dtype: str) -> str:
    """The card of a model with the adapter merged into it."""
    more = "`folder` is where this file lies. The chat template and the token that ends an answer are included.\n"
    if recipe.quantization.quantization == "nf4":
        more += "The adapter was trained on a 4-bit base and merged into the 16-bit one: answers can differ slightly.\n"
    return _card(
        front={
            "base_model": base,
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "tags": ["lora-studio"],
        },
        name=name,
        intro=f"**{base}** with a LoRA adapter merged in ({dtype}), trained with LoRA Studio on the dataset "
        f"**{dataset}**.",
        code=_PLAIN,
        recipe=recipe,
        steps=None,
        more=more,
    )


def license_note(base: str) -> str:
    """What can be said of the licence without knowing more than the base's name."""
    return (
        f"This was made from the model {base}. The licence of that model applies to it as well;\n"
        "read it before you pass this on. The examples it was trained on may carry terms of their own.\n"
    )


def _card(
    front: dict[str, str | list[str]], name: str, intro: str, code: str, recipe: Recipe, steps: int | None, more: str
) -> str:
    header = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    rows = "\n".join(f"| {label} | {value} |" for label, value in _settings(recipe, steps))
    return (
        f"---\n{header}---\n\n# {name}\n\n{intro}\n\n## Load it\n\n```python\n{code}```\n\n{more}\n"
        f"## How it was trained\n\n| setting | value |\n|---|---|\n{rows}\n"
    )


def _settings(recipe: Recipe, steps: int | None) -> list[tuple[str, str]]:
    method, modules = recipe.method, recipe.method.target_modules
    rows = [
        ("r, lora_alpha, lora_dropout", f"{method.r}, {method.lora_alpha}, {method.lora_dropout}"),
        ("target_modules", modules if isinstance(modules, str) else ", ".join(modules)),
        ("base held as", "nf4" if recipe.quantization.quantization == "nf4" else recipe.model.dtype),
        ("learning_rate", f"{recipe.optimizer.learning_rate:g}, {recipe.schedule.lr_scheduler_type}"),
        ("examples a step", str(recipe.effective_batch)),
        ("num_train_epochs", f"{recipe.schedule.num_train_epochs:g}"),
        ("max_length", str(recipe.data.max_length)),
        ("template, trained on", f"{recipe.data.template}, {recipe.data.train_on}"),
        ("seed", str(recipe.schedule.seed)),
    ]
    return rows if steps is None else [*rows, ("optimizer steps", str(steps))]
