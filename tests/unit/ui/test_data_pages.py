"""The Data page's HTML: text shows exactly as it is, whatever it contains."""

from html.parser import HTMLParser

import pytest

from studio.services.data.checks import Finding
from studio.services.data.examples import ExampleView, Found, FoundPage, Token
from studio.ui.data import findings_view
from studio.ui.parts import editor, text_diff, tokens

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
