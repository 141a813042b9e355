"""No room touches what a library keeps to itself, but for the one place in it that is there for that."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.project.test_architecture import STUDIO


@dataclass(frozen=True, slots=True)
class Rule:
    """place: the only folder of the room that may touch private names, with a contract test; inside: modules of
    libraries that they do not promise to keep, and all below them; attributes: the same without an underscore."""

    place: str
    inside: frozenset[str]
    attributes: frozenset[str]


# Room -> its rule.
RULES = {
    "engine": Rule(
        "engine/compat",
        frozenset(
            {
                "torch._C", "torch._dynamo", "torch._inductor", "torch._library", "torch.ops", "torch.utils.weak",
                "torch.autograd.profiler",
                "transformers.trainer", "transformers.trainer_callback", "transformers.modeling_utils",
                "transformers.masking_utils", "transformers.cache_utils", "transformers.pytorch_utils",
                "transformers.generation.utils", "transformers.models", "transformers.utils.import_utils",
                "trl.trainer", "trl.models", "trl.import_utils",
                "peft.tuners", "peft.utils", "peft.import_utils",
                "bitsandbytes.functional", "bitsandbytes.nn", "bitsandbytes.optim", "bitsandbytes.backends",
                "accelerate.utils", "liger_kernel", "llama_cpp.llama_cpp",
            }
        ),
        frozenset(
            {
                "callback_handler", "accelerator", "current_gradient_accumulation_steps", "apply_rotary_pos_emb",
                "kineto_results", "lora_variant", "lora_bias", "lora_embedding_A", "lora_magnitude_vector",
                "quant_state", "support_avx512bf16_for_cpu", "init_8bit_state", "get_state_buffer", "is_paged",
            }
        ),
    ),
}  # fmt: skip
FILES = [
    (path, rule)
    for room, rule in RULES.items()
    for path in sorted((STUDIO / room).rglob("*.py"))
    if not path.is_relative_to(STUDIO / rule.place)
]


def private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


def touched(tree: ast.Module, rule: Rule) -> Iterator[tuple[int, str]]:
    """Line and text of whatever the rule forbids.

    A name with an underscore is our own behind self or cls, behind a class of the same file, and in studio's modules.
    """
    own = {"self", "cls"} | {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    reached = {"getattr", "setattr", "hasattr", "delattr"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            known = isinstance(node.value, ast.Name) and node.value.id in own
            theirs = node.attr in rule.attributes or _inside(ast.unparse(node), rule)
            if theirs or (private(node.attr) and not known):
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in reached:
            name = node.args[1] if len(node.args) > 1 else None
            told = name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else ""
            if private(told) or told in rule.attributes:
                yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, one.name) for one in node.names if _inside(one.name, rule))
        elif isinstance(node, ast.ImportFrom) and node.module:
            for one in node.names:
                full = f"{node.module}.{one.name}"
                if _inside(full, rule) or (private(one.name) and not node.module.startswith("studio.")):
                    yield node.lineno, full


def _inside(name: str, rule: Rule) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:count]) in rule.inside for count in range(1, len(parts) + 1))


@pytest.mark.parametrize(("path", "rule"), FILES, ids=[str(path.relative_to(STUDIO)) for path, _ in FILES])
def test_private_names_are_touched_in_one_place(path: Path, rule: Rule) -> None:
    found = [f"line {line}: {text}" for line, text in touched(ast.parse(path.read_text(encoding="utf-8")), rule)]
    assert not found, f"{path.name} touches what belongs into {rule.place}: {'; '.join(found)}"


@pytest.mark.parametrize("line", [
    "trainer._tr_loss.zero_()",
    "self.trainer._tr_loss.zero_()",
    "import torch\ntorch._softmax_backward_data(grad, chances, -1)",
    "getattr(optimizer, '_step_count')",
    "trainer.callback_handler.callbacks.insert(0, one)",
    "hasattr(module.weight, 'quant_state')",
    "hasattr(torch.nn, '_reorder')",
    "import torch\ntorch.ops.aten.silu_backward(grad, x)",
    "from trl.trainer.utils import FusedCausalLMOutput",
    "from trl import trainer",
    "def late():\n    import transformers.modeling_utils",
    "from torch import _foreach_add_",
    "from liger_kernel.ops import rms_norm",
])  # fmt: skip
def test_each_way_to_touch_one_is_seen(line: str) -> None:
    assert list(touched(ast.parse(line), RULES["engine"]))


@pytest.mark.parametrize("line", [
    "class Own:\n    def one(self):\n        return self._one, Own._two, cls._three",
    "from studio.engine.compat.torch import laid_out\nlaid_out(weight, 1)",
    "import torch\ntorch.nn.Linear.__init__(self)",
    "from transformers import Trainer\nfrom trl import SFTTrainer\nfrom peft import PeftModel",
    "getattr(module, 'weight')",
])  # fmt: skip
def test_what_is_public_or_our_own_is_not(line: str) -> None:
    assert not list(touched(ast.parse(line), RULES["engine"]))
