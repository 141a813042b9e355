"""Training methods: translate a recipe to a PEFT config, and initialise the trained parameters.

`adapter_config` returns the config for SFTTrainer; `finish_setup` then sets what PEFT and TRL do not (dtypes of the
trained parameters, LoftQ initialisation) and returns the trained part, ready to be saved (engine/artefacts/trained.py).
The recipe is checked against the model only where the library's own error would not say what to change.
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

# PiSSA with the authors' fast SVD: seconds instead of minutes per layer; its error stays in the base.
PISSA = "pissa_niter_16"
MOVES_THE_BASE = ("pissa", "olora", "loftq")


def base_dtype(recipe: Recipe) -> str:
    """Return the dtype to load the base in.

    Method full keeps its weights in float32, because in bfloat16 an update below 1/256 of a weight rounds to zero;
    autocast still computes in bfloat16.
    """
    return "float32" if recipe.method.method == "full" else recipe.model.dtype


def adapter_config(model: Any, recipe: Recipe, name: str) -> Any:
    """Return PEFT's config for the recipe; None for method full. `name` is the model's name for messages."""
    from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, PromptTuningInit

    method = recipe.method
    if method.method == "full":
        return None
    if method.method == "prompt":
        return PromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=_virtual_tokens(model, method),
            # Embeddings of real tokens (Lester et al. 2021): PEFT's random ones have a much larger norm.
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
                    f"Method ia3 does not support the layers of the model {name}: {_names(linear)}.",
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
        # LoftQ starts as default and is set in `finish_setup`: PEFT's own needs CUDA and a single weights file.
        init_lora_weights={"gaussian": "gaussian", "olora": "olora", "pissa": PISSA}.get(start, True),
        task_type="CAUSAL_LM",
    )


def finish_setup(model: Any, recipe: Recipe, model_folder: Path) -> Trained:
    """Set dtypes and initial values of the trained parameters.

    Call it after SFTTrainer has added the adapter and before the optimizer exists.
    """
    method = recipe.method
    if method.method == "full":
        return Trained(model)
    if method.method == "lora" and method.init_lora_weights == "loftq":
        _start_loftq(model, model_folder)
    for name, parameter in model.named_parameters():
        # TRL trains adapters on quantised bases in bfloat16, which suits A and B (near 0). Most updates of factors near
        # 1, biases and embeddings would round to zero in it.
        if parameter.requires_grad and "lora_A" not in name and "lora_B" not in name:
            parameter.data = parameter.data.float()
    moved = method.method == "lora" and method.init_lora_weights in MOVES_THE_BASE
    return Trained.over_moved_base(model) if moved else Trained(model)


def parameter_counts(model: Any) -> tuple[int, int]:
    """Return the numbers of trained parameters and of base parameters."""
    if not hasattr(model, "get_nb_trainable_parameters"):
        total = sum(parameter.numel() for parameter in model.parameters())
        return total, total
    trained, total = model.get_nb_trainable_parameters()
    own_biases = sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and name.endswith(".bias"))
    return trained, total - trained + own_biases


def set_loraplus(trainer: Any, recipe: Recipe) -> None:
    """Set up LoRA+: a higher learning rate for B than for A, with the optimizer type of the trainer."""
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
    # Drop PEFT's groups without parameters; the journal shows the first group's rate, which must be A's.
    optimizer.param_groups = [group for group in optimizer.param_groups if group["params"]]
    trainer.optimizer = optimizer


def linear_layers(model: Any) -> dict[str, Any]:
    """Return the linear layers that an adapter can target, by path: all but the output head."""
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
                f"The model reads {context} tokens, all taken by num_virtual_tokens {method.num_virtual_tokens}.",
                "Set num_virtual_tokens to 20.",
            )
        )
    return method.num_virtual_tokens


def _check_targets(linear: dict[str, Any], method: Method, name: str) -> None:
    targets = method.target_modules
    chosen = linear
    if targets != "all-linear":
        chosen = {path: module for path, module in linear.items() if path.endswith(tuple(targets))}
        missing = [
            target for target in targets if not any(path == target or path.endswith(f".{target}") for path in linear)
        ]
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
    # 4-bit layers store their weight as one row; their feature counts give the shape.
    if hasattr(module, "in_features"):
        return module.in_features, module.out_features
    rows, columns = module.weight.shape
    return rows, columns


def _names(linear: dict[str, Any]) -> str:
    return ", ".join(sorted({path.rpartition(".")[2] for path in linear})) or "none"


def _start_loftq(model: Any, model_folder: Path) -> None:
    """Initialise A and B with the best rank-r approximation of the 4-bit rounding error (Li et al. 2023, one pass).

    Like PEFT's replace_lora_weights_loftq, but on any device, from several weight files, and divided by the adapter's
    scale, which PEFT assumes to be 1.
    """
    import torch

    from studio.engine.compat.bitsandbytes import unpacked

    exact = _Weights(model_folder)
    with torch.no_grad():
        for path, module in model.named_modules():
            if not is_4bit_lora_linear(module):
                continue
            quantized = unpacked(module.get_base_layer().weight).float()
            rounding = exact.get(path.removeprefix("base_model.model.")).to(quantized) - quantized
            rank = module.r["default"]
            left, values, right = torch.svd_lowrank(rounding, q=min(2 * rank, *rounding.shape), niter=8)
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

        # Some model folders lack the outermost name.
        for name in (f"{layer}.weight", f"{layer.partition('.')[2]}.weight"):
            with safe_open(self._folder / self._files.get(name, "model.safetensors"), "pt") as file:
                if name in file.keys():  # noqa: SIM118  (not a mapping)
                    return file.get_tensor(name)
        raise Ended(
            Exit(
                "failed",
                f"init_lora_weights loftq needs the weight of {layer}, which is not in the model's files.",
                "Set init_lora_weights to default.",
            )
        )
