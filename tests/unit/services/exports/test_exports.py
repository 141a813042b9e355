"""Exports as a person has them: begun, told when broken off, begun again, downloaded, deleted; without torch."""

import io
import json
import zipfile
from pathlib import Path

import pytest

from studio.errors import BadInput, Conflict, NotFound
from studio.evaluation.parity import BOUNDS, Parity, digits, fault
from studio.launch import workers
from studio.rundir import Exit, RunDir, read_json, whole_folder, write_json
from studio.services.core.studio import Studio
from studio.services.exports import downloads, exports, targets
from studio.services.exports.exports import ExportRequest
from studio.services.runs import runs
from tests.unit.services.models.test_adapters import learned


@pytest.fixture
def run(ready: Studio, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run that is over, in a studio whose export workers never begin."""
    key = learned(ready)
    monkeypatch.setattr(workers, "start", lambda *_: None)
    return key


def found(**values: object) -> Parity:
    told = {
        "kind": "merged", "loader": "transformers", "prompts": 8, "places": 320, "tokens": 192, "correlation": 0.999,
        "mean": 0.9999, "max_abs": 0.1, "agreement": 1.0, "alike": 8, "template": "a", "own_template": "a",
        "same_tokens": 8,
    }  # fmt: skip
    return Parity(**{**told, **values})  # type: ignore[arg-type]


def finish(studio: Studio, export_id: str, kind: str) -> RunDir:
    """What a worker leaves when all went well."""
    folder = RunDir(studio.settings.exports / export_id)
    with whole_folder(folder.path / kind) as aside:
        (aside / "model.safetensors").write_bytes(b"w" * 3000)
        (aside / "README.md").write_text("# It\n")
        if kind == "gguf":
            (aside / "sums-Q8_0.gguf").write_bytes(b"GGUF")
    write_json(folder.path / "parity.json", found(passed=True).as_dict())
    Exit("completed", "Ready.").write(folder)
    return folder


def test_what_can_be_exported_has_a_size(ready: Studio, run: str) -> None:
    adapter, merged, gguf = targets.find(ready, run)
    parameters = merged.size // 2
    assert (adapter.kind, merged.kind, gguf.kind) == ("adapter", "merged", "gguf")
    assert gguf.sizes["F16"] == 2 * parameters > gguf.sizes["Q8_0"] > gguf.sizes["Q6_K"] > gguf.sizes["Q4_K_M"]


def test_an_export_whose_worker_is_gone_is_told_and_begun_again(ready: Studio, run: str) -> None:
    info = exports.start(ready, run, "merged", ExportRequest("merged", "float32", "500MB"))
    assert info.state == "interrupted" and "Start it again" in info.message
    spec = read_json(ready.settings.exports / info.id / "export.json") or {}
    assert (spec["dtype"], spec["shard"], spec["source"]) == ("float32", "500MB", str(ready.run_dir(run).adapter))
    talks = json.loads((ready.settings.exports / info.id / "asks.json").read_text())
    assert talks and all(talk[-1]["role"] == "user" for talk in talks)
    fresh = exports.again(ready, info.id)
    assert fresh.id != info.id
    spec = read_json(ready.settings.exports / fresh.id / "export.json") or {}
    assert (spec["dtype"], spec["shard"]) == ("float32", "500MB")
    assert [item.id for item in exports.list_exports(ready)] == [fresh.id]
    with pytest.raises(NotFound):
        exports.get(ready, info.id)


def test_a_finished_export_is_downloaded_and_deleted(ready: Studio, run: str) -> None:
    info = exports.start(ready, run, "merged")
    with pytest.raises(Conflict, match="nothing to download"):
        downloads.file_of(ready, info.id)
    finish(ready, info.id, "merged")
    info = exports.get(ready, info.id)
    assert info.state == "completed" and info.check is not None and "0.999 at the worst" in info.parity
    assert downloads.file_of(ready, info.id) is None
    name, parts = downloads.archive_of(ready, info.id)
    with zipfile.ZipFile(io.BytesIO(b"".join(parts))) as packed:
        assert packed.testzip() is None and name == "sums-merged.zip"
        assert set(packed.namelist()) == {"sums-merged/README.md", "sums-merged/model.safetensors"}
    readme = downloads.file_of(ready, info.id, "README.md")
    assert readme is not None and readme.read_text() == "# It\n"
    for wrong in ("../export.json", "export.json", "/etc/passwd", "MANIFEST"):
        with pytest.raises(BadInput, match="has no file"):
            downloads.file_of(ready, info.id, wrong)
    with pytest.raises(Conflict, match="nothing to start again"):
        exports.again(ready, info.id)
    exports.delete(ready, info.id)
    assert list(ready.settings.exports.iterdir()) == []


def test_a_gguf_is_one_file(ready: Studio, run: str) -> None:
    info = exports.start(ready, run, "gguf", ExportRequest("gguf", quant="Q8_0"))
    finish(ready, info.id, "gguf")
    path = downloads.file_of(ready, info.id)
    assert path is not None and path.name == "sums-Q8_0.gguf" == exports.get(ready, info.id).file_name


def test_the_time_left_is_known_from_the_one_before(ready: Studio, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = exports.start(ready, run, "merged")
    assert first.seconds_left is None
    finish(ready, first.id, "merged")
    monkeypatch.setattr(workers, "find", lambda _: "alive")
    assert (exports.start(ready, run, "merged").seconds_left or 0) >= 1
    assert exports.start(ready, run, "adapter").seconds_left is None


def test_others_do_not_have_it(ready: Studio, run: str) -> None:
    info = exports.start(ready, run, "merged")
    ready.home_owner = "someone else"
    assert exports.list_exports(ready) == []
    for act in (exports.get, exports.delete, exports.cancel, exports.again, downloads.file_of):
        with pytest.raises(NotFound):
            act(ready, info.id)


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (ExportRequest("merged", "int4"), "no type 'int4'"),
        (ExportRequest("gguf", quant="Q2"), "no GGUF of type 'Q2'"),
        (ExportRequest("merged", shard="5 apples"), "written like 5GB"),
    ],
)
def test_wishes_that_cannot_be(ready: Studio, run: str, wish: ExportRequest, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        exports.start(ready, run, wish.kind, wish)
    assert runs.get(ready, run).has_adapter


def test_every_bound_can_be_missed_and_the_reason_is_told() -> None:
    assert fault(found()) == ""
    assert "worst place" in fault(found(correlation=0.5)) and "worst place" in fault(found(mean=0.5))
    assert "worst place" in fault(found(correlation=float("nan")))
    assert "template differs" in fault(found(same_tokens=7, own_template="b"))
    assert "tokenizer splits" in fault(found(same_tokens=7))
    assert "template differs" in fault(found(own_template="b"))
    assert all(bound.least < bound.mean < 1 for bound in BOUNDS.values())
    assert [digits(value) for value in (0.5, 0.9994, 0.99996, 0.9999996, 1.0)] == [
        "0.500", "0.999", "0.99996", "0.9999996", "1.000",
    ]  # fmt: skip
    assert Parity.read({"nonsense": 1}) is None and Parity.read(found().as_dict()) == found()


def test_a_path_that_is_no_export_is_none(ready: Studio, tmp_path: Path) -> None:
    for wrong in ("../..", "a" * 16, ""):
        with pytest.raises(NotFound):
            exports.get(ready, wrong)
