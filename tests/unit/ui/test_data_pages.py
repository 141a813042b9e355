"""The Data page's HTML: text shows exactly as it is, whatever it contains."""

import json
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from studio.services.data.checks import Finding, Use
from studio.services.data.examples import ExampleView, Found, FoundPage, Token
from studio.ui.data import findings_view
from studio.ui.parts import editor, text_diff, tokens
from studio.ui.parts.templates import macro

HOSTILE = "</textarea></pre><img src=x onerror=alert(1)> & \"double\" 'single' {{ 7 * 7 }}"
TEXTS = ["word", "  spaces  around  ", "\nlines\n\n", "\ttab\r\n", "a & b < c", HOSTILE, ""]


class Texts(HTMLParser):
    """The text within one kind of element, and all tags."""

    def __init__(self, html: str, inside: str) -> None:
        super().__init__()
        self.inside, self.depth = inside, 0
        self.text, self.tags = "", set[str]()
        self.feed(str(html))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.depth += 1 if self.depth or tag == self.inside or ("class", self.inside) in attrs else 0

    def handle_endtag(self, tag: str) -> None:
        self.depth -= bool(self.depth)

    def handle_data(self, data: str) -> None:
        self.text += data if self.depth else ""


def example(texts: list[str], kept: int) -> ExampleView:
    """An example whose tokens have these texts; only the first `kept` of them are not cut."""
    pieces = [Token(text, at, at % 2 == 1 and at < kept, at == 0, at >= kept) for at, text in enumerate(texts)]
    trained = sum(token.trained for token in pieces)
    return ExampleView(1, 1, "".join(texts), pieces, len(texts), trained, max(0, len(texts) - kept), "")


def test_the_token_strip_shows_every_character_and_no_other() -> None:
    strip = Texts(tokens.strip(example(TEXTS, 99), 1024), "tokens")
    assert strip.text.replace("↵\n", "\n") == "".join(TEXTS)
    assert "img" not in strip.tags


def test_the_token_strip_says_where_it_is_cut() -> None:
    html = tokens.strip(example(["a", "b", "c", "d"], 2), 1024)
    before, after = html.split("cut here: 1,024 tokens")
    assert html.count("cut here") == 1
    assert '<u class="tok tok-trained" title="id 1 · trained">b</u>' in before
    assert '<s class="tok tok-cut" title="id 2 · cut">c</s>' in after
    assert "cut here" not in tokens.strip(example(["a"], 2), 1024)


@pytest.mark.parametrize("text", TEXTS)
def test_the_editor_returns_the_text_that_it_was_given(text: str) -> None:
    area = Texts(editor.form(1, {"text": text}), "textarea")
    assert area.text == "\n" + text  # HTML ignores the first line end
    assert "img" not in area.tags


@pytest.mark.parametrize("text", TEXTS)
def test_differences_change_no_character(text: str) -> None:
    marked = Texts(f"<div>{text_diff.highlight_differences(text, 'word and & more')}</div>", "div")
    assert marked.text == text
    assert marked.tags <= {"div", "mark"}


def test_a_finding_shows_the_row_as_it_is() -> None:
    page = FoundPage([Found(Finding(7, "unreadable", HOSTILE, HOSTILE, HOSTILE, raw=HOSTILE), 0)], 1)
    shown = Texts(findings_view.table(page, 0), "pre")
    assert shown.text == HOSTILE
    assert "img" not in shown.tags


def test_what_has_nothing_to_show_is_empty() -> None:
    assert findings_view.table(FoundPage([], 0), 0) == ""
    assert "filters" not in findings_view.summary("key", "good", "All rows can be used.", {}, "", leaves=False)


def test_the_editor_keeps_what_it_does_not_show() -> None:
    call = {"type": "function", "function": {"name": "far", "arguments": {"n": 1}}}
    values = {
        "messages": [
            {"role": "user", "content": "How far?"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [call],
                "reasoning_content": "Look it up.",
                "train": False,
            },
            {"role": "tool", "content": "1 km", "name": "far"},
            {"role": "assistant", "content": "1 km"},
        ],
        "tools": [{"type": "function", "function": {"name": "far"}}],
    }
    shown = editor.form(1, values)
    assert all(
        f"<code>{name}</code>" in shown for name in ("tool_calls", "reasoning_content", "train", "name", "tools")
    )
    typed = [["0.user", "How far?"], ["1.assistant", ""], ["2.tool", "2 km"], ["3.assistant", "2 km"]]
    edited = editor.typed(json.dumps(typed), values)
    assert edited["tools"] == values["tools"]
    assert [turn["content"] for turn in edited["messages"]] == ["How far?", "", "2 km", "2 km"]
    assert edited["messages"][1] == values["messages"][1]
    assert edited["messages"][2]["name"] == "far"


def test_the_account_has_buttons_only_before_a_file_is_added() -> None:
    uses = [Use("messages", "used", "messages", 3), Use(HOSTILE, "not read", "it may carry meaning", 3)]
    item = SimpleNamespace(format="messages", mapping={}, columns=[], column_uses=uses, key_uses=[])
    adding = macro("data/origin.html", "account", item, True, [])
    assert "1 not read, the others used" in adding
    assert "data-ignore" in adding
    assert "img" not in Texts(adding, "table").tags
    assert "data-ignore" not in macro("data/origin.html", "account", item, False)
    item.column_uses = uses[:1]
    assert "The only column is used." in macro("data/origin.html", "account", item, False)
    item.column_uses, item.columns = [], ["a", "b"]  # a dataset of an older version
    assert "<code>b</code>" in macro("data/origin.html", "account", item, False)
