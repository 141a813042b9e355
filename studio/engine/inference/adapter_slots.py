"""Assign models to columns of the chat, and group the columns that can answer in one forward pass.

Plain LoRA adapters share the base and a forward pass (lora_rows.py). Other adapters need a separate pass: those of
PEFT's LoRA family (DoRA) still share the base, which answers with them disabled; so does the first adapter of another
kind (IA³, prompt, prefix) if the base has no LoRA adapter. Trained biases cannot be disabled, and a model with all
weights trained is a different model: each of those is a second model in memory. Generation is done elsewhere.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from studio.engine.inference import loading
from studio.errors import BadInput
from studio.rundir import read_json

BASE = "base"
CONFIG_FILE = "adapter_config.json"
Tell = Callable[[str], None]


@dataclass(slots=True)
class Slot:
    """A column's model.

    adapter: PEFT's adapter name, empty if the model needs none; why: reason for a separate forward pass, empty if it
    shares one.
    """

    model: Any
    adapter: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Columns answered in one forward pass. adapters: PEFT's adapter name per column, if rows share the base."""

    model: Any
    columns: list[str]
    adapters: list[str] = field(default_factory=list)
    adapter: str = ""
    without_adapter: bool = False

    @property
    def inner(self) -> Any:
        """The transformers model, including its adapted layers."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    @property
    def virtual_tokens(self) -> int:
        """Number of virtual tokens before the first token."""
        config = getattr(self.model, "peft_config", {}).get(getattr(self.model, "active_adapter", ""))
        return 0 if config is None or self.without_adapter else getattr(config, "num_virtual_tokens", 0)

    @property
    def context(self) -> int:
        """Maximum number of tokens of prompt and answer together."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 2**31) - self.virtual_tokens

    def only(self, place: int) -> "Group":
        """Return the group with only the column at `place`."""
        return replace(self, columns=[self.columns[place]], adapters=self.adapters[place : place + 1])

    def times(self, prompts: int) -> "Group":
        """Return the group for several prompts at once, each answered by all columns."""
        return replace(self, adapters=self.adapters * prompts)

    def set_generation(self, config: Any) -> None:
        """Replace the model's generation config.

        generate takes unset values from the model's own file, which must not influence answers.
        """
        self.model.generation_config = config
        self.inner.generation_config = config

    @contextlib.contextmanager
    def as_wanted(self) -> Iterator[Callable[[Sequence[int]], None]]:
        """Activate the columns' adapters; yields a function to call with the indices of the rows that continue."""
        if self.adapters:
            from studio.engine.inference.lora_rows import Serving

            with Serving(self.model, self.adapters).serve() as serving:
                yield serving.keep
        elif self.without_adapter:
            with self.model.disable_adapter():
                yield _nothing
        else:
            if self.adapter:
                self.model.set_adapter(self.adapter)
            yield _nothing


def _nothing(_: Sequence[int]) -> None:
    pass


class AdapterSlots:
    """A base model and the models trained on it, which are loaded and dropped while the base stays."""

    def __init__(self, folder: Path, dtype: str, device: loading.Device, tell: Tell) -> None:
        self._folder, self._dtype, self._device, self._tell = folder, dtype, device, tell
        tell("Loading the base model")
        self._base = self._load_base(folder)
        self._held: Literal["", "LORA", "other"] = ""  # kind of adapters on the base
        self._slots: dict[str, Slot] = {}
        self._made = 0

    @property
    def names(self) -> list[str]:
        """Names of all models that can answer."""
        return [BASE, *self._slots]

    def why_alone(self, name: str) -> str:
        """Reason why this adapter needs a separate pass; empty if it shares one."""
        return self._slots[name].why if name in self._slots else ""

    def load(self, name: str, folder: Path) -> None:
        """Load an adapter or a whole trained model under `name`."""
        self.drop(name)
        config = _config(folder)
        if config is None:
            self._tell("Loading a second model into memory, in addition to the base")
            why = "every weight of it was trained, so it is a separate model"
            self._slots[name] = Slot(self._load_base(folder), why=why)
            return
        self._tell("Loading the adapter")
        self._made += 1
        adapter = f"seat{self._made}"  # PEFT accepts no dots and no names of its own attributes
        kind: Literal["LORA", "other"] = "LORA" if config.get("peft_type") == "LORA" else "other"
        label = _method(config)
        if config.get("bias", "none") != "none" or self._held not in ("", *(["LORA"] if kind == "LORA" else [])):
            self._tell("Loading a second copy of the base model, for this adapter")
            model = _adapted(self._load_base(self._folder), folder, adapter)
            self._slots[name] = Slot(model.eval(), adapter, f"{label} cannot share the base with other adapters")
            return
        self._base, self._held = _adapted(self._base, folder, adapter).eval(), kind
        why = "" if self._mixes(adapter, config) else f"{label} cannot share a forward pass with others"
        self._slots[name] = Slot(self._base, adapter, why)

    def drop(self, name: str) -> None:
        """Drop an adapter or model and free its memory; the base stays."""
        slot = self._slots.pop(name, None)
        if slot is None or slot.model is not self._base:
            return
        others = [other for other in self._slots.values() if other.model is self._base]
        if others:
            self._base.delete_adapter(slot.adapter)
            return
        # The last adapter: restore the plain base, so that it can take another kind.
        self._base = self._base.unload() if hasattr(self._base.base_model, "unload") else self._base.get_base_model()
        self._held = ""

    def groups(self, columns: Sequence[str]) -> Iterator[Group]:
        """Yield the forward passes that answer `columns`, in order."""
        for column in columns:
            if column not in self.names:
                raise BadInput(f"There is no column {column!r}. Columns: {', '.join(self.names)}.")
        shared = self._held == "LORA"
        together = [name for name in columns if self._answers_in_rows(name)] if shared else []
        for column in columns:
            if column not in together:
                yield self._alone(column)
            elif column == together[0]:
                names = ["" if name == BASE else self._slots[name].adapter for name in together]
                yield Group(self._base, together, names)

    def _answers_in_rows(self, column: str) -> bool:
        return column == BASE or (self._slots[column].model is self._base and not self._slots[column].why)

    def _alone(self, column: str) -> Group:
        if column == BASE:
            return Group(self._base, [column], without_adapter=bool(self._held))
        slot = self._slots[column]
        return Group(slot.model, [column], adapter=slot.adapter)

    def _mixes(self, adapter: str, config: dict[str, Any]) -> bool:
        from studio.engine.inference.lora_rows import can_serve

        plain = config.get("peft_type") == "LORA" and not config.get("modules_to_save")
        return plain and not config.get("lora_bias") and can_serve(self._base, adapter)

    def _load_base(self, folder: Path) -> Any:
        return loading.load_base(folder, self._dtype, self._device).eval()


def _adapted(model: Any, folder: Path, name: str) -> Any:
    import peft

    if isinstance(model, peft.PeftModel):
        model.load_adapter(str(folder), adapter_name=name, local_files_only=True)
        return model
    return peft.PeftModel.from_pretrained(model, str(folder), adapter_name=name, local_files_only=True)


def _method(config: dict[str, Any]) -> str:
    """Return a readable name for the kind of an adapter."""
    if config.get("bias", "none") != "none":
        return "an adapter with trained biases"
    if config.get("use_dora"):
        return "a DoRA adapter"
    kinds = {"IA3": "an IA³ adapter", "PROMPT_TUNING": "a soft prompt", "PREFIX_TUNING": "a trained prefix"}
    return kinds.get(str(config.get("peft_type")), "this adapter")


def _config(folder: Path) -> dict[str, Any] | None:
    """Read the config of the adapter in `folder`; None if it has a whole model."""
    config = read_json(folder / CONFIG_FILE)
    if config is not None and (folder / "adapter_model.safetensors").is_file():
        return config
    if config is None and (folder / "config.json").is_file():
        return None
    raise BadInput(f"There is no adapter in {folder}.")
