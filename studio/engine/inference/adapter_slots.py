"""Which model answers for a column of the chat, and which columns can answer in one forward pass.

Plain LoRA adapters share the base and a pass (lora_rows.py). Adapters that change other things answer in a pass of
their own: those of PEFT's LoRA family (DoRA) share the base, which answers with them switched off; the first of another
kind (IA³, prompt, prefix) shares it too where no LoRA has it. Trained biases cannot be switched off, and a model with
all weights trained is another model: those are a second model in memory. What it does not do: talk, or choose how
tokens are drawn.
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
    """A column's model. adapter: PEFT's name for it, empty where the model answers as it is; why: it has a pass of
    its own, empty where it does not."""

    model: Any
    adapter: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Columns that one forward pass answers. adapters: PEFT's name for each column's, where rows share the base."""

    model: Any
    columns: list[str]
    adapters: list[str] = field(default_factory=list)
    adapter: str = ""
    without_adapter: bool = False

    @property
    def inner(self) -> Any:
        """The transformers model, with its adapted layers in it."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    @property
    def virtual_tokens(self) -> int:
        """Places that a prompt or prefix takes before the first token."""
        config = getattr(self.model, "peft_config", {}).get(getattr(self.model, "active_adapter", ""))
        return 0 if config is None or self.without_adapter else getattr(config, "num_virtual_tokens", 0)

    @property
    def context(self) -> int:
        """Tokens that prompt and answer can have together."""
        return int(getattr(self.model.config, "max_position_embeddings", None) or 2**31) - self.virtual_tokens

    def only(self, place: int) -> "Group":
        """This one of its columns."""
        return replace(self, columns=[self.columns[place]], adapters=self.adapters[place : place + 1])

    def times(self, prompts: int) -> "Group":
        """For so many prompts at once, each answered by all its columns."""
        return replace(self, adapters=self.adapters * prompts)

    def set_generation(self, config: Any) -> None:
        """generate fills what is unset from the model's own file; the same question must give the same answer
        whatever that says."""
        self.model.generation_config = config
        self.inner.generation_config = config

    @contextlib.contextmanager
    def as_wanted(self) -> Iterator[Callable[[Sequence[int]], None]]:
        """The model as these columns want it, while in this context; yields what is told which rows go on."""
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
    """One base and what was trained on it, loaded and dropped while it stays."""

    def __init__(self, folder: Path, dtype: str, device: loading.Device, tell: Tell) -> None:
        self._folder, self._dtype, self._device, self._tell = folder, dtype, device, tell
        tell("Loading the base model")
        self._base = self._load_base(folder)
        self._held: Literal["", "LORA", "other"] = ""  # what kind of adapter the base carries
        self._taken: dict[str, Slot] = {}
        self._made = 0

    @property
    def names(self) -> list[str]:
        """Everything that can answer."""
        return [BASE, *self._taken]

    def why_alone(self, name: str) -> str:
        """Why this adapter answers in a pass of its own; empty where it does not."""
        return self._taken[name].why if name in self._taken else ""

    def load(self, name: str, folder: Path) -> None:
        """Seat what was trained: an adapter, or a whole model."""
        self.drop(name)
        config = _config(folder)
        if config is None:
            self._tell("Loading the other model; it and the base are both in memory")
            why = "every weight of it was trained, so it is a model of its own"
            self._taken[name] = Slot(self._load_base(folder), why=why)
            return
        self._tell("Loading the adapter")
        self._made += 1
        own = f"seat{self._made}"  # PEFT takes no dots, and not the names of its own attributes
        kind: Literal["LORA", "other"] = "LORA" if config.get("peft_type") == "LORA" else "other"
        word = _method(config)
        if config.get("bias", "none") != "none" or self._held not in ("", *(["LORA"] if kind == "LORA" else [])):
            self._tell("Loading the base model once more, for this adapter")
            model = _adapted(self._load_base(self._folder), folder, own)
            self._taken[name] = Slot(model.eval(), own, f"{word} cannot share the base that others answer with")
            return
        self._base, self._held = _adapted(self._base, folder, own).eval(), kind
        why = "" if self._mixes(own, config) else f"{word} cannot share a pass with others"
        self._taken[name] = Slot(self._base, own, why)

    def drop(self, name: str) -> None:
        """Forget what was trained and give its memory back; the base stays."""
        seat = self._taken.pop(name, None)
        if seat is None or seat.model is not self._base:
            return
        others = [other for other in self._taken.values() if other.model is self._base]
        if others:
            self._base.delete_adapter(seat.adapter)
            return
        # The last one: the base as it was, ready for another kind.
        self._base = self._base.unload() if hasattr(self._base.base_model, "unload") else self._base.get_base_model()
        self._held = ""

    def groups(self, columns: Sequence[str]) -> Iterator[Group]:
        """The forward passes that answer `columns`, in their order."""
        for column in columns:
            if column not in self.names:
                raise BadInput(f"There is no column {column!r} here: {', '.join(self.names)}.")
        shared = self._held == "LORA"
        together = [one for one in columns if self._answers_in_rows(one)] if shared else []
        for column in columns:
            if column not in together:
                yield self._alone(column)
            elif column == together[0]:
                names = ["" if one == BASE else self._taken[one].adapter for one in together]
                yield Group(self._base, together, names)

    def _answers_in_rows(self, column: str) -> bool:
        return column == BASE or (self._taken[column].model is self._base and not self._taken[column].why)

    def _alone(self, column: str) -> Group:
        if column == BASE:
            return Group(self._base, [column], without_adapter=bool(self._held))
        seat = self._taken[column]
        return Group(seat.model, [column], adapter=seat.adapter)

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
    """What a person calls the kind of an adapter."""
    if config.get("bias", "none") != "none":
        return "an adapter with trained biases"
    if config.get("use_dora"):
        return "a DoRA adapter"
    kinds = {"IA3": "an IA³ adapter", "PROMPT_TUNING": "a trained prompt", "PREFIX_TUNING": "a trained prefix"}
    return kinds.get(str(config.get("peft_type")), "this adapter")


def _config(folder: Path) -> dict[str, Any] | None:
    """The config of the adapter in `folder`; None where a whole model lies there."""
    config = read_json(folder / CONFIG_FILE)
    if config is not None and (folder / "adapter_model.safetensors").is_file():
        return config
    if config is None and (folder / "config.json").is_file():
        return None
    raise BadInput(f"There is no adapter in {folder}.")
