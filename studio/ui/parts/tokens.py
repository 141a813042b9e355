"""The token view of an example: its tokens, which are trained, and where it is cut."""

from studio.services.data.examples import ExampleView, Token
from studio.ui.parts import markup
from studio.ui.parts.markup import esc

_SCISSORS = (
    '<svg viewBox="0 0 16 16" width="13" height="13" aria-hidden="true" fill="none" stroke="currentColor" '
    'stroke-width="1.4"><circle cx="3.6" cy="4" r="2"/><circle cx="3.6" cy="12" r="2"/>'
    '<path d="M5.3 5.2 14 12M5.3 10.8 14 4"/></svg>'
)
_KEY = (
    '<p class="token-key"><span class="tok tok-trained">trained</span><span class="tok">read only</span>'
    '<span class="tok tok-special">special</span><span class="tok tok-cut">cut off</span></p>'
)


def strip(view: ExampleView, max_length: int) -> str:
    """The token strip with its key and counts."""
    counts = markup.facts(
        [
            ("tokens", f"{view.total:,}"),
            ("trained", f"{view.trained:,}"),
            ("cut off", f"{view.cut:,}"),
            ("row in the file", f"{view.row:,}"),
        ]
    )
    line = f"{_SCISSORS} cut here: {max_length:,} tokens"
    pieces: list[str] = []
    for place, token in enumerate(view.tokens):
        if token.cut and (place == 0 or not view.tokens[place - 1].cut):
            pieces.append(f'<span class="scissors" role="separator">{line}</span>')
        pieces.append(_token(token))
    kind = "bad" if view.trained == 0 else "plain"
    remark = markup.note(view.note, kind) if view.note else ""
    label = f"Tokens of example {view.example}"
    body = f'<div class="tokens" role="region" tabindex="0" aria-label="{label}">{"".join(pieces)}</div>'
    return counts + remark + _KEY + body


def _token(token: Token) -> str:
    kinds = "".join(f" tok-{kind}" for kind in ("trained", "special", "cut") if getattr(token, kind))
    kind_words = ", ".join(kind for kind in ("trained", "special", "cut") if getattr(token, kind)) or "read only"
    tag = "s" if token.cut else "u" if token.trained else "span"
    text = esc(token.text).replace("\n", '<i class="newline" aria-hidden="true">↵</i>\n')
    return f'<{tag} class="tok{kinds}" title="id {token.id} · {kind_words}">{text}</{tag}>'
