"""What a repository needs beside its code: workflows, container, hooks, templates. No Docker is needed to read them."""

import re
from pathlib import Path
from typing import Any

import yaml

from studio.services.core.keeper import Keeper
from studio.settings import Settings
from studio.ui.web.server import make_app

ROOT = Path(__file__).parents[3]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def targets() -> set[str]:
    return {name for line in re.findall(r"^([a-z][a-z0-9 ]*):", MAKEFILE, re.MULTILINE) for name in line.split()}


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_each_workflow_runs_commands_that_exist() -> None:
    workflows = sorted((ROOT / ".github/workflows").glob("*.yml"))
    assert {path.stem for path in workflows} == {"check", "test", "docs", "latest"}
    for path in workflows:
        workflow = parsed(path)
        assert workflow["permissions"] == {"contents": "read"}, path.name
        for job in workflow["jobs"].values():
            commands = [step["run"] for step in job["steps"] if "run" in step]
            assert commands and job["timeout-minutes"] <= 120, path.name
            for command in commands:
                program, *words = command.split()
                assert program in ("make", "bash"), command
                if program == "make":
                    assert set(words) <= targets(), command
                else:
                    assert all((ROOT / word).is_file() for word in words), command


def test_the_image_copies_what_is_there_and_runs_as_nobody_special() -> None:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    kinds = [kind for kind, _ in steps]
    assert kinds[0] == "FROM" and kinds.index("USER") < kinds.index("CMD")
    assert dict(steps)["USER"] != "root"
    for kind, words in steps:
        if kind == "COPY":
            assert all((ROOT / source).exists() for source in words.split()[:-1]), words
    assert (home := re.search(r"STUDIO_HOME=(\S+)", dict(steps)["ENV"])) and dict(steps)["VOLUME"] == home[1]
    assert re.search(r"^torch==\S+", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def test_the_image_asks_for_its_health_where_the_studio_answers(settings: Settings) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    asked = re.search(r"urlopen\('http://127\.0\.0\.1:(\d+)(/\w+)'", dockerfile)
    assert asked is not None and int(asked[1]) == Settings().port
    with Keeper(settings) as studio:
        assert asked[2] in {getattr(route, "path", "") for route in make_app(studio).routes}


def test_what_is_copied_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert {name for names in copied for name in names.split()} == kept


def test_the_containers_are_for_a_cpu_and_for_a_gpu_and_keep_their_home() -> None:
    compose = parsed(ROOT / "compose.yaml")
    assert {name: service["profiles"] for name, service in compose["services"].items()} == {
        "cpu": ["cpu"], "cuda": ["cuda"],
    }  # fmt: skip
    for service in compose["services"].values():
        assert service["ports"] == ["127.0.0.1:7860:7860"]  # of this machine alone, since nobody signs in
        (mount,) = service["volumes"]
        name, _, target = mount.partition(":")
        assert name in compose["volumes"] and f"VOLUME {target}" in (ROOT / "Dockerfile").read_text()
    devices = compose["services"]["cuda"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["capabilities"] == ["gpu"]


def test_hooks_and_forms_can_be_read() -> None:
    hooks = parsed(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    assert {hook["entry"].split()[0] for hook in hooks} == {".venv/bin/ruff", ".venv/bin/mypy"}
    for name in ("bug", "idea"):
        form = parsed(ROOT / f".github/ISSUE_TEMPLATE/{name}.yml")
        assert form["name"] and all(part["attributes"]["label"] for part in form["body"])
    assert (ROOT / ".github/pull_request_template.md").is_file()


def test_each_page_of_the_docs_is_in_the_site() -> None:
    def pages(entry: Any) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages(part)]

    listed = pages(parsed(ROOT / "mkdocs.yml")["nav"])
    assert sorted(listed) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_commands_of_the_contributing_page_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"(?:`|^)make ([a-z0-9]+)", text, re.MULTILINE))
    assert named and named <= targets(), named - targets()
    for path in re.findall(r"`(studio/[\w/]+\.py|tests/[\w/]+)`", text):
        assert (ROOT / path).exists(), path
