"""Export requests: export.json, and asks.json with the conversations for the parity check."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.dataset.record import Message
from studio.errors import BadInput
from studio.recipe import Recipe
from studio.rundir import RunDir, read_json

KINDS = ("adapter", "merged", "gguf")
DTYPES = ("float32", "bfloat16", "float16")
QUANTS = ("F16", "Q8_0", "Q6_K", "Q4_K_M")
ASKS = "asks.json"


@dataclass(frozen=True, slots=True)
class Order:
    """An export request.

    source: folder of the adapter or model; dtype: type in which weights are merged; shard: maximum file size in
    transformers' notation (5GB); quant: quantisation of a GGUF; tools: folder of the GGUF tools, built if missing;
    find_links: where pip looks for them in addition to its index; talks: held-out conversations without their answer;
    evaluation: sentences with evaluation results.
    """

    kind: str
    run: RunDir
    source: Path
    model: str
    model_folder: Path
    name: str
    dtype: str = ""
    shard: str = "5GB"
    quant: str = "Q8_0"
    tools: Path | None = None
    find_links: str = ""
    talks: list[list[Message]] = field(default_factory=list)
    evaluation: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "Order":
        value = read_json(folder / "export.json")
        if value is None:
            raise BadInput("This export has no readable export.json. Start it again.")
        try:
            run, source = RunDir(Path(value["run"])), Path(value["source"])
            if not source.exists() and run.trained is not None:
                source = run.trained
            order = cls(
                kind=value["kind"],
                run=run,
                source=source,
                model=value["model"]["id"],
                model_folder=Path(value["model"]["path"]),
                name=value["name"],
                dtype=value.get("dtype") or Recipe.load(run.recipe).model.dtype,
                shard=value.get("shard") or "5GB",
                quant=value.get("quant") or "Q8_0",
                tools=Path(value["tools"]) if value.get("tools") else None,
                find_links=str(value.get("find_links") or ""),
                talks=_talks(folder),
                evaluation=[str(line) for line in value.get("evaluation") or []],
            )
        except (KeyError, TypeError) as error:
            raise BadInput(f"export.json lacks {error}. Start the export again.") from None
        if order.kind not in KINDS:
            raise BadInput(f"There is no export of kind {order.kind!r}: choose one of {', '.join(KINDS)}.")
        if order.dtype not in DTYPES or order.quant not in QUANTS:
            raise BadInput(f"There is no export in {order.dtype} and {order.quant}. Start the export again.")
        return order

    @property
    def recipe(self) -> Recipe:
        return Recipe.load(self.run.recipe)

    @property
    def full(self) -> bool:
        """Whether the source is a whole model, trained or imported, not an adapter."""
        return not (self.source / "adapter_config.json").is_file()

    @property
    def dataset(self) -> str:
        pointer = read_json(self.run.dataset) or {}
        return str(pointer.get("name") or pointer.get("id") or self.recipe.data.dataset)

    @property
    def origin(self) -> dict[str, Any] | None:
        """Where a stored adapter comes from; None for a run."""
        return read_json(self.run.path / "origin.json")

    @property
    def file_name(self) -> str:
        """The name in a form that is valid in file names on any system."""
        return re.sub(r"[^\w.-]+", "-", self.name).strip("-.") or "adapter"


def _talks(folder: Path) -> list[list[Message]]:
    path = folder / ASKS
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def merged_size(order: Order) -> int:
    """Bytes of the merged model: the base's weights in the merge's dtype."""
    stored = sum(path.stat().st_size for path in order.model_folder.glob("*.safetensors"))
    return stored * (2 if order.dtype == "float32" else 1)  # assumes a base stored in 16 bits
