"""The views of runs: no value can write HTML, and what they render travels as JSON."""

import dataclasses
import json
from html.parser import HTMLParser

import orjson
import pytest

from studio.services.core.studio import Studio
from studio.services.curves import curves
from studio.services.curves.diagnosis import Verdict
from studio.services.runs import history, runs
from studio.services.runs.history import Happening
from studio.services.runs.runs import RunInfo
from studio.ui.runs import compare_runs, curves_view, story, view
from tests.unit.services.runs.test_run_list import make

HOSTILE = "<b onclick=alert(1)>&amp; \"double\" 'single' {{ 7 * 7 }}"


class Reader(HTMLParser):
    """The texts, attribute values and tags of some HTML, whose tags must be balanced."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text, self.values, self.tags = "", set(), set()
        self.open: list[str] = []
        self.feed(str(html))  # a part of Markup would be Markup, and escaped again
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.tags.add(tag)
        self.values |= {value for _, value in attrs if value}
        if tag != "input":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def hostile(studio: Studio) -> RunInfo:
    make(studio, "poems")
    studio.look()
    info = runs.get(studio, "id-poems")
    named = {
        name: HOSTILE for name in ("id", "name", "model", "dataset", "device", "message", "remedy", "doing", "notes")
    }
    return dataclasses.replace(info, **named, state="failed", tags=(HOSTILE,))


@pytest.mark.parametrize("name", ["row", "head", "about"])
def test_a_run_cannot_write_html(hostile: RunInfo, name: str) -> None:
    for info in (hostile, dataclasses.replace(hostile, final=False, state="running", starred=True)):
        html = getattr(view, name)(info)
        read = Reader(html)
        assert HOSTILE in read.text and HOSTILE in read.values and "b" not in read.tags
        assert json.loads(json.dumps([html])) == orjson.loads(orjson.dumps([html])) == [str(html)]


def test_what_happened_to_a_run_cannot_write_html(studio: Studio, hostile: RunInfo) -> None:
    happened = history.story_of(studio, "id-poems")
    run = dataclasses.replace(hostile, plan={"engine": "fast", "engine_why": HOSTILE})
    states = [*happened.states, Happening(1.0, "failed", HOSTILE)]
    read = Reader(story.story(dataclasses.replace(happened, run=run, states=states)))
    assert read.text.count(HOSTILE) == 2 and "b" not in read.tags
    assert "Checkpointsnone" in read.text.replace("\n", "")


def test_samples_are_grouped_by_prompt_with_the_newest_first() -> None:
    events = [
        {"prompt": "first", "step": 1000, "answer": HOSTILE},
        {"prompt": HOSTILE, "step": None},
        {"prompt": "first", "step": 2000, "answer": " two\n  lines"},
    ]
    read = Reader(html := story.samples(events))
    assert "b" not in read.tags and read.text.count(HOSTILE) == 2
    assert "<dd> two\n  lines</dd>" in html  # its whitespace is shown
    assert read.text.index("step 2,000") < read.text.index("step 1,000") < read.text.index("step 0")
    assert story.samples([]) == ""


def test_differences_and_verdicts_cannot_write_html(
    studio: Studio, hostile: RunInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "verdict", lambda *_: Verdict("plateau", HOSTILE, (HOSTILE,)))
    other = dataclasses.replace(hostile, id="other", name="other", dataset="another", step=1)
    read = Reader(compare_runs.table(studio, [hostile, other], {"sort": "result.step"}))
    assert HOSTILE in read.text and HOSTILE in read.values and "b" not in read.tags
    assert "Steps done ▲" in read.text and "ascending" in read.values
    read = Reader(curves_view.verdict(studio, hostile))
    assert read.text.count(HOSTILE) == 2 and "b" not in read.tags
