"""The pages' HTML: Jinja templates in `ui/templates/`, with all values escaped.

A template begins with `{% import "parts.html" as parts %}` if it uses the shared macros. Its values are plain text,
numbers and objects; only what another template rendered (`Markup`) passes through unescaped. A name that was not
passed is an error, never an empty place on the page.
"""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from studio.ui.parts import units

environment = Environment(
    loader=FileSystemLoader(Path(__file__).parent.parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    auto_reload=False,
)


def _number(value: float) -> str:
    return f"{value:,}"


def _flat(text: object, most: int = 600) -> str:
    words = " ".join(str(text)[: 2 * most].split())
    return words if len(words) <= most else words[:most] + " …"


# number: 1,234 · figure: a measured figure with that many decimals, or a dash · flat: on one line, cut at `most`
# The others are units.*: size of bytes, short count, clock and span of seconds, a time ago and exactly.
environment.filters |= {"number": _number, "flat": _flat}
environment.filters |= {
    name: getattr(units, name) for name in ("size", "count", "figure", "clock", "span", "ago", "exact")
}


def render(name: str, /, **values: Any) -> Markup:
    """The HTML of template `name`, a path in `ui/templates/`."""
    return Markup(environment.get_template(name).render(values))  # noqa: S704 - all its values were escaped


def macro(name: str, macro_name: str, /, *args: Any, **values: Any) -> Markup:
    """The HTML of one macro of template `name`."""
    rendered: Markup = getattr(environment.get_template(name).module, macro_name)(*args, **values)
    return rendered
