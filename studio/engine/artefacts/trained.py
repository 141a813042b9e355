"""What a run trained, on disk: an adapter that works with the plain base, or the whole model.

PiSSA, OLoRA and LoftQ begin with an A0 and B0 that are not zero, over a base changed by as much. Such an adapter means
nothing to anyone who has the plain base, so it is saved as what training changed: AB - A0B0, one LoRA of twice the
rank. Exports, chat, merging and plain PEFT then need to know nothing of it.
What it does not do: decide when to save (callbacks), or write what goes beside the weights (artefacts).
"""

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from studio.rundir import write_json

ADAPTER_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


@dataclass(slots=True)
class Trained:
    """The trained part of `model`; start: A0 and B0 by their names on disk, where they are not zero."""

    model: Any
    start: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def over_moved_base(cls, model: Any) -> Self:
        """An adapter that has just begun over a base changed by it."""
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(model, save_embedding_layers=False)
        return cls(
            model, {name: tensor.detach().cpu().clone() for name, tensor in state.items() if _part(name) is not None}
        )

    @property
    def is_adapter(self) -> bool:
        return hasattr(self.model, "peft_config")

    def save(self, folder: Path, dtype: str = "") -> None:
        """Write the weights and their config. dtype: what a whole model is rounded to, here as well, at the
        end of a run; empty keeps it exact."""
        if not self.is_adapter:
            self._save_whole(folder, dtype)
            return
        # Asking whether embeddings were trained would ask the hub for the base's config; no method here trains them.
        self.model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's blank card
        if self.start:
            self._write_difference(folder)

    def load(self, folder: Path) -> None:
        """Take the weights of a folder that `save` wrote in this run."""
        import torch
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        if not self.is_adapter:
            saved = type(self.model).from_pretrained(folder, dtype=torch.float32, local_files_only=True)
            self.model.load_state_dict(saved.state_dict())
            return
        state = load_file(folder / ADAPTER_FILE)
        for name, first in self.start.items():
            # The run's own half; the other is the start, taken away.
            axis = _part(name)
            assert axis is not None
            state[name] = state[name].narrow(axis, 0, first.shape[axis]).contiguous()
        set_peft_model_state_dict(self.model, state)

    def resume(self, folder: Path) -> None:
        """As `load`, for training to go on: also over the base that these weights began over."""
        if self.start:
            self._go_on_from(folder)
        self.load(folder)

    def differs(self, folder: Path) -> str:
        """Where the folder that `save` just wrote differs from the weights here; empty when it does not."""
        import torch
        from safetensors import safe_open

        if self.is_adapter:
            from peft import get_peft_model_state_dict

            held = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        else:
            held = self.model.state_dict()
        seen = 0
        for path in sorted(folder.glob("*model*.safetensors")):
            with safe_open(path, "pt") as file:
                for name in set(file.keys()) & set(held):
                    read, mine = file.get_tensor(name), held[name].detach().cpu()
                    axis = _part(name)
                    if name in self.start and axis is not None:
                        read = read.narrow(axis, 0, mine.shape[axis])
                    if read.dtype != mine.dtype or not torch.equal(read, mine):
                        return f"{path.name}: {name}."
                    seen += 1
        return "" if seen else "no weight of the model is in it."

    def _go_on_from(self, folder: Path) -> None:
        """Take A0 and B0 from the checkpoint. Here they were just made anew; on another machine or with another
        library they can differ by rounding, and then the base that gave them up is set right."""
        import torch
        from safetensors.torch import load_file

        state = load_file(folder / ADAPTER_FILE)
        made, self.start = self.start, {}
        for name, first in made.items():
            axis = _part(name)
            assert axis is not None
            half = state[name].narrow(axis, first.shape[axis], first.shape[axis])
            self.start[name] = (half if axis == 0 else -half).contiguous()
        # LoftQ's base is the plain one, rounded: only PiSSA and OLoRA took something out of it.
        if not isinstance(self.model.peft_config["default"].init_lora_weights, str):
            return
        for name, first in made.items():
            if _part(name) != 0:
                continue
            second = name.replace(".lora_A.", ".lora_B.")
            if torch.equal(first, self.start[name]) and torch.equal(made[second], self.start[second]):
                continue
            layer = self.model.get_submodule(name.partition(".lora_A.")[0])
            weight = layer.get_base_layer().weight
            moved = made[second].float() @ first.float() - self.start[second].float() @ self.start[name].float()
            moved = moved.T if layer.fan_in_fan_out else moved
            weight.data = (weight.data.float() + layer.scaling["default"] * moved.to(weight.device)).to(weight.dtype)

    def _save_whole(self, folder: Path, dtype: str) -> None:
        import torch

        if dtype:
            self.model.to(getattr(torch, dtype))  # in place: a second copy may not fit
        self.model.save_pretrained(str(folder), max_shard_size="5GB", safe_serialization=True)

    def _write_difference(self, folder: Path) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        state = load_file(folder / ADAPTER_FILE)
        for name, first in self.start.items():
            axis = _part(name)
            assert axis is not None
            taken = first if axis == 0 else -first
            state[name] = torch.cat([state[name], taken.to(state[name])], dim=axis).contiguous()
        save_file(state, folder / ADAPTER_FILE, metadata={"format": "pt"})
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        # The scale stays: alpha / r, with rsLoRA alpha / sqrt(r).
        config["lora_alpha"] *= math.sqrt(2) if config["use_rslora"] else 2
        config |= {"r": 2 * config["r"], "init_lora_weights": True}
        write_json(folder / CONFIG_FILE, config)


def _part(name: str) -> int | None:
    """The axis of the rank in A (0) or B (1); None for anything else."""
    return 0 if ".lora_A." in name else 1 if ".lora_B." in name else None
