"""Files of strangers, each with a canary: code that would leave a trace if anything ran it, or ask an address.

Adapters have theirs in tests/unit/services/models/test_imports.py, chat templates in test_templates.py. Here: files that come as
datasets, model folders, recipes, and run directories that were copied into the home. Each goes through the door that a
person would use; nothing may run, nothing be asked, and whatever is refused is refused in a sentence.
"""

# ruff: noqa: E501  a table of files, one a line

import gzip
import io
import json
import pickle
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from studio.errors import StudioError
from studio.recipe import Recipe
from studio.rundir import RunDir
from studio.services.core.studio import Studio
from studio.services.data import checks, datasets, examples
from studio.services.exports import exports
from studio.services.models import models
from studio.services.planning import estimates
from studio.services.runs import run_list, runs
from studio.services.runs.run_list import Query
from tests.fuzz.driver import examine
from tests.security.watch import watched
from tests.tiny import tiny_model
from tests.unit.services.models.test_imports import Canary
from tests.unit.services.runs.test_run_list import make

Make = Callable[[Path], bytes]


def pickled(trace: Path, protocol: int | None = None) -> bytes:
    return pickle.dumps([{"instruction": Canary(trace), "output": "x"}], protocol=protocol)


def command(trace: Path) -> str:
    return f"touch {trace}"


def torch_zip(trace: Path) -> bytes:
    return _zip({"archive/data.pkl": pickled(trace), "archive/version": b"3"})


def _zip(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in files.items():
            made.writestr(name, content)
        for name, target in (links or {}).items():
            told = zipfile.ZipInfo(name)
            told.create_system, told.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            made.writestr(told, target)
    return out.getvalue()


def _tar(name: str, content: bytes, link: str = "") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as made:
        told = tarfile.TarInfo(name)
        if link:
            told.type, told.linkname = tarfile.SYMTYPE, link
        told.size = len(content)
        made.addfile(told, io.BytesIO(content))
    return out.getvalue()


def _npy(trace: Path) -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([Canary(trace)], dtype=object), allow_pickle=True)
    return out.getvalue()


def _parquet(metadata: dict[bytes, bytes], field: dict[bytes, bytes] | None = None) -> bytes:
    schema = pa.schema(
        [pa.field("instruction", pa.string(), metadata=field), pa.field("output", pa.string())], metadata=metadata
    )
    out = io.BytesIO()
    pq.write_table(pa.table([["a", "b"], ["c", "d"]], schema=schema), out)
    return out.getvalue()


def _row(**more: Any) -> bytes:
    return (json.dumps({"instruction": "a", "output": "b", **more}) + "\n").encode()


def _gguf(count: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, count, count) + b"\xff" * 64


XML = b'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>'

DATASETS: dict[str, tuple[str, Make]] = {
    "a pickle named jsonl": ("x.jsonl", pickled),
    "a pickle named json": ("x.json", pickled),
    "a pickle named csv": ("x.csv", pickled),
    "a pickle named parquet": ("x.parquet", pickled),
    "a pickle named arrow": ("x.arrow", pickled),
    "a pickle by its own name": ("x.pkl", pickled),
    "an old pickle named csv": ("x.csv", lambda trace: pickled(trace, 0)),
    "an old pickle named jsonl": ("x.jsonl", lambda trace: pickled(trace, 0)),
    "a pickle in gzip": ("x.jsonl.gz", lambda trace: gzip.compress(pickled(trace))),
    "a pickle in a zip": ("x.zip", lambda trace: _zip({"train.jsonl": pickled(trace)})),
    "torch's zip named json": ("x.json", torch_zip),
    "torch's zip named parquet": ("x.parquet", torch_zip),
    "an array of objects": ("x.npy", _npy),
    "an array of objects named csv": ("x.csv", _npy),
    "a script named jsonl": ("x.jsonl", lambda trace: f"#!/bin/sh\n{command(trace)}\n".encode()),
    "a loading script": ("x.py", lambda trace: f"from pathlib import Path; Path({str(trace)!r}).touch()".encode()),
    "formulas": ("x.csv", lambda trace: f"instruction,output\n\"=cmd|'/C {command(trace)}'!A1\",x\n@SUM(1),-1\n".encode()),
    "a formula that asks an address": ("x.csv", lambda trace: b'instruction,output\n"=WEBSERVICE(""http://127.0.0.1:9"")",x\n'),
    "a field of megabytes": ("x.csv", lambda trace: b"instruction,output\n" + b"a" * 6_000_000 + b",b\n"),
    "a quote that never ends": ("x.csv", lambda trace: b'instruction,output\n"' + b"a,b\n" * 500_000),
    "a million columns": ("x.csv", lambda trace: b"a," * 1_000_000 + b"b\n"),
    "bytes of nothing": ("x.csv", lambda trace: b"instruction,output\n\0\0\0,\0\n"),
    "a row nested without end": ("x.jsonl", lambda trace: b'{"instruction":' + b"[" * 200_000 + b"\n"),
    "a row of a number without end": ("x.jsonl", lambda trace: b'{"instruction": ' + b"9" * 100_000 + b', "output": "x"}\n'),
    "a name twice": ("x.jsonl", lambda trace: b'{"instruction": "a", "instruction": "b", "output": "c"}\n'),
    "objects of Python's": ("x.jsonl", lambda trace: _row(**{"py/object": "os.system", "py/reduce": [command(trace)]})),
    "objects of YAML's": ("x.json", lambda trace: f"!!python/object/apply:os.system ['{command(trace)}']".encode()),
    "a reference to a file": ("x.jsonl", lambda trace: _row(output={"$ref": "file:///etc/passwd"})),
    "an image by its address": ("x.jsonl", lambda trace: _row(image={"path": "http://127.0.0.1:9/x", "bytes": None})),
    "rows that are templates": ("x.jsonl", lambda trace: _row(output="{{ cycler.__init__.__globals__.os.system('x') }}")),
    "a bomb in gzip": ("x.jsonl.gz", lambda trace: gzip.compress(b"\n" * 40_000_000)),
    "a bomb in a zip": ("x.zip", lambda trace: _zip({"a.jsonl": b"\n" * 40_000_000})),
    "a zip that climbs": ("x.zip", lambda trace: _zip({f"../../../../../../..{trace}": b"x", "a.jsonl": _row()})),
    "a zip with a link": ("x.zip", lambda trace: _zip({"b": b""}, {"a.jsonl": "/etc/passwd"})),
    "a tar that climbs": ("x.tar.gz", lambda trace: _tar(f"../../../../../..{trace}", b"x")),
    "a tar with a link": ("x.tgz", lambda trace: _tar("a.jsonl", b"", "/etc/passwd")),
    "an entity of XML": ("x.json", lambda trace: XML),
    "an SVG": ("x.csv", lambda trace: b'<svg xmlns="http://www.w3.org/2000/svg" onload="x()">' + XML),
    "a parquet with pandas' metadata": ("x.parquet", lambda trace: _parquet({b"pandas": pickled(trace)})),
    "a parquet with a pickled type": ("x.parquet", lambda trace: _parquet({}, {
        b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickled(trace)})),
    "a parquet that names its features": ("x.parquet", lambda trace: _parquet({b"huggingface": json.dumps(
        {"info": {"features": {"x": {"_type": "os.system", "id": command(trace)}}}}).encode()})),
    "a parquet with a footer of gigabytes": ("x.parquet", lambda trace: b"PAR1" + b"\0" * 64 + struct.pack("<I", 2**31 - 1) + b"PAR1"),
    "an arrow stream with a pickled type": ("x.arrow", lambda trace: b"ARROW1\0\0" + pickled(trace)),
    "a GGUF of countless tensors": ("x.gguf", lambda trace: _gguf(2**62)),
    "a GGUF named jsonl": ("x.jsonl", lambda trace: _gguf(2**62)),
    "a database": ("x.csv", lambda trace: b"SQLite format 3\0" + b"\0" * 4096),
    "a recording of a browser": ("x.json", lambda trace: b"\x1f\x8b\x08\x00" + b"\xff" * 1000),
}  # fmt: skip


@pytest.mark.parametrize("what", DATASETS)
def test_no_dataset_runs_anything(tmp_path: Path, what: str) -> None:
    name, make_it = DATASETS[what]
    trace = tmp_path / "trace"
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / name
    path.write_bytes(make_it(trace))
    before = path.read_bytes()
    with watched() as seen:
        outcome = examine(path, tmp_path / "out")
    assert not trace.exists(), "the canary ran"
    assert not seen.asked and not seen.started
    assert "/etc/passwd" not in seen.files and path.read_bytes() == before
    assert "Traceback" not in outcome.refused and "\n" not in outcome.refused.strip()


AUDITOR = """
import os, sys
def heard(event, values):
    if event in ("socket.connect", "socket.getaddrinfo", "os.system", "subprocess.Popen", "pickle.find_class",
                 "os.exec", "os.posix_spawn"):
        with open({log!r}, "a") as out:
            out.write(event + " " + repr(values)[:300] + chr(10))
sys.addaudithook(heard)
"""


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """What the children of this studio do that they should not; what Python tells them of it."""
    folder, log = tmp_path / "auditor", tmp_path / "children.log"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(AUDITOR.format(log=str(log)))
    here = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{here}")
    return lambda: log.read_text() if log.exists() else ""


CHILDREN = ("a pickle named jsonl", "a pickle named parquet", "torch's zip named json",
            "a parquet with a pickled type", "an image by its address", "a zip with a link")  # fmt: skip


@pytest.mark.parametrize("what", CHILDREN)
def test_the_same_by_the_door_that_a_person_uses(
    studio: Studio, tmp_path: Path, children: Callable[[], str], what: str
) -> None:
    name, make_it = DATASETS[what]
    trace = tmp_path / "trace"
    path = tmp_path / name
    path.write_bytes(make_it(trace))
    with watched() as seen:
        try:
            datasets.add(studio, checks.take_in(studio, path))
        except StudioError as refused:
            assert "Traceback" not in str(refused)
    assert not trace.exists() and children() == ""
    ours = [one for one in seen.started if "studio.dataset" in one]
    looking = [one for one in seen.started if "ldconfig" in one or "gcc" in one or "('ld'" in one]  # for the allocator
    assert not seen.asked and len(ours) + len(looking) == len(seen.started)


# Model folders

Spoil = Callable[[Path, Path], Any]


def told(folder: Path, name: str, **more: Any) -> None:
    path = folder / name
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | more))


def evil_module(folder: Path, trace: Path) -> None:
    (folder / "modeling_evil.py").write_text(f"from pathlib import Path; Path({str(trace)!r}).touch()")


def with_code(folder: Path, trace: Path) -> None:
    evil_module(folder, trace)
    told(folder, "config.json", auto_map={"AutoConfig": "modeling_evil.X", "AutoModelForCausalLM": "modeling_evil.X"})


def tokenizer_with_code(folder: Path, trace: Path) -> None:
    evil_module(folder, trace)
    told(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_evil.X", None]}, tokenizer_class="X")


def only(name: str) -> Spoil:
    def spoil(folder: Path, trace: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(pickled(trace))

    return spoil


def instead(name: str, content: Callable[[Path], bytes]) -> Spoil:
    return lambda folder, trace: (folder / name).write_bytes(content(trace))


def sized(**more: Any) -> Spoil:
    return lambda folder, trace: told(folder, "config.json", **more)


def indexed(shard: str) -> Spoil:
    def spoil(folder: Path, trace: Path) -> None:
        (folder.parent / "outside.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
        (folder / "evil.bin").write_bytes(pickled(trace))
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": shard}}))

    return spoil


MODELS: dict[str, Spoil] = {
    "a model with code": with_code,
    "a tokenizer with code": tokenizer_with_code,
    "weights as .bin": only("pytorch_model.bin"),
    "weights as .pt": only("model.pt"),
    "weights as .ckpt": only("model.ckpt"),
    "a pickle for weights": instead("model.safetensors", pickled),
    "torch's zip for weights": instead("model.safetensors", torch_zip),
    "a pickle beside the weights": instead("pytorch_model.bin", pickled),
    "a GGUF beside the weights": instead("model.gguf", lambda trace: _gguf(2**62)),
    "a header longer than memory": instead("model.safetensors", lambda trace: struct.pack("<Q", 2**62) + b"{}"),
    "a header nested without end": instead(
        "model.safetensors", lambda trace: struct.pack("<Q", 100_005) + b'{"a":' + b"[" * 100_000
    ),
    "a pickle for a config": instead("config.json", pickled),
    "a config nested without end": instead("config.json", lambda trace: b"[" * 200_000),
    "a config with names twice": instead("config.json", lambda trace: b'{"model_type": "llama", "model_type": "evil"}'),
    "a config of one list": instead("config.json", lambda trace: b"[1]"),
    "countless layers": sized(num_hidden_layers=10**12),
    "countless words": sized(vocab_size=10**18),
    "countless heads": sized(num_attention_heads=10**15, num_key_value_heads=10**15),
    "layers below none": sized(num_hidden_layers=-1, hidden_size=-1),
    "a size that is no number": sized(hidden_size="__import__('os').system('x')", num_attention_heads=None),
    "a size that is not finite": sized(hidden_size=float("nan"), intermediate_size=float("inf")),
    "a part that is a list": sized(text_config=[{"hidden_size": 1}] * 1000),
    "a pickle for a tokenizer": instead("tokenizer.json", pickled),
    "a tokenizer nested without end": instead("tokenizer.json", lambda trace: b'{"model":' + b"[" * 200_000),
    "a template that reaches": instead("chat_template.jinja", lambda trace: (
        "{{ cycler.__init__.__globals__.os.system('" + command(trace) + "') }}").encode()),
    "a template without end": instead("chat_template.jinja", lambda trace: b"{% for a in range(9999) %}" * 5 + b"{% endfor %}" * 5),
    "a template that fills the memory": instead("chat_template.jinja", lambda trace: b"{{ 'a' * 10**11 }}"),
    "a template that is a pickle": instead("chat_template.jinja", pickled),
    "an index out of the folder": indexed("../outside.safetensors"),
    "an index of a pickle": indexed("evil.bin"),
    "an index of an absolute path": indexed("/etc/passwd"),
}  # fmt: skip


@pytest.mark.parametrize("what", MODELS)
def test_no_model_folder_runs_anything(
    studio: Studio, tmp_path: Path, what: str, little: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from studio.dataset.tokens import sandbox

    monkeypatch.setattr(sandbox, "STEPS", 10_000)
    trace = tmp_path / "trace"
    folder = tiny_model(tmp_path / "given" / "strange")
    MODELS[what](folder, trace)
    shutil.copytree(little, studio.settings.datasets / little.name)
    studio.refresh()
    recipe = Recipe().with_values({"model": "strange", "dataset": "little", "dtype": "float32"})
    said = []
    with watched() as seen:
        for act in (
            lambda: models.add(studio, str(folder), lambda *_: None),
            lambda: models.list_models(studio),
            lambda: models.linear_modules(studio, "strange"),
            lambda: estimates.estimate(studio, recipe),
            lambda: examples.tokens_of(studio, little.name, 1, "strange", {"dtype": "float32"}),
        ):
            try:
                act()
            except StudioError as refused:
                said.append(str(refused))
    assert not trace.exists(), "the canary ran"
    assert not seen.asked and not seen.started
    assert "/etc/passwd" not in seen.files and not any(path.endswith("evil.bin") for path in seen.files)
    assert not any("Traceback" in words for words in said)


def _bomb() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    return "\n".join(lines) + "\nname: *a11\nmodel: {model: *a11}\n"


RECIPES: dict[str, Callable[[Path], str | bytes]] = {
    "an object of Python's": lambda trace: f"name: !!python/object/apply:os.system ['{command(trace)}']",
    "a new object of Python's": lambda trace: f"!!python/object/new:subprocess.Popen [['touch', '{trace}']]",
    "a name of Python's": lambda trace: "name: !!python/name:os.system",
    "a module of Python's": lambda trace: "name: !!python/module:antigravity",
    "a tuple of Python's": lambda trace: "name: !!python/tuple [1, 2]",
    "a bomb of references": lambda trace: _bomb(),
    "a reference to itself": lambda trace: "name: &a [*a]\nmodel: &b {model: *b}",
    "merges without end": lambda trace: "a: &a {x: 1}\n" + "".join(f"b{n}: &b{n} {{<<: *a}}\n" for n in range(5000)),
    "nesting without end": lambda trace: "name: " + "[" * 50_000,
    "a pickle": pickled,
    "bytes of nothing": lambda trace: b"name: \0\0\0",
    "a binary": lambda trace: "name: !!binary gASVAAAA",
    "a number without end": lambda trace: "version: " + "9" * 20_000,
    "another file": lambda trace: "name: !include /etc/passwd",
    "a template that reaches": lambda trace: json.dumps({"data": {"template": "custom", "custom_template": (
        "{% for m in messages %}{{ cycler.__init__.__globals__.os.system('" + command(trace) + "') }}{% endfor %}")}}),
    "a library to report to": lambda trace: json.dumps({"output": {"report_to": ["os; import evil"]}}),
    "a path for a name": lambda trace: json.dumps({"name": "../../x", "model": {"model": "../../../etc"}}),
    "a file of megabytes": lambda trace: "# " + "a" * 30_000_000,
}  # fmt: skip


@pytest.mark.parametrize("what", RECIPES)
def test_no_recipe_runs_anything(studio: Studio, tmp_path: Path, what: str) -> None:
    trace, path = tmp_path / "trace", tmp_path / "recipe.yaml"
    content = RECIPES[what](trace)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with watched() as seen:
        try:
            runs.start(studio, Recipe.load(path))
        except StudioError as refused:
            assert len(str(refused)) < 5000 and "Traceback" not in str(refused)
        else:
            raise AssertionError("it was taken")
    assert not trace.exists() and not seen.asked and not seen.started
    assert "/etc/passwd" not in seen.files and not list(studio.settings.runs.glob("[!.]*"))


def _put(name: str, content: Callable[[Path], bytes]) -> Callable[[RunDir, Path], Any]:
    return lambda run, trace: (run.path / name).write_bytes(content(trace))


def _link(name: str, target: str) -> Callable[[RunDir, Path], Any]:
    def link(run: RunDir, trace: Path) -> None:
        (run.path / name).unlink(missing_ok=True)
        (run.path / name).symlink_to(target)

    return link


DEEP = b'{"a":' + b"[" * 200_000
RUNS: dict[str, Callable[[RunDir, Path], Any]] = {
    "a pickle for what is said of it": _put("about.json", pickled),
    "what is said of it nested without end": _put("about.json", lambda trace: DEEP),
    "a journal nested without end": _put("events.jsonl", lambda trace: DEEP + b"\n"),
    "a pickle for a journal": _put("events.jsonl", pickled),
    "a recipe with an object": _put("recipe.yaml", lambda trace: f"!!python/object/apply:os.system ['{command(trace)}']".encode()),
    "an end nested without end": _put("exit.json", lambda trace: DEEP),
    "an end that is a list": _put("exit.json", lambda trace: b"[]"),
    "an adapter that leads elsewhere": _link("adapter", "/etc"),
    "checkpoints that lead elsewhere": _link("checkpoints", "/etc"),
    "a log that leads elsewhere": _link("log.txt", "/etc/passwd"),
    "a dataset elsewhere": _put("dataset.json", lambda trace: b'{"id": "x", "name": "x", "path": "/etc"}'),
    "a model elsewhere": _put("model.json", lambda trace: b'{"id": "x", "path": "/etc"}'),
    "a worker that is another process": _put("worker.json", lambda trace: b'{"pid": 1, "start_time": 0, "nonce": "x"}'),
    "a wish to go on nested without end": _put("resume.json", lambda trace: DEEP),
}  # fmt: skip


@pytest.mark.parametrize("what", RUNS)
def test_no_run_directory_runs_anything(studio: Studio, tmp_path: Path, what: str, nothing_starts: None) -> None:
    trace = tmp_path / "trace"
    run = make(studio, "given")
    RUNS[what](run, trace)
    with watched() as seen:
        studio.look()
        studio.look()
        for act in (
            lambda: run_list.find(studio, Query()),
            lambda: runs.get(studio, run.id),
            lambda: runs.recipe_of(studio, run.id),
            lambda: runs.points(studio, run.id),
            lambda: exports.start(studio, run.id, "adapter"),
        ):
            try:
                act()
            except (StudioError, TypeError) as refused:
                assert "Traceback" not in str(refused)
    assert not trace.exists() and not seen.asked and not seen.started
    assert not [path for path in seen.files if path.startswith("/etc")]
    other = make(studio, "other")
    studio.look()
    assert runs.get(studio, other.id).state == "completed", "one bad directory holds up no other"


def test_there_are_enough_of_them() -> None:
    assert len(DATASETS) + len(MODELS) + len(RECIPES) + len(RUNS) >= 60
