"""Ollama's Modelfile for a GGUF: file name, prompt template, system prompt and stop tokens.

Ollama formats prompts with a Go template. One is written only for the families below, and only if the model's own chat
template gives exactly the same text as the family's; otherwise Ollama uses the template in the GGUF. A model
trained without a chat template gets its plain-text prompt as a template with a placeholder for the question.
"""

from collections.abc import Callable
from dataclasses import dataclass

from studio.dataset.record import Message
from studio.dataset.tokens.encode import Encoder
from studio.errors import BadInput

_MARK = "\u241f"  # placeholder for a text; occurs in no template


@dataclass(frozen=True, slots=True)
class Family:
    """A chat format: `turn(role, content)` for each message, then `opening`; go: the same as an Ollama template."""

    name: str
    turn: Callable[[str, str], str]
    opening: str
    go: str

    def text(self, messages: list[Message]) -> str:
        return "".join(self.turn(item["role"], item["content"]) for item in messages) + self.opening


FAMILIES = (
    Family(
        "ChatML",
        lambda role, content: f"<|im_start|>{role}\n{content}<|im_end|>\n",
        "<|im_start|>assistant\n",
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
    ),
    Family(
        "Llama 3",
        lambda role, content: f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    Family(
        "Gemma",
        lambda role, content: f"<start_of_turn>{'model' if role == 'assistant' else role}\n{content}<end_of_turn>\n",
        "<start_of_turn>model\n",
        '{{- range .Messages }}<start_of_turn>{{ if eq .Role "assistant" }}model{{ else }}{{ .Role }}{{ end }}\n'
        "{{ .Content }}<end_of_turn>\n{{ end }}<start_of_turn>model\n",
    ),
    Family(
        "Phi 3",
        lambda role, content: f"<|{role}|>\n{content}<|end|>\n",
        "<|assistant|>\n",
        "{{- range .Messages }}<|{{ .Role }}|>\n{{ .Content }}<|end|>\n{{ end }}<|assistant|>\n",
    ),
)
_TALK: list[Message] = [
    {"role": "user", "content": "one"},
    {"role": "assistant", "content": "two"},
    {"role": "user", "content": "three"},
]


def modelfile(file: str, encoder: Encoder, system_prompt: str) -> str:
    """Return the Modelfile for a GGUF named `file` in the same folder."""
    lines = ["# ollama create NAME -f Modelfile", f"FROM ./{file}"]
    template, system = _template(encoder)
    if template:
        lines.append(f'TEMPLATE """{template}"""')
    system = system_prompt or system
    if system and '"""' not in system:
        lines.append(f'SYSTEM """{system}"""')
    for token in _stops(encoder):
        lines.append(f'PARAMETER stop "{token}"')
    return "\n".join(lines) + "\n"


def _stops(encoder: Encoder) -> list[str]:
    tokens = [encoder.tokenizer.id_to_token(id_) for id_ in encoder.eos_ids]
    return [token for token in tokens if token and '"' not in token]


def _template(encoder: Encoder) -> tuple[str, str]:
    """Return Ollama's template and the system prompt that the model's own template adds.

    Both are empty if Ollama has to use the template in the GGUF.
    """
    if not encoder.chat_source:
        text, _ = encoder.prompt_text([{"role": "user", "content": _MARK}])
        before, mark, after = text.partition(_MARK)
        return (f"{before}{{{{ .Prompt }}}}{after}", "") if mark and '"""' not in text else ("", "")
    for family in FAMILIES:
        system = _system_prompt(encoder, family)
        if system is not None:
            return family.go, system
    return "", ""


def _system_prompt(encoder: Encoder, family: Family) -> str | None:
    """Return the system prompt that the model's template adds by itself; None if its format is not the family's."""
    begin = encoder.special.get("bos_token", "")

    def render(messages: list[Message]) -> str:
        text, _ = encoder.prompt_text(messages)
        # llama.cpp adds the first token itself.
        return text.removeprefix(begin) if begin and not family.text(messages).startswith(begin) else text

    try:
        plain = render(_TALK)
        if plain == family.text(_TALK):
            system = ""
        else:
            before, _, after = family.text([{"role": "system", "content": _MARK}, *_TALK]).partition(_MARK)
            if not (plain.startswith(before) and plain.endswith(after) and len(plain) > len(before) + len(after)):
                return None
            system = plain[len(before) : len(plain) - len(after)]
        with_system: list[Message] = [{"role": "system", "content": "zero"}, *_TALK]
        return system if render(with_system) == family.text(with_system) else None
    except BadInput:
        # A template may refuse system messages; the chat without one then decides.
        return "" if render(_TALK) == family.text(_TALK) else None
