"""Sandbox for chat templates with limits on steps, time and text length.

Jinja's own sandbox denies a template access to Python; it does not stop it from looping for days or multiplying a text
until memory runs out. Templates come from model folders and from recipes, and the studio renders them to show an
example. So everything that can grow is counted: steps of loops, calls of macros, results of operators, filters and
methods. One rendering has one budget; a template that exceeds it is refused like any other that cannot render.

Jinja has no hook for a template's tree or for joining its output, so `_parse` and `concat` are overridden. RELIES_ON
lists the Jinja internals in use and what would break without each; tests/unit/project/test_contracts.py checks them
against the installed Jinja.
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
STEPS = 1_000_000  # loop steps and macro calls per rendering
SECONDS = 20.0  # per rendering
LONGEST = 32 * 2**20  # maximum characters of any text
PARTS = 1_000_000  # maximum values in a list or dictionary, including nested ones
NUMBER = 10_000  # highest number passed to a filter, a method or range
_EVERY = 1024  # steps between two checks of the time
_INDENT = 100
_UNWEIGHED = frozenset({"length", "count", "first", "last", "default", "d"})  # cheap filters, whatever the size
_NEEDLESS = (
    "urlize",
    "xmlattr",
    "pprint",
    "wordwrap",
    "random",
)  # not useful in a chat template; the size of their output is hard to predict
_WIDE = re.compile(r"\d{5,}|\*")  # in a format string: a width that produces a very long text
_NESTED = re.compile(r"\{[^{}]*\{")


class TemplateTooLarge(jinja2.TemplateError):
    """A template exceeded a limit."""


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja environment whose templates always terminate. `begin` starts the budget of a rendering."""

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
        self.concat = self._concat  # type: ignore[method-assign]  # compiled templates join their output with it

    def begin(self) -> None:
        """Start a rendering: reset its steps and its time limit."""
        self._steps, self._until = 0, time.monotonic() + SECONDS

    def wrap(self, name: str) -> None:
        """Apply the limits to a filter that was added after the environment was created."""
        self.filters[name] = self._bounded(name, self.filters[name])

    def tick(self) -> str:
        """Count one step of a loop or one call of a macro."""
        self._steps += 1
        if self._steps > STEPS:
            raise TemplateTooLarge(f"it takes more than {STEPS:,} steps")
        if self._steps % _EVERY == 0 and time.monotonic() > self._until:
            raise TemplateTooLarge(f"it takes longer than {SECONDS:g} seconds")
        return ""

    def joined(self, *parts: Any) -> str:
        """Result of the `~` operator."""
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
                raise TemplateTooLarge("it computes a number that is too large")
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
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text = str(value.__self__)

        def formatted(*values: Any, **named: Any) -> str:
            _refuse_format(text, (values, named))
            return wrapped(*values, **named)

        return formatted

    def _shown(self, value: Any) -> Any:
        """Check a value before it is converted to text and written to the output."""
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
    """Transform a template's tree: count a step in each loop and macro, and replace `~` by a checked function."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._stepping(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._stepping(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._stepping(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        call = nodes.Call(nodes.EnvironmentAttribute("joined"), node.nodes, [], None, None, lineno=node.lineno)
        return _of(node, call)

    def _stepping(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        step = nodes.ExprStmt(nodes.Call(nodes.EnvironmentAttribute("tick"), [], [], None, None), lineno=node.lineno)
        node.body.insert(0, _of(node, step))
        return node  # type: ignore[no-any-return]


def _counted(parts: Iterator[Any]) -> Iterator[Any]:
    """Pass on the parts that a filter yields, until their total exceeds the limit."""
    length = 0
    for part in parts:
        length += weigh(part)
        if length > LONGEST:
            raise TemplateTooLarge(f"it makes a text of more than {LONGEST:,} characters")
        yield part


def _of(node: nodes.Node, new: nodes.Node) -> nodes.Node:
    assert node.environment is not None  # the parser sets it on every node
    return new.set_environment(node.environment)


def weigh(value: Any) -> int:
    """Approximate length of a value as text, in characters; raises TemplateTooLarge beyond the limits."""
    length, parts, waiting = 0, 0, [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str | bytes):
            length += len(item)
        elif isinstance(item, dict):
            parts += len(item)
            waiting += [*item, *item.values()] if parts <= PARTS else []
        elif isinstance(item, list | tuple | set | frozenset):
            parts += len(item)
            waiting += item if parts <= PARTS else []
        else:
            length += 8
        if length > LONGEST:
            raise TemplateTooLarge(f"it makes a text of more than {LONGEST:,} characters")
        if parts > PARTS:
            raise TemplateTooLarge(f"it makes a list of more than {PARTS:,} values")
    return length + parts


def _range(*values: int) -> range:
    numbers = range(*values)
    if len(numbers) > NUMBER:
        raise TemplateTooLarge(f"it counts to more than {NUMBER:,}")
    return numbers


def _refuse_product(left: Any, right: Any) -> None:
    for many, times in ((left, right), (right, left)):
        if isinstance(times, int) and isinstance(many, str | bytes | list | tuple) and times > 0:
            bound = LONGEST if isinstance(many, str | bytes) else PARTS
            if len(many) * times > bound or weigh(many) * times > LONGEST:
                raise TemplateTooLarge(f"it repeats something until it is longer than {bound:,}")
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > 4096:
        raise TemplateTooLarge("it computes a number that is too large")


def _refuse_numbers(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, int) and abs(value) > NUMBER:
            raise TemplateTooLarge(f"it uses a number above {NUMBER:,}")


def _refuse_format(text: str | bytes, values: Any) -> None:
    form = text if isinstance(text, str) else text.decode("latin-1")
    if _WIDE.search(form) or _NESTED.search(form):
        raise TemplateTooLarge("it formats with a width that no template needs")
    if (form.count("%") + form.count("{")) * weigh(values) > LONGEST:
        raise TemplateTooLarge(f"it makes a text of more than {LONGEST:,} characters")


def _refuse_many(data: list[Any]) -> None:
    """Refuse filters that insert one value into another, by the maximum size of the result."""
    weights = [weigh(value) + 1 for value in data]
    if weights[0] * max(weights[1:], default=1) > LONGEST and max(weights[1:], default=1) > 1024:
        raise TemplateTooLarge(f"it makes a text of more than {LONGEST:,} characters")


def _refuse_method(owner: str | bytes, name: str, values: tuple[Any, ...]) -> None:
    """Refuse a method call on a text whose result would be too long."""
    if name == "translate":
        raise TemplateTooLarge("it calls translate, which no template needs")
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
