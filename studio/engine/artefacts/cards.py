"""Model cards: the README.md of an adapter, a merged model or a GGUF.

They replace PEFT's card, which is blank and gives a folder of this machine as the base. Text only; no torch.
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
    "prompt": "A soft prompt",
    "prefix": "A prefix-tuning adapter",
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
    """Return the card of an adapter trained on `base`."""
    kind = "An adapter" if facts and facts.origin else _KINDS[recipe.method.method]
    return _card(
        facts=facts,
        front={
            "base_model": base,
            "library_name": "peft",
            "pipeline_tag": "text-generation",
            "tags": [recipe.method.method, "lora-studio"],
        },
        name=name,
        intro=f"{kind} for **{base}**, {_how(facts, dataset)}. "
        "It contains only the trained weights; you also need the base model.",
        code=_PEFT,
        recipe=recipe,
        steps=steps,
        more=f"`folder` is the path of this folder; `base` is the folder of {base} or its Hugging Face name.\n",
    )


def merged_card(
    name: str, base: str, dataset: str, recipe: Recipe, steps: int | None = None, facts: Facts | None = None
) -> str:
    """Return the card of a whole model: with an adapter merged in, or with every weight trained."""
    dtype = facts.dtype if facts and facts.dtype else recipe.model.dtype
    more = "`folder` is the path of this folder. The chat template and the end-of-answer token are included.\n"
    quantization = recipe.quantization.quantization
    if quantization != "none":
        bits = 4 if recipe.quantization.four_bit else 8
        more += f"The adapter was trained on a {bits}-bit base and merged into the {dtype} base, never in {bits} bits: "
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
    """Return the NOTICE on licences, which needs only the base's name."""
    return (
        f"This was made from the model {base}. The licence of that model also applies here:\n"
        "read it before you share this. The training examples may have their own terms.\n"
    )


def gguf_card(name: str, base: str, dataset: str, recipe: Recipe, file: str, quant: str, facts: Facts) -> str:
    """Return the card of a GGUF, the model format of llama.cpp."""
    return _card(
        facts=facts,
        front={"base_model": base, "pipeline_tag": "text-generation", "tags": ["gguf", "lora-studio"]},
        name=name,
        intro=f"**{base}** with an adapter merged in, as a GGUF of type {quant}, {_how(facts, dataset)}.",
        code=_LLAMA.replace("FILE", file),
        language="sh",
        recipe=recipe,
        steps=None,
        more="The file includes the chat template and the end-of-answer tokens.\n",
    )


def _how(facts: Facts | None, dataset: str) -> str:
    """Describe where the adapter comes from: combined, imported or trained."""
    origin = facts.origin if facts else None
    if origin and origin.get("parents"):
        return f"combined with LoRA Studio from {len(origin['parents'])} adapters"
    if origin:
        return f"imported into LoRA Studio from {origin.get('from') or 'elsewhere'}"
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
    parts = [f"---\n{header}---\n\n# {name}\n\n{intro}\n\n## Usage\n\n```{language}\n{code}```\n\n{more}"]
    if facts is None or facts.origin is None:
        parts.append("## Training\n\n" + _table(("setting", "value"), _settings(recipe, steps, facts)))
    if facts is not None:
        parts += _sections(facts)
    return "\n".join(parts)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines).replace("| --- | ---", "|---|---")


def _sections(facts: Facts) -> list[str]:
    """Return the sections on source adapters, loss, evaluation, parity and licence, where there is data."""
    parts = []
    if facts.origin and facts.origin.get("parents"):
        rows = [(str(parent["name"]), f"{parent['weight']:g}") for parent in facts.origin["parents"]]
        density = facts.origin.get("density")
        method = f"Combined with `{facts.origin.get('method')}`" + (f", density {density:g}" if density else "")
        parts.append(f"## Source adapters\n\n{method}.\n\n{_table(('adapter', 'weight'), rows)}")
    if facts.losses:
        points = [(str(step), _number(loss), _number(eval_loss)) for step, loss, eval_loss in facts.thinned]
        parts.append(
            f"## Loss\n\n![Training loss by step]({CURVE})\n\n" + _table(("step", "loss", "evaluation loss"), points)
        )
    if facts.evaluation:
        parts.append("## Evaluation\n\n" + "".join(f"- {line}\n" for line in facts.evaluation))
    if facts.parity is not None:
        parity = facts.parity
        rows = [
            ("loaded by", parity.loader),
            ("correlation of logits, worst position", digits(parity.correlation)),
            ("correlation of logits, mean", digits(parity.mean)),
            ("same most likely next token", f"{parity.agreement:.1%} of {parity.tokens}"),
            ("identical greedy answers", f"{parity.alike} of {parity.prompts}"),
            ("chat template, sha256", parity.own_template[:16] or "plain text"),
        ]
        parts.append(
            "## Parity\n\nBefore it was offered, this artefact was reloaded from disk and compared with the "
            f"model in the chat on {parity.prompts} prompts.\n\n{_table(('figure', 'value'), rows)}"
        )
    licence = "See the licence of the base model"
    if facts.base_license:
        licence = f"The licence of the base model is `{facts.base_license}`"
    parts.append(f"## Licence\n\n{licence}, which also applies here. The training examples may have their own terms.\n")
    return parts


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _settings(recipe: Recipe, steps: int | None, facts: Facts | None) -> list[tuple[str, str]]:
    quantization = recipe.quantization.quantization
    rows = [
        *_method(recipe.method),
        ("base weights", recipe.model.dtype if quantization == "none" else quantization),
        ("learning_rate", f"{recipe.optimizer.learning_rate:g}, {recipe.schedule.lr_scheduler_type}"),
        ("examples per step", str(recipe.effective_batch)),
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
            note = f"{method.init_lora_weights}; saved as the difference from the start, of rank {2 * method.r}"
            rows.append(("init_lora_weights", note))
        rows += [(name, "on") for name in ("use_rslora", "use_dora") if getattr(method, name)]
        if method.bias != "none":
            rows.append(("bias", method.bias))
        if method.loraplus_lr_ratio:
            rows.append(("loraplus_lr_ratio", f"{method.loraplus_lr_ratio:g}"))
    return rows
