"""What a worker imports, and what it leaves out where nobody needs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from studio.engine.libraries import needs_bitsandbytes
from studio.themes import Quantization

SCRIPT = """
import gc, sys
from studio.engine.train import import_libraries
import_libraries(with_bitsandbytes={wanted})
from peft.import_utils import is_bnb_available
print(sys.modules.get("bitsandbytes") is not None, is_bnb_available(), gc.isenabled())
"""


@pytest.mark.parametrize("wanted", [True, False])
def test_bitsandbytes_is_left_out_where_nobody_needs_it(wanted: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(wanted=wanted)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(wanted), str(wanted), "True"]


def test_who_needs_bitsandbytes(tmp_path: Path) -> None:
    assert not needs_bitsandbytes(tmp_path)
    assert not needs_bitsandbytes(tmp_path, Quantization(), "adamw_torch")
    assert needs_bitsandbytes(tmp_path, Quantization(quantization="nf4"), "adamw_torch")
    assert needs_bitsandbytes(tmp_path, Quantization(), "paged_adamw_32bit")
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "bitsandbytes"}}))
    assert needs_bitsandbytes(tmp_path)
