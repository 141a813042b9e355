"""The methods a recipe can train by, in PEFT's words: what is put around the base, and how it begins.

`adapter_config` says what SFTTrainer puts around the base; `settle` then sets what PEFT and TRL leave otherwise (types
of the trained numbers, LoftQ's start) and returns what was trained, ready to be saved (engine/artefacts/trained.py).
Checked against the model here are only things whose failure in the library would not tell a person what to change. What
it does not do: load the base, train, save.
"""

import json
from pathlib import Path
from typing import Any

from studio.engine.artefacts.trained import Trained
from studio.engine.compat.peft import is_4bit_lora_linear, set_dora_magnitude
from studio.engine.workers.harness import Ended
from studio.recipe import Recipe
from studio.recipe.fields import Method
from studio.recipe.fields.method import ia3_modules
from studio.rundir import Exit

# PiSSA by the authors' fast decomposition: seconds instead of minutes a layer, and what it misses stays in the base.
PISSA = "pissa_niter_16"
MOVES_THE_BASE = ("pissa", "olora", "loftq")


def base_dtype(recipe: Recipe) -> str:
    """The type to load the base in. Trained weights are held in float32: in bfloat16 a step smaller than 1/256 of a
    weight rounds away. Autocast computes in bfloat16 all the same."""
    return "float32" if recipe.method.method == "full" else recipe.model.dtype


def adapter_config(model: Any, recipe: Recipe, name: str) -> Any:
    """PEFT's config for the recipe; None for method full. `name` is what a person calls the model."""
    from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, PromptTuningInit

    method = recipe.method
    if method.method == "full":
        return None
    if method.method == "prompt":
        return PromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=_virtual_tokens(model, method),
            # Real tokens' embeddings (Lester et al. 2021): PEFT's random ones are many times as long.
            prompt_tuning_init=PromptTuningInit.SAMPLE_VOCAB,
        )
    if method.method == "prefix":
        return PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=_virtual_tokens(model, method))
    linear = linear_layers(model)
    if method.method == "ia3":
        scaled, feedforward = ia3_modules(path.rpartition(".")[2] for path in linear)
        if not scaled:
            raise Ended(
                Exit(
                    "failed",
                    f"Method ia3 knows none of the layers of the model {name}: they are called {_names(linear)}.",
                    "Use method lora with target_modules all-linear.",
                )
            )
        return IA3Config(task_type="CAUSAL_LM", target_modules=scaled, feedforward_modules=feedforward)
    _check_targets(linear, method, name)
    start = method.init_lora_weights
    return LoraConfig(
        r=method.r,
        lora_alpha=method.lora_alpha,
        lora_dropout=method.lora_dropout,
        target_modules=method.target_modules,
        bias=method.bias,
        use_rslora=method.use_rslora,
        use_dora=method.use_dora,
        # LoftQ begins as default and is set in `settle`: PEFT's own wants CUDA and a single weights file.
        init_lora_weights={"gaussian": "gaussian", "olora": "olora", "pissa": PISSA}.get(start, True),
        task_type="CAUSAL_LM",
    )


def finish_setup(model: Any, recipe: Recipe, model_folder: Path) -> Trained:
    """Give what is trained its type and its start, once SFTTrainer has built it and before its optimizer exists."""
    method = recipe.method
    if method.method == "full":
        return Trained(model)
    if method.method == "lora" and method.init_lora_weights == "loftq":
        _start_loftq(model, model_folder)
    for name, parameter in model.named_parameters():
        # TRL trains adapters on quantised bases in bfloat16, which suits A and B (near 0). Of factors near 1, biases
        # and embeddings it would round most steps away.
        if parameter.requires_grad and "lora_A" not in name and "lora_B" not in name:
            parameter.data = parameter.data.float()
    moved = method.method == "lora" and method.init_lora_weights in MOVES_THE_BASE
    return Trained.over_moved_base(model) if moved else Trained(model)


def parameter_counts(model: Any) -> tuple[int, int]:
    """Parameters that are trained, and those of the base."""
    if not hasattr(model, "get_nb_trainable_parameters"):
        total = sum(parameter.numel() for parameter in model.parameters())
        return total, total
    trained, total = model.get_nb_trainable_parameters()
    own_biases = sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and name.endswith(".bias"))
    return trained, total - trained + own_biases


def set_loraplus(trainer: Any, recipe: Recipe) -> None:
    """Give B a higher learning rate than A, with the optimizer that the trainer would have made."""
    ratio = recipe.method.loraplus_lr_ratio
    if recipe.method.method != "lora" or not ratio:
        return
    from peft.optimizers import create_loraplus_optimizer

    kind, options = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
    optimizer = create_loraplus_optimizer(
        trainer.model,
        kind,
        loraplus_lr_ratio=ratio,
        loraplus_weight_decay=recipe.optimizer.weight_decay,
        **options,
    )
    # PEFT leaves groups without parameters in; the first one's rate is the one journalled, A's.
    optimizer.param_groups = [group for group in optimizer.param_groups if group["params"]]
    trainer.optimizer = optimizer


def linear_layers(model: Any) -> dict[str, Any]:
    """The linear layers that an adapter can be put on, by path: all but the one that scores the vocabulary."""
    import torch
    from transformers import Conv1D

    head = model.get_output_embeddings()
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    }


def _virtual_tokens(model: Any, method: Method) -> int:
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context and method.num_virtual_tokens >= context:
        raise Ended(
            Exit(
                "failed",
                f"The model reads {context} tokens, and num_virtual_tokens {method.num_virtual_tokens} takes them all.",
                "Set num_virtual_tokens to 20.",
            )
        )
    return method.num_virtual_tokens


def _check_targets(linear: dict[str, Any], method: Method, name: str) -> None:
    wanted = method.target_modules
    chosen = linear
    if wanted != "all-linear":
        chosen = {path: module for path, module in linear.items() if path.endswith(tuple(wanted))}
        missing = [word for word in wanted if not any(path == word or path.endswith(f".{word}") for path in linear)]
        if missing:
            raise Ended(
                Exit(
                    "failed",
                    f"The model {name} has no layers called {', '.join(missing)} that can be adapted. "
                    f"It has {_names(linear)}.",
                    "Set target_modules to all-linear, or to names that the model has.",
                )
            )
    if method.init_lora_weights not in MOVES_THE_BASE:
        return
    narrowest = min(min(_shape(module)) for module in chosen.values())
    if method.r > narrowest:
        raise Ended(
            Exit(
                "failed",
                f"init_lora_weights {method.init_lora_weights} takes r directions of each layer, and the narrowest "
                f"adapted layer of {name} has {narrowest}, not {method.r}.",
                f"Set r to at most {narrowest}, or init_lora_weights to default.",
            )
        )


def _shape(module: Any) -> tuple[int, int]:
    # 4-bit layers keep their weight as one long row; their features tell the shape.
    if hasattr(module, "in_features"):
        return module.in_features, module.out_features
    rows, columns = module.weight.shape
    return rows, columns


def _names(linear: dict[str, Any]) -> str:
    return ", ".join(sorted({path.rpartition(".")[2] for path in linear})) or "none"


def _start_loftq(model: Any, model_folder: Path) -> None:
    """Begin A and B at the part of the 4-bit rounding that rank r can hold (Li et al. 2023, one pass).

    As PEFT's replace_lora_weights_loftq, but on any device, from several files, and divided by the adapter's scale,
    which PEFT takes for 1.
    """
    import torch

    from studio.engine.compat.bitsandbytes import unpacked

    exact = _Weights(model_folder)
    with torch.no_grad():
        for path, module in model.named_modules():
            if not is_4bit_lora_linear(module):
                continue
            held = unpacked(module.get_base_layer().weight).float()
            lost = exact.get(path.removeprefix("base_model.model.")).to(held) - held
            rank = module.r["default"]
            left, values, right = torch.svd_lowrank(lost, q=min(2 * rank, *lost.shape), niter=8)
            half = (values[:rank] / module.scaling["default"]).sqrt()
            first, second = module.lora_A["default"].weight, module.lora_B["default"].weight
            first.copy_(half[:, None] * right[:, :rank].T)
            second.copy_(left[:, :rank] * half)
            set_dora_magnitude(module, "default")


class _Weights:
    """The full-precision weights in a model folder, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        index = folder / "model.safetensors.index.json"
        self._files: dict[str, str] = {}
        if index.is_file():
            self._files = json.loads(index.read_text(encoding="utf-8"))["weight_map"]

    def get(self, layer: str) -> Any:
        from safetensors import safe_open

        # Some folders were saved without the outermost name.
        for name in (f"{layer}.weight", f"{layer.partition('.')[2]}.weight"):
            with safe_open(self._folder / self._files.get(name, "model.safetensors"), "pt") as file:
                if name in file.keys():  # noqa: SIM118  (it is no mapping)
                    return file.get_tensor(name)
        raise Ended(
            Exit(
                "failed",
                f"init_lora_weights loftq found no weight called {layer} in the model's files to compare with.",
                "Set init_lora_weights to default.",
            )
        )
