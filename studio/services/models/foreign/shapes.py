"""Check that foreign weights fit a base: every tensor's name and shape, before anything is loaded."""

from collections.abc import Sequence
from typing import Any

from studio.errors import BadInput
from studio.memory.shapes import ModelShape, Tensor

_PREFIX = "base_model.model."
_LORA = (".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector",
         ".lora_B.bias")  # fmt: skip


class _Base:
    """The base's tensors under the names that adapters give them."""

    def __init__(self, shape: ModelShape) -> None:
        self.name, self.shape = shape.name, shape
        self._sizes = {tensor.name: tensor.shape for tensor in shape.tensors}
        # Some models were saved without the outermost module's name.
        self._bare = {name.partition(".")[2]: size for name, size in self._sizes.items()}

    def size(self, name: str) -> tuple[int, ...] | None:
        size = self._sizes.get(name) or self._sizes.get(name.partition(".")[2]) or self._bare.get(name)
        if size is None and name in ("lm_head.weight", "embed_out.weight") and self.shape.tied:
            return self.shape.vocabulary, self.shape.hidden
        return size

    def features(self, path: str) -> tuple[int, int] | None:
        """Input and output size of a layer."""
        size = self.size(f"{path}.weight")
        if size is None or len(size) != 2:
            return None
        # GPT-2 stores its layers transposed (Conv1D), but not its embeddings.
        transposed = self.shape.architecture == "gpt2" and not path.endswith(("wte", "wpe", "lm_head"))
        return size if transposed else (size[1], size[0])

    def knows(self, module: str) -> bool:
        """Whether any layer has this name."""
        return module == "lm_head" or any(
            name == f"{module}.weight" or name.endswith(f".{module}.weight") for name in self._sizes
        )


def check_adapter(config: dict[str, Any], tensors: Sequence[Tensor], shape: ModelShape, base: str) -> None:
    """Raise BadInput naming the first layer or tensor that does not fit the base called `base`."""
    known = _Base(shape)
    for key in ("target_modules", "feedforward_modules", "modules_to_save"):
        named = config.get(key)
        for module in [named] if isinstance(named, str) else named or []:
            if module != "all-linear" and not known.knows(module):
                there = ", ".join(sorted({linear.module for linear in shape.linears}))
                raise BadInput(
                    f"The adapter changes layers called {module}, and {base} has none; it has {there}. Choose the base "
                    "that it was trained on."
                )
    if config["peft_type"] in ("PROMPT_TUNING", "PREFIX_TUNING"):
        _check_tokens(config, tensors, shape, base)
        return
    names = {tensor.name for tensor in tensors}
    for tensor in tensors:
        if not tensor.name.startswith(_PREFIX):
            raise BadInput(
                f"{_short(tensor.name)} is not a tensor of an adapter as PEFT saves it. Save it with PEFT again."
            )
        wanted, why = _wanted(tensor.name.removeprefix(_PREFIX), config, known, base)
        if tensor.shape not in wanted:
            raise BadInput(
                f"{_short(tensor.name)} is {_dimensions(tensor.shape)}, and {base}{why} needs "
                f"{_dimensions(wanted[0])}. Choose the base that it was trained on."
            )
        for left, right in ((".lora_A.", ".lora_B."), (".lora_embedding_A", ".lora_embedding_B")):
            for own, partner in ((left, right), (right, left)):
                if own in tensor.name and "bias" not in tensor.name and tensor.name.replace(own, partner) not in names:
                    raise BadInput(
                        f"{_short(tensor.name)} has no counterpart: its other half is missing. Save it again."
                    )
    mark = "lora_" if config["peft_type"] == "LORA" else "ia3_"
    if not any(mark in name for name in names):
        raise BadInput(f"The weights contain nothing of a {config['peft_type']} adapter. Save it with PEFT again.")


def _wanted(name: str, config: dict[str, Any], known: _Base, base: str) -> tuple[list[tuple[int, ...]], str]:
    """The shapes that a tensor of this name may have, and the part of the config that decides them."""
    ending = next((end for end in _LORA if name.endswith(end)), "")
    if config["peft_type"] == "IA3" and name.endswith(".ia3_l"):
        inner, outer = _features(name.removesuffix(".ia3_l"), known, base)
        return [(outer, 1), (1, inner)], ""
    if not ending or config["peft_type"] != "LORA":
        return [_of_base(name, config, known, base)], ""
    path = name.removesuffix(ending)
    inner, outer = _features(path, known, base)
    targets = config["target_modules"]
    if isinstance(targets, list) and not any(path == word or path.endswith(f".{word}") for word in targets):
        raise BadInput(f"{_short(name)} changes a layer that target_modules does not name. Save the adapter again.")
    rank = _rank(path, config)
    shapes: dict[str, tuple[int, ...]] = {
        ".lora_A.weight": (rank, inner),
        ".lora_B.weight": (outer, rank),
        # An embedding is looked up by token, so input and output are swapped.
        ".lora_embedding_A": (rank, outer),
        ".lora_embedding_B": (inner, rank),
        ".lora_magnitude_vector": (outer,),
        ".lora_B.bias": (outer,),
    }
    if ending == ".lora_magnitude_vector" and not config.get("use_dora"):
        raise BadInput(f"{_short(name)} belongs to DoRA, and use_dora is not set. Save the adapter again.")
    if ending == ".lora_B.bias" and not config.get("lora_bias"):
        raise BadInput(f"{_short(name)} is a bias, and lora_bias is not set. Save the adapter again.")
    return [shapes[ending]], f" with r {rank}"


def _of_base(name: str, config: dict[str, Any], known: _Base, base: str) -> tuple[int, ...]:
    """The shape of a tensor that replaces one of the base's; raises BadInput if the config does not name it."""
    plain = name.replace(".base_layer.", ".")
    path = plain.rpartition(".")[0]
    targets = config.get("target_modules")
    saved = [*(config.get("modules_to_save") or []), *(targets if isinstance(targets, list) else [])]
    whole = any(path == word or path.endswith(f".{word}") for word in saved) and (
        plain.endswith((".weight", ".bias"))
        and (path.endswith(tuple(config.get("modules_to_save") or ["\0"])) or "embed" in path or "lm_head" in path)
    )
    if not whole and not (plain.endswith(".bias") and config.get("bias", "none") != "none"):
        raise BadInput(
            f"{_short(name)} would replace weights of {base} that the config does not name. Save the adapter with PEFT "
            "again, or merge it."
        )
    size = known.size(plain)
    if size is None:
        raise BadInput(f"{base} has no {_short(plain)}, which the adapter changes. Choose the base it was trained on.")
    return size


def _features(path: str, known: _Base, base: str) -> tuple[int, int]:
    sizes = known.features(path)
    if sizes is None:
        raise BadInput(
            f"{base} has no layer {_short(path)}, which the adapter changes. Choose the base it was trained on."
        )
    return sizes


def _rank(path: str, config: dict[str, Any]) -> int:
    for key, rank in (config.get("rank_pattern") or {}).items():
        if path == key or path.endswith(f".{key}"):
            return int(rank)
    return int(config["r"])


def _check_tokens(config: dict[str, Any], tensors: Sequence[Tensor], shape: ModelShape, base: str) -> None:
    count = config["num_virtual_tokens"]
    width = shape.hidden
    if config["peft_type"] == "PREFIX_TUNING":
        width = 2 * shape.layers * shape.kv_heads * shape.head_dim
    sizes = {"token_dim": shape.hidden, "num_layers": shape.layers}
    if config["peft_type"] == "PREFIX_TUNING":
        sizes["token_dim"] = shape.kv_heads * shape.head_dim
    for key, size in sizes.items():
        allowed = (size, shape.hidden) if key == "token_dim" else (size,)
        if config.get(key) is not None and config[key] not in allowed:
            raise BadInput(f"The adapter was made for {key} {config[key]}, and {base} has {size}. Choose its own base.")
    if [tensor.name for tensor in tensors] != ["prompt_embeddings"] or tensors[0].shape != (count, width):
        listing = ", ".join(f"{_short(tensor.name)} {_dimensions(tensor.shape)}" for tensor in tensors[:3])
        raise BadInput(
            f"{base} and {count} virtual tokens need prompt_embeddings {_dimensions((count, width))}; the file has "
            f"{listing}."
        )


def same_model(tensors: Sequence[Tensor], shape: ModelShape) -> str:
    """How a whole model's tensors differ from those of a base, in words; empty if they do not."""
    mine = {tensor.name: tensor.shape for tensor in tensors}
    base = {tensor.name: tensor.shape for tensor in shape.tensors}
    if shape.tied:
        for names in (mine, base):
            names.pop("lm_head.weight", None)
    for name in sorted(set(base) | set(mine)):
        if name not in mine:
            return f"it lacks {_short(name)}"
        if name not in base:
            return f"it has {_short(name)}, which the base does not have"
        if mine[name] != base[name]:
            return f"{_short(name)} is {_dimensions(mine[name])} and the base's {_dimensions(base[name])}"
    return ""


def _dimensions(size: Sequence[int]) -> str:
    """A shape in words, such as 8 × 32."""
    return " × ".join(map(str, size)) or "a single number"


def _short(value: Any) -> str:
    text = "".join(sign if sign.isprintable() else "·" for sign in str(value))
    return text if len(text) <= 140 else text[:137] + "…"
