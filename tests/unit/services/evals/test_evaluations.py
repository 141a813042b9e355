"""Evaluations as a person has them: asked for, in line, cancelled, found again, shared, judged; without torch."""

import dataclasses
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import psutil
import pytest

from studio.cli import app as cli
from studio.errors import BadInput, Conflict, NotFound, Unavailable
from studio.launch import workers
from studio.launch.environment import worker_environment
from studio.recipe import Recipe
from studio.rundir import Exit, RunDir, read_json, whole_folder, write_json
from studio.services.chat import participants
from studio.services.core import jobs
from studio.services.core.keeper import Keeper
from studio.services.core.studio import Studio
from studio.services.evals import evaluation_queue, evaluations, judge, prompt_sets
from studio.services.host import machine
from studio.services.models import trained_weights
from studio.services.runs import runs
from studio.settings import Settings
from studio.ui.compare import evaluation_page, scores_view
from tests.conftest import write_jsonl
from tests.torture.house import new_run, wait_for, wait_for_end

pytestmark = pytest.mark.slow


def trained(studio: Studio, name: str = "sums", steps: tuple[int, ...] = (2,)) -> str:
    """A run that is over, with an adapter and checkpoints of nothing."""
    recipe = Recipe().with_values({"model": "tiny", "dataset": "little", "name": name, "held_out": 0.4})
    files, _ = runs.inputs(studio, recipe)
    run = RunDir(studio.settings.runs / f"run-{time.time_ns()}")
    (run.path / "control").mkdir(parents=True)
    for file, text in files.items():
        (run.path / file).write_text(text)
    write_json(run.about, {"name": name, "owner": studio.owner, "created": time.time()})
    for folder in (run.adapter, *(run.checkpoints / f"step-{step}" for step in steps)):
        with whole_folder(folder) as aside:
            (aside / "adapter_config.json").write_text("{}")
    Exit("completed", "Completed.").write(run)
    studio.look()
    return run.id


@pytest.fixture
def made(home: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    """A studio whose evaluations are worked on by the fake evaluator."""
    monkeypatch.setattr(evaluation_queue, "WORKER", "tests.torture.evaluator")
    with Keeper(home) as studio:
        yield studio
        for info in evaluations.list_evaluations(studio):
            if not info.final:
                evaluations.cancel(studio, info.id)
        wait_for(studio, lambda: all(info.final for info in evaluations.list_evaluations(studio)))


def finished(studio: Studio, evaluation_id: str) -> evaluations.EvaluationInfo:
    return jobs.drive(evaluations.following(studio, evaluation_id), lambda *_: None)


def hold(studio: Studio) -> Path:
    path = studio.settings.home / "hold"
    path.touch()
    return path


@pytest.mark.parametrize(
    ("bf16", "memory", "dtype"),
    [(True, 16 * 2**30, "bfloat16"), (False, 16 * 2**30, "float32"), (False, 0, "bfloat16")],
    ids=["with bfloat16", "without", "without room"],
)
def test_answers_are_in_the_type_that_the_processor_multiplies(
    made: Studio, monkeypatch: pytest.MonkeyPatch, bf16: bool, memory: int, dtype: str
) -> None:
    """Torch's products in bfloat16 take many times as long where the processor has none."""
    here = dataclasses.replace(machine.look(made), bf16_fast=bf16, memory_total=memory)
    monkeypatch.setattr(machine, "lately", lambda *_: here)
    run = trained(made)
    assert {side.dtype for side in participants.resolve(made, ["base", run])} == {dtype}
    hold(made)
    info = evaluations.start(made, run)
    order = json.loads((made.settings.evaluations / info.id / "evaluation.json").read_text())
    assert order["dtype"] == dtype
    evaluations.cancel(made, info.id)


def test_an_evaluation_is_asked_done_kept_and_read(made: Studio) -> None:
    run = trained(made)
    info = finished(made, evaluations.start(made, run).id)
    assert (info.state, info.run) == ("completed", run), (info, evaluations.folder_of(made, info.id).log_tail())
    assert info.columns == {"base": "tiny", "adapted": "sums, step 0"}
    assert info.sets == {"held-out": "Held-out examples", "general": "General prompts"}
    found = evaluations.result(made, info.id)
    expected = [record.messages[-1]["content"] for record in trained_weights.held_out(made, run, 1000)]
    assert [row.prompt.reference for row in found.rows if row.set == "held-out"] == expected
    exact = next(score for score in found.sets[0].scores if score.metric == "exact")
    assert evaluations.describe(exact, "adapted") == f"{len(expected)} of {len(expected)}"
    assert exact.differences["adapted"].word == "better"
    assert found.sets[1].sentences["adapted"].startswith("It answers 1 of 60 as expected, before 1")


def test_a_lost_database_loses_no_evaluation(made: Studio) -> None:
    info = finished(made, evaluations.start(made, trained(made), ["general"]).id)
    made.close()
    made.settings.database.unlink()
    with Keeper(made.settings) as again:
        assert [item.id for item in evaluations.list_evaluations(again)] == [info.id]
        assert evaluations.result(again, info.id).rows


def test_it_waits_for_the_device_and_a_run_waits_for_it(made: Studio) -> None:
    run = trained(made)
    training = new_run(made, "training", steps=100_000, delay=0.005, save=10)
    wait_for(made, lambda: runs.get(made, training.id).step > 0)
    gate = hold(made)
    info = evaluations.start(made, run, ["general"])
    assert info.state == "queued"
    later = new_run(made, "later", steps=3)
    made.look()
    assert evaluations.get(made, info.id).state == "queued"
    runs.cancel(made, training.id)
    wait_for(made, lambda: evaluations.get(made, info.id).state == "running")
    assert runs.get(made, later.id).state == "queued"
    gate.unlink()
    assert finished(made, info.id).state == "completed"
    assert wait_for_end(made, later).state == "completed"


def test_it_is_cancelled_at_work_and_in_line(made: Studio) -> None:
    run, gate = trained(made), hold(made)
    first, second = evaluations.start(made, run, ["general"]), evaluations.start(made, run, ["general"])
    wait_for(made, lambda: evaluations.get(made, first.id).done == 60)
    assert evaluations.get(made, second.id).state == "queued"
    assert evaluations.cancel(made, second.id).message == "It was cancelled before it began."
    evaluations.cancel(made, first.id)
    info = finished(made, first.id)
    assert (info.state, info.message) == ("stopped", "Cancelled: nothing of this evaluation is kept.")
    with pytest.raises(Conflict, match="it has no result"):
        evaluations.result(made, first.id)
    with pytest.raises(Conflict, match="already over"):
        evaluations.cancel(made, first.id)
    gate.unlink()


def followers(studio: Studio, run: str) -> tuple[Callable[[], Iterator[str]], Callable[[], None]]:
    """What a page shows of the evaluations of `run` while it follows them, and its Cancel button."""
    page: Any = SimpleNamespace(session_hash="one")
    with gr.Blocks() as blocks:
        view = scores_view.build(studio, gr.State(run))
    cancel = next(event.fn for event in blocks.fns.values() if getattr(event.fn, "__name__", "") == "cancel")

    def follow() -> Iterator[str]:
        return (str(value) for step in view.follow["fn"](run, page) for value in step.values() if value)

    return follow, lambda: cancel(page)  # type: ignore[misc]


def test_whoever_cancelled_one_need_not_wait_for_its_worker(made: Studio) -> None:
    run, gate = trained(made), hold(made)
    follow, _ = followers(made, run)
    info = evaluations.start(made, run, ["general"])
    assert "Starting" in next(follow())
    wait_for(made, lambda: evaluations.get(made, info.id).state == "running")
    worker = psutil.Process((read_json(evaluations.folder_of(made, info.id).worker) or {})["pid"])
    worker.suspend()
    try:
        evaluations.cancel(made, info.id)
        assert list(follow()) == []  # the page, opened again: one can evaluate at once
    finally:
        worker.resume()
    assert finished(made, info.id).state == "stopped"
    gate.unlink()


def test_a_page_that_follows_one_twice_says_that_it_was_cancelled(made: Studio) -> None:
    run, gate = trained(made), hold(made)
    follow, cancel = followers(made, run)
    info = evaluations.start(made, run, ["general"])
    first, second = follow(), follow()
    assert "Starting" in next(first) + next(second)
    cancel()
    assert ["Cancelled" in said for said in first] == [True]
    assert finished(made, info.id).state == "stopped"
    assert ["Cancelled. Nothing was changed." in said for said in second] == [True]
    gate.unlink()


def test_a_worker_that_died_is_told_of(made: Studio) -> None:
    gate = hold(made)
    info = evaluations.start(made, trained(made), ["general"])
    wait_for(made, lambda: evaluations.get(made, info.id).state == "running")
    folder = evaluations.folder_of(made, info.id)
    workers.signal(folder, 9)  # type: ignore[arg-type]
    wait_for(made, lambda: evaluations.get(made, info.id).final)
    assert evaluations.get(made, info.id).state == "interrupted"
    assert "without a message" in evaluations.get(made, info.id).message
    gate.unlink()


def test_checkpoints_and_other_runs_stand_in_the_same_table(made: Studio) -> None:
    one, other = trained(made, "one", (2, 4)), trained(made, "two")
    info = evaluations.start(made, one, ["general"], [f"{one}@2", other])
    assert info.columns == {
        "base": "tiny", "adapted": "one, step 0", "other1": "one, step 2", "other2": "two, step 0",
    }  # fmt: skip
    finished(made, info.id)
    for run in (one, other):
        assert [item.id for item in evaluations.list_evaluations(made, run)] == [info.id]
    with pytest.raises(NotFound, match=r"no checkpoint of step 3. It has: 2, 4"):
        evaluations.start(made, f"{one}@3")
    (made.run_dir(one).checkpoints / "step-2" / "adapter_config.json").write_text("[]")
    with pytest.raises(BadInput, match="damaged"):
        evaluations.start(made, f"{one}@2")


def test_what_cannot_be_evaluated_is_said(made: Studio) -> None:
    run = new_run(made, "waits", steps=1, delay=0.2)
    with pytest.raises(Conflict, match="has no adapter yet"):
        evaluations.start(made, run.id)
    wait_for_end(made, run)
    done = trained(made)
    with pytest.raises(NotFound, match=r"no prompt set 'mine' \(known: held-out, general"):
        evaluations.start(made, done, ["mine"])
    with pytest.raises(BadInput, match="from 1 to"):
        evaluations.start(made, done, limit=0)
    with pytest.raises(NotFound, match=r"no evaluation '\.\./x'"):
        evaluations.get(made, "../x")


def test_sets_of_ones_own(made: Studio, tmp_path: Path) -> None:
    typed = prompt_sets.add_typed(made, "Capital of Peru? => Lima\nHello", "mine")
    assert (typed.name, typed.prompts, typed.with_check) == ("mine", 2, 1)
    assert prompt_sets.add_typed(made, "Hello", "mine").name == "mine-2"
    path = write_jsonl(
        tmp_path / "asked.jsonl", [{"prompt": "a?", "completion": "b"}, {"prompt": "c?", "completion": "d"}]
    )
    info = prompt_sets.add(made, path)
    assert (info.name, info.with_reference) == ("asked", 2)
    assert [prompt.question for prompt in prompt_sets.prompts_of(made, "asked")] == ["a?", "c?"]
    alone = prompt_sets.add(made, write_jsonl(tmp_path / "alone.jsonl", [{"question": "a?"}, {"question": "b?"}]))
    assert (alone.prompts, alone.with_reference) == (2, 0)
    with pytest.raises(BadInput, match=r"which column is which"):
        prompt_sets.add(made, write_jsonl(tmp_path / "odd.jsonl", [{"x": "a", "y": "b"}]))
    assert [item.name for item in prompt_sets.list_sets(made)] == ["alone", "asked", "mine-2", "mine", "general"]
    run = finished(made, evaluations.start(made, trained(made), ["mine", "asked"]).id)
    assert list(run.sets.values()) == ["mine", "asked"]
    assert list(made.settings.staging.iterdir()) == []


NASTY = "</td><script>alert(1)</script>\"'&\u2028"


def test_the_page_to_give_away_runs_nothing_and_asks_nobody(made: Studio) -> None:
    prompt_sets.add_typed(made, f"{NASTY} => {NASTY}", "mine")
    info = finished(made, evaluations.start(made, trained(made, NASTY), ["mine", "held-out"]).id)
    page = evaluation_page.share(made, info.id, "html")
    assert "<script" not in page and "alert(1)&lt;/script&gt;" in page
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert not any(word in page for word in ("http://", "https://", "url(", "@import", "<link", "<img", " onclick"))
    assert "Exact match" in page and "95% interval" in page
    told = json.loads(evaluation_page.share(made, info.id, "json"))
    assert told["scores"][1]["kind"] == "held-out" and len(told["rows"]) == 1 + told["scores"][1]["prompts"]
    with pytest.raises(BadInput, match="html or json"):
        evaluation_page.share(made, info.id, "pdf")


# --- the judge -------------------------------------------------------------------------------------------------


class _Judge(http.server.BaseHTTPRequestHandler):
    """Answers as `reply` says, and takes down what it was asked."""

    reply: Callable[[str], tuple[int, Any]]
    asked: list[tuple[str, str, dict[str, Any]]]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append((self.path, self.headers.get("Authorization", ""), body))
        status, value = type(self).reply(body["messages"][0]["content"])
        text = json.dumps(value).encode()
        self.send_response(status)
        if status in (301, 302, 307):
            self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


def says(text: str) -> tuple[int, Any]:
    return 200, {"choices": [{"message": {"content": text}}]}


@pytest.fixture
def court(made: Studio, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Studio, type[_Judge], str]]:
    """A studio with a judge on this machine, and a finished evaluation."""
    kind = type("Court", (_Judge,), {"asked": [], "reply": staticmethod(lambda text: says("tie"))})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(judge, "_PAUSE", 0.01)
    monkeypatch.setenv(judge.KEY, "s3cret")
    info = finished(made, evaluations.start(made, trained(made), ["held-out"]).id)
    address = f"http://127.0.0.1:{server.server_port}/v1"
    made.settings = made.settings.model_copy(update={"judge_url": address, "judge_model": "wise"})
    yield made, kind, info.id
    server.shutdown()
    server.server_close()


def drive(studio: Studio, evaluation_id: str) -> judge.Judged:
    return jobs.drive(judge.judging(studio, evaluation_id), lambda *_: None)


def test_a_judge_that_prefers_the_better_answer_is_believed(court: tuple[Studio, type[_Judge], str]) -> None:
    studio, kind, evaluation_id = court

    def fair(text: str) -> tuple[int, Any]:
        first = text.partition("<answer_A>\n")[2].partition("\n</answer_A>")[0]
        return says("Let me think. A and B differ.\n**B**" if first == "?" else "A")

    kind.reply = staticmethod(fair)
    found = drive(studio, evaluation_id)
    pairs = len(evaluations.result(studio, evaluation_id).rows)
    assert (found.won, found.lost, found.ties, found.word) == (pairs, 0, 0, "better")
    assert found.sentence == f"wise preferred its answer {pairs} times and the base's 0 times of {pairs}: better."
    assert len(kind.asked) == 2 * pairs
    path, key, body = kind.asked[0]
    assert (path, key, body["model"]) == ("/v1/chat/completions", "Bearer s3cret", "wise")
    assert "wise preferred" in evaluation_page.share(studio, evaluation_id, "html")
    kept = [path for path in studio.settings.home.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]
    assert kept == []
    assert "STUDIO_JUDGE_KEY" not in worker_environment()


def test_a_judge_that_always_takes_the_first_says_nothing(court: tuple[Studio, type[_Judge], str]) -> None:
    studio, kind, evaluation_id = court
    kind.reply = staticmethod(lambda text: says("A"))
    found = drive(studio, evaluation_id)
    assert (found.won, found.lost, found.word) == (0, 0, "cannot tell") and found.ties > 0
    kind.reply = staticmethod(lambda text: says("I cannot say."))
    assert drive(studio, evaluation_id).unreadable == found.ties


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        ((401, {}), "refused the key .401 Unauthorized.: check STUDIO_JUDGE_KEY"),
        ((404, {}), "answered 404 Not Found: check STUDIO_JUDGE_URL"),
        ((302, {}), "answered 302 Found"),
        ((503, {}), "did not answer: 503 Service Unavailable. Try again later"),
        ((200, {"hello": 1}), "is not OpenAI-compatible"),
    ],
)
def test_a_judge_that_fails_is_a_sentence(
    court: tuple[Studio, type[_Judge], str], reply: tuple[int, Any], words: str
) -> None:
    studio, kind, evaluation_id = court
    kind.reply = staticmethod(lambda text: reply)
    with pytest.raises(Unavailable, match=words):
        drive(studio, evaluation_id)
    assert evaluations.judgement(studio, evaluation_id) is None


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "No judge is set"),
        ("file:///etc/passwd", "must begin with http"),
        ("http://me:secret@127.0.0.1/v1", "must not contain a password"),
    ],
)
def test_an_address_that_may_not_be_asked(court: tuple[Studio, type[_Judge], str], url: str, words: str) -> None:
    studio, _, evaluation_id = court
    studio.settings = studio.settings.model_copy(update={"judge_url": url})
    with pytest.raises(BadInput, match=words):
        drive(studio, evaluation_id)


def test_the_commands_say_what_the_page_says(
    home: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(evaluation_queue, "WORKER", "tests.torture.evaluator")

    def command(*words: str) -> str:
        capsys.readouterr()
        try:
            cli.main(["--home", str(home.home), *words])
        except SystemExit as end:
            if end.code:
                raise
        return capsys.readouterr().out

    with Keeper(home) as studio:
        run = trained(studio)
    (tmp_path / "mine.txt").write_text("Capital of Peru? => Lima\nHello", encoding="utf-8")
    assert json.loads(command("prompts", "add", str(tmp_path / "mine.txt"), "--json"))["with_check"] == 1
    assert "mine" in command("prompts", "list")
    told = json.loads(command("eval", run, "--set", "held-out", "--set", "mine", "--against", f"{run}@2", "--json"))
    assert told["state"] == "completed" and list(told["columns"]) == ["base", "adapted", "other1"]
    assert {row["set"] for row in told["rows"]} == {"held-out", list(told["sets"])[1]}
    shown = command("evaluations", told["id"], "--out", str(tmp_path / "report.html"))
    assert "Exact match" in shown and "better" in shown and "95% interval" in shown
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert told["id"] in command("evaluations")
    with pytest.raises(SystemExit) as end:
        command("eval", run, "--out", "report.pdf")
    assert end.value.code == 2
    assert "--out takes a name that ends in .json or .html" in capsys.readouterr().err
