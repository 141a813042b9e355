"""The operations of a decoder block as transformers, PEFT and bitsandbytes run them, recorded on a tape.

Each function records one module: its results, the tensors autograd saves, its temporary memory. Derived from the
tensors alive between forward and backward pass of real models (transformers 5.23, peft 0.21, bitsandbytes 0.50, torch
2.13) and from their code; benchmarks/estimator measures the sum.
"""

from studio.memory.autograd_tape import Tape, Tensor
from studio.memory.setup import Setup
from studio.memory.shapes import Linear, ModelShape
from studio.memory.structure import Block


class Layers:
    """Record the modules of one model with one setup on a tape."""

    def __init__(self, tape: Tape, shape: ModelShape, block: Block, setup: Setup) -> None:
        self.tape, self.shape, self.block, self.setup = tape, shape, block, setup
        self.tokens = setup.tokens

    def cast(self, x: Tensor, width: int) -> Tensor:
        """`x.to(dtype)`; returns `x` itself if it has that type already."""
        return x if x.width == width else self.tape.op(x.bytes / x.width * width, width, x)

    # Linear layers

    def linear(self, x: Tensor, layer: Linear) -> Tensor:
        """A linear layer with its adapter, if any."""
        setup, tape = self.setup, self.tape
        if not setup.adapts(layer):
            return self._base(x, layer)
        if setup.method == "ia3":
            return self._ia3(x, layer)
        result = self._base(x, layer)
        conversion = setup.autocast and setup.quantization != "none"
        inside = x if conversion else self.cast(x, setup.adapter)
        dropped = inside
        if setup.dropout:
            # On a CPU the mask has the input's type; CUDA's fused kernel stores booleans.
            mask_width = 1 if setup.cuda else inside.width
            mask = tape.op(inside.bytes / inside.width * mask_width, mask_width)
            dropped = tape.op(inside.bytes, inside.width, inside, saves=(mask,))
        width = setup.lora_compute
        first = self.cast(dropped, width)
        rows, r = self.tokens, setup.r
        a_weight, b_weight = r * layer.in_features, r * layer.out_features
        a = tape.op(rows * r * width, width, first, saves=(first,), param=self._trained(a_weight, width))
        out = rows * layer.out_features
        b = tape.op(out * width, width, a, saves=(a,), param=self._trained(b_weight, width))
        if setup.dora:
            result = self._dora(result, b, dropped, layer)
        else:
            scaled = tape.op(b.bytes, width, b)
            if not setup.autocast:
                scaled = self.cast(scaled, result.width)
            total = tape.op(out * max(result.width, scaled.width), max(result.width, scaled.width), result, scaled,
                            passes=True)  # fmt: skip
            result = self.cast(total, result.width)
        tape.hold(inside)
        return result

    def _trained(self, elements: int, compute: int) -> tuple[float, float]:
        """Gradient of a trained weight: bytes that stay, and bytes of the copy in the type it was computed in."""
        own = self.setup.adapter
        return own * elements, compute * elements if compute != own else 0

    def _base(self, x: Tensor, layer: Linear) -> Tensor:
        setup, tape = self.setup, self.tape
        out, elements = self.tokens * layer.out_features, layer.elements
        if setup.quantization in ("nf4", "fp4"):
            width = setup.unpacked
            scales = elements // 64 * 8 if setup.double else 0
            inside = self.cast(x, width)
            back = elements * width + scales
            result = tape.op(out * width, width, inside, work=elements * width + scales, back=back)
            if result.width == x.width:
                return result
            return self.cast(result, x.width)
        if setup.quantization == "int8":
            width = setup.compute
            again = elements * width + x.bytes / x.width * width if x.width != width else 0.0
            return tape.op(out * width, width, x, saves=(x,), work=elements * x.width + again,
                           back=elements * x.width + (out * x.width if x.width != width else 0))  # fmt: skip
        inside = self.cast(x, setup.compute)
        if setup.full:
            cast = elements * setup.compute if setup.compute != 4 else 0
            return tape.op(out * setup.compute, setup.compute, inside, saves=(inside,), param=(4.0 * elements, cast))
        return tape.op(out * setup.compute, setup.compute, inside)

    def _ia3(self, x: Tensor, layer: Linear) -> Tensor:
        """IA³: 32-bit factors on the input (feed-forward) or the result (PEFT `tuners/ia3/layer.py`)."""
        tape = self.tape
        if layer.module in self.setup.feedforward:
            wide = self.cast(x, 4)
            scaled = tape.op(wide.bytes, 4, wide, saves=(wide,), back=wide.bytes, param=(4.0 * layer.in_features, 0))
            return self._base(self.cast(scaled, x.width), layer)
        result = self._base(x, layer)
        size = self.tokens * layer.out_features * 4
        scaled = tape.op(size, 4, result, saves=(result,), back=size, param=(4.0 * layer.out_features, 0))
        return self.cast(scaled, result.width)

    def _dora(self, result: Tensor, b: Tensor, x: Tensor, layer: Linear) -> Tensor:
        """DoRA: its norm is over the whole weight, which is recomputed in each pass (PEFT `tuners/lora/dora.py`)."""
        setup, tape = self.setup, self.tape
        square, elements, width = layer.in_features**2, layer.elements, setup.lora_compute
        # eye, A(eye), B(eye), its copy in x's type, the base weight in that type, the scaled one and their sum
        work = square * setup.adapter + elements * (width + 4 * x.width)
        size = self.tokens * layer.out_features * 4
        base = result
        if setup.dropout:
            # The base's part is computed again on the input after dropout, with a weight that autograd saves.
            inside = self.cast(x, setup.compute)
            weight = tape.op(elements * setup.compute, setup.compute)
            base = tape.op(size / 4 * setup.compute, setup.compute, inside, saves=(weight,))
        first_term = tape.op(size, 4, base, saves=(base,), work=work, back=size, param=(4.0 * layer.out_features, 0))
        two = tape.op(size, 4, b, saves=(b,), back=size)
        three = tape.op(size, 4, two)
        extra = tape.op(size, 4, first_term, three, passes=True)
        total = tape.op(size, 4, result, extra, passes=True)
        return self.cast(total, result.width)

    # Norms

    def norm(self, x: Tensor, features: int, width: int | None = None) -> Tensor:
        """A norm over the last `features` elements; RMS norms compute explicitly in float32."""
        tape, kind, full = self.tape, self.block.norm, self.setup.full
        rows = x.bytes / x.width / features
        param = (4.0 * features, 0.0) if full else (0.0, 0.0)
        if kind == "layer":
            inside = self.cast(x, 4) if self.setup.cuda and self.setup.autocast else x
            statistics = tape.op(rows * 8, inside.width)
            return tape.op(inside.bytes, inside.width, inside, saves=(inside, statistics), param=param)
        size = rows * features * 4
        inside = self.cast(x, 4)
        root = tape.op(rows * 4, 4, inside, saves=(inside,), work=size, back=2 * size)
        tape.keep(root)
        scaled = tape.op(size, 4, inside, root, saves=(inside, root), back=size)
        if kind == "gemma":
            result = tape.op(size, 4, scaled, saves=(scaled,) if full else (), back=size if full else 0, param=param)
            return self.cast(result, width or x.width)
        narrow = self.cast(scaled, x.width)
        return tape.op(narrow.bytes, narrow.width, narrow, saves=(narrow,) if full else (),
                       back=narrow.bytes if full else 0, param=param)  # fmt: skip

    def dropout(self, x: Tensor, rate: float) -> Tensor:
        """The model's own dropout."""
        if not rate or not self.setup.training:
            return x
        width = 1 if self.setup.cuda else x.width
        mask = self.tape.op(x.bytes / x.width * width, width)
        return self.tape.op(x.bytes, x.width, x, saves=(mask,))

    # The block

    def whole(self, x: Tensor) -> Tensor:
        """One decoder block."""
        block, tape, hidden = self.block, self.tape, self.shape.hidden
        size = self.tokens * hidden * self.setup.stream
        attended_in = self.norm(x, hidden) if block.before else x
        attended = self.attention(attended_in)
        if block.parallel:
            fed_in = attended_in if block.shared else self.norm(x, hidden)
            fed = self.mlp(fed_in)
            both = tape.op(max(attended.bytes, fed.bytes), max(attended.width, fed.width), fed, attended, passes=True)
            return tape.op(size, self.setup.stream, both, x, passes=True)
        if block.post:
            attended = self.norm(attended, hidden)
        attended = self.dropout(attended, block.residual_dropout)
        x = tape.op(size, self.setup.stream, x, attended, passes=True)
        fed = self.mlp(self.norm(x, hidden) if block.before else x)
        if block.post:
            fed = self.norm(fed, hidden)
        fed = self.dropout(fed, block.residual_dropout)
        return tape.op(size, self.setup.stream, x, fed, passes=True)

    def mlp(self, x: Tensor) -> Tensor:
        """The MLP: gate, up and down, one fused layer and down, or one, an activation and down."""
        block, tape = self.block, self.tape
        if not block.mlp or block.down is None:
            return x
        size = self.tokens * block.down.in_features
        if not block.gated:
            inside = self._activation(self.linear(x, block.mlp[0]), size)
            return self.linear(inside, block.down)
        if len(block.mlp) == 2:
            gate = self.linear(x, block.mlp[0])
            active = tape.op(gate.bytes, gate.width, gate, saves=(gate,))
            up = self.linear(x, block.mlp[1])
            product = tape.op(active.bytes, active.width, active, up, saves=(active, up))
        else:
            fused = self.linear(x, block.mlp[0])
            gate, up = tape.split(fused, size * fused.width, size * fused.width)
            active = tape.op(size * gate.width, gate.width, gate, saves=(gate,))
            product = tape.op(active.bytes, active.width, active, up, saves=(active, up))
        return self.linear(product, block.down)

    def _activation(self, x: Tensor, size: int) -> Tensor:
        tape, width = self.tape, x.width
        if self.block.activation not in ("gelu_new", "gelu_fast", "gelu_accurate"):
            return tape.op(size * width, width, x, saves=(x,))
        # 0.5 * x * (1 + tanh(c * (x + 0.044715 * x**3))), operation by operation
        half = tape.op(size * width, width, x)
        cube = tape.op(size * width, width, x, saves=(x,), back=size * width)
        fraction = tape.op(size * width, width, cube)
        inner = tape.op(size * width, width, x, fraction, passes=True)
        scaled = tape.op(size * width, width, inner)
        bent = tape.op(size * width, width, scaled)
        tape.keep(bent)
        shifted = tape.op(size * width, width, bent, passes=True)
        return tape.op(size * width, width, half, shifted, saves=(half, shifted))

    # Attention

    def attention(self, x: Tensor) -> Tensor:
        """Attention: projections, rotary embedding, attention, output projection."""
        shape, block = self.shape, self.block
        query_size, key_size = (self.tokens * heads * shape.head_dim for heads in (shape.heads, shape.kv_heads))
        projected = [self.linear(x, layer) for layer in block.attention]
        if len(projected) == 3:
            query, key, value = projected
        elif shape.architecture in ("phi3", "falcon"):
            query = key = value = projected[0]  # sliced: each slice's gradient is as large as the whole
        else:
            width = projected[0].width
            query, key, value = self.tape.split(projected[0], query_size * width, key_size * width, key_size * width)
        if block.head_norms:
            query = self.norm(query, shape.head_dim)
            key = self.norm(key, shape.head_dim)
        if block.turned:
            query = self._turn(query, query_size)
            key = self._turn(key, key_size)
        if self.setup.prefix:
            key, value = self._prefixed(key, key_size), self._prefixed(value, key_size)
        # Soft-capped scores are never computed by the fused kernels.
        plain = self.setup.plain_attention or block.softcap
        attended = self._plain(query, key, value) if plain else self._fused(query, key, value)
        return self.linear(attended, block.out) if block.out else attended

    def _turn(self, x: Tensor, elements: int) -> Tensor:
        """q * cos + rotate_half(q) * sin; cos and sin have the stream's type."""
        tape, share = self.tape, self.block.turned
        width = max(x.width, self.setup.stream)
        size = elements * share * width
        one = tape.op(size, width, x)
        half = tape.op(elements * share * x.width, x.width, x, work=elements * share * x.width / 2)
        two = tape.op(size, width, half)
        turned = tape.op(size, width, one, two, passes=True)
        return tape.op(elements * width, width, turned, x) if self._joins else turned

    @property
    def _joins(self) -> bool:
        """Whether the rotated part of a head is concatenated with the rest, which makes the layout head by head."""
        return self.block.turned < 1 or self.shape.architecture == "phi3"

    def _prefixed(self, x: Tensor, elements: int) -> Tensor:
        longer = elements * (1 + self.setup.prefix / self.setup.length)
        return self.tape.op(longer * x.width, x.width, x, param=(1e-9, 0.0))

    def _repeated(self, x: Tensor, elements: float) -> Tensor:
        return self.tape.op(elements * x.width, x.width, x)

    def _all_keys(self) -> int:
        return self.setup.length + self.setup.prefix

    def _fused(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """scaled_dot_product_attention: saves q, k, v, its result and one number per query."""
        tape, setup, shape = self.tape, self.setup, self.shape
        size = self.tokens * shape.heads * shape.head_dim
        keys = setup.batch * self._all_keys() * shape.heads * shape.head_dim
        width = setup.compute
        if setup.masked and 1 < shape.kv_heads < shape.heads:
            key, value = self._repeated(key, keys), self._repeated(value, keys)
        elif setup.masked and shape.kv_heads < shape.heads and key.width != width:
            # A single head is repeated without a copy until it is cast.
            key, value = tape.op(keys * width, width, key), tape.op(keys * width, width, value)
        if len(self.block.attention) == 3 or query.width == width:
            query, key, value = self.cast(query, width), self.cast(key, width), self.cast(value, width)
        else:
            # Parts of one fused tensor: each is cast separately.
            query, key, value = (tape.op(size * width, width, x) for x in (query, key, value))
        saves = [query, key, value]
        if setup.masked:
            # The boolean mask is converted to numbers once per layer.
            saves.append(tape.op(setup.batch * setup.length * self._all_keys() * width, width))
        if self.block.attention_dropout and not setup.cuda and setup.training:
            return self._in_pieces(query, key, value)
        statistics = tape.op(self.tokens * shape.heads * 4, 4)
        out = tape.keep(tape.op(size * width, width, query, key, value, saves=(*saves, statistics)))
        # The result has the layout of the queries; if that is head by head, it is copied to token by token.
        return tape.op(size * width, width, out) if self._joins else out

    def _in_pieces(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention with dropout on a CPU: float32 matrix products, all saved."""
        tape, shape = self.tape, self.shape
        rows = self.tokens * shape.heads * shape.head_dim
        query, key, value = (tape.op(rows * 4, 4, x) for x in (query, key, value))
        size = self.setup.batch * shape.heads * self.setup.length * self._all_keys() * 4
        scores = tape.op(size, 4, query, key, saves=(query, key))
        shares = tape.keep(tape.op(size, 4, scores))
        mask = tape.op(size, 4)
        dropped = tape.op(size, 4, shares, saves=(mask,))
        out = tape.op(query.bytes, 4, dropped, value, saves=(dropped, value))
        return self.cast(out, self.setup.compute)

    def _plain(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention as plain matrix products (transformers' eager_attention_forward)."""
        tape, setup, shape = self.tape, self.setup, self.shape
        rows = self.tokens * shape.heads * shape.head_dim
        keys = setup.batch * self._all_keys() * shape.heads * shape.head_dim
        squares = setup.batch * shape.heads * setup.length * self._all_keys()
        width = setup.compute
        key, value = self._repeated(key, keys), self._repeated(value, keys)
        query = tape.op(rows * width, width, query)
        key, value = self.cast(key, width), self.cast(value, width)
        scores = tape.op(squares * width, width, query, key, saves=(query, key))
        scaled = tape.op(squares * width, width, scores)
        if self.block.softcap:
            bent = tape.keep(tape.op(squares * width, width, scaled))
            scaled = tape.op(squares * width, width, bent)
        wide = max(width, setup.stream)
        masked = tape.op(squares * wide, wide, scaled, passes=True)
        # Most models compute the softmax in float32; GPT-2 in the type of the scores.
        exact = wide if shape.architecture == "gpt2" else 4
        change = squares * exact if wide < exact else 0
        shares = tape.keep(tape.op(squares * exact, exact, masked, work=change, back=change))
        narrow = self.cast(shares, width)
        if self.block.attention_dropout and setup.training:
            narrow = self.dropout(narrow, self.block.attention_dropout)
        out = tape.op(rows * width, width, narrow, value, saves=(narrow, value))
        return tape.op(rows * width, width, out)
