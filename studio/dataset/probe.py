"""`python -m studio.dataset.probe FOLDER BASE MEMORY_MB`: test the tokenizer and chat template of an imported adapter.

Runs in a separate process with bounded memory and a time limit, since a template may loop forever. The template is
first parsed and refused if it uses anything that no template needs, then rendered in the sandbox that chat and training
use. Prints one line: {"template": its text} or {"error": why it is refused}.
"""

import json
import sys
from pathlib import Path

import jinja2
from jinja2 import nodes

from studio.dataset.tokens.encode import load_tokenizer
from studio.dataset.tokens.template import ChatTemplate, environment, special_tokens, template_source
from studio.dataset.worker import bound_memory
from studio.errors import BadInput
from studio.rundir import read_json

LONGEST_TEMPLATE = 50_000  # characters; the same limit as in a recipe
_TALK = [
    {"role": "user", "content": "Hello?"},
    {"role": "assistant", "content": "Good day."},
    {"role": "user", "content": "And now?"},
    {"role": "assistant", "content": "Now too."},
]


def main(folder: Path, base: Path, memory_mb: int) -> int:
    bound_memory(memory_mb * 2**20)
    try:
        _check_tokenizer(folder, base)
        answer: dict[str, str] = {"template": _template(folder, base)}
    except BadInput as error:
        answer = {"error": str(error)}
    except (MemoryError, RecursionError):
        answer = {"error": "Its tokenizer or chat template takes more memory than one should need. It is refused."}
    print(json.dumps(answer), flush=True)
    return 0


def _check_tokenizer(folder: Path, base: Path) -> None:
    """Check that the tokens are those of the base. Extra tokens at the end are harmless: the base has no weights for
    them."""
    if not (folder / "tokenizer.json").is_file():
        return
    vocabulary = load_tokenizer(folder).get_vocab(with_added_tokens=True)
    for token, number in load_tokenizer(base).get_vocab(with_added_tokens=True).items():
        if vocabulary.get(token) != number:
            raise BadInput(
                f"Its tokenizer is not that of {base.name}: token {number} is not {token[:40]!r} there. Choose the "
                "base that it was trained on."
            )


def _template(folder: Path, base: Path) -> str:
    """The adapter's chat template, after checking and rendering it; empty if it has none."""
    source = template_source(folder)
    if source is None:
        return ""
    for text in _every(folder, source):
        _check_source(text)
    template = ChatTemplate(source, special_tokens(base) | special_tokens(folder), "this adapter")
    template.render(_TALK)
    template.render(_TALK[:1], add_generation_prompt=True)
    return source


def _every(folder: Path, source: str) -> list[str]:
    """All chat templates of a tokenizer: some have several, by name."""
    named = (read_json(folder / "tokenizer_config.json") or {}).get("chat_template")
    more = [item.get("template") for item in named if isinstance(item, dict)] if isinstance(named, list) else [named]
    return [source, *(text for text in more if isinstance(text, str))]


def _check_source(text: str) -> None:
    if len(text) > LONGEST_TEMPLATE:
        raise BadInput(f"Its chat template has {len(text):,} characters; at most {LONGEST_TEMPLATE:,} are allowed.")
    sandbox = environment()
    try:
        tree = sandbox.parse(text)
    except (jinja2.TemplateError, RecursionError) as error:
        raise BadInput(f"Its chat template is broken: {error}. Fix it, or import the adapter without one.") from None
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        raise BadInput(f"Line {node.lineno} of its chat template loads another file. It is refused.")
    for attribute in tree.find_all(nodes.Getattr):
        _refuse_inner(attribute.attr, attribute.lineno)
    for constant in tree.find_all(nodes.Const):
        if isinstance(constant.value, str) and constant.value.startswith("__") and constant.value.endswith("__"):
            _refuse_inner(constant.value, constant.lineno)
    for applied in tree.find_all(nodes.Filter):
        if applied.name == "attr":
            raise BadInput(f"Line {applied.lineno} of its chat template accesses attributes by name. It is refused.")


def _refuse_inner(name: str, line: int) -> None:
    if name.startswith("__"):
        raise BadInput(f"Line {line} of its chat template accesses Python's own {name[:60]}. It is refused.")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
