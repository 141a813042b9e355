"""Exports: trained weights written as files that other programs load.

Each has a directory laid out like a run's, exports/<id>/; the id is a secret. Its contents, and how an export is
checked, are described in docs/export.md. Downloads are in downloads.py.
"""

import contextlib
import json
import random
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.errors import BadInput, Conflict, NotFound, StudioError
from studio.evaluation.parity import Parity, digits
from studio.launch import gguf_tools, workers
from studio.machine import facts as machine_facts
from studio.rundir import Exit, RunDir, about, create, free_space_or_raise, read_json
from studio.services.core import access, quotas
from studio.services.core.jobs import KeptJob
from studio.services.core.states import FINAL, State
from studio.services.core.studio import Studio
from studio.services.evals import evaluations
from studio.services.exports import targets
from studio.services.models import models, trained_weights
from studio.services.models.trained_weights import Source
from studio.services.runs import runs

__all__ = ["Parity", "digits"]  # for pages, which import services only
_SHARD = re.compile(r"\d{1,6}(KB|MB|GB)")
_ASKED = 24  # conversations passed to the parity check; it uses the first that are short enough
_POLL = 0.3
_BUILT_TOOLS = 2**29  # bytes that compiling llama.cpp may take in the meantime


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export.

    dtype: type the weights are merged in, empty for the run's own; shard: size limit for each file of a merged model;
    quant: type of a GGUF.
    """

    kind: str
    dtype: str = ""
    shard: str = "5GB"
    quant: str = "Q8_0"


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """An export; size in bytes. path: the artefact, once it is whole; file_name: the name of the download.

    seconds_left: estimated from earlier exports of its kind, None without any; parity: result of the parity check in
    words; check: its figures; about: the dtype or quant.
    """

    id: str
    run: str
    source: str
    kind: str
    about: str
    state: State
    doing: str
    done: int
    of: int
    seconds_left: float | None
    size: int | None
    path: str | None
    message: str
    parity: str
    check: Parity | None
    created: float
    load_lines: str
    file_name: str | None


def tools_ready(studio: Studio) -> bool:
    """Whether a GGUF can be made without installing llama.cpp first."""
    return gguf_tools.ready(studio.settings)


@quotas.in_turn
def start(studio: Studio, key: str, kind: str, request: ExportRequest | None = None) -> ExportInfo:
    """Start an export of a source; raises Conflict when there is nothing whole to export yet."""
    request = request or ExportRequest(kind)
    if kind not in targets.KINDS:
        raise BadInput(f"There is no export to {kind!r}. Known: {', '.join(targets.KINDS)}.")
    if request.dtype not in ("", *targets.DTYPES):
        raise BadInput(f"There is no type {request.dtype!r}. Known: {', '.join(targets.DTYPES)}.")
    if request.quant not in targets.QUANTS:
        raise BadInput(f"There is no GGUF of type {request.quant!r}. Known: {', '.join(targets.QUANTS)}.")
    if not _SHARD.fullmatch(request.shard):
        raise BadInput(f"The largest file size is written like 5GB or 500MB, not {request.shard!r}.")
    source = trained_weights.find(studio, key, newest=False)
    quotas.check_work(studio, [item.state for item in list_exports(studio)])
    if kind in targets.cannot(source):
        why = "it trained whole weights" if kind == "adapter" else "virtual tokens cannot be merged into the weights"
        other = "merged" if kind == "adapter" else "adapter"
        method = source.recipe.method.method
        raise BadInput(f"A run with method {method} has no {kind} export: {why}. Export it as {other}.")
    dtype = request.dtype or _dtype(studio, source, kind)
    size = _disk_space(studio, source, request, dtype)
    free_space_or_raise(studio.settings.exports, size, f"Exporting the {kind} of {source.name}")
    model = models.get(studio, source.model)
    spec = {
        "kind": kind,
        "run": str(source.run.path),
        "run_id": source.id,
        "written": source.id if source.folder == source.run.trained else source.key,
        "title": source.title,
        "owner": studio.owner,
        "source": str(source.folder),
        "name": _file_name(source.name),
        "created": time.time(),
        "expected": targets.gguf_sizes(studio, source)[request.quant]
        if kind == "gguf"
        else targets.sizes(studio, source, dtype)[kind],
        # Others load the adapter's base by its public name, not by its name in this home.
        "model": {
            "id": model.source if access.may_name_files(studio) else models.known_as(studio, model.id),
            "path": model.path,
        },
        "dtype": dtype,
        "shard": request.shard,
        "quant": request.quant,
        "tools": str(gguf_tools.folder_of(studio.settings)),
        "find_links": studio.settings.gguf_find_links,
        "evaluation": _evaluated(studio, source),
    }
    files = {
        "export.json": json.dumps(spec, ensure_ascii=False, indent=1),
        "asks.json": json.dumps(_conversations(studio, source), ensure_ascii=False),
    }
    # The run cannot be moved to the trash before its worker has started.
    with contextlib.nullcontext() if source.step is None else about.held(source.run):
        if source.step is not None:
            runs.refuse_trashed(source.run, source.name)
        folder = create(studio.settings.exports, secrets.token_hex(8), files)
        KeptJob(folder).start("studio.engine.workers.export")
    return get(studio, folder.id)


def _dtype(studio: Studio, source: Source, kind: str) -> str:
    """The type to merge in. A GGUF is merged in float32 if memory allows: it is then rounded to 16 bits only once."""
    own = source.recipe.model.dtype
    if kind != "gguf":
        return own
    facts = machine_facts.look(studio.settings.home)
    needed = 5 * models.shape_of(studio, source.model).parameters
    return "float32" if needed < facts.memory_total - facts.memory_used else own


def _disk_space(studio: Studio, source: Source, request: ExportRequest, dtype: str) -> int:
    """Largest disk space in bytes that an export takes while it is made."""
    sizes = targets.sizes(studio, source, dtype)
    if request.kind == "adapter":
        return 3 * sizes["adapter"] + 2**26
    if request.kind == "merged":
        return sizes["merged"] + 2**26
    files = targets.gguf_sizes(studio, source)
    tools = 0 if gguf_tools.ready(studio.settings) else _BUILT_TOOLS
    return sizes["merged"] + files["F16"] + files[request.quant] + tools + 2**26


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "run"


def _conversations(studio: Studio, source: Source) -> list[list[dict[str, str]]]:
    """Held-out conversations without their answers, the same ones for the same recipe.

    Those with tools are left out: other programs may write tools in another way, which says nothing about the weights.
    """
    conversations = [
        [dict(message) for message in record.messages[:-1]]
        for record in trained_weights.held_out(studio, source.id)
        if len(record.messages) > 1 and not record.tools and all(len(message) == 2 for message in record.messages)
    ]
    random.Random(source.recipe.schedule.seed).shuffle(conversations)  # noqa: S311 no secret
    return conversations[:_ASKED]


def _evaluated(studio: Studio, source: Source) -> list[str]:
    """The findings of the newest evaluation of exactly these weights, as sentences."""
    try:
        infos = evaluations.list_evaluations(studio, source.id)
        newest = next(info for info in infos if info.state == "completed" and source.title in info.columns.values())
        column = next(name for name, title in newest.columns.items() if title == source.title)
        sets = evaluations.result(studio, newest.id).sets
    except (StopIteration, StudioError):
        return []
    return [
        f"{prompt_set.title} ({prompt_set.prompts} prompts): {prompt_set.sentences[column]}"
        for prompt_set in sets
        if column in prompt_set.sentences
    ]


def list_exports(studio: Studio, key: str | None = None) -> list[ExportInfo]:
    """Exports, newest first; with a key, only those of the run or adapter with that id."""
    workers.reap()
    infos = []
    speeds = _speeds(studio)
    for path in studio.settings.exports.iterdir():
        spec = read_json(path / "export.json")
        if spec and spec.get("owner") == studio.owner and key in (None, spec.get("run_id")):
            infos.append(_info(studio, RunDir(path), spec, speeds))
    return sorted(infos, key=lambda item: item.created, reverse=True)


def get(studio: Studio, export_id: str) -> ExportInfo:
    """One export by its id."""
    workers.reap()
    folder, spec = find(studio, export_id)
    return _info(studio, folder, spec, _speeds(studio))


def find(studio: Studio, export_id: str) -> tuple[RunDir, dict[str, Any]]:
    """The directory of an export that the asker owns, and its export.json."""
    folder = RunDir(studio.settings.exports / export_id)
    spec = read_json(folder.path / "export.json") if re.fullmatch(r"[0-9a-f]{16}", export_id) else None
    if spec is None or spec.get("owner") != studio.owner:
        raise NotFound(f"There is no export {export_id!r}.")
    return folder, spec


def cancel(studio: Studio, export_id: str) -> ExportInfo:
    """Ask an export to end; nothing of it is kept. Raises Conflict when it is over."""
    KeptJob(find(studio, export_id)[0]).cancel("This export")
    return get(studio, export_id)


def delete(studio: Studio, export_id: str) -> ExportInfo:
    """Delete an export and its files; raises Conflict while it is being made."""
    info = get(studio, export_id)
    KeptJob(find(studio, export_id)[0]).delete("This export")
    return info


def again(studio: Studio, export_id: str) -> ExportInfo:
    """Restart an export that did not finish; the new one replaces it."""
    info = get(studio, export_id)
    if info.state not in FINAL or info.state == "completed":
        raise Conflict(f"This export is {info.state}: there is nothing to start again.")
    _, spec = find(studio, export_id)
    kind = str(spec["kind"])
    request = ExportRequest(
        kind, str(spec.get("dtype", "")), str(spec.get("shard", "5GB")), str(spec.get("quant", "Q8_0"))
    )
    fresh = start(studio, str(spec.get("written") or spec["run_id"]), kind, request)
    delete(studio, export_id)
    return fresh


def _speeds(studio: Studio) -> dict[str, float]:
    """Seconds per byte of the newest finished export of each kind."""
    speeds: dict[str, tuple[float, float]] = {}
    for path in studio.settings.exports.iterdir():
        spec, end = read_json(path / "export.json"), Exit.read(RunDir(path))
        if spec is None or end is None or end.state != "completed" or not spec.get("expected"):
            continue
        began, over = float(spec["created"]), (path / "exit.json").stat().st_mtime
        if began > speeds.get(str(spec["kind"]), (0.0, 0.0))[0]:
            speeds[str(spec["kind"])] = began, (over - began) / float(spec["expected"])
    return {kind: seconds_per_byte for kind, (_, seconds_per_byte) in speeds.items()}


def _info(studio: Studio, folder: RunDir, spec: dict[str, Any], speeds: dict[str, float]) -> ExportInfo:
    job = KeptJob(folder).look()
    kind, left = str(spec["kind"]), None
    if job.state == "interrupted":
        KeptJob(folder).clear_leftovers()
    elif not job.final and kind in speeds and spec.get("expected"):
        left = max(1.0, speeds[kind] * float(spec["expected"]) - (time.time() - float(spec["created"])))
    check = Parity.read(read_json(folder.path / "parity.json"))
    artefact = artefact_of(folder, kind) if job.state == "completed" else None
    return ExportInfo(
        id=folder.id,
        run=str(spec["run_id"]),
        source=str(spec.get("title") or spec["name"]),
        kind=kind,
        about=str({"merged": spec.get("dtype"), "gguf": spec.get("quant")}.get(kind) or ""),
        state=job.state,
        doing=job.progress.doing,
        done=job.progress.done,
        of=job.progress.of,
        seconds_left=left,
        size=None if artefact is None else _size(artefact),
        path=str(artefact) if artefact else None,
        message=access.for_reader(studio, f"{job.message} {job.remedy}".strip()),
        parity=check.words if check is not None and check.passed else "",
        check=check,
        created=float(spec["created"]),
        load_lines=_load_lines(spec, artefact, here=access.may_name_files(studio)),
        file_name=_download_name(spec, artefact),
    )


def _size(path: Path) -> int:
    return (
        sum(item.stat().st_size for item in path.rglob("*") if item.is_file()) if path.is_dir() else path.stat().st_size
    )


def artefact_of(folder: RunDir, kind: str) -> Path | None:
    """The artefact of an export: a zip, or a whole folder."""
    if kind == "adapter":
        return next(iter(folder.path.glob("*.zip")), None)
    path = folder.path / kind
    return path if (path / "MANIFEST.json").is_file() else None


def _download_name(spec: dict[str, Any], artefact: Path | None) -> str | None:
    if artefact is None:
        return None
    if artefact.is_file():
        return artefact.name
    if spec["kind"] == "gguf":
        return next((path.name for path in artefact.glob("*.gguf")), None)
    return f"{spec['name']}-merged.zip"


def _load_lines(spec: dict[str, Any], artefact: Path | None, here: bool) -> str:
    """Lines that load the export. here: with paths of this machine; a visitor starts from the download."""
    if spec["kind"] == "adapter":
        return (
            "from peft import AutoPeftModelForCausalLM\n"
            f'model = AutoPeftModelForCausalLM.from_pretrained("{spec["name"]}-adapter")  # the unpacked zip\n'
            f"# its base model is {spec['model']['id']}"
        )
    if spec["kind"] == "gguf":
        file = _download_name(spec, artefact) or "model.gguf"
        lines = f"llama-cli -m {file} -cnv\nollama create {spec['name'].lower()} -f Modelfile"
        return f"cd {artefact or spec['kind']}\n{lines}" if here else lines
    path = (artefact or spec["kind"]) if here else f"{spec['name']}-merged"
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f'model = AutoModelForCausalLM.from_pretrained("{path}", dtype="auto")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{path}")'
    )


def pause(studio: Studio, export_id: str) -> ExportInfo:
    """The state of an export after a short wait."""
    time.sleep(_POLL)
    return get(studio, export_id)
