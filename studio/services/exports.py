"""Exports: what a run learned, made into files that others load."""

import json
import re
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.errors import BadInput, Conflict, NotFound
from studio.launch import local
from studio.memory.estimate import GIB
from studio.rundir import Exit, RunDir, about, create, free_space_or_raise, read_events, read_json, tidy
from studio.services import models, runs
from studio.services.states import FINAL, State

if TYPE_CHECKING:
    from studio.services.studio import Studio

KINDS = {
    "adapter": ("Adapter", "A few MB in PEFT's layout, to load beside the base model. Many adapters share one base."),
    "merged": (
        "Merged model",
        "Base and adapter as one model in safetensors, at least 16 bits. Loads anywhere, no PEFT.",
    ),
}


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """An export; size in bytes. path is where the artefact lies once it is whole; file_name is what is downloaded."""

    id: str
    run: str
    kind: str
    state: State
    doing: str
    done: int
    of: int
    size: int | None
    path: str | None
    message: str
    parity: str
    created: float
    load_lines: str
    file_name: str | None


def kinds(studio: "Studio", run_id: str) -> list[tuple[str, str, str, int]]:
    """What a run can be exported to: kind, title, what for, bytes expected. What its method cannot give is left out."""
    info = runs.get(studio, run_id)
    recipe = runs.recipe_of(studio, run_id)
    shape = models.shape_of(studio, recipe.model.model)
    trained = studio.run_dir(info.id).trained
    width = 4 if recipe.model.dtype == "float32" else 2
    sizes = {
        "adapter": sum(path.stat().st_size for path in trained.glob("*") if path.is_file()) if trained else 0,
        "merged": shape.parameters * width,
    }
    cannot = {"full": ("adapter",), "prompt": ("merged",), "prefix": ("merged",)}.get(recipe.method.method, ())
    return [(kind, title, why, sizes[kind]) for kind, (title, why) in KINDS.items() if kind not in cannot]


def start(studio: "Studio", run_id: str, kind: str) -> ExportInfo:
    """Begin an export; raises Conflict when the run has no adapter yet."""
    if kind not in KINDS:
        raise BadInput(f"There is no export to {kind!r}. Known: {', '.join(KINDS)}.")
    info = runs.get(studio, run_id)
    runs.refuse_trashed(studio.run_dir(info.id), info.name)
    if not info.has_adapter:
        raise Conflict(
            f"Run {info.name} has no adapter yet: it is {info.state}. Wait until it has finished or stop it."
        )
    recipe, trained = runs.recipe_of(studio, info.id), studio.run_dir(info.id).trained
    size = next((size for name, _, _, size in kinds(studio, info.id) if name == kind), None)
    if size is None:
        why = "it trained whole weights" if kind == "adapter" else "its virtual tokens are no change of weights"
        other = "merged" if kind == "adapter" else "adapter"
        raise BadInput(f"A run with method {recipe.method.method} has no {kind} export: {why}. Export it as {other}.")
    model = models.get(studio, recipe.model.model)
    free_space_or_raise(studio.settings.exports, 2 * size + 2**26, f"Exporting the {kind} of {info.name}")
    export_id = secrets.token_hex(8)
    spec = {
        "kind": kind,
        "run": str(studio.run_dir(info.id).path),
        "run_id": info.id,
        "owner": studio.owner,
        "source": str(trained),
        "name": _file_name(info.name),
        "created": time.time(),
        # Others load the adapter's base by what they know it by, not by our name for it.
        "model": {"id": model.source, "path": model.path},
    }
    run = studio.run_dir(info.id)
    with about.held(run):  # nobody puts it into the trash before the worker is at it
        runs.refuse_trashed(run, info.name)
        files = {"export.json": json.dumps(spec, ensure_ascii=False, indent=1)}
        folder = create(studio.settings.exports, export_id, files)
        local.start(folder, "studio.engine.export")
    return get(studio, export_id)


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "run"


def list_exports(studio: "Studio", run_id: str | None = None) -> list[ExportInfo]:
    """Exports, newest first; of one run if asked."""
    found = []
    for path in studio.settings.exports.iterdir():
        spec = read_json(path / "export.json")
        if spec and spec.get("owner") == studio.owner and run_id in (None, spec.get("run_id")):
            found.append(_info(RunDir(path), spec))
    return sorted(found, key=lambda item: item.created, reverse=True)


def get(studio: "Studio", export_id: str) -> ExportInfo:
    """One export by its id."""
    folder = RunDir(studio.settings.exports / export_id)
    spec = read_json(folder.path / "export.json") if re.fullmatch(r"[0-9a-f]{16}", export_id) else None
    if spec is None or spec.get("owner") != studio.owner:
        raise NotFound(f"There is no export {export_id!r}.")
    return _info(folder, spec)


def _info(folder: RunDir, spec: dict[str, Any]) -> ExportInfo:
    local.reap()
    found, end = local.find(folder), Exit.read(folder)
    state: State = end.state if end else "running" if found in ("alive", "claimed") else "interrupted"
    if state == "interrupted" and found == "gone":
        tidy(folder.path)  # a half-written model is gigabytes that nobody would miss
    doing, done, of, parity = "", 0, 0, ""
    for event in read_events(folder.events).events:
        if event.kind == "progress":
            doing, done, of = (
                str(event.payload.get("what")),
                int(event.payload.get("done", 0)),
                int(event.payload.get("of", 0)),
            )
        elif event.kind == "parity":
            parity = (
                f"Reloaded from disk, its logits correlate {event.payload['correlation']:.5f} with the adapted "
                f"model's (largest difference {event.payload['max_abs']:.3g})."
            )
    artefact = _artefact(folder, spec) if state == "completed" else None
    size = (
        None
        if artefact is None
        else sum(p.stat().st_size for p in artefact.rglob("*"))
        if artefact.is_dir()
        else artefact.stat().st_size
    )
    message = end.message if end else "Its worker ended without a word." if state == "interrupted" else ""
    return ExportInfo(
        folder.id,
        str(spec["run_id"]),
        str(spec["kind"]),
        state,
        "" if state in FINAL else doing,
        done,
        of,
        size,
        str(artefact) if artefact else None,
        message,
        parity,
        float(spec["created"]),
        _load_lines(spec, artefact),
        artefact.name if artefact and artefact.is_file() else None,
    )


def _artefact(folder: RunDir, spec: dict[str, Any]) -> Path | None:
    if spec["kind"] == "adapter":
        return next(iter(folder.path.glob("*.zip")), None)
    merged = folder.path / "merged"
    return merged if (merged / "MANIFEST.json").is_file() else None


def _load_lines(spec: dict[str, Any], artefact: Path | None) -> str:
    if spec["kind"] == "adapter":
        return (
            "from peft import AutoPeftModelForCausalLM\n"
            f'model = AutoPeftModelForCausalLM.from_pretrained("{spec["name"]}-adapter")  # the unpacked zip\n'
            f"# its base model is {spec['model']['id']}"
        )
    path = artefact or "merged"
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f'model = AutoModelForCausalLM.from_pretrained("{path}", dtype="auto")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{path}")'
    )


def file_of(studio: "Studio", export_id: str) -> Path:
    """The file to download of a finished export; raises Conflict when there is none."""
    info = get(studio, export_id)
    if info.path is None:
        raise Conflict(f"This export is {info.state}: there is nothing to download.")
    path = Path(info.path)
    if path.is_dir():
        raise Conflict(f"A merged model is a folder of {(info.size or 0) / GIB:.1f} GiB: it lies in {path}.")
    return path


def wait(studio: "Studio", export_id: str, poll: float = 0.3) -> ExportInfo:
    """Wait until an export is over."""
    while (info := get(studio, export_id)).state not in FINAL:
        time.sleep(poll)
    return info


def copy_to(studio: "Studio", export_id: str, out: Path) -> Path:
    """Copy a finished export's artefact to a folder of the user's."""
    info = get(studio, export_id)
    if info.path is None:
        raise Conflict(f"This export is {info.state}: there is nothing to copy. {info.message}")
    source = Path(info.path)
    target = out / source.name
    if target.exists():
        raise BadInput(f"{target} exists already. Move it away or choose another --out.")
    out.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copyfile(source, target)
    return target
