"""Model cards: the README.md that goes with an adapter or a merged model.

Our own, because PEFT's is blank and names a folder of this machine as the base. Text only; no torch.
"""

import yaml

from studio.recipe import Recipe
from studio.themes import Method

_KINDS = {
    "lora": "A LoRA adapter",
    "ia3": "An IA³ adapter",
    "prompt": "A trained prompt",
    "prefix": "A trained prefix",
}
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
            "tags": [recipe.method.method, "lora-studio"],
        },
        name=name,
        intro=f"{_KINDS[recipe.method.method]} for **{base}**, trained with LoRA Studio on the dataset **{dataset}**. "
        "It holds only the change: the base model is needed as well.",
        code=_PEFT,
        recipe=recipe,
        steps=steps,
        more=f"`folder` is where this file lies, `base` the folder of {base} or its name on the Hugging Face hub.\n",
    )


def merged_card(name: str, base: str, dataset: str, recipe: Recipe, steps: int | None = None) -> str:
    """The card of a whole model: with the adapter merged into it, or with every weight trained."""
    more = "`folder` is where this file lies. The chat template and the token that ends an answer are included.\n"
    held = recipe.quantization.quantization
    if held != "none":
        bits = 4 if recipe.quantization.four_bit else 8
        more += f"The adapter was trained on a {bits}-bit base and merged into the {recipe.model.dtype} one: "
        more += "answers can differ slightly.\n"
    done = "with every weight trained" if recipe.method.method == "full" else "with an adapter merged in"
    return _card(
        front={
            "base_model": base,
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "tags": ["lora-studio"],
        },
        name=name,
        intro=f"**{base}** {done} ({recipe.model.dtype}), made with LoRA Studio on the dataset **{dataset}**.",
        code=_PLAIN,
        recipe=recipe,
        steps=steps,
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
    held = recipe.quantization.quantization
    rows = [
        *_method(recipe.method),
        ("base held as", recipe.model.dtype if held == "none" else held),
        ("learning_rate", f"{recipe.optimizer.learning_rate:g}, {recipe.schedule.lr_scheduler_type}"),
        ("examples a step", str(recipe.effective_batch)),
        ("num_train_epochs", f"{recipe.schedule.num_train_epochs:g}"),
        ("max_length", f"{recipe.data.max_length}{', packed' if recipe.schedule.packing else ''}"),
        ("template, trained on", f"{recipe.data.template}, {recipe.data.train_on}"),
        ("seed", str(recipe.schedule.seed)),
    ]
    return rows if steps is None else [*rows, ("optimizer steps", str(steps))]


def _method(method: Method) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = [("method", method.method)]
    if method.method in ("prompt", "prefix"):
        rows.append(("num_virtual_tokens", str(method.num_virtual_tokens)))
    if method.method == "lora":
        modules = method.target_modules
        rows += [
            ("r, lora_alpha, lora_dropout", f"{method.r}, {method.lora_alpha}, {method.lora_dropout}"),
            ("target_modules", modules if isinstance(modules, str) else ", ".join(modules)),
        ]
        if method.init_lora_weights in ("pissa", "olora", "loftq"):
            note = f"{method.init_lora_weights}; saved as its difference, of rank {2 * method.r}"
            rows.append(("init_lora_weights", note))
        rows += [(name, "on") for name in ("use_rslora", "use_dora") if getattr(method, name)]
        if method.bias != "none":
            rows.append(("bias", method.bias))
        if method.loraplus_lr_ratio:
            rows.append(("loraplus_lr_ratio", f"{method.loraplus_lr_ratio:g}"))
    return rows
