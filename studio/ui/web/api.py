"""The public API: what a program may do here, by Gradio's client and through the same gate as the page. docs/api.md.

Everything goes in and comes out as plain values; files are fetched from /download/ID, which asks whose they are.
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

_MOST = 200  # findings told at once


def build(studio: Studio) -> None:
    """Every endpoint, as an event without components."""
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
    """`act`, with what it cannot do told to the client as the sentence that it is."""

    @functools.wraps(act)
    def answered(*values: Any) -> Any:
        try:
            return act(*values)
        except StudioError as error:
            raise gr.Error(access.for_reader(studio, error), print_exception=False) from None

    return answered


class _Calls:
    """What the endpoints do. Their signatures and docstrings are what clients are shown."""

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

    def check(self, rows: list[Any], mapping: dict[str, Any] | None = None) -> dict[str, Any]:
        """Check examples: rows as they would stand in a file. mapping: your columns by those of a known format."""
        options = checks.Options(mapping=mapping or {})
        checked = checks.check_rows(self._studio, rows, options)
        report = checked.report
        found = examples.findings(self._studio, checked.token, limit=_MOST)
        verdict = datasets.verdict_of(checked)
        return {
            "check": checked.token,
            "format": report.format,
            "why": report.why,
            "columns": report.columns,
            "rows": report.rows,
            "ok": report.ok,
            "counts": report.counts,
            "findings": [asdict(item.finding) for item in found.items],
            "verdict": asdict(verdict),
        }

    def add_dataset(self, check: str, name: str) -> dict[str, Any]:
        """Add what a check made as a dataset of this name."""
        return _public(asdict(datasets.keep(self._studio, check, name)))

    def datasets(self) -> list[Any]:
        """Your datasets, and those of everybody."""
        return [_public(asdict(info)) for info in datasets.list_datasets(self._studio)]

    def models(self) -> list[Any]:
        """The base models that are here."""
        return [_public(asdict(info)) for info in models.list_models(self._studio)]

    def estimate(self, recipe: dict[str, Any]) -> dict[str, Any]:
        """The memory and time that a recipe will take on this machine, by item, in bytes and minutes."""
        found = estimates.estimate(self._studio, self._recipe(recipe))
        return asdict(found) | {"items": {item.key: item.bytes for item in found.items}}

    def train(self, recipe: dict[str, Any]) -> dict[str, Any]:
        """Start a run: it waits in the queue for its turn. recipe: its fields by name, and `preset` to begin from."""
        return _run(run_service.start(self._studio, self._recipe(recipe)))

    def runs(self) -> list[Any]:
        """Your runs, the newest first."""
        return [_run(info) for info in run_service.list_runs(self._studio)]

    def run(self, id: str) -> dict[str, Any]:
        """One run as it stands now."""
        return _run(run_service.get(self._studio, id))

    def stop(self, id: str) -> dict[str, Any]:
        """Ask a run to stop; it saves what it has learned."""
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
        """Ask a run (or RUN@STEP) and others of its base, with commas between, the same question."""
        found = participants.resolve(self._studio, [*against.split(","), id])
        sampling = Sampling(max_new_tokens=max_new_tokens, temperature=temperature)
        turn = comparisons.ask(found, prompt, sampling, system)
        talks = comparisons.messages(comparisons.new_comparison(), turn)
        *_, final = chats.ask(self._studio, found, talks, sampling, f"api-{secrets.token_hex(8)}")
        told = [
            {
                "who": side.written,
                "title": side.title,
                "text": comparisons.clean_text(answer.text),
                "tokens": answer.tokens,
            }
            for side, answer in zip(found, final.answers, strict=True)
        ]
        return {"answers": told, "notes": list[Any](final.notes)}

    def export(self, id: str, to: str = "adapter", quant: str = "Q8_0") -> dict[str, Any]:
        """Begin to export a run: to adapter, merged or gguf; quant: of a GGUF. Ask `exports` until it is completed."""
        return _export(exports.start(self._studio, id, to, ExportRequest(to, quant=quant)))

    def exports(self) -> list[Any]:
        """Your exports; `download` is where a completed one is fetched from."""
        return [_export(info) for info in exports.list_exports(self._studio)]

    def _recipe(self, values: dict[str, Any]) -> Recipe:
        given = dict(values)
        preset = given.pop("preset", "")
        usual = dict(presets.get(self._studio, str(preset)).values) if preset else {}
        return Recipe().with_values(usual | given)


def _run(info: run_service.RunInfo) -> dict[str, Any]:
    return _public(run_service.as_dict(info))


def _export(info: exports.ExportInfo) -> dict[str, Any]:
    ready = info.state == "completed" and info.file_name
    return _public(asdict(info)) | {"download": f"/download/{info.id}" if ready else None}


def _public(told: dict[str, Any]) -> dict[str, Any]:
    """Without where things lie on this machine, which is nobody's business over the network."""
    return {name: value for name, value in told.items() if name not in ("path", "source")}
