"""Memory of a step on the engine's fast path (studio/engine/fast), recorded on a tape.

The fast path's functions save little besides their inputs or the tensors those are computed from, need no autocast
copies, and process norms, gates, attention and the vocabulary in pieces. An evaluation runs the reference's modules
with the fast path's head.
"""

from studio.memory.autograd_tape import Tape, Tensor
from studio.memory.layers import Layers
from studio.memory.peaks import Passes
from studio.memory.shapes import Linear
from studio.recipe.fast_path import (
    BLOCK,
    KEPT_KEYS,
    PIECE,
    POOL,
    SCORES,
    STEP,
    attention_bytes,
    attention_parts,
    blocks,
)

# Maximum float32 temporaries per element of a piece in a norm and in the head, in bytes; elements of a head piece.
_HELD, _HEAD_HELD, _HEAD_PIECE = 3 * 4, 3 * 4, 2**19


class FastLayers(Layers):
    """Modules as the fast path computes them."""

    def linear(self, x: Tensor, layer: Linear) -> Tensor:
        setup, tape = self.setup, self.tape
        x = self.cast(x, setup.compute)
        if not setup.adapts(layer):
            return self._base(x, layer)
        width, r = setup.compute, setup.r
        inner = tape.op(self.tokens * r * width, width)
        saves = [*(x.source or (x,)), inner]
        trained = r * (layer.in_features + layer.out_features)
        if setup.adapter != width:
            saves.append(tape.op(trained * width, width))
        unpacked = layer.elements * width if self._unpacks else 0.0
        dropped = x.bytes if setup.dropout else 0.0
        again = x.bytes if x.source else dropped
        out = self.tokens * layer.out_features * width
        return tape.op(out, width, x, saves=saves, work=max(unpacked, dropped), back=max(unpacked, again),
                       param=(setup.adapter * trained, 0.0))  # fmt: skip

    @property
    def _unpacks(self) -> bool:
        """Whether a weight is unpacked to the compute type each time it is used."""
        return self.setup.quantization != "none" or self.setup.held != self.setup.compute

    def _base(self, x: Tensor, layer: Linear) -> Tensor:
        width = self.setup.compute
        unpacked = layer.elements * width if self._unpacks else 0.0
        return self.tape.op(self.tokens * layer.out_features * width, width, x, work=unpacked, back=unpacked)

    def norm(self, x: Tensor, features: int, width: int | None = None) -> Tensor:
        tape, rows = self.tape, x.bytes / x.width / features
        scales = tape.op(rows * 4, 4)
        compute = self.setup.compute
        work = _HELD * min(PIECE, rows * features)
        normed = tape.op(rows * features * compute, compute, x, saves=(x, scales), work=work, back=work)
        if normed.grad:
            normed.source = (x, scales)
        return normed

    def mlp(self, x: Tensor) -> Tensor:
        block, tape, width = self.block, self.tape, self.setup.compute
        if not block.mlp or block.down is None:
            return x
        size = self.tokens * block.down.in_features * width
        if len(block.mlp) == 2:
            gate, up = (self.linear(x, layer) for layer in block.mlp)
        else:
            gate, up = tape.split(self.linear(x, block.mlp[0]), size, size)
        piece = width * min(PIECE, size / width)  # of the activation; backward, of a product and its gradient
        product = tape.op(size, width, gate, up, saves=(gate, up), work=piece, back=2 * piece)
        if product.grad:
            product.source = (gate, up)
        return self.linear(product, block.down)

    def _turn(self, x: Tensor, elements: int) -> Tensor:
        return self.tape.op(elements * self.setup.compute, self.setup.compute, x)

    def _fused(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return self._plain(query, key, value)

    def _plain(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        compiled = self.setup.threads and self.shape.head_dim % STEP == 0
        return (self._compiled if compiled else self._in_blocks)(query, key, value)

    def _compiled(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention as attention.cpp computes it: only one sum per query is saved."""
        tape, setup, shape = self.tape, self.setup, self.shape
        width = setup.compute
        length = min(setup.example or setup.length, setup.length)
        rows = setup.batch * setup.length // length
        spaces = setup.threads * attention_bytes(length, shape.head_dim, width)
        parts = shape.kv_heads * attention_parts(rows, shape.heads, shape.kv_heads, setup.threads)
        partial = 2 * 4 * parts * self.tokens * shape.head_dim  # partial gradients of keys and values, in float32
        saves = [query, key, value, tape.op(4 * self.tokens * shape.heads, 4)]
        if setup.stream != width:
            saves.append(tape.op(2 * self.tokens * shape.head_dim * width, width))  # the angles
        size = self.tokens * shape.heads * shape.head_dim * width
        return tape.op(size, width, query, key, value, saves=saves, work=spaces, back=spaces + partial)

    def _in_blocks(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention one row at a time, in blocks of queries."""
        tape, setup, shape = self.tape, self.setup, self.shape
        width = setup.compute
        value = tape.op(self.tokens * shape.kv_heads * shape.head_dim * width, width, value)
        length = min(setup.example or setup.length, setup.length)
        all_of = [(end - first, end) for first, end in blocks(length)]
        probabilities = (
            setup.batch
            * setup.length
            / length
            * shape.heads
            * sum(queries * keys for queries, keys in all_of if keys <= KEPT_KEYS)
        )
        largest = shape.heads * max(queries * keys for queries, keys in all_of)
        saved = tape.op(probabilities * width, width)
        saves = [query, key, value, saved]
        if setup.stream != width:
            saves.append(tape.op(2 * self.tokens * shape.head_dim * width, width))  # the angles
        size = self.tokens * shape.heads * shape.head_dim * width
        block = shape.heads * BLOCK * shape.head_dim * width
        return tape.op(size, width, query, key, value, saves=saves, work=largest * (width + 4) + block,
                       back=largest * 3 * width + 3 * block)  # fmt: skip


class FastPasses(Passes):
    """The stages of a step on the fast path."""

    def tape(self, x_grad: bool, base: float) -> tuple[Tape, Layers, Tensor]:
        tape, layers, x = super().tape(x_grad, base)
        if self.setup.training:
            layers = FastLayers(tape, self.shape, self.block, self.setup)
        return tape, layers, x

    def copies(self) -> float:
        return 0.0 if self.setup.training else super().copies()

    def common(self) -> float:
        setup = self.setup
        if not setup.training:
            return super().common()
        tables = 2 * setup.tokens * self.shape.head_dim * setup.stream + setup.tokens * 40
        if not setup.dropout:
            return tables
        widest = max((linear.in_features for linear, _ in self.shape.groups if setup.adapts(linear)), default=0)
        return tables + max(POOL, 1.25 * setup.tokens * widest) * setup.compute

    def head(self, tape: Tape, layers: Layers, x: Tensor) -> float:
        setup, shape = self.setup, self.shape
        normed = layers.norm(x, shape.hidden)
        width = setup.compute
        size = setup.trained * shape.hidden * width
        narrow = tape.op(size, width, normed, back=normed.bytes)
        held = 4 if setup.quantization != "none" else setup.held
        weight = shape.vocabulary * shape.hidden * width if held != width else 0.0
        rows = min(setup.trained, max(1, SCORES // shape.vocabulary))
        pull = tape.op(size if setup.training else 0.0, width)
        scores = rows * shape.vocabulary
        tape.op(setup.trained * 16, 4, narrow, saves=(pull,), back=size,
                work=weight + scores * width + _HEAD_HELD * min(_HEAD_PIECE, scores))  # fmt: skip
        return 0.0
