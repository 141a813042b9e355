"""Bringing adapters from elsewhere: good ones join the list, hostile ones are refused in a sentence and leave no trace.

Every pickle, template and config here carries a canary: code that would write a file if anything ran it.
"""

import json
import os
import pickle
import shutil
import stat
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from studio.errors import BadInput, StudioError, Unavailable
from studio.recipe import Recipe
from studio.rundir import verify_folder
from studio.services.core import access
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.models import adapters, imports, models, trained_weights
from studio.services.models.foreign import files as foreign_files
from studio.services.models.imports import ImportRequest
from studio.settings import Settings
from tests.hub import Hub, served
from tests.tiny import CHATML, HIDDEN, LAYERS, tiny_model

pytestmark = pytest.mark.slow

RANK = 4
Spoil = Callable[[Path, Path], Any]


class Canary:
    """Unpickled, it writes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.trace, "it ran"))


def config(**more: Any) -> dict[str, Any]:
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "someone/tiny", "r": RANK,
        "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["q_proj", "o_proj"], "bias": "none", **more,
    }  # fmt: skip


def weights(rank: int = RANK, hidden: int = HIDDEN) -> dict[str, Any]:
    made = {}
    for layer in range(LAYERS):
        for module in ("q_proj", "o_proj"):
            path = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            made[f"{path}.lora_A.weight"] = np.ones((rank, hidden), np.float32)
            made[f"{path}.lora_B.weight"] = np.zeros((hidden, rank), np.float32)
    return made


def put(folder: Path, **more: Any) -> Path:
    """A good adapter's folder; more: of its config."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config(**more)))
    save_file(weights(), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# theirs\n")
    return folder


def packed(folder: Path, target: Path, inside: str = "theirs/") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as out:
        for path in sorted(folder.iterdir()):
            out.write(path, inside + path.name)
    return target


def add(studio: Studio, source: Path | str, **wish: str) -> adapters.AdapterInfo:
    """Every step of an import, as the command line takes them."""
    steps = imports.add(studio, str(source), ImportRequest(**{"base": "tiny", **wish}), folders=True)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]


def everything(studio: Studio) -> list[str]:
    """All that lies in the home of adapters and of what is under way."""
    home = studio.settings
    return sorted(str(path) for root in (home.adapters, home.staging) for path in root.rglob("*"))


# Good ones


def test_a_folder_joins_the_list(ready: Studio, tmp_path: Path) -> None:
    info = add(ready, put(tmp_path / "theirs"))
    assert (info.name, info.kind, info.model, info.state) == ("theirs", "imported", "tiny", "completed")
    assert info.origin["licence"] == "mit" and info.origin["from"] == str(tmp_path / "theirs")
    folder = Path(info.path) / "adapter"
    assert verify_folder(folder) is None
    assert (folder / "tokenizer.json").is_file()
    told = json.loads((folder / "adapter_config.json").read_text())
    assert told["inference_mode"] is True and told["r"] == RANK
    assert told["base_model_name_or_path"] == str(models.folder_of(ready, "tiny"))
    found = trained_weights.find(ready, "theirs")
    assert found.recipe.method.r == RANK and found.recipe.model.dtype == "float32"
    assert not list(ready.settings.staging.iterdir())


def test_a_folder_of_plain_peft_and_its_checkpoint_leftovers(ready: Studio, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from tests.artefacts import adapter_run

    made = Path(str(adapter_run(tmp_path / "one", tiny).trained))
    with (made / "training_args.bin").open("wb") as file:
        pickle.dump(Canary(tmp_path / "trace"), file)
    info = add(ready, made, base="", name="from PEFT")
    assert info.name == "from PEFT" and "training_args.bin" in info.origin["left"]
    assert not (Path(info.path) / "adapter" / "training_args.bin").exists()
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("inside", ["theirs/", ""])
def test_a_zip_is_imported(ready: Studio, tmp_path: Path, inside: str) -> None:
    info = add(ready, packed(put(tmp_path / "x"), tmp_path / "sums-adapter.zip", inside))
    assert info.name == "sums-adapter" and info.has_adapter


def test_an_own_template_is_asked_with(ready: Studio, tmp_path: Path) -> None:
    own = CHATML.replace("message['content']", "message['content'] | upper")
    folder = put(tmp_path / "loud")
    (folder / "chat_template.jinja").write_text(own)
    info = add(ready, folder)
    recipe = adapters.recipe_of(ready, info.id)
    assert recipe.data.own_chat_template == own
    (folder / "chat_template.jinja").write_text(CHATML)
    assert adapters.recipe_of(ready, add(ready, folder, name="same").id).data.template == "chat"


def test_a_merged_model_joins_beside_its_base(ready: Studio, tmp_path: Path) -> None:
    info = add(ready, tiny_model(tmp_path / "merged", seed=7), base="")
    assert (info.model, info.has_adapter) == ("tiny", True)
    assert (Path(info.path) / "model" / "model.safetensors").is_file()
    assert trained_weights.find(ready, "merged").recipe.method.method == "full"


def test_a_folder_of_the_hub_s_cache_is_made_of_links(ready: Studio, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "hub" / "blobs", tmp_path / "hub" / "snapshots" / "abc"
    put(blobs)
    snapshot.mkdir(parents=True)
    for path in blobs.iterdir():
        (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    assert add(ready, snapshot).has_adapter


def test_the_base_is_found_by_its_name_or_asked_for(ready: Studio, tmp_path: Path) -> None:
    assert add(ready, put(tmp_path / "one", base_model_name_or_path="tiny"), base="").model == "tiny"
    with pytest.raises(BadInput, match=r"not among the models of this home \(tiny\). It names 'who/else'"):
        add(ready, put(tmp_path / "two", base_model_name_or_path="who/else"), base="")


def test_a_visitor_gives_no_folders(ready: Studio, tmp_path: Path, settings: Settings) -> None:
    folder = put(tmp_path / "theirs")
    with pytest.raises(BadInput, match="Upload a zip instead"):
        next(imports.add(ready, str(folder), ImportRequest("tiny")))
    with pytest.raises(Unavailable, match="stay offline"):
        next(imports.add(ready, "some/one", ImportRequest("tiny")))
    assert access.is_local(ready)
    with Keeper(Settings(home=tmp_path / "other", host="0.0.0.0", offline=True)) as served:
        assert not access.is_local(served)
    with Keeper(Settings(home=tmp_path / "third", offline=True), owner="someone") as served:
        assert not access.is_local(served)


def test_the_machine_s_token_is_no_visitor_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with Keeper(Settings(home=tmp_path / "one", offline=True)) as studio:
        assert access.own_token(studio) == "hf_secret"
        monkeypatch.setenv("SPACE_ID", "some/space")
        assert access.own_token(studio) == ""


# Hostile ones


def pickled(trace: Path) -> bytes:
    return pickle.dumps({"weights": Canary(trace)})


def code(trace: Path) -> str:
    """A template that writes a file where it is not in a sandbox."""
    return "{{ cycler.__init__.__globals__.os.system('touch " + str(trace) + "') }}"


def rewrite(folder: Path, **more: Any) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(config(**more)))


def header(folder: Path, change: Callable[[dict[str, Any]], Any], tail: bytes = b"", text: str | None = None) -> None:
    """Write the weights' header anew."""
    path = folder / "adapter_model.safetensors"
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    told = json.loads(raw[8 : 8 + length])
    change(told)
    new = (json.dumps(told) if text is None else text).encode()
    path.write_bytes(struct.pack("<Q", len(new)) + new + raw[8 + length :] + tail)


def first(told: dict[str, Any]) -> dict[str, Any]:
    return next(value for name, value in told.items() if name != "__metadata__")


def template(text: str) -> Spoil:
    return lambda folder, trace: (folder / "chat_template.jinja").write_text(text or code(trace))


def setting(**more: Any) -> Spoil:
    return lambda folder, trace: rewrite(folder, **{key: _filled(value, trace) for key, value in more.items()})


def _filled(value: Any, trace: Path) -> Any:
    return value.replace("TRACE", str(trace)) if isinstance(value, str) else value


def named_safetensors(folder: Path, trace: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(pickled(trace))


def old_pickle_named_safetensors(folder: Path, trace: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(pickle.dumps(Canary(trace), protocol=0))


def torch_zip_named_safetensors(folder: Path, trace: Path) -> None:
    with zipfile.ZipFile(folder / "adapter_model.safetensors", "w") as out:
        out.writestr("archive/data.pkl", pickled(trace))


def only_pickle(name: str) -> Spoil:
    def spoil(folder: Path, trace: Path) -> None:
        (folder / "adapter_model.safetensors").unlink()
        (folder / name).write_bytes(pickled(trace))

    return spoil


def beside(name: str) -> Spoil:
    return lambda folder, trace: (folder / name).write_bytes(pickled(trace))


def linked(folder: Path, trace: Path) -> None:
    secret = folder.parent / "secret.md"
    secret.write_text("the owner's")
    (folder / "README.md").unlink()
    (folder / "README.md").symlink_to(secret)


def piped(folder: Path, trace: Path) -> None:
    (folder / "README.md").unlink()
    os.mkfifo(folder / "README.md")


def whole_model(**more: Any) -> Spoil:
    def spoil(folder: Path, trace: Path) -> None:
        shutil.rmtree(folder)
        tiny_model(folder, seed=3)
        told = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(told | more))
        (folder / "modeling_evil.py").write_text(f"from pathlib import Path; Path({str(trace)!r}).touch()")

    return spoil


def foreign_tokens(folder: Path, trace: Path) -> None:
    from tests.tiny import byte_tokenizer

    told = json.loads(byte_tokenizer().to_str())
    vocabulary = told["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    (folder / "tokenizer.json").write_text(json.dumps(told))


HOSTILE_FOLDERS: dict[str, tuple[Spoil, str]] = {
    "a pickle named safetensors": (named_safetensors, "pickle"),
    "an old pickle named safetensors": (old_pickle_named_safetensors, "not a safetensors file"),
    "torch's zip named safetensors": (torch_zip_named_safetensors, "pickle of PyTorch's"),
    "weights as .bin": (only_pickle("adapter_model.bin"), "is a pickle"),
    "weights as .pt": (only_pickle("adapter_model.pt"), "is a pickle"),
    "weights as .pkl": (only_pickle("weights.pkl"), "is a pickle"),
    "a pickle beside the weights": (beside("adapter_model.bin"), "is a pickle"),
    "a pickle for a config": (beside("adapter_config.json"), "is not JSON"),
    "a pickle for a tokenizer": (beside("tokenizer.json"), "not a readable tokenizer"),
    "a pickle for a template": (beside("chat_template.jinja"), "not UTF-8 text"),
    "a pickle for a card": (beside("README.md"), "not UTF-8 text"),
    "a header longer than the file": (
        lambda folder, trace: (folder / "adapter_model.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}"),
        "not inside the file",
    ),
    "a header of nothing": (lambda folder, trace: header(folder, dict.clear), "contains no tensors"),
    "a header that is a list": (lambda folder, trace: header(folder, len, text="[]"), "does not begin with a brace"),
    "a header nested without end": (
        lambda folder, trace: header(folder, len, text='{"a":' + "[" * 100_000),
        "its header is not JSON",
    ),
    "a tensor named twice": (
        lambda folder, trace: header(folder, len, text='{"a":{},"a":{}}'),
        "names something twice",
    ),
    "an offset outside the file": (
        lambda folder, trace: header(folder, lambda told: first(told).update(data_offsets=[0, 10**9])),
        "is outside the file",
    ),
    "a negative offset": (
        lambda folder, trace: header(folder, lambda told: first(told).update(data_offsets=[-4, 4])),
        "is outside the file",
    ),
    "an unknown type": (
        lambda folder, trace: header(folder, lambda told: first(told).update(dtype="PICKLE")),
        "unknown type",
    ),
    "a shape of millions": (
        lambda folder, trace: header(folder, lambda told: first(told).update(shape=[2**40, 2**40])),
        "number of bytes that its shape",
    ),
    "bytes behind the last tensor": (
        lambda folder, trace: header(folder, len, tail=pickled(trace)),
        "after its last tensor",
    ),
    "tensors that overlap": (
        lambda folder, trace: header(
            folder,
            lambda told: [value.update(data_offsets=[0, 512]) for key, value in told.items() if key[0] != "_"],
        ),
        "overlaps another",
    ),
    "auto_map": (setting(auto_map={"AutoModel": "evil.Model"}), "has auto_map"),
    "custom_code": (setting(custom_code="TRACE"), "has custom_code"),
    "trust_remote_code": (setting(trust_remote_code=True), "has trust_remote_code"),
    "trust_remote_code further in": (setting(tokenizer_kwargs={"trust_remote_code": True}), "trust_remote_code"),
    "a module to import": (setting(auto_mapping={"parent_library": "os"}), "auto_mapping"),
    "another module to import": (setting(megatron_config={"x": 1}, megatron_core="evil"), "megatron_config"),
    "an unknown setting": (setting(run_on_load="touch TRACE"), "is unknown here"),
    "an unknown kind": (setting(peft_type="EVIL"), "of the type EVIL"),
    "a kind that is no text": (setting(peft_type=["LORA"]), "of the type"),
    "a rank of millions": (setting(r=10**9), "r = 1000000000: it must be"),
    "a rank that is no number": (setting(r="4"), "it must be"),
    "a rank that is a switch": (setting(r=True), "it must be"),
    "a strength that is not finite": (setting(lora_alpha=float("inf")), "it must be"),
    "a regular expression": (setting(target_modules="(a+)+$"), "no regular expression"),
    "a regular expression among ranks": (setting(rank_pattern={"(a+)+$": 4}), "plain names"),
    "layers that the base has not": (setting(target_modules=["evil_proj"]), "tiny has none; it has"),
    "a rank that is not that of the weights": (setting(r=8), "tiny with r 8 needs 8 × 32"),
    "a start that moves the base": (setting(init_lora_weights="pissa"), "fits only the base"),
    "a base made longer": (setting(layer_replication=[[0, 2], [0, 2]]), "layer_replication"),
    "a template that reaches for Python": (template(""), "Python's own __globals__"),
    "a template that reaches by filter": (template("{{ messages|attr('pop') }}"), "by name"),
    "a template that reaches by key": (template("{{ ''['__class__']['__mro__'] }}"), "Python's own __class__"),
    "a template that puts names together": (template("{{ messages['__cl' ~ 'ass__'].mro() }}"), "cannot render"),
    "a template that loads a file": (template("{% include '/etc/passwd' %}"), "loads another file"),
    "a template that is broken": (template("{% for %}"), "is broken"),
    "a template of a million signs": (template("a" * 900_000), "900,000 characters"),
    "a tokenizer with code": (
        lambda folder, trace: (folder / "tokenizer_config.json").write_text(
            json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}})
        ),
        "has auto_map",
    ),
    "a template in the tokenizer's config": (
        lambda folder, trace: (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": code(trace)})),
        "Python's own",
    ),
    "tokens that are not the base's": (foreign_tokens, "not that of tiny"),
    "a link out of the folder": (linked, "leads out of the folder"),
    "a pipe": (piped, "not a plain file"),
    "no adapter at all": (
        lambda folder, trace: (folder / "adapter_config.json").rename(folder / "x.txt"),
        "has no adapter_config.json",
    ),
    "a model with code": (whole_model(auto_map={"AutoModelForCausalLM": "modeling_evil.Model"}), "has auto_map"),
    "a model of another make": (whole_model(model_type="evil"), "a evil and its base a llama"),
    "a model that is quantised": (whole_model(quantization_config={"load_in_4bit": True}), "is quantised"),
}


@pytest.mark.parametrize("what", HOSTILE_FOLDERS)
@pytest.mark.parametrize("zipped", [False, True], ids=["folder", "zip"])
def test_a_hostile_adapter_is_refused_and_leaves_nothing(
    ready: Studio, tmp_path: Path, what: str, zipped: bool
) -> None:
    spoil, why = HOSTILE_FOLDERS[what]
    if zipped and spoil in (linked, piped):
        pytest.skip("a zip has links of its own, below")
    trace = tmp_path / "trace"
    folder = put(tmp_path / "hostile")
    spoil(folder, trace)
    before = everything(ready)
    source = packed(folder, tmp_path / "hostile.zip") if zipped else folder
    with pytest.raises(BadInput, match=_literally(why)) as refused:
        add(ready, source)
    assert not trace.exists(), "the canary ran"
    assert everything(ready) == before and not adapters.list_adapters(ready)
    assert "Traceback" not in str(refused.value) and str(refused.value).endswith((".", ")"))


def _literally(text: str) -> str:
    import re

    return re.escape(text)


def entry(name: str, mode: int = stat.S_IFREG | 0o644, packing: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipInfo:
    told = zipfile.ZipInfo(name)
    told.create_system, told.external_attr, told.compress_type = 3, mode << 16, packing
    return told


def more(name: str, content: bytes = b"it ran", mode: int = stat.S_IFREG | 0o644) -> Callable[[zipfile.ZipFile], Any]:
    return lambda out: out.writestr(entry(name, mode), content)


def thousands(out: zipfile.ZipFile) -> None:
    for number in range(2100):
        out.writestr(entry(f"theirs/{number}.txt", packing=0), b"")


HOSTILE_ZIPS: dict[str, tuple[Callable[[zipfile.ZipFile], Any], str]] = {
    "an absolute path": (more("/tmp/evil"), "outside its folder"),
    "a path upwards": (more("theirs/../../evil"), "outside its folder"),
    "a path upwards at the start": (more("../adapter_config.json"), "outside its folder"),
    "a drive": (more("C:/evil"), "outside its folder"),
    "backslashes": (more("..\\evil"), "outside its folder"),
    "a stream of a file": (more("theirs/README.md:evil"), "odd name"),
    "a name that hides": (more("theirs/evil\u202etxt.json"), "odd name"),
    "a name without end": (more("theirs/" + "a" * 1000), "odd name"),
    "a name of nothing": (more("theirs//evil"), "odd name"),
    "a link": (more("theirs/tokenizer.json", b"/etc/passwd", stat.S_IFLNK | 0o777), "is a link"),
    "a device": (more("theirs/tokenizer.json", b"", stat.S_IFCHR | 0o666), "not a plain file"),
    "a pipe": (more("theirs/tokenizer.json", b"", stat.S_IFIFO | 0o666), "not a plain file"),
    "another archive": (more("theirs/more.zip", b"PK\x03\x04"), "another archive"),
    "a packed archive": (more("theirs/more.tar.gz"), "another archive"),
    "a file twice": (more("theirs/adapter_config.json"), "same name on some systems"),
    "a file in capitals": (more("theirs/ADAPTER_CONFIG.json"), "same name on some systems"),
    "two adapters": (more("others/adapter_config.json"), "2 adapters"),
    "a bomb": (more("theirs/tokenizer.json", b"\0" * 2**26), "unpack to more than 200 times"),
    "thousands of files": (
        thousands,
        "entries; 2,000 are allowed",
    ),
    "a card of a novel's length": (
        lambda out: out.writestr(entry("theirs/special_tokens_map.json", packing=0), os.urandom(17 * 2**20)),
        "a file of that name has at most",
    ),
    "a packing of its own": (
        lambda out: out.writestr(entry("theirs/tokenizer.json", packing=zipfile.ZIP_LZMA), b"{}"),
        "not supported",
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("what", HOSTILE_ZIPS)
def test_a_hostile_zip_is_refused_before_a_byte_is_written(ready: Studio, tmp_path: Path, what: str) -> None:
    spoil, why = HOSTILE_ZIPS[what]
    path = tmp_path / "hostile.zip"
    packed(put(tmp_path / "x"), path)
    with zipfile.ZipFile(path, "a") as out:
        spoil(out)
    outside = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInput, match=_literally(why)):
        add(ready, path)
    assert sorted(tmp_path.rglob("*")) == outside and not list(ready.settings.staging.iterdir())


def cut(raw: bytes, trace: Path) -> bytes:
    return raw[: len(raw) // 2]


def encrypted(raw: bytes, trace: Path) -> bytes:
    """The flag that says so, in every entry of the list at the end."""
    parts = raw.split(b"PK\x01\x02")
    return b"PK\x01\x02".join([parts[0], *(part[:4] + b"\x01\x00" + part[6:] for part in parts[1:])])


def lying(raw: bytes, trace: Path) -> bytes:
    """Its entries unpack to more than the list at the end says."""
    parts = raw.split(b"PK\x01\x02")
    shrunk = [part[:20] + struct.pack("<I", 10) + part[24:] for part in parts[1:]]
    return b"PK\x01\x02".join([parts[0], *shrunk])


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (cut, "broken zip"),
        (encrypted, "is encrypted"),
        (lying, "zip"),
        (lambda raw, trace: b"#!/bin/sh\ntouch " + str(trace).encode() + b"\n" + raw, "does not begin as a zip"),
        (lambda raw, trace: pickled(trace), "does not begin as a zip"),
        (lambda raw, trace: b"", "does not begin as a zip"),
    ],
    ids=["cut short", "encrypted", "lying about sizes", "a script before it", "a pickle", "empty"],
)
def test_what_is_no_honest_zip_is_refused(
    ready: Studio, tmp_path: Path, spoil: Callable[[bytes, Path], bytes], why: str
) -> None:
    path = packed(put(tmp_path / "x"), tmp_path / "hostile.zip")
    path.write_bytes(spoil(path.read_bytes(), tmp_path / "trace"))
    with pytest.raises(BadInput, match=why):
        add(ready, path)
    assert not (tmp_path / "trace").exists() and not adapters.list_adapters(ready)


def test_a_template_without_end_is_ended(ready: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = put(tmp_path / "endless")
    inner = "{% for a in range(9999) %}" * 4 + "{% endfor %}" * 4
    (folder / "chat_template.jinja").write_text(inner)
    with pytest.raises(BadInput, match=r"more than 1,000,000 steps|takes longer than 20 seconds"):
        add(ready, folder)
    monkeypatch.setattr(imports, "_PROBE_SECONDS", 0.01)  # whatever else it finds to do, its child is ended
    with pytest.raises(BadInput, match="did not finish in time"):
        add(ready, folder)
    assert not list(ready.settings.staging.iterdir())


def test_a_disk_that_is_full_leaves_nothing(ready: Studio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StudioError("There is no room.")

    monkeypatch.setattr(foreign_files, "free_space_or_raise", full)
    with pytest.raises(StudioError, match="no room"):
        add(ready, put(tmp_path / "theirs"))
    assert not everything(ready)


def test_the_recipe_of_an_import_trains_nothing(ready: Studio, tmp_path: Path) -> None:
    info = add(ready, put(tmp_path / "theirs", use_rslora=True, lora_alpha=6.5))
    recipe = adapters.recipe_of(ready, info.id)
    assert isinstance(recipe, Recipe) and recipe.method.use_rslora and recipe.method.lora_alpha == 6
    assert trained_weights.held_out(ready, info.id) == []


def listed_at(hub: Hub, folder: Path, name: str = "some/one") -> None:
    hub.repos[name] = {"private": False, "files": {path.name: path.read_bytes() for path in folder.iterdir()}}


def test_an_adapter_of_the_hub_joins_without_its_pickles(
    settings: Settings, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = put(tmp_path / "theirs")
    (folder / "training_args.bin").write_bytes(pickled(tmp_path / "trace"))
    (folder / "adapter_model.bin").write_bytes(pickled(tmp_path / "trace"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with served() as hub, Keeper(settings.model_copy(update={"offline": False})) as studio:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        models.add(studio, str(tiny), lambda *_: None)
        listed_at(hub, folder)
        info = add(studio, "some/one")
        assert (info.name, info.origin["from"], info.has_adapter) == ("one", "some/one", True)
        assert not any("bin" in asked for asked in hub.asked), "a pickle was fetched"
        (folder / "adapter_model.safetensors").unlink()
        listed_at(hub, folder, "some/pickle")
        with pytest.raises(BadInput, match="some/pickle has no safetensors weights"):
            add(studio, "some/pickle")
        with pytest.raises(BadInput, match="The hub has no model or adapter some/nothing"):
            add(studio, "some/nothing")
        rewrite(folder, auto_map={"AutoModel": "evil.Model"})
        save_file(weights(), folder / "adapter_model.safetensors")
        listed_at(hub, folder, "some/evil")
        with pytest.raises(BadInput, match="has auto_map"):
            add(studio, "some/evil")
        assert not list(studio.settings.staging.iterdir())


def test_the_command_adds_a_zip(ready: Studio, tmp_path: Path) -> None:
    path = packed(put(tmp_path / "x"), tmp_path / "theirs.zip")
    home = ready.settings.home
    command = [
        sys.executable,
        "-m",
        "studio",
        "--home",
        str(home),
        "adapters",
        "add",
        str(path),
        "--base",
        "tiny",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["name"] == "theirs"
    path.write_bytes(b"no zip")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2 and "does not begin as a zip" in done.stderr and "Traceback" not in done.stderr
