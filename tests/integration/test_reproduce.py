"""The script that a run gives away, run as a stranger would: without the studio, its losses are the run's."""

import ast
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from studio.errors import BadInput
from studio.recipe import Recipe
from studio.services.core.studio import Studio
from studio.services.data import datasets
from studio.services.exports import reproduce
from studio.services.runs import runs
from tests.conftest import little_rows, write_jsonl
from tests.integration.test_against_trl import finished

pytestmark = pytest.mark.engine
STEPS = 10
# As a stranger: nothing of this project on the path, and proof of it at the end.
STRANGER = (
    "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); "
    "assert not [name for name in sys.modules if name.partition('.')[0] == 'studio'], 'the studio was there'"
)


def losses_of(folder: Path, model: Path, tmp_path: Path, steps: int = STEPS) -> list[float]:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "STUDIO"))}
    command = [sys.executable, "-I", "-c", STRANGER, str(folder / "train.py"), "--model", str(model),
               "--steps", str(steps), "--out", str(elsewhere / "out")]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=elsewhere, env=env | {"HF_HUB_OFFLINE": "1"}, timeout=500,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [entry["loss"] for entry in json.loads((elsewhere / "out" / "losses.json").read_text())]


@pytest.mark.parametrize(
    ("values", "bound"),
    [
        ({"dtype": "float32", "lora_dropout": 0.05, "held_out": 0.1, "lr_scheduler_type": "cosine",
          "warmup_ratio": 0.2, "neftune_noise_alpha": 5, "gradient_accumulation_steps": 2, "seed": 3}, 1e-5),
        ({"dtype": "float32", "packing": True, "max_length": 200, "train_on": "everything"}, 1e-5),
        # The fast path draws its dropout otherwise, and rounds elsewhere.
        ({"dtype": "bfloat16", "quantization": "nf4", "lora_dropout": 0.05, "engine": "trl"}, 1e-4),
        ({"dtype": "bfloat16", "quantization": "nf4", "lora_dropout": 0.0}, 5e-3),
        ({"dtype": "float32", "template": "alpaca", "use_dora": True, "loraplus_lr_ratio": 4, "eval_steps": 3,
          "held_out": 0.1}, 1e-5),
    ],
    ids=["many settings", "packed", "nf4", "nf4 on the fast path", "alpaca with DoRA and LoRA+"],
)  # fmt: skip
def test_a_stranger_gets_the_same_losses(
    ready: Studio, tiny: Path, tmp_path: Path, values: dict[str, object], bound: float
) -> None:
    datasets.add(ready, write_jsonl(tmp_path / "rows.jsonl", little_rows(60)), name="rows")
    run = finished(ready, **values)
    mine = [point["loss"] for point in runs.points(ready, run).metrics]
    folder = reproduce.write(ready, run, tmp_path / "given")
    assert losses_of(folder, tiny, tmp_path) == pytest.approx(mine, rel=bound)


def test_the_parts_are_what_they_say(ready: Studio, tiny: Path, tmp_path: Path) -> None:
    datasets.add(ready, write_jsonl(tmp_path / "rows.jsonl", little_rows(60)), name="rows")
    run = finished(ready, max_steps=1, held_out=0.1, name='odd """ name\nimport os')
    found = reproduce.of(ready, run)
    assert Recipe.parse(__import__("yaml").safe_load(found.recipe), "it") == runs.recipe_of(ready, run)
    head = re.match(r"# /// script\n(?:#.*\n)+?# ///\n", found.script)
    assert head is not None and re.search(r'#   "torch==[\d.]+",', head[0]) and "studio" not in head[0]
    tree = ast.parse(found.script)
    imported = {name.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import)
                for name in node.names}  # fmt: skip
    assert imported == {"argparse", "json", "os", "zlib", "torch"}
    told = json.loads(found.notebook)
    assert (told["nbformat"], told["nbformat_minor"]) == (4, 5) and len({cell["id"] for cell in told["cells"]}) > 5
    code = ["".join(cell["source"]) for cell in told["cells"] if cell["cell_type"] == "code"]
    assert code[0].startswith("%pip install") and all(ast.parse(part) for part in code[1:])
    path = reproduce.archive(ready, run, tmp_path / "run.zip")
    with zipfile.ZipFile(path) as packed:
        names = {Path(name).name for name in packed.namelist()}
        rows = packed.read(next(name for name in packed.namelist() if name.endswith("/train.jsonl"))).splitlines()
    assert names == {"train.py", "train.ipynb", "recipe.yaml", "README.md", "train.jsonl", "held_out.jsonl"}
    assert len(rows) == 54 and json.loads(rows[0])["messages"][1]["role"] == "assistant"


def test_what_a_plain_script_cannot_do_is_refused_with_the_reason(ready: Studio) -> None:
    ready.look = lambda: None  # type: ignore[method-assign]  # the keeper is not to start it
    values = {"model": "tiny", "dataset": "little", "quantization": "nf4", "init_lora_weights": "loftq"}
    loftq = runs.start(ready, Recipe().with_values(values))
    longer = runs.start(ready, Recipe().with_values({"model": "tiny", "dataset": "little"}))
    (ready.run_dir(longer.id).path / "resume.json").write_text('{"attempt": 2, "max_steps": 99}')
    del ready.look
    with pytest.raises(BadInput, match="initialised with loftq"):
        reproduce.of(ready, loftq.id)
    with pytest.raises(BadInput, match="was made longer"):
        reproduce.of(ready, longer.id)
