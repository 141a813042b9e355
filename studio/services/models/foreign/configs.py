"""Config files of foreign weights: JSON read with bounds, of which only known settings are kept.

An adapter's config is rewritten from the settings listed here. A setting that would make a library import a module,
fetch something, change the base or match foreign regular expressions is refused, not passed on. An empty setting that
is unknown here is dropped: every version of PEFT writes new ones.
"""

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from studio.errors import BadInput

RANK_MOST, TOKENS_MOST = 1024, 1024
# Settings with which transformers and PEFT load code that is not their own.
_CODE = ("auto_map", "custom_code", "trust_remote_code", "custom_pipelines", "custom_generate")
_PLAIN = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_MOST_NAMES, _DEEPEST = 4096, 32
# Initialisations that change the base while the adapter is loaded: such an adapter fits only the changed base.
_MOVING = ("pissa", "olora", "corda", "loftq", "lora_ga", "eva")

Check = Callable[[Any], bool]


def read(path: Path, where: str) -> dict[str, Any]:
    """Read a foreign JSON mapping; raises BadInput if it is not one, or asks for code to be run."""
    name = f"{path.name} of {where}"
    try:
        value = json.loads(path.read_bytes().decode("utf-8"))
    except (ValueError, RecursionError):
        raise BadInput(f"{name} is not JSON. Save it again.") from None
    if not isinstance(value, dict):
        raise BadInput(f"{name} is not a JSON object of settings. Save it again.")
    for key, setting, depth in _all_settings(value):
        if depth > _DEEPEST:
            raise BadInput(f"{name} is nested more than {_DEEPEST} deep. It is refused.")
        if key in _CODE and setting:
            raise BadInput(
                f"{name} has {key}: it asks to run code that comes with it. Only plain models of transformers and "
                "adapters of PEFT are accepted; remove that setting if the model works without it."
            )
    return value


def _all_settings(value: Any, depth: int = 1) -> Iterator[tuple[str, Any, int]]:
    """Every key, value and depth in nested JSON, down to one level below the deepest allowed."""
    if depth > _DEEPEST + 1:
        return
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, setting in parts:
        yield str(key), setting, depth
        yield from _all_settings(setting, depth + 1)


def adapter(path: Path, where: str) -> dict[str, Any]:
    """The config of an adapter with only its known settings; raises BadInput that names the faulty setting."""
    config = read(path, where)
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise BadInput(f"The adapter in {where} is of the type {_short(kind)}. Accepted types: {', '.join(_KINDS)}.")
    known = _ALL | _KINDS[kind]
    taken: dict[str, Any] = {}
    for key, value in config.items():
        if key in _DROPPED:
            continue
        if key in known:
            check, words = known[key]
            if not check(value):
                raise BadInput(f"adapter_config.json of {where} has {key} = {_short(value)}: it must be {words}.")
            taken[key] = value
        elif key in _MUST_BE_EMPTY or key in _CODE:
            if _is_set(value):
                raise BadInput(
                    f"adapter_config.json of {where} sets {key}, which is not accepted: it changes the base or loads "
                    "something that is not in the adapter. Save the adapter without it."
                )
        elif _is_set(value):
            raise BadInput(f"adapter_config.json of {where} sets {_short(key)}, which is unknown here. Remove it.")
    for key in _NEEDED[kind]:
        if taken.get(key) in (None, []):
            raise BadInput(f"adapter_config.json of {where} does not say {key}. Save the adapter with PEFT again.")
    start = taken.get("init_lora_weights")
    if isinstance(start, str):
        if start.lower().startswith(_MOVING):
            raise BadInput(
                f"The adapter in {where} was initialised with {_short(start)} and fits only the base that this "
                "changed. Save it with path_initial_model_for_weight_conversion, which converts it for the plain base."
            )
        taken["init_lora_weights"] = True
    # Settings that only a new training needs are dropped; loading needs none of them.
    return taken | {"inference_mode": True, "task_type": "CAUSAL_LM", "base_model_name_or_path": None, "revision": None}


def named_base(path: Path) -> str:
    """The name of the base in an adapter's config; empty if it has none."""
    value = json.loads(path.read_bytes().decode("utf-8")).get("base_model_name_or_path")
    return value[:300] if isinstance(value, str) else ""


def model(path: Path, base: dict[str, Any], where: str) -> dict[str, Any]:
    """The config of a whole model: its base's, with the numbers, switches and words of the model's own.

    Settings that the base does not have are dropped.
    """
    config = read(path, where)
    if config.get("model_type") != base.get("model_type"):
        raise BadInput(
            f"The model in {where} is a {_short(config.get('model_type'))} and its base a {base.get('model_type')}. "
            "Choose the base that it was made from."
        )
    if config.get("quantization_config"):
        raise BadInput(f"The model in {where} is quantised. Save it in 16 or 32 bits.")
    taken = dict(base)
    for key, value in config.items():
        plain = not key.startswith("_") and not any(word in key for word in ("path", "file", "attn_impl", "kernel"))
        if plain and key in base and _same_kind(value, base[key]):
            taken[key] = value
    return taken


def tokenizer(path: Path, where: str) -> None:
    """Raise BadInput if a tokenizer's config asks for code to be run or is not valid."""
    config = read(path, where)
    name = config.get("tokenizer_class")
    if name is not None and (not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w{0,80}", name)):
        raise BadInput(f"{path.name} of {where} has the odd tokenizer_class {_short(name)}. Save the tokenizer again.")


def _same_kind(value: Any, base: Any) -> bool:
    """Whether a foreign value has the type of the base's, is finite and contains only plain words."""
    if isinstance(base, bool) or isinstance(value, bool):
        return isinstance(base, bool) and isinstance(value, bool)
    if isinstance(base, int | float):
        return isinstance(value, int | float) and math.isfinite(value)
    if isinstance(base, dict):
        return isinstance(value, dict) and all(
            isinstance(part, int | float | str | bool | None) for part in value.values()
        )
    if isinstance(base, list):
        return isinstance(value, list) and all(isinstance(part, int | float | str) for part in value)
    return isinstance(base, str) and isinstance(value, str) and _PLAIN.fullmatch(value) is not None


def _is_set(value: Any) -> bool:
    """Whether a setting is more than empty; {"ephemeral_gpu_offload": false} counts as empty."""
    if isinstance(value, dict):
        return any(_is_set(part) for part in value.values())
    return bool(value)


def _number(low: float, high: float, whole: bool = True) -> tuple[Check, str]:
    def check(value: Any) -> bool:
        fits = type(value) is int or (not whole and isinstance(value, float))
        return fits and math.isfinite(value) and low <= value <= high

    return check, f"a {'whole ' if whole else ''}number from {low:g} to {high:g}"


def _one_of(*words: Any) -> tuple[Check, str]:
    return lambda value: any(value is word or (isinstance(word, str) and value == word) for word in words), (
        "one of " + ", ".join("nothing" if word is None else str(word).lower() for word in words)
    )


def _are_names(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= _MOST_NAMES
        and all(isinstance(name, str) and len(name) <= 200 and _PLAIN.fullmatch(name) for name in value)
    )


def _maybe(check: tuple[Check, str]) -> tuple[Check, str]:
    return lambda value: value is None or check[0](value), check[1]


def _layers(value: Any) -> bool:
    layers = [value] if type(value) is int else value
    return (
        isinstance(layers, list)
        and len(layers) <= 1000
        and all(type(layer) is int and 0 <= layer < 1000 for layer in layers)
    )


def _by_name(low: float, high: float, whole: bool) -> tuple[Check, str]:
    check, words = _number(low, high, whole)
    return (
        lambda value: (
            isinstance(value, dict) and _are_names(list(value)) and all(check(part) for part in value.values())
        ),
        f"plain names with {words} each",
    )


_NAMES: tuple[Check, str] = (_are_names, f"a list of up to {_MOST_NAMES:,} plain names of layers")
_NAME_OR_NAMES: tuple[Check, str] = (
    lambda value: (
        value == "all-linear" or (isinstance(value, str) and bool(_PLAIN.fullmatch(value))) or _are_names(value)
    ),
    "all-linear or plain names of layers, no regular expression",
)
_SWITCH = _one_of(True, False)
_TEXT: tuple[Check, str] = (lambda value: isinstance(value, str) and len(value) <= 100, "a short text")
_ALL: dict[str, tuple[Check, str]] = {
    "peft_type": _TEXT,
    "task_type": _one_of("CAUSAL_LM", None),
    "inference_mode": _SWITCH,
    "peft_version": _maybe(_TEXT),
    "modules_to_save": _maybe(_NAMES),
}
_KINDS: dict[str, dict[str, tuple[Check, str]]] = {
    "LORA": {
        "r": _number(1, RANK_MOST),
        "lora_alpha": _number(0, 65536, whole=False),
        "lora_dropout": _number(0, 0.99, whole=False),
        "target_modules": _NAME_OR_NAMES,
        "exclude_modules": _maybe(_NAME_OR_NAMES),
        "bias": _one_of("none", "all", "lora_only"),
        "fan_in_fan_out": _SWITCH,
        "use_rslora": _SWITCH,
        "use_dora": _SWITCH,
        "lora_bias": _SWITCH,
        "init_lora_weights": (lambda value: value is None or isinstance(value, bool | str), "a switch or a word"),
        "layers_to_transform": _maybe((_layers, "numbers of layers")),
        "layers_pattern": _maybe((lambda value: _are_names([value]) or _are_names(value), "plain names")),
        "rank_pattern": _maybe(_by_name(1, RANK_MOST, whole=True)),
        "alpha_pattern": _maybe(_by_name(0, 65536, whole=False)),
    },
    "IA3": {
        "target_modules": _NAME_OR_NAMES,
        "feedforward_modules": _maybe(_NAME_OR_NAMES),
        "exclude_modules": _maybe(_NAME_OR_NAMES),
        "fan_in_fan_out": _SWITCH,
        "init_ia3_weights": _SWITCH,
    },
    "PROMPT_TUNING": {},
    "PREFIX_TUNING": {"prefix_projection": _one_of(False), "init_weights": _maybe(_SWITCH)},
}
for _kind in ("PROMPT_TUNING", "PREFIX_TUNING"):
    _KINDS[_kind] |= {
        "num_virtual_tokens": _number(1, TOKENS_MOST),
        "token_dim": _number(1, 10**6),
        "num_transformer_submodules": _maybe(_number(1, 1)),
        "num_attention_heads": _number(1, 10**4),
        "num_layers": _number(1, 10**4),
    }
_NEEDED = {
    "LORA": ("r", "lora_alpha", "target_modules"),
    "IA3": ("target_modules",),
    "PROMPT_TUNING": ("num_virtual_tokens", "token_dim"),
    "PREFIX_TUNING": ("num_virtual_tokens", "token_dim", "num_layers"),
}
# Rewritten by the studio, or used only when a training begins.
_DROPPED = frozenset(
    ("base_model_name_or_path", "revision", "megatron_core", "runtime_config", "qalora_group_size", "loftq_config",
     "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "ensure_weight_tying",
     "encoder_hidden_size")
)  # fmt: skip
_MUST_BE_EMPTY = frozenset(
    ("auto_mapping", "megatron_config", "layer_replication", "trainable_token_indices", "alora_invocation_tokens",
     "use_qalora", "target_parameters", "tokenizer_kwargs", "eva_config", "corda_config", "use_bdlora")
)  # fmt: skip


def _short(value: Any) -> str:
    text = "".join(sign if sign.isprintable() else "·" for sign in str(value))
    return text if len(text) <= 100 else text[:97] + "…"
