"""Which model answers for a column of the chat, and which columns can answer in one generate call.

Plain LoRA adapters share the base and a call: PEFT applies each to its own rows of a batch. Every other adapter (DoRA,
IA³, prompt, prefix) answers in a call of its own, and the first of them still shares the base, which answers with it
switched off. Trained biases cannot be switched off, and a model with all weights trained is another model: those are a
second model in memory. What it does not do: talk, or choose how tokens are drawn.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.engine import loading
from studio.errors import BadInput
from studio.rundir import read_json

BASE = "base"
PEFT_BASE = "__base__"  # PEFT's name for a row without adapter
CONFIG_FILE = "adapter_config.json"


@dataclass(slots=True)
class Seat:
    """A column's model; adapter: PEFT's name for it, empty where the model answers as it is."""

    model: Any
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Columns that one generate call answers."""

    model: Any
    columns: list[str]
    options: dict[str, Any] = field(default_factory=dict)
    without_adapter: bool = False

    @property
    def context(self) -> int:
        """Tokens that prompt and answer can have together."""
        config = getattr(self.model, "peft_config", {}).get(getattr(self.model, "active_adapter", ""))
        virtual = 0 if config is None or self.without_adapter else getattr(config, "num_virtual_tokens", 0)
        return int(getattr(self.model.config, "max_position_embeddings", None) or 2**31) - virtual

    def set_generation(self, config: Any) -> None:
        """generate fills what is unset from the model's own file; the same question must give the same answer
        whatever that says."""
        self.model.generation_config = config
        if hasattr(self.model, "peft_config"):
            self.model.get_base_model().generation_config = config

    def as_wanted(self) -> contextlib.AbstractContextManager[Any]:
        """The model as these columns want it, while in this context."""
        if self.without_adapter:
            switched: contextlib.AbstractContextManager[Any] = self.model.disable_adapter()
            return switched
        return contextlib.nullcontext()


@dataclass(slots=True)
class Seats:
    """All columns and their models."""

    taken: dict[str, Seat]
    mixing: set[str]  # adapters that answer in one call with the base

    def groups(self, columns: Sequence[str]) -> Iterator[Group]:
        """The generate calls that answer `columns`, in their order."""
        for column in columns:
            if column not in self.taken:
                raise BadInput(f"There is no column {column!r} here: {', '.join(self.taken)}.")
        together = [column for column in columns if column == BASE or column in self.mixing] if self.mixing else []
        for column in columns:
            if column not in together:
                yield self._alone(column)
            elif column == together[0]:
                names = [PEFT_BASE if one == BASE else one for one in together]
                yield Group(self.taken[BASE].model, together, {"adapter_names": names})

    def _alone(self, column: str) -> Group:
        seat = self.taken[column]
        switched_off = column == BASE and any(
            other.model is seat.model for name, other in self.taken.items() if name != BASE
        )
        return Group(seat.model, [column], without_adapter=switched_off)


def take_seats(
    folder: Path, dtype: str, device: loading.Device, adapters: dict[str, Path], tell: Callable[[str], None]
) -> Seats:
    """Load the base in `folder` and what was trained on it."""
    configs = {name: _config(path) for name, path in adapters.items()}
    mixing = {name for name, config in configs.items() if config is not None and _mixes(config)}
    tell("Loading the base model")
    base = Seat(loading.load_base(folder, dtype, device))
    seats = Seats({BASE: base}, mixing)
    free = not mixing  # whether an adapter that does not mix may share the base
    for name, config in configs.items():
        if config is None:
            tell(f"Loading the model {name}; it and the base are both in memory")
            seats.taken[name] = Seat(loading.load_base(adapters[name], dtype, device))
            continue
        tell(f"Loading the adapter {name}")
        if name in mixing or (free and config.get("bias", "none") == "none"):
            free = False
            base.model = _adapted(base.model, adapters[name], name)
            seats.taken[name] = Seat(base.model, name)
        else:
            tell(f"Loading the base model once more, for the adapter {name}")
            own = loading.load_base(folder, dtype, device)
            seats.taken[name] = Seat(_adapted(own, adapters[name], name), name)
    for seat in seats.taken.values():
        seat.model.eval()
    return seats


def _adapted(model: Any, folder: Path, name: str) -> Any:
    import peft

    if isinstance(model, peft.PeftModel):
        model.load_adapter(str(folder), adapter_name=name, local_files_only=True)
        return model
    return peft.PeftModel.from_pretrained(model, str(folder), adapter_name=name, local_files_only=True)


def _config(folder: Path) -> dict[str, Any] | None:
    """The config of the adapter in `folder`; None where a whole model lies there."""
    config = read_json(folder / CONFIG_FILE)
    if config is not None and (folder / "adapter_model.safetensors").is_file():
        return config
    if config is None and (folder / "config.json").is_file():
        return None
    raise BadInput(f"There is no adapter in {folder}.")


def _mixes(config: dict[str, Any]) -> bool:
    """Whether PEFT can apply the adapter to some rows of a batch."""
    return config.get("peft_type") == "LORA" and not config.get("use_dora") and config.get("bias", "none") == "none"
