"""Comparisons: each side hears its own answers, blind is blind, and what is shared is harmless."""

import re
import threading
import time
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from fastapi.testclient import TestClient

from studio.errors import BadInput, Conflict, NotFound
from studio.services.chat import comparisons
from studio.services.chat.chat import Answer, ChatState, Loaded, Sampling
from studio.services.chat.comparisons import Comparison
from studio.services.chat.fair_lock import FairLock
from studio.services.core.studio import Studio
from studio.ui.compare import share
from studio.ui.compare import view as compare_view
from studio.ui.parts import text_diff
from studio.ui.web.server import make_app
from tests.unit.services.chat.test_votes import side, turn

NASTY = [
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "](javascript:alert(1)) ![x](http://example.org/x.png)\n" + "> " * 5000,
    "x" * 100_000,
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \U0001f469\u200d\U0001f680\U0001f3fd",
    "\"' --> </style></title></main> {{7*7}} \x00\x1b[31m\x07",
]


def with_answers(*texts: str, question: str = "Which?") -> Comparison:
    begun = comparisons.ask([side("base"), side("run@3")], question, Sampling(), "<b>Be brief</b>")
    state = ChatState("", tuple(Answer(text, done=True, tokens=3, tokens_per_s=7.5) for text in texts), finished=True)
    return comparisons.add(comparisons.new_comparison(), comparisons.with_answers(begun, state))


def test_each_side_hears_its_own_answers() -> None:
    past = with_answers("from base", "from run")
    newer = comparisons.ask([side("base"), side("run@9", "run@3"), side("new@1")], "And?", Sampling(), "Be kind")
    base, run, new = comparisons.messages(past, newer)
    assert [m["content"] for m in base] == ["Be kind", "Which?", "from base", "And?"]
    # Known again by what was asked for: the newest checkpoint of a run that trains is another each time.
    assert [m["role"] for m in run] == ["system", "user", "assistant", "user"] and run[2]["content"] == "from run"
    assert [m["content"] for m in new] == ["Be kind", "And?"]


def test_a_comparison_is_found_again_and_only_by_its_id(studio: Studio) -> None:
    past = with_answers("a", "b")
    comparisons.save(studio, past)
    assert comparisons.load(studio, past.id) == past
    for key in ("", "absent", "../studio", "0" * 32):
        with pytest.raises(NotFound):
            comparisons.load(studio, key)
    with pytest.raises(BadInput, match="Nothing was asked"):
        comparisons.take_back(comparisons.new_comparison())


def test_blind_tells_nothing_before_the_vote() -> None:
    orders = set()
    for _ in range(40):
        one = replace(turn("base", "secret@3"), notes=("secret@3 answers by itself",))
        orders.add(one.order)
        page = compare_view.turn(one, lambda _: "tally")
        assert not re.search(r"secret|Base|side-base|side-adapted|tokens|tally", page), page
        assert page.count("data-vote") == 3
    assert orders == {(0, 1), (1, 0)}
    shown = compare_view.turn(replace(one, vote="secret@3"), lambda _: "tally")
    assert "You preferred secret@3" in shown and "tally" in shown and "side-base" in shown and "tokens/s" in shown


class Parsed(HTMLParser):
    """Every tag and attribute of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [f"{name}={value}" for name, value in attrs if name.startswith("on") or name in ("src", "href")]


@pytest.mark.parametrize("text", NASTY, ids=["script", "markdown", "long", "bidi", "controls"])
def test_whatever_a_model_says_is_text(studio: Studio, text: str) -> None:
    past = with_answers(text, text[::-1], question=text)
    comparisons.save(studio, past)
    with TestClient(make_app(studio), base_url="http://localhost") as client:
        answer = client.get(f"/comparison/{past.id}.html")
        assert client.get(f"/comparison/{past.id}.json").json()["turns"][0]["question"] == text
        assert client.get(f"/comparison/{past.id}.exe").status_code == 404
        assert client.get(f"/comparison/{'0' * 32}.html").status_code == 404
    assert answer.headers["content-disposition"].startswith("attachment")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert f'http-equiv="Content-Security-Policy" content="{share.POLICY}"' in answer.text
    parsed = Parsed(answer.text)
    assert not parsed.tags & {"script", "img", "a", "iframe", "b" if "<b>" in text else "script", "link"}
    assert parsed.links == [] and "\x1b" not in answer.text and "\x00" not in answer.text
    assert answer.text == share.page(past, "LoRA Studio 0.1.0")
    inside = Parsed(compare_view.turn(past.turns[0], lambda _: "", marked=True))
    assert not inside.tags & {"script", "img"} and inside.links == []


def test_a_text_keeps_its_whitespace_and_nothing_is_added() -> None:
    question, answer = "\n  one\n\n two ", "  a\n\tb"
    past = with_answers(answer, answer, question=question)
    for html in (compare_view.turn(past.turns[0], lambda _: ""), share.page(past, "")):
        assert f'<p class="asked" dir="auto">{question}</p>' in html
        assert html.count(f'<div class="said" dir="auto">{answer}</div>') == 2


def test_nothing_to_show_is_an_empty_text() -> None:
    nothing = [
        compare_view.turns([], lambda _: ""),
        compare_view.links(comparisons.new_comparison()),
        compare_view.memory(Loaded()),
        compare_view.shelf([]),
    ]
    assert nothing == ["", "", "", ""]


def test_differences_are_marked_word_by_word() -> None:
    marked = text_diff.highlight_differences("The red <b> fox ran.", "The blue <b> fox ran.")
    assert marked == 'The <mark class="apart">red</mark> &lt;b&gt; fox ran.'
    assert text_diff.highlight_differences("same", "same") == "same"
    long = "a b " * 2000
    assert "<mark" not in text_diff.highlight_differences(long, "c") and text_diff.too_long(long)
    began = time.perf_counter()
    text_diff.highlight_differences("x" * 100_000, "y" * 100_000)
    assert time.perf_counter() - began < 5


def test_questions_are_answered_in_the_order_they_came() -> None:
    line, done = FairLock(), []
    go = threading.Event()

    def asker(name: str) -> None:
        with line.join(name) as ticket:
            while line.ahead(ticket) and not ticket.stopped:
                line.wait(ticket, 5)
            if not ticket.stopped:
                go.wait(5)
                done.extend([] if ticket.stopped else [name])

    threads = []
    for name in "abcd":
        threads.append(threading.Thread(target=asker, args=(name,)))
        threads[-1].start()
        while True:
            with line.when_free() as free:
                assert not free or name == "a"
            if len(line._tickets) == len(threads):
                break
    with pytest.raises(Conflict, match="still being answered"), line.join("c"):
        pass
    assert line.stop("nobody") is False and line.stop("b") is False and line.stop("a") is True
    go.set()
    for thread in threads:
        thread.join(5)
    assert done == ["c", "d"], "who had the model ends its answer, who waited and stopped gets none"
    with line.when_free() as free:
        assert free
