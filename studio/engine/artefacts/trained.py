"""Save and load what a run trained: an adapter that works with the plain base, or the whole model.

PiSSA, OLoRA and LoftQ start from A0 and B0 that are not zero, on a base from which A0B0 was subtracted. Such an adapter
does not work with the plain base, so it is saved as what training changed: AB - A0B0, one LoRA of twice the rank.
Exports, chat, merging and plain PEFT then need no special case. callbacks decides when to save; artefacts writes the
files next to the weights.
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
    """The trained part of `model`; start: A0 and B0 by their names on disk, if they are not zero."""

    model: Any
    start: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def over_moved_base(cls, model: Any) -> Self:
        """Wrap a newly initialised adapter whose start was subtracted from the base."""
        from peft import get_peft_model_state_dict

        state = get_peft_model_state_dict(model, save_embedding_layers=False)
        return cls(
            model, {name: tensor.detach().cpu().clone() for name, tensor in state.items() if _part(name) is not None}
        )

    @property
    def is_adapter(self) -> bool:
        return hasattr(self.model, "peft_config")

    def save(self, folder: Path, dtype: str = "") -> None:
        """Write the weights and their config.

        dtype: the type of a saved whole model; the model in memory is converted too, so pass it only at the end of a
        run. Empty keeps the weights exact.
        """
        if not self.is_adapter:
            self._save_whole(folder, dtype)
            return
        # To check for trained embeddings PEFT would request the base's config from the hub; no method here trains them.
        self.model.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's blank card
        if self.start:
            self._write_difference(folder)

    def load(self, folder: Path) -> None:
        """Load the weights from a folder that `save` wrote in this run."""
        import torch
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        if not self.is_adapter:
            saved = type(self.model).from_pretrained(folder, dtype=torch.float32, local_files_only=True)
            self.model.load_state_dict(saved.state_dict())
            return
        state = load_file(folder / ADAPTER_FILE)
        for name, first in self.start.items():
            # The first half is the run's own; the second is the subtracted start.
            axis = _part(name)
            assert axis is not None
            state[name] = state[name].narrow(axis, 0, first.shape[axis]).contiguous()
        set_peft_model_state_dict(self.model, state)

    def resume(self, folder: Path) -> None:
        """Load the weights to resume training, and restore the base they started from."""
        if self.start:
            self._restore_start(folder)
        self.load(folder)

    def differs(self, folder: Path) -> str:
        """Return where the folder that `save` just wrote differs from the weights in memory; empty if it does not."""
        import torch
        from safetensors import safe_open

        if self.is_adapter:
            from peft import get_peft_model_state_dict

            state = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        else:
            state = self.model.state_dict()
        compared = 0
        for path in sorted(folder.glob("*model*.safetensors")):
            with safe_open(path, "pt") as file:
                for name in set(file.keys()) & set(state):
                    read, mine = file.get_tensor(name), state[name].detach().cpu()
                    axis = _part(name)
                    if name in self.start and axis is not None:
                        read = read.narrow(axis, 0, mine.shape[axis])
                    if read.dtype != mine.dtype or not torch.equal(read, mine):
                        return f"{path.name}: {name}."
                    compared += 1
        return "" if compared else "it has no weight of the model."

    def _restore_start(self, folder: Path) -> None:
        """Take A0 and B0 from the checkpoint.

        They were just recomputed here; on another machine or with other library versions they can differ by rounding,
        and then the base, from which they were subtracted, is corrected.
        """
        import torch
        from safetensors.torch import load_file

        state = load_file(folder / ADAPTER_FILE)
        computed, self.start = self.start, {}
        for name, first in computed.items():
            axis = _part(name)
            assert axis is not None
            half = state[name].narrow(axis, first.shape[axis], first.shape[axis])
            self.start[name] = (half if axis == 0 else -half).contiguous()
        # LoftQ's base is the plain one, rounded; only PiSSA and OLoRA subtract something from it.
        if not isinstance(self.model.peft_config["default"].init_lora_weights, str):
            return
        for name, first in computed.items():
            if _part(name) != 0:
                continue
            second = name.replace(".lora_A.", ".lora_B.")
            if torch.equal(first, self.start[name]) and torch.equal(computed[second], self.start[second]):
                continue
            layer = self.model.get_submodule(name.partition(".lora_A.")[0])
            weight = layer.get_base_layer().weight
            moved = computed[second].float() @ first.float() - self.start[second].float() @ self.start[name].float()
            moved = moved.T if layer.fan_in_fan_out else moved
            weight.data = (weight.data.float() + layer.scaling["default"] * moved.to(weight.device)).to(weight.dtype)

    def _save_whole(self, folder: Path, dtype: str) -> None:
        import torch

        if dtype:
            self.model.to(getattr(torch, dtype))  # in place, as a second copy may not fit
        self.model.save_pretrained(str(folder), max_shard_size="5GB", safe_serialization=True)

    def _write_difference(self, folder: Path) -> None:
        import torch
        from safetensors.torch import load_file, save_file

        state = load_file(folder / ADAPTER_FILE)
        for name, first in self.start.items():
            axis = _part(name)
            assert axis is not None
            half = first if axis == 0 else -first
            state[name] = torch.cat([state[name], half.to(state[name])], dim=axis).contiguous()
        save_file(state, folder / ADAPTER_FILE, metadata={"format": "pt"})
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        # Keep the scale: alpha / r, or alpha / sqrt(r) with rsLoRA.
        config["lora_alpha"] *= math.sqrt(2) if config["use_rslora"] else 2
        config |= {"r": 2 * config["r"], "init_lora_weights": True}
        write_json(folder / CONFIG_FILE, config)


def _part(name: str) -> int | None:
    """Axis of the rank: 0 for A, 1 for B, None for any other tensor."""
    return 0 if ".lora_A." in name else 1 if ".lora_B." in name else None
