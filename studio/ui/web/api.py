"""The public API: operations for programs, called with Gradio's client through the same gate as the page. docs/api.md.

Inputs and outputs are plain values; files are downloaded from /download/ID, which checks who owns them.
"""

import functools
import secrets
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import gradio as gr

from studio.errors import StudioError
from studio.recipe import Recipe
from studio.services.chat import chat as chats
from studio.services.chat import comparisons, participants
from studio.services.chat.chat import Sampling
from studio.services.core import access
from studio.services.core.studio import Studio
from studio.services.data import checks, datasets, examples
from studio.services.exports import exports
from studio.services.exports.exports import ExportRequest
from studio.services.models import models
from studio.services.planning import estimates, presets
from studio.services.runs import runs as run_service

_MOST = 200  # findings in one answer


def build(studio: Studio) -> None:
    """Register every endpoint, as events without components."""
    calls = _Calls(studio)
    quick: list[Callable[..., Any]] = [
        calls.datasets, calls.models, calls.estimate, calls.train, calls.runs, calls.run, calls.stop,
        calls.add_dataset, calls.export, calls.exports,
    ]  # fmt: skip
    for act in quick:
        gr.api(_told(studio, act), api_name=act.__name__, queue=False)
    long: list[Callable[..., Any]] = [calls.check, calls.chat]
    for act in long:
        gr.api(_told(studio, act), api_name=act.__name__, concurrency_limit=4)


def _told(studio: Studio, act: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `act` so that a StudioError reaches the client as its message."""

    @functools.wraps(act)
    def answered(*values: Any) -> Any:
        try:
            return act(*values)
        except StudioError as error:
            raise gr.Error(access.for_reader(studio, error), print_exception=False) from None

    return answered


class _Calls:
    """The endpoints. Clients are shown their signatures and docstrings."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def check(self, rows: list[Any], mapping: dict[str, Any] | None = None) -> dict[str, Any]:
        """Check examples, given as rows of a file. mapping: your columns by those of a known format."""
        options = checks.Options(mapping=mapping or {})
        checked = checks.check_rows(self._studio, rows, options)
        report = checked.report
        page = examples.findings(self._studio, checked.token, limit=_MOST)
        verdict = datasets.verdict_of(checked)
        return {
            "check": checked.token,
            "format": report.format,
            "why": report.why,
            "columns": report.columns,
            "rows": report.rows,
            "ok": report.ok,
            "counts": report.counts,
            "findings": [asdict(item.finding) for item in page.items],
            "verdict": asdict(verdict),
        }

    def add_dataset(self, check: str, name: str) -> dict[str, Any]:
        """Add a checked file as a dataset with this name."""
        return _public(asdict(datasets.keep(self._studio, check, name)))

    def datasets(self) -> list[Any]:
        """Your datasets, and those shared with everyone."""
        return [_public(asdict(info)) for info in datasets.list_datasets(self._studio)]

    def models(self) -> list[Any]:
        """The available base models."""
        return [_public(asdict(info)) for info in models.list_models(self._studio)]

    def estimate(self, recipe: dict[str, Any]) -> dict[str, Any]:
        """The memory and time a recipe needs on this machine, by item, in bytes and minutes."""
        estimate = estimates.estimate(self._studio, self._recipe(recipe))
        return asdict(estimate) | {"items": {item.key: item.bytes for item in estimate.items}}

    def train(self, recipe: dict[str, Any]) -> dict[str, Any]:
        """Start a run; it waits in the queue for its turn. recipe: fields by name, and `preset` to start from one."""
        return _run(run_service.start(self._studio, self._recipe(recipe)))

    def runs(self) -> list[Any]:
        """Your runs, newest first."""
        return [_run(info) for info in run_service.list_runs(self._studio)]

    def run(self, id: str) -> dict[str, Any]:
        """The current state of one run."""
        return _run(run_service.get(self._studio, id))

    def stop(self, id: str) -> dict[str, Any]:
        """Ask a run to stop; it saves a checkpoint first."""
        return _run(run_service.stop(self._studio, id))

    def chat(
        self,
        id: str,
        prompt: str,
        against: str = "base",
        system: str = "",
        max_new_tokens: int = 256,
        temperature: float = 0.0,
    ) -> dict[str, Any]:
        """Ask a run (or RUN@STEP) and others of the same base, separated by commas, the same question."""
        sides = participants.resolve(self._studio, [*against.split(","), id])
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
        turn = comparisons.ask(sides, prompt, sampling, system)
        messages = comparisons.messages(comparisons.new_comparison(), turn)
        *_, final = chats.ask(self._studio, sides, messages, sampling, f"api-{secrets.token_hex(8)}")
        answers = [
            {
                "who": side.written,
                "title": side.title,
                "text": comparisons.clean_text(answer.text),
                "tokens": answer.tokens,
            }
            for side, answer in zip(sides, final.answers, strict=True)
        ]
        return {"answers": answers, "notes": list[Any](final.notes)}

    def export(self, id: str, to: str = "adapter", quant: str = "Q8_0") -> dict[str, Any]:
        """Start an export. to: adapter, merged or gguf; quant: type of a GGUF. Ask `exports` until it is completed."""
        return _export(exports.start(self._studio, id, to, ExportRequest(to, quant=quant)))

    def exports(self) -> list[Any]:
        """Your exports; `download` is the address of a completed one."""
        return [_export(info) for info in exports.list_exports(self._studio)]

    def _recipe(self, values: dict[str, Any]) -> Recipe:
        recipe_values = dict(values)
        preset = recipe_values.pop("preset", "")
        preset_values = dict(presets.get(self._studio, str(preset)).values) if preset else {}
        return Recipe().with_values(preset_values | recipe_values)


def _run(info: run_service.RunInfo) -> dict[str, Any]:
    return _public(run_service.as_dict(info))


def _export(info: exports.ExportInfo) -> dict[str, Any]:
    ready = info.state == "completed" and info.file_name
    return _public(asdict(info)) | {"download": f"/download/{info.id}" if ready else None}


def _public(payload: dict[str, Any]) -> dict[str, Any]:
    """Without paths on this machine, which must not leave it."""
    return {name: value for name, value in payload.items() if name not in ("path", "source")}
