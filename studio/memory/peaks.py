"""The stages of a step at which memory can peak, each on a separate tape.

All blocks are identical, so one represents those between the first (whose input needs no gradient when only adapters
are trained) and the last. Without checkpointing, the saved tensors of every block stay until the backward pass; with it
only each block's input does, and a block is computed again before its backward pass.
"""

from dataclasses import dataclass

from studio.memory.autograd_tape import Tape, Tensor
from studio.memory.layers import Layers
from studio.memory.setup import Setup
from studio.memory.shapes import ModelShape
from studio.memory.structure import block_of

# The tile of TRL's fused head (trl 1.16, kernels/chunked_logprob.py): TOKEN_CHUNK_SIZE and _CHUNKED_LOGPROB_CHUNK_SIZE.
HEAD_TOKENS, HEAD_WORDS = 4096, 32768
# Additional bytes per element of the tile in TRL's implementation without Triton, from its code: forward z, exp(z),
# their product and a mask; backward y, z, log p, p, two for the gradient, the product and a mask.
_FOLD, _UNFOLD, _SOFTCAP = 13, 29, 4


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage that may be the peak: bytes besides the model, adapter and optimizer."""

    name: str
    activations: float
    head: float
    gradients: float
    workspace: float

    @property
    def total(self) -> float:
        return self.activations + self.head + self.gradients + self.workspace


class Passes:
    """All stages of one setup."""

    def __init__(self, shape: ModelShape, setup: Setup, checkpointing: bool, waiting: float) -> None:
        """waiting: bytes of gradients accumulated from earlier batches."""
        self.shape, self.setup, self.block = shape, setup, block_of(shape)
        self.checkpointing, self.waiting = checkpointing, waiting
        self.hidden = setup.tokens * shape.hidden * setup.stream
        # A trained input needs gradients from the first block on; so does checkpointing as PEFT configures it.
        self.from_input = setup.full or setup.method == "prompt" or checkpointing
        self.layers = max(1, shape.layers)

    def tape(self, x_grad: bool, base: float) -> tuple[Tape, Layers, Tensor]:
        tape = Tape(self.setup.training)
        tape.now = tape.peak = base
        x = tape.tensor(self.hidden, self.setup.stream, x_grad)
        return tape, Layers(tape, self.shape, self.block, self.setup), x

    def kept_by_block(self, x_grad: bool) -> float:
        """Bytes that stay after a block's forward pass, without its result."""
        tape, layers, x = self.tape(x_grad, 0.0)
        out = layers.whole(x)
        tape.run()
        return tape.now - (0 if out.kept else out.bytes)

    def common(self) -> float:
        """Bytes shared by all blocks: the tables of the rotary embedding, the mask."""
        setup, shape = self.setup, self.shape
        tables = (
            2 * setup.length * shape.head_dim * setup.stream * (2 if shape.architecture.startswith("gemma3") else 1)
        )
        wide = setup.stream if setup.plain_attention else 1
        mask = setup.batch * setup.length * (setup.length + setup.prefix) * wide if self._has_mask else 0
        return tables + mask + setup.tokens * 40

    @property
    def _has_mask(self) -> bool:
        return self.setup.masked or self.setup.plain_attention

    def copies(self) -> float:
        """Bytes of autocast's 16-bit copies of trained float32 weights: created once and kept during the pass."""
        setup = self.setup
        if not setup.autocast or setup.adapter == 2:
            return 0.0
        if setup.full:
            return 2.0 * self.shape.elements[0]
        if setup.method != "lora":
            return 0.0
        return 2.0 * sum(
            setup.r * (linear.in_features + linear.out_features) * times
            for linear, times in self.shape.groups
            if setup.adapts(linear)
        )

    def stages(self) -> list[Stage]:
        """The stages of a training step that may be the peak."""
        return [*self._checkpointed(), self._low()] if self.checkpointing else [self._top(), self._low()]

    def _top(self) -> Stage:
        """Start of the backward pass: all activations are saved, the head and the last block are being computed."""
        first = self.kept_by_block(self.from_input)
        common = self.common() + self.copies() + self.waiting + (first if self.layers > 1 else 0.0)
        tape, layers, x = self.tape(self.layers > 1 or self.from_input, common)
        out = layers.whole(x)
        tape.run()
        # The last block saves as much as each of the blocks in the middle.
        middle = tape.now - common - (0.0 if out.kept else out.bytes)
        kept = common + max(0, self.layers - 2) * middle
        tape.now += kept - common
        tape.peak = tape.now
        mark = len(tape.ops)
        own = self.head(tape, layers, out)
        tape.run()
        tape.run_back(mark)
        with_head = tape.peak
        tape.run_back()
        gradients = min(tape.gradients, own if self.setup.full else 0.0)
        head = max(0.0, with_head - kept - first) if with_head >= tape.peak else 0.0
        activations = max(0.0, tape.peak - self.waiting - gradients - head)
        return Stage("backward", activations, head, gradients + self.waiting, 0.0)

    def _low(self) -> Stage:
        """End of the backward pass: all gradients exist, the first block and the embedding are being computed."""
        setup, shape = self.setup, self.shape
        if not setup.full:
            return Stage("end", 0, 0, 0, 0)
        table = 4.0 * shape.vocabulary * shape.hidden
        others = 4.0 * shape.parameters - (0 if shape.tied else table)
        others -= 4.0 * shape.elements[0] / self.layers
        tape, layers, x = self.tape(True, max(others, self.waiting) + self.common() + self.copies())
        layers.whole(x)
        tape.run()
        tape.run_back()
        embedding = (
            4.0 * shape.parameters + self.hidden + self.common() + self.copies() + (table if shape.tied else 0.0)
        )
        peak = max(tape.peak, embedding)
        return Stage("end", peak - 4.0 * shape.parameters, 0.0, 4.0 * shape.parameters, 0.0)

    def _checkpointed(self) -> list[Stage]:
        inputs = self.layers * (self.hidden + self._held_anyway()) + self.common() + self.waiting
        tape, layers, x = self.tape(True, inputs)
        own = self.head(tape, layers, x)
        tape.run()
        # The copies are freed when the forward pass is over.
        forward = tape.peak + self.copies()
        tape.run_back()
        head = max(tape.peak, forward)
        own = own if self.setup.full else 0.0
        again, layers, x = self.tape(True, inputs + own - self.hidden)
        upstream = again.tensor(self.hidden, self.setup.stream)  # the gradient of the block's result
        out = layers.whole(x)
        again.run()
        again.now += self.copies() / self.layers
        again.now -= upstream.bytes
        again.rise(0)
        out.gradient = None
        again.run_back()
        rest = min(own, again.gradients + own)
        return [
            Stage("head", inputs - self.waiting, head - inputs, self.waiting, 0.0),
            Stage("block", again.peak - self.waiting - rest, 0.0, self.waiting + rest, 0.0),
        ]

    def _held_anyway(self) -> float:
        """Bytes that checkpointing cannot free in a block: bitsandbytes' 8-bit layers store their inputs themselves,
        bypassing autograd's hooks (0.50, `MatMul8bitFp`: ctx.A, on CUDA `MatMul8bitLt`: ctx.tensors)."""
        setup, shape, down = self.setup, self.shape, self.block.down
        if setup.quantization != "int8":
            return 0.0
        attended = setup.tokens * shape.heads * shape.head_dim * setup.compute
        product = setup.tokens * down.in_features * setup.compute if down else 0.0
        return (1 if self.block.shared else 2) * self.hidden + attended + product

    def head(self, tape: Tape, layers: Layers, x: Tensor) -> float:
        """Record the last norm and the fused head; returns the bytes of the head's own gradient."""
        setup, shape = self.setup, self.shape
        normed = layers.norm(x, shape.hidden)
        tokens, words = min(setup.trained, HEAD_TOKENS), min(shape.vocabulary, HEAD_WORDS)
        narrow = tape.op(setup.trained * shape.hidden * normed.width, normed.width, normed, back=normed.bytes)
        tile = tokens * words
        buffer = tokens * HEAD_WORDS * setup.compute
        head_width = 4 if setup.full or setup.quantization != "none" else setup.compute
        weight = words * shape.hidden * setup.compute if head_width != setup.compute else 0.0
        weight += tokens * shape.hidden * setup.compute if normed.width != setup.compute else 0.0
        softcap = _SOFTCAP if shape.config.get("final_logit_softcapping") else 0
        fold = 0 if setup.cuda else _FOLD + softcap
        unfold = 0 if setup.cuda else _UNFOLD + softcap
        product = (
            0 if setup.cuda and setup.compute == 2 else (4 - setup.compute) and (4 * tile + 4 * words * shape.hidden)
        )
        own = 4.0 * shape.vocabulary * shape.hidden if setup.full else 0.0
        tape.op(
            setup.trained * 8,
            4,
            narrow,
            saves=(narrow,),
            work=buffer + weight + fold * tile,
            back=buffer + weight + max(unfold * tile, product) + setup.trained * shape.hidden * 4,
            param=(own, 0.0),
        )
        return own

    def evaluation(self) -> Stage:
        """A forward pass without gradients: one block at a time, then the head."""
        tape, layers, x = self.tape(False, self.common() + self.copies())
        out = layers.whole(x)
        tape.run()
        before = tape.peak
        self.head(tape, layers, out)
        tape.run()
        return Stage("evaluation", min(before, tape.peak), max(0.0, tape.peak - before), 0.0, 0.0)
