"""What the engine's fast path takes, and the sizes it works in. Engine and estimate must agree on both."""

from collections.abc import Iterator, Mapping
from typing import Any

from studio.machine.cpu import Processor
from studio.recipe import Recipe

# Families that tests/integration/test_fast.py holds against the reference.
FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3")
# What some configs do to the scores of the vocabulary, or to attention, that the fast path does not.
_UNKNOWN = (
    "final_logit_softcapping", "attn_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier",
    "logits_scaling", "attention_dropout",
)  # fmt: skip

STEP = 16  # compiled attention is for heads of a multiple of so many numbers: the widest vector's
QUERIES = 64  # of compiled attention at a time: attention.cpp has the same
BLOCK = 128  # queries of attention at a time where it is not compiled
# Probabilities of blocks up to this many keys are kept for the backward pass, those of longer ones computed again: two
# blocks of a row, with what a last one takes in (`blocks`). A long row's would be the most of what is kept.
KEPT_KEYS = 2 * BLOCK + BLOCK // 4
SCORES = 2**24  # scores over the vocabulary at a time
PIECE = 2**17  # numbers that norms and gates go through at a time, to stay in a core's cache
POOL = 2**18  # least random decisions of dropout in a pool
# A batch of at least FILLED tokens is filled to a multiple of EVEN with some that nobody sees: oneDNN is up to a tenth
# slower at some numbers of them (1,922, 1,927; benchmarks/RESULTS.md), and at no such multiple that was tried.
EVEN, FILLED = 8, 512
ROOM = 16  # weights are laid out for products where that takes at most this part of the memory
LAID_OUT = 4  # bytes of that for each of their numbers
LEAST_SHARED = 8  # tokens that two rows must begin with alike for them to be computed once


def why_not(recipe: Recipe, config: Mapping[str, Any], cuda: bool) -> str:
    """Why a run trains on the reference path, as a sentence; empty when it takes the fast one.

    config: the model's config.json, the entries of its text part on top.
    """
    method, held = recipe.method, recipe.quantization
    if recipe.schedule.engine == "trl":
        return "The recipe asks for it (engine trl)."
    if cuda and recipe.schedule.engine != "fast":
        return "On a GPU the fast path has not been measured yet: engine fast takes it all the same."
    if cuda and recipe.model.dtype == "float32":
        return "On a GPU the fast path's attention is for 16 bits, and this recipe has dtype float32."
    if method.method != "lora":
        return f"Method {method.method} trains on the reference path."
    for name, odd in (("use_dora", method.use_dora), ("bias", method.bias != "none"),
                      ("neftune_noise_alpha", recipe.schedule.neftune_noise_alpha > 0)):  # fmt: skip
        if odd:
            return f"{name} trains on the reference path."
    if held.quantization == "int8":
        return "Quantization int8 trains on the reference path."
    if held.four_bit and held.bnb_4bit_compute_dtype not in ("same", recipe.model.dtype):
        return "A bnb_4bit_compute_dtype other than dtype trains on the reference path."
    family = config.get("model_type", "unknown")
    if family not in FAMILIES:
        return f"Models of the family {family} train on the reference path."
    unknown = next((name for name in _UNKNOWN if config.get(name)), "")
    return f"Models with {unknown} train on the reference path." if unknown else ""


def products(dtype: str, cuda: bool, bf16: bool) -> str:
    """The type in which the fast path multiplies what a recipe holds in `dtype`; bf16: whether the processor multiplies
    that in hardware. Where it does not, a base of 16 bits is widened layer by layer as it is used."""
    return dtype if cuda or bf16 else "float32"


def laid_out(recipe: Recipe, elements: int, cuda: bool, processor: Processor) -> int:
    """Bytes in which the fast path holds frozen weights of so many elements in the order that products read them in,
    beside the model's own (engine/fast/ops/prepacked.py): float32 for what goes through them, bfloat16 for gradients
    too, which gain nothing by it in float32. 0 where it does without."""
    dtype = recipe.model.dtype
    alike = recipe.quantization.quantization == "none" and products(dtype, cuda, processor.bf16) == dtype
    size = LAID_OUT * elements
    there = alike and not cuda and dtype in processor.lays_out and size <= processor.memory // ROOM
    return size if there else 0


def blocks(length: int) -> Iterator[tuple[int, int]]:
    """First query and end of each block of a row. A last block of a few queries costs as much as a whole one: they go
    to the one before."""
    firsts = range(0, max(1, length - BLOCK // 4), BLOCK)
    for first in firsts:
        yield first, length if first == firsts[-1] else first + BLOCK


def attention_parts(rows: int, heads: int, kv_heads: int, threads: int) -> int:
    """Into how many parts compiled attention divides the query heads of a key head: a row's are one thread's, unless
    that leaves threads without any."""
    return 1 if rows * kv_heads >= 4 * threads else heads // kv_heads


def attention_bytes(longest: int, head_dim: int, width: int) -> int:
    """Bytes that a thread of compiled attention works in, but for the rounding to cache lines: what `space` adds up to
    in attention.cpp. width: bytes of a number."""
    keys, held = -(-longest // 4) * 4, head_dim * width
    narrow = 3 * width if width < 4 else 0  # chances and slopes, which in float32 stand where the scores do
    beside = keys * (QUERIES * (narrow + 2 * 4) + 2 * 4 * head_dim)  # those, scores, and the gradients of the keys
    return 3 * keys * held + QUERIES * (4 * held + 4 * head_dim) + beside
