"""Chat templates that would take all the time or all the memory: each is refused in a sentence, in the studio itself.

What a template can say to be large is endless; these are the ways there are: loops, repetition, widths, joining,
replacing, doubling by every construct, numbers, nesting.
"""

import json
import tracemalloc
from pathlib import Path

import pytest

from studio.dataset.tokens import sandbox
from studio.dataset.tokens.template import ChatTemplate
from studio.errors import BadInput
from tests.security.watch import watched

TALK = [{"role": "user", "content": "x" * 1000}, {"role": "assistant", "content": "Yes."}]
DOUBLE = "{% set n = namespace(x='ab') %}{% for i in range(60) %}STEP{% endfor %}{{ n.x }}"


def shown(last: str) -> str:
    return DOUBLE.replace("STEP", "{% set n.x = [n.x, n.x] %}").replace("{{ n.x }}", last)


GREEDY = {
    "loops in loops": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "a loop of many": "{% for a in range(10**8) %}{% endfor %}",
    "a loop that calls itself": "{% for a in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "a macro that calls itself": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}"
    "{{ f(60) }}",
    "a macro without an end": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "a call block that calls itself": "{% macro g() %}{% call g() %}{% endcall %}{% endmacro %}{{ g() }}",
    "a text repeated": "{{ 'a' * 10**10 }}",
    "a text repeated from the left": "{{ 10**10 * 'a' }}",
    "a text repeated twice": "{{ ('a' * 30000) * 30000 }}",
    "a list repeated": "{{ [0] * 10**9 }}",
    "a list of lists repeated": "{{ ([['a' * 30000]] * 30000) }}",
    "a number to a power": "{{ 9 ** (9 ** 9) }}",
    "powers of powers": "{% set n = namespace(x=9) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}"
    "{{ n.x }}",
    "a width in a format": "{{ '%999999999d' % 1 }}",
    "a width from a value": "{{ '%*d' % (999999999, 1) }}",
    "a precision": "{{ '%.999999999f' % 1.5 }}",
    "a format that repeats": "{{ ('%s' * 9000) % (((messages[0].content * 9),) * 9000) }}",
    "a width in str.format": "{{ '{:>999999999}'.format(1) }}",
    "a width in str.format from a value": "{{ '{:>{w}}'.format(1, w='999999999') }}",
    "a width in str.format_map": "{{ '{x:>999999999}'.format_map({'x': 1}) }}",
    "str.format that repeats": "{{ ('{0}' * 9000).format(messages[0].content * 9) }}",
    "the filter format": "{{ '%999999999d' | format(1) }}",
    "the filter center": "{{ 'a' | center(999999999) }}",
    "the filter center by map": "{{ range(9999) | map('string') | map('center', 9999) | join }}",
    "the method center": "{{ 'a'.center(999999999) }}",
    "the method ljust": "{{ 'a'.ljust(999999999) }}",
    "the method zfill": "{{ 'a'.zfill(999999999) }}",
    "the method expandtabs": "{{ ('\\t' * 30000).expandtabs(9999) }}",
    "the method replace": "{{ ('a' * 30000).replace('a', 'b' * 30000) }}",
    "the method replace of nothing": "{{ ('a' * 30000).replace('', 'b' * 30000) }}",
    "the filter replace": "{{ ('a' * 30000) | replace('a', 'b' * 30000) }}",
    "the method join": "{{ ('b' * 30000).join('a' * 30000) }}",
    "the filter join": "{{ ('a' * 30000) | join('b' * 30000) }}",
    "the method translate": "{{ ('a' * 30000).translate({97: 'b' * 30000}) }}",
    "the filter indent": "{{ ('a\\n' * 30000) | indent(9999) }}",
    "the filter indent by a text": "{{ ('a\\n' * 30000) | indent('b' * 30000) }}",
    "the filter tojson": "{{ ([[[[[1]]]]] * 1000) | tojson(indent=9999) }}",
    "the filter batch": "{{ [1] | batch(999999999, 'x') | list }}",
    "the filter slice": "{{ [1] | slice(999999999) | list }}",
    "the filter wordwrap": "{{ messages[0].content | wordwrap(1, true, 'b' * 30000) }}",
    "to bytes": "{{ (1).to_bytes(999999999, 'big') }}",
    "lipsum": "{{ lipsum(n=99999999) }}",
    "doubling by plus": DOUBLE.replace("STEP", "{% set n.x = n.x + n.x %}"),
    "doubling by tilde": DOUBLE.replace("STEP", "{% set n.x = n.x ~ n.x %}"),
    "doubling by a block": DOUBLE.replace("STEP", "{% set n.x %}{{ n.x }}{{ n.x }}{% endset %}"),
    "doubling by a macro": "{% macro f(x) %}{{ x }}{{ x }}{% endmacro %}"
    + DOUBLE.replace("STEP", "{% set n.x = f(n.x) %}"),
    "doubling by join": DOUBLE.replace("STEP", "{% set n.x = [n.x, n.x] | join %}"),
    "doubling by the method join": DOUBLE.replace("STEP", "{% set n.x = ''.join([n.x, n.x]) %}"),
    "doubling by format": DOUBLE.replace("STEP", "{% set n.x = '%s%s' % (n.x, n.x) %}"),
    "doubling by str.format": DOUBLE.replace("STEP", "{% set n.x = '{0}{0}'.format(n.x) %}"),
    "doubling by replace": DOUBLE.replace("STEP", "{% set n.x = 'a'.replace('a', n.x ~ n.x) %}"),
    "doubling a list": DOUBLE.replace("STEP", "{% set n.x = [n.x, n.x] %}"),
    "doubling a dictionary": DOUBLE.replace("STEP", "{% set n.x = {'a': n.x, 'b': n.x} %}"),
    "doubling a tuple": DOUBLE.replace("STEP", "{% set n.x = (n.x, n.x) %}"),
    "doubling a list for JSON": shown("{{ n.x | tojson }}"),
    "doubling a list for a text": shown("{{ n.x | string | length }}"),
    "doubling a list for a format": shown("{{ '%s' % n.x }}"),
    "doubling a list for str": shown("{{ 'a' ~ n.x }}"),
    "doubling a list by sum": DOUBLE.replace("'ab'", "[1]").replace(
        "STEP", "{% set n.x = [n.x, n.x] | sum(start=[]) %}"
    ),
    "doubling a list to flatten": shown("{{ n.x | map('list') | list }}"),
    "a long text, again and again": "{% for a in range(9999) %}{{ messages[0].content * 100 }}{% endfor %}",
    "brackets without end": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "ifs without end": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
}  # fmt: skip


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, bound in (("STEPS", 4_000), ("LONGEST", 2**20), ("PARTS", 50_000)):
        monkeypatch.setattr(sandbox, name, bound)


@pytest.mark.parametrize("marked", [False, True], ids=["render", "marked"])
@pytest.mark.parametrize("what", GREEDY)
def test_a_greedy_template_is_refused(what: str, marked: bool) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match="The chat template of a stranger") as refused:
            template = ChatTemplate(GREEDY[what], {}, "a stranger")
            template.render_marked(TALK) if marked else template.render(TALK)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 64 * 2**20
    assert len(str(refused.value)) < 1000 and "\n" not in str(refused.value)


REACHING = (
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch TRACE').read() }}",
    "{{ self._TemplateReference__context.namespace.__init__.__globals__['os'].system('touch TRACE') }}",
    "{{ (messages|attr('__class__')).__base__ }}", "{{ joiner.__init__.__globals__ }}", "{{ range.__self__ }}",
    "{{ ''['__cla' ~ 'ss__'].mro() }}", "{{ messages.__getattribute__('__class__') }}", "{{ tojson.__globals__ }}",
    "{{ raise_exception.__globals__['json'].codecs.builtins.exec('open(\"TRACE\",\"w\")') }}",
    "{{ strftime_now.__globals__.__builtins__.open('TRACE', 'w') }}", "{% include 'TRACE' %}",
    "{% import 'TRACE' as x %}",
    "{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}", "{{ messages.append(1) }}",
    "{{ messages.__setitem__(0, 1) }}", "{{ messages|map(attribute='__class__')|list }}", "{{ namespace.__init__ }}",
    "{% for k in ().__class__.__base__.__subclasses__() %}{{ k }}{% endfor %}", "{{ loop.__class__ }}", "{{ g.pop() }}",
    "{{ messages|map('attr', '__class__')|map('attr', '__mro__')|list }}", "{{ caller.__globals__ }}",
    "{% set x = messages.__class__ %}{{ x.__name__ }}", "{{ messages|groupby('__class__') }}", "{{ self.environment }}",
)  # fmt: skip


@pytest.mark.parametrize("source", REACHING)
def test_a_template_that_reaches_for_python_gets_nothing(tmp_path: Path, source: str) -> None:
    trace = tmp_path / "trace"
    with watched() as seen:
        try:
            said = ChatTemplate(source.replace("TRACE", str(trace)), {}, "a stranger").render(TALK)
        except BadInput as refused:
            said = str(refused)
    assert not trace.exists() and not seen.started and not seen.asked
    for word in ("<class", "<function", "module", "environ(", "built-in", "Template object"):
        assert word not in said, said[:300]
    assert TALK[0]["content"] == "x" * 1000 and len(TALK) == 2


def test_what_templates_do_is_still_done() -> None:
    source = (
        "{% set ns = namespace(seen=0) %}{% for m in messages %}{% set ns.seen = ns.seen + 1 %}"
        "{{ '<|' ~ m.role ~ '|>' + m['content'] | trim | replace('a', 'b') }}{% if not loop.last %};{% endif %}"
        "{% endfor %}{{ ns.seen }}{{ '-' * 3 }}{{ '%02d|%s' % (7, 'x') }}{{ '{}:{:>4}'.format('k', 2) }}"
        "{{ messages | map(attribute='role') | join(', ') }}{{ {'a': [1, 'é']} | tojson(indent=2) }}"
        "{% macro say(x) %}[{{ x }}]{% endmacro %}{{ say('hi') }}{{ range(3) | list }}"
        "{{ messages[0].content[:2].upper() }}"
        "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ 'a,b'.split(',')[1] }}{{ 2 ** 10 }}"
    )
    talk = [{"role": "user", "content": " data "}, {"role": "assistant", "content": "ok"}]
    text = ChatTemplate(source, {}, "a friend").render(talk)
    assert text == (
        "<|user|>dbtb;<|assistant|>ok2---07|xk:   2user, assistant"
        + json.dumps({"a": [1, "é"]}, indent=2, ensure_ascii=False)
        + "[hi][0, 1, 2] D1b1024"
    )


def test_a_long_conversation_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    source = "{% for m in messages %}{{ m.role }}{{ m.content }}{{ messages | length }}{% endfor %}"
    talk = [{"role": "user", "content": "word " * 100}] * 5000
    assert len(ChatTemplate(source, {}, "a friend").render(talk)) == 5000 * (4 + 500 + 4)
