"""`python -m studio.dataset.probe FOLDER BASE MEMORY_MB`: tries a stranger's tokenizer and chat template.

In a process of its own, with bounded memory and ended at a time limit: a template may ask for a loop without end. It is
read first and refused for what no template needs, then rendered in the sandbox that chat and training use. Prints one
line: {"template": its text} or {"error": why it is refused}.
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

LONGEST_TEMPLATE = 50_000  # characters; what a recipe may hold
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
        told: dict[str, str] = {"template": _template(folder, base)}
    except BadInput as error:
        told = {"error": str(error)}
    except (MemoryError, RecursionError):
        told = {"error": "Its tokenizer or chat template takes more memory than any of them needs. It is refused."}
    print(json.dumps(told), flush=True)
    return 0


def _check_tokenizer(folder: Path, base: Path) -> None:
    """The tokens must be the base's; more of them at the end change nothing, for the base has no weights for them."""
    if not (folder / "tokenizer.json").is_file():
        return
    theirs = load_tokenizer(folder).get_vocab(with_added_tokens=True)
    for token, number in load_tokenizer(base).get_vocab(with_added_tokens=True).items():
        if theirs.get(token) != number:
            raise BadInput(
                f"Its tokenizer is not that of {base.name}: token {number} is not {token[:40]!r} there. Choose the "
                "base that it was trained on."
            )


def _template(folder: Path, base: Path) -> str:
    """The chat template that it brings, tried; empty where it brings none."""
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
    """All templates of a tokenizer: some name several."""
    named = (read_json(folder / "tokenizer_config.json") or {}).get("chat_template")
    more = [item.get("template") for item in named if isinstance(item, dict)] if isinstance(named, list) else [named]
    return [source, *(text for text in more if isinstance(text, str))]


def _check_source(text: str) -> None:
    if len(text) > LONGEST_TEMPLATE:
        raise BadInput(f"Its chat template has {len(text):,} characters; at most {LONGEST_TEMPLATE:,} are taken.")
    sandbox = environment()
    try:
        tree = sandbox.parse(text)
    except (jinja2.TemplateError, RecursionError) as error:
        raise BadInput(f"Its chat template is broken: {error}. Bring it without one, or mend it.") from None
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        raise BadInput(f"Line {node.lineno} of its chat template loads another file. It is refused.")
    for attribute in tree.find_all(nodes.Getattr):
        _refuse_inner(attribute.attr, attribute.lineno)
    for constant in tree.find_all(nodes.Const):
        if isinstance(constant.value, str) and constant.value.startswith("__") and constant.value.endswith("__"):
            _refuse_inner(constant.value, constant.lineno)
    for found in tree.find_all(nodes.Filter):
        if found.name == "attr":
            raise BadInput(f"Line {found.lineno} of its chat template reaches for attributes by name. It is refused.")


def _refuse_inner(name: str, line: int) -> None:
    if name.startswith("__"):
        raise BadInput(f"Line {line} of its chat template reaches for Python's own {name[:60]}. It is refused.")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
