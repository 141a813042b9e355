"""Model cards: the README.md that goes with an adapter or a merged model.

Our own, because PEFT's is blank and names a folder of this machine as the base. Text only; no torch.
"""

from collections.abc import Iterable, Sequence

import yaml

from studio.engine.artefacts.run_facts import CURVE, Facts
from studio.evaluation.parity import digits
from studio.recipe import Recipe
from studio.recipe.fields import Method

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

_LLAMA = """llama-cli -m FILE -cnv
ollama create mine -f Modelfile && ollama run mine
"""


def adapter_card(
    name: str, base: str, dataset: str, recipe: Recipe, steps: int | None = None, facts: Facts | None = None
) -> str:
    """The card of an adapter trained on `base`."""
    made = "An adapter" if facts and facts.origin else _KINDS[recipe.method.method]
    return _card(
        facts=facts,
        front={
            "base_model": base,
            "library_name": "peft",
            "pipeline_tag": "text-generation",
            "tags": [recipe.method.method, "lora-studio"],
        },
        name=name,
        intro=f"{made} for **{base}**, {_how(facts, dataset)}. "
        "It holds only the change: the base model is needed as well.",
        code=_PEFT,
        recipe=recipe,
        steps=steps,
        more=f"`folder` is where this file lies, `base` the folder of {base} or its name on the Hugging Face hub.\n",
    )


def merged_card(
    name: str, base: str, dataset: str, recipe: Recipe, steps: int | None = None, facts: Facts | None = None
) -> str:
    """The card of a whole model: with the adapter merged into it, or with every weight trained."""
    dtype = facts.dtype if facts and facts.dtype else recipe.model.dtype
    more = "`folder` is where this file lies. The chat template and the token that ends an answer are included.\n"
    held = recipe.quantization.quantization
    if held != "none":
        bits = 4 if recipe.quantization.four_bit else 8
        more += f"The adapter was trained on a {bits}-bit base and merged into the {dtype} one, never in {bits} bits: "
        more += "answers can differ slightly from those during training.\n"
    done = "with every weight trained" if recipe.method.method == "full" else "with an adapter merged in"
    return _card(
        facts=facts,
        front={
            "base_model": base,
            "library_name": "transformers",
            "pipeline_tag": "text-generation",
            "tags": ["lora-studio"],
        },
        name=name,
        intro=f"**{base}** {done} ({dtype}), {_how(facts, dataset)}.",
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


def gguf_card(name: str, base: str, dataset: str, recipe: Recipe, file: str, quant: str, facts: Facts) -> str:
    """The card of a model in llama.cpp's format."""
    return _card(
        facts=facts,
        front={"base_model": base, "pipeline_tag": "text-generation", "tags": ["gguf", "lora-studio"]},
        name=name,
        intro=f"**{base}** with an adapter merged in, as a GGUF of type {quant}, {_how(facts, dataset)}.",
        code=_LLAMA.replace("FILE", file),
        language="sh",
        recipe=recipe,
        steps=None,
        more="The chat template and the tokens that end an answer are in the file.\n",
    )


def _how(facts: Facts | None, dataset: str) -> str:
    """Where what was learned comes from."""
    origin = facts.origin if facts else None
    if origin and origin.get("parents"):
        return f"combined with LoRA Studio from {len(origin['parents'])} adapters"
    if origin:
        return f"brought into LoRA Studio from {origin.get('from') or 'elsewhere'}"
    return f"trained with LoRA Studio on the dataset **{dataset}**"


def _card(
    front: dict[str, str | list[str]],
    name: str,
    intro: str,
    code: str,
    recipe: Recipe,
    steps: int | None,
    more: str,
    facts: Facts | None = None,
    language: str = "python",
) -> str:
    if facts and facts.base_license:
        front = {**front, "license": facts.base_license}
    header = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    parts = [f"---\n{header}---\n\n# {name}\n\n{intro}\n\n## Load it\n\n```{language}\n{code}```\n\n{more}"]
    if facts is None or facts.origin is None:
        parts.append("## How it was trained\n\n" + _table(("setting", "value"), _settings(recipe, steps, facts)))
    if facts is not None:
        parts += _told(facts)
    return "\n".join(parts)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).replace("| --- | ---", "|---|---")


def _told(facts: Facts) -> list[str]:
    """What is known of data, curve, evaluation, parity and licence, a section each."""
    parts = []
    if facts.origin and facts.origin.get("parents"):
        rows = [(str(parent["name"]), f"{parent['weight']:g}") for parent in facts.origin["parents"]]
        density = facts.origin.get("density")
        how = f"Combined by `{facts.origin.get('method')}`" + (f", density {density:g}" if density else "")
        parts.append(f"## What it is made of\n\n{how}.\n\n{_table(('adapter', 'weight'), rows)}")
    if facts.losses:
        points = [(str(step), _number(loss), _number(held)) for step, loss, held in facts.thinned]
        parts.append(
            f"## Loss\n\n![Training loss by step]({CURVE})\n\n" + _table(("step", "loss", "evaluation loss"), points)
        )
    if facts.evaluation:
        parts.append("## Evaluation\n\n" + "".join(f"- {line}\n" for line in facts.evaluation))
    if facts.parity is not None:
        found = facts.parity
        rows = [
            ("loaded by", found.loader),
            ("correlation of logits, worst place", digits(found.correlation)),
            ("correlation of logits, mean", digits(found.mean)),
            ("same likeliest next token", f"{found.agreement:.1%} of {found.tokens}"),
            ("greedy answers the same to the end", f"{found.alike} of {found.prompts}"),
            ("chat template, sha256", found.own_template[:16] or "plain text"),
        ]
        parts.append(
            "## Parity\n\nBefore it was given out this artefact was loaded again from disk and held against the model "
            f"it was chatted with, on {found.prompts} prompts.\n\n{_table(('figure', 'value'), rows)}"
        )
    named = f"The base model's licence is `{facts.base_license}`" if facts.base_license else "See the base's own card"
    parts.append(
        f"## Licence\n\n{named}; it applies to this as well. The examples it was trained on may carry terms of their "
        "own.\n"
    )
    return parts


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _settings(recipe: Recipe, steps: int | None, facts: Facts | None) -> list[tuple[str, str]]:
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
    steps = steps or (facts.steps if facts else None)
    rows += [("optimizer steps", str(steps))] if steps else []
    if facts and facts.rows:
        rows.append(("dataset", f"{facts.rows:,} rows, sha256 {facts.digest[:16]}"))
    return rows


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
