"""Import someone else's adapter or merged model into the store of adapters.

From a folder of this machine, a zip, or the hub; only needed files, only safetensors, checked by their contents
(services/models/foreign/files.py, services/models/foreign/weights.py, services/models/foreign/configs.py,
services/models/foreign/shapes.py). Everything is done on copies in a temporary folder; the adapter is then added to the
list whole or not at all. Nothing is loaded here.
"""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.dataset.tokens.template import template_source
from studio.errors import BadInput, Unavailable
from studio.launch import short_tasks
from studio.memory.shapes import Tensor
from studio.recipe import Recipe
from studio.rundir import read_json, sha256, write_json
from studio.services.core import access, jobs
from studio.services.core.jobs import Progress
from studio.services.core.studio import Studio
from studio.services.data.checks import take_in
from studio.services.models import adapters, models
from studio.services.models.adapters import AdapterInfo, New
from studio.services.models.foreign import configs as foreign_configs
from studio.services.models.foreign import files as foreign_files
from studio.services.models.foreign import shapes as foreign_shapes
from studio.services.models.foreign import weights as foreign_weights
from studio.services.models.foreign.files import TOKENIZER, Taken

Steps = Generator[Progress, None, AdapterInfo]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_PROBE_SECONDS, _PROBE_MEMORY_MB = 60.0, 2048
_HUB_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """How to import. base: the base model in this home, empty for the one it names; name: empty for its own."""

    base: str = ""
    name: str = ""


def add(studio: Studio, source: str, request: ImportRequest, *, folders: bool = False) -> Steps:
    """Import a folder, a zip of this machine or a hub id, step by step.

    folders: whether paths may be given, as on the command line; pages ask locality.is_local. Raises BadInput that says
    what is wrong, where and what to do.
    """
    text = source.strip()
    if not text:
        raise BadInput("Give the folder of an adapter, a zip, or a hub id such as someone/their-adapter.")
    path = Path(text).expanduser()
    if folders and "\0" not in text and path.is_dir():
        return (yield from from_folder(studio, path.absolute(), request))
    if folders and "\0" not in text and path.is_file():
        return (yield from from_zip(studio, path.absolute(), request, path.name))
    if _HUB_ID.fullmatch(text):
        return (yield from from_hub(studio, text, request))
    where = "neither a folder nor a zip of this machine, nor" if folders else "not"
    more = "" if folders else " Upload a zip instead: folders can be given only on the machine that the studio runs on."
    raise BadInput(f"{text[:200]!r} is {where} a hub id such as someone/their-adapter.{more}")


def from_folder(studio: Studio, folder: Path, request: ImportRequest) -> Steps:
    """Import a folder of this machine; the folder is not changed."""
    yield Progress("Copying the needed files of the folder", 0, 0)
    with _temporary_folder(studio) as into:
        taken = foreign_files.take_folder(folder, into)
        return (yield from _add(studio, taken, request, folder.name, {"from": str(folder), "by": "folder"}))


def from_zip(studio: Studio, path: Path, request: ImportRequest, called: str) -> Steps:
    """Import a zip. called: the name that its owner knows it by."""
    yield Progress("Unpacking the zip", 0, 0)
    with _temporary_folder(studio) as into:
        taken = foreign_files.take_zip(path, into, studio.settings.max_compression_ratio)
        return (yield from _add(studio, taken, request, Path(called).stem, {"from": called[:200], "by": "zip"}))


def from_upload(studio: Studio, path: str, request: ImportRequest) -> Steps:
    """Import an uploaded zip, and delete it afterwards even if the import fails."""
    stored = Path(take_in(studio, path))
    try:
        return (yield from from_zip(studio, stored, request, stored.name))
    finally:
        shutil.rmtree(stored.parent, ignore_errors=True)


def from_hub(studio: Studio, hub_id: str, request: ImportRequest) -> Steps:
    """Import a repository of the Hugging Face hub: the same files, selected by their names and sizes there."""
    if studio.settings.offline:
        raise Unavailable(f"{hub_id} must come from the Hugging Face hub, but this studio is set to stay offline.")
    with _temporary_folder(studio) as into:
        online = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"} | hub_environment(access.own_token(studio))
        log = into.parent / f"{into.name}.log"
        missing = f"The download of {hub_id} ended without a result. Try again."
        job = jobs.ShortJob(
            "studio.hub.adapter", [hub_id, str(into)], log, "revision", doing=f"Asking the hub for {hub_id}",
            seconds=_HUB_SECONDS, environment=online, missing=missing,
        )  # fmt: skip
        try:
            line = yield from job.run()
            kind = foreign_files.kind_of(_names(into), hub_id)
            origin = {"from": hub_id, "by": "hub", "revision": str(line["revision"])}
            taken = Taken(into, kind, tuple(map(str, line.get("left", []))))
            return (yield from _add(studio, taken, request, hub_id.rpartition("/")[2], origin))
        finally:
            log.unlink(missing_ok=True)


def hub_environment(token: str) -> dict[str, str]:
    """Environment of a child process that talks to the hub: the hub's address, and the token, stored nowhere else."""
    environment = {
        name: os.environ[name]
        for name in ("HF_ENDPOINT", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
        if name in os.environ
    }
    # Without a token, the client would use the one that the machine's owner saved by logging in.
    return environment | ({"HF_TOKEN": token} if token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"})


def _add(studio: Studio, taken: Taken, request: ImportRequest, called: str, origin: dict[str, Any]) -> Steps:
    """Check the copies and put them into the store."""
    yield Progress("Checking the weights", 0, 0)
    folder, where = taken.folder, str(origin["from"]).replace("\\", "/").rstrip("/").rpartition("/")[2] or called
    for name in _names(folder):
        if (folder / name).stat().st_size > foreign_files.bound_of(name):
            raise BadInput(f"{name} in {where} is too large for a file of that name. It is refused.")
    weights = sorted(name for name in _names(folder) if name.endswith(".safetensors"))
    tensors: list[Tensor] = []
    for name in weights:
        shard = foreign_weights.read(folder / name, f"{name} in {where}")
        foreign_weights.check_types(shard, f"{name} in {where}")
        tensors += shard
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise BadInput(f"Two weight files of {where} contain tensors with the same name. Save the model again.")
    readme = folder / "README.md"
    if readme.is_file():
        _check_text(readme, where)
    whole = taken.kind == "model"
    if whole:
        base, config = _model(studio, folder, tensors, request, where)
    else:
        base, config = _adapter(studio, folder, tensors, request, where)
    yield Progress("Checking the tokenizer and chat template", 0, 0)
    template = _own_template(studio, folder, models.folder_of(studio, base), where)
    recipe = _recipe(studio, base, config, template, whole)
    origin |= {"sha256": sha256(folder / weights[0]), "left": list(taken.left[:100]), "licence": _licence(readme)}
    _add_tokenizer(folder, models.folder_of(studio, base), template)
    yield Progress("Adding it to the list", 0, 0)
    name = re.sub(r"[@\s]+", " ", request.name or called).strip()[:70] or "adapter"
    new = New(name, "imported", recipe, origin)
    return adapters.put(studio, new, folder, "model" if whole else "adapter")


def _adapter(
    studio: Studio, folder: Path, tensors: "list[Tensor]", request: ImportRequest, where: str
) -> tuple[str, dict[str, Any]]:
    """The base that an adapter fits, and the adapter's config, rewritten."""
    path = folder / "adapter_config.json"
    config = foreign_configs.adapter(path, where)
    named = foreign_configs.named_base(path)
    base = request.base or _known_base(studio, named)
    if not base:
        there = ", ".join(info.id for info in models.list_models(studio)) or "none yet"
        hint = f"It names {named[:120]!r}" if named else "It does not name one"
        raise BadInput(
            f"The base of the adapter in {where} is not among the models of this home ({there}). {hint}. Add that "
            "model first (studio models add), or choose the base (--base)."
        )
    shape = models.shape_of(studio, base)
    foreign_shapes.check_adapter(config, tensors, shape, base)
    config["base_model_name_or_path"] = str(models.folder_of(studio, base))
    write_json(path, config)
    return base, config


def _model(
    studio: Studio, folder: Path, tensors: "list[Tensor]", request: ImportRequest, where: str
) -> tuple[str, dict[str, Any]]:
    """The base that a whole model was made from, found by shapes, and the model's config, rewritten."""
    own = foreign_configs.read(folder / "config.json", where)
    if (folder / foreign_files.INDEX).is_file():
        _check_index(folder, tensors, where)
    known = [request.base] if request.base else [info.id for info in models.list_models(studio)]
    differs = ""
    for base in known:
        shape = models.shape_of(studio, base)
        difference = foreign_shapes.same_model(tensors, shape)
        if not difference and (request.base or shape.architecture == own.get("model_type", shape.architecture)):
            config = foreign_configs.model(
                folder / "config.json", read_json(models.folder_of(studio, base) / "config.json") or {}, where
            )
            write_json(folder / "config.json", config)
            return base, config
        differs = differs or f"{base}: {difference}"
    raise BadInput(
        f"The model in {where} does not have the shape of {'its base' if request.base else 'any model here'} "
        f"({differs or 'there is none yet'}). To train it, add it as a base model: studio models add."
    )


def _check_index(folder: Path, tensors: "list[Tensor]", where: str) -> None:
    """Raise BadInput unless the index of a sharded model names existing files and exactly their tensors."""
    named = foreign_configs.read(folder / foreign_files.INDEX, where).get("weight_map")
    if not isinstance(named, dict) or set(named) != {tensor.name for tensor in tensors}:
        raise BadInput(
            f"{foreign_files.INDEX} of {where} names other tensors than its files contain. Save the model again."
        )
    for name in map(str, named.values()):
        if not foreign_files.SHARD.fullmatch(name) or not (folder / name).is_file():
            raise BadInput(f"{foreign_files.INDEX} of {where} names the file {name[:80]!r}, which is not there.")


def _known_base(studio: Studio, named: str) -> str:
    """The model of this home that others know by this name; empty if there is none."""
    if not named:
        return ""
    last = named.replace("\\", "/").rstrip("/").rpartition("/")[2].lower()
    match = ""
    for info in models.list_models(studio):
        if named in (info.source, info.path, info.id):
            return info.id
        if last in (info.id, Path(info.source).name.lower()):
            match = match or info.id
    return match


def _own_template(studio: Studio, folder: Path, base: Path, where: str) -> str:
    """An import's chat template, tried in a bounded child process; empty if it has none or its base's."""
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json"):
        if (folder / name).is_file() and name == "tokenizer_config.json":
            foreign_configs.tokenizer(folder / name, where)
        elif (folder / name).is_file() and name != "tokenizer.json":
            foreign_configs.read(folder / name, where)
    if (folder / "chat_template.jinja").is_file():
        _check_text(folder / "chat_template.jinja", where)
    log = folder.parent / f"{folder.name}.log"
    arguments = [str(folder), str(base), str(_PROBE_MEMORY_MB)]
    job = jobs.ShortJob(
        "studio.dataset.probe", arguments, log, "template", seconds=_PROBE_SECONDS,
        fault=lambda line: BadInput(f"{where}: {line['error']}"),
        missing=f"The tokenizer of {where} could not be checked. Try again.",
    )  # fmt: skip
    try:
        template = str(jobs.drive(job.run(), lambda *_: None)["template"])
        return "" if template == (template_source(base) or "") else template
    except short_tasks.Died as error:
        why = "did not finish in time" if error.timed_out else "ended the process that tried it"
        raise BadInput(f"The tokenizer or chat template of {where} {why}. It is refused.") from None
    finally:
        log.unlink(missing_ok=True)


def _recipe(studio: Studio, base: str, config: dict[str, Any], template: str, whole: bool) -> Recipe:
    """How an import is asked: with its own template if it has one, on its base as stored."""
    info = models.get(studio, base)
    values: dict[str, Any] = {
        "model": base,
        "dtype": "float32" if info.dtype == "F32" else "bfloat16",
        "held_out": 0,
        "dataset": "",
        "template": "custom" if template else "chat" if info.has_template else "alpaca",
        "custom_template": template,
    }
    if whole:
        return Recipe().with_values({**values, "method": "full"})
    kinds = {"LORA": "lora", "IA3": "ia3", "PROMPT_TUNING": "prompt", "PREFIX_TUNING": "prefix"}
    values["method"] = kinds[config["peft_type"]]
    names = ("r", "lora_dropout", "target_modules", "use_rslora", "use_dora", "bias", "num_virtual_tokens")
    values |= {name: config[name] for name in names if config.get(name) is not None and values["method"] != "ia3"}
    if values["method"] == "lora":
        values["lora_alpha"] = min(4096, max(1, round(config["lora_alpha"])))
        values["lora_dropout"] = min(0.9, values.get("lora_dropout", 0.0))
        if isinstance(values["target_modules"], str) and values["target_modules"] != "all-linear":
            values["target_modules"] = [values["target_modules"]]
    return Recipe().with_values(values)


def _add_tokenizer(folder: Path, base: Path, template: str) -> None:
    """Put the base's tokenizer next to the weights, since they are asked with it, and the import's own template."""
    for name in TOKENIZER:
        (folder / name).unlink(missing_ok=True)
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    generation = base / "generation_config.json"
    (folder / generation.name).unlink(missing_ok=True)
    if generation.is_file() and (folder / "config.json").is_file():
        shutil.copyfile(generation, folder / generation.name)
    if template:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")


def _check_text(path: Path, where: str) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadInput(f"{path.name} of {where} is not UTF-8 text. Leave it out or save it again.") from None
    if "\0" in text:
        raise BadInput(f"{path.name} of {where} is not text: it contains a zero byte. Leave it out.")


def _licence(readme: Path) -> str:
    """The licence that the head of a model card names; empty if it names none."""
    if not readme.is_file():
        return ""
    head = readme.read_text(encoding="utf-8")[:20_000]
    match = re.search(r"^licen[sc]e:[ \t]*[\"']?([\w.+-]{1,60})", head.partition("\n---")[0], re.MULTILINE)
    return match[1] if match else ""


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file()]


@contextmanager
def _temporary_folder(studio: Studio) -> "Iterator[Path]":
    """A temporary folder that is always removed; what a kill leaves is removed after a day."""
    folder = Path(tempfile.mkdtemp(prefix=time.strftime("import-%H%M%S-"), dir=studio.settings.staging))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
