"""A training step as a tape of operations, to count the bytes alive at its peak. No tensor is ever allocated.

Follows the rules of PyTorch's autograd (https://docs.pytorch.org/docs/stable/notes/autograd.html, "Saved tensors").
Forward, an operation creates its result and saves what its derivative needs; a tensor is freed when its last user is
done and nothing saves it. Backward, in reverse order, an operation creates the gradients of its inputs, adds them to
existing ones, and frees its own gradient and its saved tensors.
"""

from collections.abc import Sequence


class Tensor:
    """Storage of `bytes` bytes in elements of `width` bytes.

    grad: whether a gradient flows to it; kept: number of operations that save it. source: tensors saved in its place by
    operations that recompute it in the backward pass; empty: the tensor itself is saved.
    """

    __slots__ = ("alive", "base", "bytes", "grad", "gradient", "kept", "last", "size", "source", "width")

    def __init__(self, size: float, width: int, grad: bool) -> None:
        self.bytes, self.width, self.grad = size, width, grad
        self.size = size  # of its gradient
        self.base: Tensor | None = None  # for a part of a split tensor: the tensor that owns the storage
        self.source: tuple[Tensor, ...] = ()
        self.kept = 0
        self.last = -1
        self.alive = False
        self.gradient: _Gradient | None = None


class _Gradient:
    """Storage of a gradient, with its number of references."""

    __slots__ = ("bytes", "names")

    def __init__(self, size: float) -> None:
        self.bytes, self.names = size, 1


class _Op:
    __slots__ = ("back", "ends", "inputs", "out", "param", "parts", "passes", "saves", "work")

    def __init__(
        self,
        out: Tensor,
        inputs: Sequence[Tensor],
        saves: Sequence[Tensor],
        work: float,
        back: float,
        passes: bool,
        param: tuple[float, float],
    ) -> None:
        self.out, self.inputs, self.saves = out, inputs, saves
        self.work, self.back, self.passes, self.param = work, back, passes, param
        self.ends: tuple[Tensor, ...] = ()
        self.parts: list[Tensor] = []


class Tape:
    """Operations in order; `run` executes them forward, `run_back` backward. Sizes in bytes."""

    def __init__(self, training: bool = True) -> None:
        self.training = training
        self.ops: list[_Op] = []
        self.now = self.peak = self.gradients = 0.0
        self._done = 0

    def tensor(self, size: float, width: int, grad: bool = False) -> Tensor:
        """Create a tensor that exists from the start."""
        tensor = Tensor(size, width, grad and self.training)
        tensor.alive = True
        self.rise(size)
        return tensor

    def op(
        self,
        size: float,
        width: int,
        *inputs: Tensor,
        saves: Sequence[Tensor] = (),
        work: float = 0.0,
        back: float = 0.0,
        passes: bool = False,
        param: tuple[float, float] = (0.0, 0.0),
    ) -> Tensor:
        """Record one operation; returns its result of `size` bytes.

        saves: tensors its derivative needs besides its result (`keep`). work and back: temporary bytes, forward and
        backward. passes: its inputs receive its own gradient instead of a new one (a sum). param: gradient of a trained
        weight, as (bytes that stay, temporary bytes).
        """
        grad = self.training and (param[0] > 0 or any(tensor.grad for tensor in inputs))
        out = Tensor(size, width, grad)
        index = len(self.ops)
        touched = [tensor.base or tensor for tensor in (*inputs, *saves)]
        for tensor in touched:
            tensor.last = index
        saved = [tensor.base or tensor for tensor in saves] if grad else []
        for tensor in saved:
            tensor.kept += 1
        op = _Op(out, inputs, saved, work, back, passes, param if grad else (0.0, 0.0))
        op.ends = tuple(touched)
        self.ops.append(op)
        return out

    def split(self, x: Tensor, *sizes: float) -> list[Tensor]:
        """Split `x` into parts without copies; backward, their gradients are concatenated for `x` (torch.split)."""
        out = Tensor(0.0, x.width, x.grad)
        op = _Op(out, (x,), [], 0.0, 0.0, False, (0.0, 0.0))
        x.last = len(self.ops)
        for size in sizes:
            part = Tensor(0.0, x.width, x.grad)
            part.size, part.base = size, x.base or x
            op.parts.append(part)
        self.ops.append(op)
        return op.parts

    def keep(self, out: Tensor) -> Tensor:
        """Let the operation that created `out` save it for its own derivative (softmax, a norm's statistics)."""
        op = self.ops[-1]
        if op.out.grad:
            op.saves = (*op.saves, out)
            out.kept += 1
        return out

    def hold(self, *tensors: Tensor) -> None:
        """Keep these tensors alive until here, as a local variable in the code does."""
        for tensor in tensors:
            tensor.last = len(self.ops) - 1
        self.ops[-1].ends += tensors

    def rise(self, by: float) -> None:
        self.now += by
        if self.now > self.peak:
            self.peak = self.now

    def run(self) -> None:
        """Execute forward the operations added since the last call."""
        for index in range(self._done, len(self.ops)):
            op = self.ops[index]
            self.rise(op.out.bytes + op.work)
            self.now -= op.work
            op.out.alive = True
            for tensor in op.ends:
                if tensor.alive and tensor.last <= index and not tensor.kept:
                    tensor.alive = False
                    self.now -= tensor.bytes
        self._done = len(self.ops)

    def run_back(self, down_to: int = 0) -> None:
        """Execute backward down to operation `down_to`; the gradient of the last result is created first."""
        last = self.ops[-1].out
        if last.grad and last.gradient is None:
            last.gradient = _Gradient(last.bytes)
            self.rise(last.bytes)
        for index in range(len(self.ops) - 1, down_to - 1, -1):
            op = self.ops[index]
            if op.out.grad:
                self._back(op)
            self._release(op)
        del self.ops[down_to:]
        self._done = down_to

    def _back(self, op: _Op) -> None:
        wanted = [tensor for tensor in op.inputs if tensor.grad]
        own = op.out.gradient
        op.out.gradient = None
        stays, passing = op.param
        gradients: list[tuple[Tensor, _Gradient]] = []
        for tensor in wanted:
            if own is not None and op.passes and tensor.size == op.out.size:
                own.names += 1
                gradients.append((tensor, own))
            else:
                gradients.append((tensor, _Gradient(tensor.size)))
                self.now += tensor.size
        self.rise(stays + passing + op.back)
        self.gradients += stays
        self.now -= passing + op.back
        if own is not None:
            self._let_go(own)  # before gradients are accumulated
        for tensor, gradient in gradients:
            before = tensor.gradient
            if before is None:
                tensor.gradient = gradient
            elif before.names == 1:
                self._let_go(gradient)  # added in place
            else:
                tensor.gradient = _Gradient(tensor.size)
                self.rise(tensor.size)
                self._let_go(before)
                self._let_go(gradient)
        for part in op.parts:
            if part.gradient is not None:
                self._let_go(part.gradient)
                part.gradient = None

    def _let_go(self, gradient: _Gradient) -> None:
        gradient.names -= 1
        if not gradient.names:
            self.now -= gradient.bytes

    def _release(self, op: _Op) -> None:
        for tensor in op.saves:
            tensor.kept -= 1
            if not tensor.kept and tensor.alive:
                tensor.alive = False
                self.now -= tensor.bytes
        op.saves = ()
