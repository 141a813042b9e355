"""Memory estimate: peak bytes on the training device, itemised, from shapes and a recipe alone.

The peak is the maximum over a few stages: the start of the backward pass (head, last block), its end (all gradients),
the optimizer step, an evaluation. The weights and states below exist in each; temporary memory is counted operation by
operation (peaks.py, layers.py, autograd_tape.py).

weights        stored bytes; with nf4 and fp4 4 bits per parameter of every decoder linear layer plus the scales: one
               fp32 per 64 parameters, or with double quantization 8 bits per 64 and one fp32 per 256 of those (Dettmers
               et al. 2023, section 3); 8 bits plus one fp32 per row for int8. PEFT's prepare_model_for_kbit_training
               casts the tensors that bitsandbytes does not quantize (embeddings, norms, head) to fp32. Fully trained
               weights are fp32. On the fast path, prepacked weights (engine/fast/ops/prepacked.py) come on top.
adapter        LoRA: r * (in + out) for every adapted layer (Hu et al. 2021, section 4.1), with DoRA one more for each
               output; fp32 over a plain base (PEFT's autocast_adapter_dtype), A and B bf16 over a quantised one (TRL
               follows the QLoRA paper there). IA3, prompt and prefix: fp32.
optimizer      AdamW: two moments in the weight's type; the 8-bit kinds: two bytes per parameter and two fp32 per 256.
gradients      gradients alive at the peak. An adapter's gradients appear as activations are freed, so without
               accumulation there are none of them at the peak.
activations    tensors saved by autograd in every block, and those of the block being computed.
logits         TRL's fused head processes up to 4096 trained positions times 32768 words at once; without Triton it has
               seven additional fp32 copies of that tile in the backward pass.
runtime        the libraries' own: the CUDA context, or the Python process on a CPU. Not part of peak allocated bytes.
"""

import functools
from dataclasses import dataclass, replace

from studio.machine.cpu import USUAL, Processor
from studio.memory.fast import FastPasses
from studio.memory.parameters import Trainable, trainable
from studio.memory.peaks import Passes, Stage
from studio.memory.setup import Setup, setup_of
from studio.memory.shapes import Linear, ModelShape
from studio.recipe import Recipe
from studio.recipe.fast_path import SCORES, laid_out

GIB = 2**30
# The CUDA context with cuBLAS workspaces, and a Python process with torch, transformers and TRL in it.
# CPU: resident memory of the worker before the model is loaded, measured 2026-11 (torch 2.13): 0.6 GiB.
_RUNTIME = {"cuda": int(0.5 * GIB), "cpu": int(0.6 * GIB)}
# A quantised layer's tables: 16 levels; with double quantization 256 more and the mean (bitsandbytes QuantState).
_TABLE, _NESTED_TABLE = 64, 1028
# The check for non-finite gradients (engine.callbacks.Guard) needs |g| of the largest one in fp32 and three masks.
_CHECK = 7
_FIXED = ("weights", "adapter", "optimizer")


@dataclass(frozen=True, slots=True)
class Item:
    """One part of the estimate."""

    key: str
    label: str
    bytes: int
    note: str


@dataclass(frozen=True, slots=True)
class Footprint:
    """The whole estimate: items in bytes, exact parameter counts, the stage of the peak.

    pageable: bytes that a paged optimizer moves to RAM when they do not fit.
    """

    items: list[Item]
    trainable: int
    parameters: int
    moment: str = ""
    pageable: int = 0

    @property
    def total(self) -> int:
        return sum(item.bytes for item in self.items)

    @property
    def allocated(self) -> int:
        """Peak allocated bytes, the figure compared with measurements.

        The total without the libraries' own memory and without paged states, which torch does not allocate.
        """
        return sum(item.bytes for item in self.items if item.key != "runtime") - self.pageable

    @property
    def fixed(self) -> int:
        """The exact part of the allocated bytes: memory in use throughout the run."""
        return sum(item.bytes for item in self.items if item.key in _FIXED) - self.pageable

    def corrected(self, factor: float) -> "Footprint":
        """Copy with the temporary memory multiplied by `factor`, as measured on similar runs."""
        if factor == 1:
            return self
        items = [
            item if item.key in (*_FIXED, "runtime") else replace(item, bytes=round(item.bytes * factor))
            for item in self.items
        ]
        return replace(self, items=items)


def adapted(shape: ModelShape, recipe: Recipe) -> list[Linear]:
    """The linear layers the recipe adapts."""
    targets = recipe.method.target_modules
    if targets == "all-linear":
        return shape.linears
    return [linear for linear in shape.linears if linear.module in targets]


def trainable_parameters(shape: ModelShape, recipe: Recipe) -> int:
    """Number of trained parameters, exactly as PEFT counts them."""
    return trainable(shape, recipe).count


def footprint(
    shape: ModelShape,
    recipe: Recipe,
    device: str,
    length: int | None = None,
    trained_share: float = 1.0,
    processor: Processor = USUAL,
) -> Footprint:
    """Itemised peak memory of training `shape` with `recipe` on `device` ("cuda" or "cpu").

    length: tokens of the longest example, if known and shorter than max_length. trained_share: share of the tokens that
    count in the loss. processor: the CPU, when training on it.
    """
    cuda = device == "cuda"
    longest = min(length or recipe.data.max_length, recipe.data.max_length)
    row = recipe.data.max_length if recipe.schedule.packing else longest
    setup = setup_of(shape, recipe, cuda, row, trained_share, processor)
    if recipe.schedule.packing:
        setup = replace(setup, example=longest)
    trained = trainable(shape, recipe)
    weights = _weights(shape, setup)
    if setup.fast:
        linear, _, _ = shape.elements
        weights = _laid_out(weights, laid_out(recipe, linear + shape.vocabulary * shape.hidden, cuda, processor))
    optimizer = _optimizer(recipe, trained, cuda)
    stage = _highest(shape, recipe, setup, trained, (longest, trained_share, processor))
    adapter = 0 if setup.full else trained.bytes
    items = [
        weights,
        Item("adapter", "Adapter", adapter, f"{trained.count:,} parameters"),
        Item("gradients", "Gradients", round(stage.gradients), _about_gradients(stage, setup)),
        optimizer,
        Item("activations", "Activations", round(stage.activations), _about_activations(setup, recipe, shape, stage)),
        Item("logits", "Logits and loss", round(stage.head), _about_head(setup, shape)),
        Item("workspace", "Workspace", round(stage.workspace), "temporary memory of single operations"),
    ]
    what = "CUDA context and libraries" if cuda else "Python, PyTorch and libraries"
    items.append(Item("runtime", "Runtime", _RUNTIME["cuda" if cuda else "cpu"], what))
    pageable = optimizer.bytes if cuda and recipe.optimizer.optim.startswith("paged") else 0
    return Footprint(items, trained.count, shape.parameters, stage.name, pageable)


def nf4_bytes(elements: int, double_quant: bool) -> int:
    """Bytes of a weight in NF4 with its scales: 4.127 bits per parameter with double quantization, 4.5 without."""
    blocks = -(-elements // 64)
    scales = blocks + 4 * -(-blocks // 256) if double_quant else 4 * blocks
    return elements // 2 + scales


def _weights(shape: ModelShape, setup: Setup) -> Item:
    linear, _, _ = shape.elements
    rest = shape.parameters - linear
    if setup.quantization == "none":
        width = setup.held
        size, note = shape.parameters * width, f"{shape.parameters:,} parameters in {width * 8} bits"
    elif setup.quantization == "int8":
        quantised = sum(times * (layer.elements + 4 * layer.out_features) for layer, times in shape.groups)
        size = quantised + 4 * rest
        note = f"{quantised / GIB:.2f} GiB in 8 bits, {4 * rest / GIB:.2f} GiB (embeddings, norms) in 32 bits"
    else:
        table = _TABLE + (_NESTED_TABLE if setup.double else 0)
        quantised = sum(times * (nf4_bytes(layer.elements, setup.double) + table) for layer, times in shape.groups)
        size = quantised + 4 * rest
        name = setup.quantization.upper()
        note = f"{quantised / GIB:.2f} GiB in {name}, {4 * rest / GIB:.2f} GiB (embeddings, norms) in 32 bits"
    return Item("weights", "Base weights", size, note)


def _laid_out(weights: Item, more: int) -> Item:
    if not more:
        return weights
    return replace(weights, bytes=weights.bytes + more, note=f"{weights.note}, {more / GIB:.2f} GiB prepacked copies")


def _optimizer(recipe: Recipe, trained: Trainable, cuda: bool) -> Item:
    kind = recipe.optimizer.optim if cuda else "adamw_torch"
    if kind == "adamw_torch":
        return Item("optimizer", "Optimizer", 2 * trained.bytes, "AdamW's two moments, in the type of the weights")
    paged = ", moved to RAM in a spike" if kind.startswith("paged") else ""
    if "8bit" in kind:
        size = round(trained.count * (2 + 2 * 4 / 256))
        return Item("optimizer", "Optimizer", size, f"AdamW's two moments in 8 bits{paged}")
    return Item("optimizer", "Optimizer", 8 * trained.count, f"AdamW's two moments in 32 bits{paged}")


def _highest(
    shape: ModelShape, recipe: Recipe, setup: Setup, trained: Trainable, example: tuple[int, float, Processor]
) -> Stage:
    """The stage with the most bytes besides weights and optimizer.

    example: the arguments length, trained_share and processor of `footprint`.
    """
    schedule = recipe.schedule
    waiting = float(trained.bytes) if schedule.gradient_accumulation_steps > 1 else 0.0
    stages = list(_stages(shape, setup, schedule.gradient_checkpointing, waiting))
    stages.append(Stage("optimizer", 0.0, 0.0, trained.bytes, _CHECK * trained.largest))
    if recipe.data.held_out:
        length, share, processor = example
        batch = recipe.evaluation.per_device_eval_batch_size
        alone = setup_of(shape, recipe, setup.cuda, length, share, processor)
        alone = alone.of(batch, max(1, round(batch * length * share)), training=False)
        stages.append(_evaluation(shape, alone))
    return max(stages, key=lambda stage: stage.total)


# Most edits of the form change nothing that these depend on.
@functools.lru_cache(maxsize=4096)
def _stages(shape: ModelShape, setup: Setup, checkpointing: bool, waiting: float) -> tuple[Stage, ...]:
    return tuple(_passes(setup)(shape, setup, checkpointing, waiting).stages())


@functools.lru_cache(maxsize=4096)
def _evaluation(shape: ModelShape, setup: Setup) -> Stage:
    return _passes(setup)(shape, setup, False, 0.0).evaluation()


def _passes(setup: Setup) -> type[Passes]:
    return FastPasses if setup.fast else Passes


def _about_gradients(stage: Stage, setup: Setup) -> str:
    if stage.gradients:
        return "of every weight" if setup.full else "of the adapter only: frozen weights have none"
    return "0 at the peak: the adapter's appear as activations are freed"


def _about_activations(setup: Setup, recipe: Recipe, shape: ModelShape, stage: Stage) -> str:
    if stage.name == "evaluation":
        return "the evaluation is the peak: no gradients, one block at a time"
    how = "recomputed block by block" if recipe.schedule.gradient_checkpointing else f"in {shape.layers} blocks"
    return f"{setup.tokens:,} tokens, {how}"


def _about_head(setup: Setup, shape: ModelShape) -> str:
    if setup.fast:
        rows = min(setup.trained, max(1, SCORES // shape.vocabulary))
        return f"{rows:,} trained tokens at a time over {shape.vocabulary:,} words"
    tokens, words = min(setup.trained, 4096), min(shape.vocabulary, 32768)
    return f"{tokens:,} trained tokens at a time over {words:,} words"
