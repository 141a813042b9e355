"""A comparison as one self-contained HTML file: no script, font, picture or network request."""

import time

from studio.services.chat.comparisons import Comparison, Turn
from studio.ui.compare import view as compare_view
from studio.ui.parts.markup import esc

# Answers are escaped text; should markup ever get through, this forbids the browser to run or fetch anything.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = """
:root { color-scheme: light dark; --paper: #f7f9fb; --surface: #fff; --ink: #1a222c; --ink-2: #4b5869; --line: #dfe4eb;
  --base: #5b6879; --adapted: #117a73; --third: #8a5a00; --mark: #e3f4f1; }
@media (prefers-color-scheme: dark) { :root { --paper: #0e131a; --surface: #141a22; --ink: #e4e9ef; --ink-2: #a3afbf;
  --line: #2a3440; --base: #94a1b3; --adapted: #42b0a6; --third: #e3b04b; --mark: #0f2c2b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 20px 48px; max-width: 1280px; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
h1 { font-size: 20px; margin: 0 0 4px; }
p { margin: 0; }
.why, .facts, footer { color: var(--ink-2); font-size: 13px; }
.turn { margin-top: 26px; padding-top: 18px; border-top: 1px solid var(--line); }
.asked, .system { margin-bottom: 10px; padding-left: 12px; border-left: 3px solid var(--line); }
.asked, .system, .said { white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
.system { color: var(--ink-2); }
.facts { margin: 0 0 10px; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 14px; }
.side { display: flex; flex-direction: column; min-width: 0; border: 1px solid var(--line); border-radius: 8px;
  border-top: 3px solid var(--base); background: var(--surface); }
.side-adapted { border-top-color: var(--adapted); }
.side-third { border-top-color: var(--third); }
.side header { padding: 8px 14px 0; font-size: 13px; overflow-wrap: anywhere; }
.side header span { margin-left: 8px; color: var(--ink-2); }
.said { flex: 1; padding: 8px 14px 12px; }
.side footer { padding: 6px 14px; border-top: 1px solid var(--line); }
.voted { margin-top: 10px; }
"""
_NAMES = {
    "max_new_tokens": "maximum answer length", "temperature": "temperature", "top_p": "top p", "top_k": "top k",
    "repetition_penalty": "repetition penalty", "seed": "seed",
}  # fmt: skip


def page(comparison: Comparison, made_by: str) -> str:
    """The whole HTML file."""
    first = comparison.turns[0] if comparison.turns else None
    names = " and ".join(who.title for who in first.sides) if first else "no answers yet"
    title = f"Comparison: {names}"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(comparison.created))
    model = f" on {first.sides[0].model}" if first else ""
    body = "".join(map(_turn, comparison.turns))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{esc(title)}</title><style>{_STYLE}</style></head><body><main><h1>{esc(title)}</h1>"
        f'<p class="why">{esc(when)}{esc(model)}, made with {esc(made_by)}. Each side saw only its own answers.</p>'
        f"{body}</main></body></html>\n"
    )


def _turn(turn: Turn) -> str:
    """A turn, with its sampling settings above the answers."""
    settings = ", ".join(f"{words} {getattr(turn.sampling, name):g}" for name, words in _NAMES.items())
    system = f'<p class="system" dir="auto">System: {esc(turn.system)}</p>' if turn.system.strip() else ""
    facts = f'<p class="facts">{esc(settings)}</p>'
    return compare_view.turn(turn, lambda _: "").replace('<div class="sides', f'{system}{facts}<div class="sides', 1)
