"""The sandbox that chat templates run in, with an end: so many steps, so much time, so long a text.

Jinja's own sandbox keeps a template from Python; it does not keep it from looping for days or from multiplying a text
until the memory is gone. A template comes from a model's folder, or from whoever writes a recipe, and the studio
renders it while it shows an example. So every way in which a template can do much is counted here: a step of a loop or
a call of a macro, what two values become together, what a filter or a method is about to make. All of it in a
rendering has one budget; a template that goes beyond is refused like any other that cannot render.

The room of Jinja's inside: it has no way to look at a template's tree or at what is joined, so `_parse` and `concat`
are taken over. RELIES_ON names what of it is used, and what would be broken without it;
tests/unit/project/test_contracts.py holds the installed Jinja to that.
"""

import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

_ENDLESS = "a template could loop for days"
_LONG = "a template could make a text longer than fits in memory"
RELIES_ON = {
    "jinja2.Environment._parse(self, source, name, filename)": _ENDLESS,
    "jinja2.visitor.NodeTransformer": _ENDLESS,
    "jinja2.nodes.EnvironmentAttribute": _ENDLESS,
    "jinja2.nodes.Node.set_environment(self, environment)": _ENDLESS,
    "jinja2.Environment.concat": _LONG,
    "jinja2.sandbox.ImmutableSandboxedEnvironment.call_binop(self, context, operator, left, right)": _LONG,
    "jinja2.sandbox.ImmutableSandboxedEnvironment.intercepted_binops": _LONG,
    "jinja2.sandbox.ImmutableSandboxedEnvironment.call(self, context, obj)": _LONG,
    "jinja2.sandbox.ImmutableSandboxedEnvironment.wrap_str_format(self, value)": _LONG,
}
STEPS = 1_000_000  # of loops, and calls of macros, in one rendering
SECONDS = 20.0  # that one rendering may take
LONGEST = 32 * 2**20  # characters that anything in it may become
PARTS = 1_000_000  # values that may lie in one list or dictionary, with all that lies in those
NUMBER = 10_000  # highest number given to a filter, a method or range
_EVERY = 1024  # steps between two looks at the clock
_INDENT = 100
_UNWEIGHED = frozenset({"length", "count", "first", "last", "default", "d"})  # look at one thing, whatever the size
_NEEDLESS = (
    "urlize",
    "xmlattr",
    "pprint",
    "wordwrap",
    "random",
)  # of no use in a chat; what they make is hard to foresee
_WIDE = re.compile(r"\d{5,}|\*")  # in a format: a width that makes much of little
_NESTED = re.compile(r"\{[^{}]*\{")


class TemplateTooLarge(jinja2.TemplateError):
    """A template asked for more than one needs."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """An environment whose templates end. `begin` gives a rendering its budget."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, **given: Any) -> None:
        super().__init__(finalize=self._shown, **given)
        self._steps, self._until = 0, float("inf")
        self.globals["range"] = _range
        self.globals.pop("lipsum", None)
        for name in _NEEDLESS:
            self.filters.pop(name, None)
        for name, function in list(self.filters.items()):
            self.filters[name] = self._bounded(name, function)
        self.concat = self._concat  # type: ignore[method-assign]  # compiled templates join by it

    def begin(self) -> None:
        """A rendering starts: its steps and its time are counted from here."""
        self._steps, self._until = 0, time.monotonic() + SECONDS

    def wrap(self, name: str) -> None:
        """Bound a filter that was added after the environment was made."""
        self.filters[name] = self._bounded(name, self.filters[name])

    def tick(self) -> str:
        """One step of a loop, or one call of a macro."""
        self._steps += 1
        if self._steps > STEPS:
            raise TemplateTooLarge(f"it takes more than {STEPS:,} steps")
        if self._steps % _EVERY == 0 and time.monotonic() > self._until:
            raise TemplateTooLarge(f"it takes longer than {SECONDS:g} seconds")
        return ""

    def joined(self, *parts: Any) -> str:
        """What `~` makes."""
        weigh(parts)
        return "".join(str(part) for part in parts)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Counting().visit(super()._parse(source, name, filename))
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            _refuse_product(left, right)
        elif operator == "**":
            if isinstance(left, int) and isinstance(right, int) and abs(right) * abs(left).bit_length() > 4096:
                raise TemplateTooLarge("it makes a number that is too high")
        elif operator == "%" and isinstance(left, str | bytes):
            _refuse_format(left, right)
        elif operator == "+" and not (isinstance(left, int | float) or isinstance(right, int | float)):
            weigh((left, right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *values: Any, **named: Any) -> Any:
        owner = getattr(obj, "__self__", None)
        if owner is not self:
            given = (*values, *named.values())
            _refuse_numbers(given)
            if isinstance(owner, str | bytes):
                _refuse_method(owner, str(getattr(obj, "__name__", "")), given)
            elif obj in (str, dict, list) or owner is not None:
                weigh(given)
        return super().call(context, obj, *values, **named)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        made = super().wrap_str_format(value)
        if made is None:
            return None
        text = str(value.__self__)

        def formatted(*values: Any, **named: Any) -> str:
            _refuse_format(text, (values, named))
            return made(*values, **named)

        return formatted

    def _shown(self, value: Any) -> Any:
        """What is written into the text, before it becomes text."""
        if not isinstance(value, str):
            weigh(value)
        return value

    def _concat(self, parts: Iterable[str]) -> str:
        taken, length = [], 0
        for part in parts:
            length += len(part)
            if length > LONGEST:
                raise TemplateTooLarge(f"it makes a text of more than {LONGEST:,} characters")
            taken.append(part)
        return "".join(taken)

    def _bounded(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def bounded(*values: Any, **named: Any) -> Any:
            given = (*values, *named.values())
            _refuse_numbers(given)
            values = tuple(_counted(value) if isinstance(value, Iterator) else value for value in values)
            if name not in _UNWEIGHED:
                data = [value for value in given if isinstance(value, str | bytes | list | tuple | dict)]
                weigh(data)
                if name in ("indent", "tojson") and any(isinstance(x, int) and x > _INDENT for x in given):
                    raise TemplateTooLarge(f"it indents by more than {_INDENT}")
                if name == "format" and data:
                    _refuse_format(str(data[0]), data[1:])
                if name in ("replace", "join", "indent") and data:
                    _refuse_many(data)
            return function(*values, **named)

        return bounded


class _Counting(NodeTransformer):
    """A template's tree, with a step counted in each loop and macro, and `~` by a function that looks first."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._stepping(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._stepping(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._stepping(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        made = nodes.Call(nodes.EnvironmentAttribute("joined"), node.nodes, [], None, None, lineno=node.lineno)
        return _of(node, made)

    def _stepping(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        step = nodes.ExprStmt(nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None), lineno=node.lineno)
        node.body.insert(0, _of(node, step))
        return node  # type: ignore[no-any-return]


def _counted(parts: Iterator[Any]) -> Iterator[Any]:
    """What a filter gives bit by bit, until it is too much together."""
    length = 0
    for part in parts:
        length += weigh(part)
        if length > LONGEST:
            raise TemplateTooLarge(f"it makes a text of more than {LONGEST:,} characters")
        yield part


def _of(node: nodes.Node, made: nodes.Node) -> nodes.Node:
    assert node.environment is not None  # the parser sets it on every node
    return made.set_environment(node.environment)


def weigh(value: Any) -> int:
    """How many characters a value would be as text, about; raises TooMuch beyond the bounds."""
    length, parts, waiting = 0, 0, [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str | bytes):
            length += len(one)
        elif isinstance(one, dict):
            parts += len(one)
            waiting += [*one, *one.values()] if parts <= PARTS else []
        elif isinstance(one, list | tuple | set | frozenset):
            parts += len(one)
            waiting += one if parts <= PARTS else []
        else:
            length += 8
        if length > LONGEST:
            raise TemplateTooLarge(f"it makes a text of more than {LONGEST:,} characters")
        if parts > PARTS:
            raise TemplateTooLarge(f"it makes a list of more than {PARTS:,} values")
    return length + parts


def _range(*values: int) -> range:
    made = range(*values)
    if len(made) > NUMBER:
        raise TemplateTooLarge(f"it counts to more than {NUMBER:,}")
    return made


def _refuse_product(left: Any, right: Any) -> None:
    for many, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(many, str | bytes | list | tuple) and times > 0:
            bound = LONGEST if isinstance(many, str | bytes) else PARTS
            if len(many) * times > bound or weigh(many) * times > LONGEST:
                raise TemplateTooLarge(f"it repeats something until it is longer than {bound:,}")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > 4096:
        raise TemplateTooLarge("it makes a number that is too high")


def _refuse_numbers(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > NUMBER:
            raise TemplateTooLarge(f"it gives a number beyond {NUMBER:,}")


def _refuse_format(text: str | bytes, values: Any) -> None:
    told = text if isinstance(text, str) else text.decode("latin-1")
    if _WIDE.search(told) or _NESTED.search(told):
        raise TemplateTooLarge("it formats with a width that no template needs")
    if (told.count("%") + told.count("{")) * weigh(values) > LONGEST:
        raise TemplateTooLarge(f"it makes a text of more than {LONGEST:,} characters")


def _refuse_many(data: list[Any]) -> None:
    """What becomes of values that stand in one another's gaps, at the most."""
    weights = [weigh(one) + 1 for one in data]
    if weights[0] * max(weights[1:], default=1) > LONGEST and max(weights[1:], default=1) > 1024:
        raise TemplateTooLarge(f"it makes a text of more than {LONGEST:,} characters")


def _refuse_method(owner: str | bytes, name: str, values: tuple[Any, ...]) -> None:
    """A method of a text that is about to make much of little."""
    if name == "translate":
        raise TemplateTooLarge("it translates signs, which no template needs")
    if name == "expandtabs" and len(owner) * max((x for x in values if isinstance(x, int)), default=8) > LONGEST:
        raise TemplateTooLarge(f"it makes a text of more than {LONGEST:,} characters")
    if name == "replace" and len(values) >= 2:
        old, new = values[:2]
        if isinstance(old, type(owner)) and isinstance(new, str | bytes):
            times = owner.count(old)  # type: ignore[arg-type]
            if len(owner) + times * len(new) > LONGEST:
                raise TemplateTooLarge(f"it makes a text of more than {LONGEST:,} characters")
    if name == "join" and values:
        many = values[0]
        count = len(many) if isinstance(many, str | list | tuple | dict) else NUMBER
        if weigh(many) + count * len(owner) > LONGEST:
            raise TemplateTooLarge(f"it makes a text of more than {LONGEST:,} characters")
