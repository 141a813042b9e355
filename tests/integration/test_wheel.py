"""The built wheel carries all it needs: pages, samples, presets, migrations, what is compiled."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_serves_from_any_folder(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, timeout=300)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    installed = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(installed)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, timeout=300)
    code = (
        "import sys; from pathlib import Path; from starlette.testclient import TestClient\n"
        "import studio; from studio.settings import Settings; from studio.services.core.keeper import Keeper, welcome\n"
        "from studio.services.data import datasets; from studio.ui.web.server import make_app\n"
        "from studio.machine import compiling\n"
        "assert Path(studio.__file__).is_relative_to(sys.argv[1]), studio.__file__\n"
        "assert all(file.is_file() for file in (*compiling.SOURCES, *compiling.HEADERS))\n"
        "with Keeper(Settings(home=Path(sys.argv[2]), offline=True)) as opened:\n"
        "    welcome(opened); assert datasets.get(opened, 'tickets').rows == 360\n"
        "    with TestClient(make_app(opened), base_url='http://127.0.0.1') as client:\n"
        "        for path in ('/healthz', '/static/theme.css', '/static/vendor/uPlot.min.js', '/'):\n"
        "            assert client.get(path).status_code == 200, path\n"
    )
    env = os.environ | {"PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, str(installed), str(tmp_path / "home")]
    done = subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
