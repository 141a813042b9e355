"""Which runs the engine's fast path supports, and its block sizes. Engine and estimate must agree on both."""

from collections.abc import Iterator, Mapping
from typing import Any

from studio.machine.cpu import Processor
from studio.recipe import Recipe

# Model families that tests/integration/test_fast.py compares with the reference path.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3")
# Config keys that change the logits or attention in ways the fast path does not implement.
_UNKNOWN = (
    "final_logit_softcapping", "attn_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier",
    "logits_scaling", "attention_dropout",
)  # fmt: skip

STEP = 16  # compiled attention needs a head size that is a multiple of this: the widest vector register
QUERIES = 64  # queries per block of compiled attention; attention.cpp has the same constant
BLOCK = 128  # queries per block of attention where it is not compiled
# Attention probabilities of blocks with up to this many keys are kept for the backward pass and recomputed for longer
# ones: two blocks of a row, plus what a last block absorbs (`blocks`). Those of a long row would dominate memory.
KEPT_KEYS = 2 * BLOCK + BLOCK // 4
SCORES = 2**24  # logits computed at a time
PIECE = 2**17  # elements that norms and gates process at a time, to stay in a core's cache
POOL = 2**18  # minimum number of random dropout decisions in a pool
# A batch of at least FILLED tokens is padded to a multiple of EVEN, and the padding is masked: oneDNN is up to a tenth
# slower at some token counts (1,922, 1,927; benchmarks/RESULTS.md), and at no multiple of 8 that was tried.
EVEN, FILLED = 8, 512
ROOM = 16  # weights are prepacked for matrix products where that takes at most 1/ROOM of the memory
LAID_OUT = 4  # bytes per prepacked element
LEAST_SHARED = 8  # minimum length of a common prefix of two rows for it to be computed once


def why_not(recipe: Recipe, config: Mapping[str, Any], cuda: bool) -> str:
    """Reason why a run trains on the reference path, as a sentence; empty when it uses the fast path.

    config: the model's config.json, with the entries of its text part merged at the top level.
    """
    method, quantization = recipe.method, recipe.quantization
    if recipe.schedule.engine == "trl":
        return "The recipe sets engine trl."
    if cuda and recipe.schedule.engine != "fast":
        return "On a GPU the fast path has not been measured yet: set engine to fast to use it anyway."
    if cuda and recipe.model.dtype == "float32":
        return "On a GPU the fast path's attention needs 16 bits, and this recipe has dtype float32."
    if method.method != "lora":
        return f"Method {method.method} trains on the reference path."
    for name, odd in (("use_dora", method.use_dora), ("bias", method.bias != "none"),
                      ("neftune_noise_alpha", recipe.schedule.neftune_noise_alpha > 0)):  # fmt: skip
        if odd:
            return f"{name} trains on the reference path."
    if quantization.quantization == "int8":
        return "Quantization int8 trains on the reference path."
    if quantization.four_bit and quantization.bnb_4bit_compute_dtype not in ("same", recipe.model.dtype):
        return "A bnb_4bit_compute_dtype other than dtype trains on the reference path."
    family = config.get("model_type", "unknown")
    if family not in FAMILIES:
        return f"Models of the {family} family train on the reference path."
    unknown = next((name for name in _UNKNOWN if config.get(name)), "")
    return f"Models with {unknown} train on the reference path." if unknown else ""


def products(dtype: str, cuda: bool, bf16: bool) -> str:
    """Type in which the fast path multiplies weights stored in `dtype`.

    bf16: whether the processor multiplies bfloat16 in hardware. If not, a 16-bit base is widened to float32 layer by
    layer as it is used.
    """
    return dtype if cuda or bf16 else "float32"


def laid_out(recipe: Recipe, elements: int, cuda: bool, processor: Processor) -> int:
    """Bytes of the fast path's prepacked copies of `elements` frozen weights (engine/fast/ops/prepacked.py).

    They are in the order in which matrix products read them and come on top of the model's own weights. In float32
    only the forward products are prepacked; in bfloat16 those of the gradients too, which gain nothing by it in
    float32. 0 where nothing is prepacked.
    """
    dtype = recipe.model.dtype
    unconverted = recipe.quantization.quantization == "none" and products(dtype, cuda, processor.bf16) == dtype
    size = LAID_OUT * elements
    prepacked = unconverted and not cuda and dtype in processor.lays_out and size <= processor.memory // ROOM
    return size if prepacked else 0


def blocks(length: int) -> Iterator[tuple[int, int]]:
    """Yield the first query and the end of each block of a row.

    A last block of only a few queries would cost as much as a full one, so it is merged into the block before it.
    """
    firsts = range(0, max(1, length - BLOCK // 4), BLOCK)
    for first in firsts:
        yield first, length if first == firsts[-1] else first + BLOCK


def attention_parts(rows: int, heads: int, kv_heads: int, threads: int) -> int:
    """Number of parts into which compiled attention splits the query heads of one key head.

    One thread computes them all for a row, unless that would leave threads idle.
    """
    return 1 if rows * kv_heads >= 4 * threads else heads // kv_heads


def attention_bytes(longest: int, head_dim: int, width: int) -> int:
    """Workspace in bytes of one thread of compiled attention, without the rounding to cache lines.

    Matches `space` in attention.cpp. width: bytes per element.
    """
    keys, head_bytes = -(-longest // 4) * 4, head_dim * width
    narrow = 3 * width if width < 4 else 0  # probabilities and their gradients; in float32 they overwrite the scores
    scratch = keys * (QUERIES * (narrow + 2 * 4) + 2 * 4 * head_dim)  # those, the scores, and the gradients of the keys
    return 3 * keys * head_bytes + QUERIES * (4 * head_bytes + 4 * head_dim) + scratch
