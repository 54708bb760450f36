"""Random networks of what makes channels hang together, drawn by hypothesis so that failures shrink.

Every step takes a tensor and adds an operator or a known pattern; weights, vectors and tensors are
often taken a second time. The batch is 2 while drawing, and a name in half of the networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

Draw = Callable[..., Any]
Shape = tuple[int, ...]
BATCH = 2
LARGEST = 3000  # elements


@dataclass
class Network:
    """A network under construction: tensors by name with their shapes."""

    draw: Draw
    rng: np.random.Generator
    symbolic: bool
    free: bool  # height and width are names as well
    shapes: dict[str, Shape] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    drawn: dict[Shape, list[str]] = field(default_factory=dict)

    def pick(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def chance(self, times: int = 2) -> bool:
        """True once in so many times; shrinks towards False."""
        return self.draw(st.integers(0, times - 1)) == times - 1

    def constant(self, values: Any, dtype: Any = np.int64) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def weight(self, *shape: int, fan_in: float = 1.0, positive: bool = False) -> str:
        """Random numbers; often those of the same shape that are already there."""
        known = self.drawn.setdefault(shape, [])
        if known and not positive and self.chance(8):
            return self.pick(known)
        values = self.rng.standard_normal(shape) * fan_in**-0.5
        name = self.constant(np.abs(values) + 0.5 if positive else values, np.float32)
        known.append(name)
        return name

    def node(self, op: str, inputs: Sequence[str], *shapes: Shape, **attrs: Any) -> str:
        outs = [f"t{len(self.nodes)}{'abcd'[k] if k else ''}" for k in range(len(shapes))]
        self.nodes.append(helper.make_node(op, list(inputs), outs, name=f"n{outs[0]}", **attrs))
        self.shapes.update(zip(outs, shapes, strict=True))
        return outs[0]

    def integer(self, op: str, inputs: Sequence[str], **attrs: Any) -> str:
        """A node of shape arithmetic, which no step takes for data."""
        out = f"i{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=f"n{out}", **attrs))
        return out

    def outs(self) -> list[str]:
        return list(self.nodes[-1].output)

    def axis(self, x: str) -> int:
        """An axis whose size steps may speak of."""
        return 1 if self.free else self.pick(range(1, len(self.shapes[x])))

    # --- frequent -------------------------------------------------------------------------------

    def reshape(self, x: str, shape: Shape) -> str:
        """To a shape, its target written in one of the ways there are."""
        batched = shape[0] == BATCH and self.shapes[x][0] == BATCH
        ways = ["open", "computed", "zero"] if batched else ["open"]
        way = self.pick(ways if self.symbolic else [*ways, "plain"])
        if way == "computed":
            return self.node("Reshape", [x, self._computed_target(x, shape)], shape)
        target = list(shape)
        if way == "zero":
            same = [a for a, d in enumerate(shape) if self.shapes[x][a : a + 1] == (d,)]
            for axis in same if self.chance() else [0]:
                target[axis] = 0
            if len(shape) > 1 and self.chance():
                free = self.pick([a for a in range(len(shape)) if a])
                target[free] = -1
        elif way == "open":
            target[0] = -1
        return self.node("Reshape", [x, self.constant(target)], shape)

    def _computed_target(self, x: str, shape: Shape) -> str:
        sizes = self.integer("Shape", [x])
        if self.chance() and len(shape) == len(self.shapes[x]) and shape == self.shapes[x]:
            return sizes
        parts = []
        for axis, size in enumerate(shape):
            same = [a for a, d in enumerate(self.shapes[x]) if d == size]
            if axis == 0 or (same and self.chance()):
                index = 0 if axis == 0 else self.pick(same)
                parts.append(self.integer("Gather", [sizes, self.constant([index])]))
            else:
                parts.append(self.constant([size]))
        return self.integer("Concat", parts, axis=0)

    def like(self, x: str) -> str:
        """Another tensor of the same shape, or a new one made like it."""
        shape = self.shapes[x]
        others = [n for n, s in self.shapes.items() if s == shape]
        return self.pick(others)


Step = Callable[[Network, str], "str | None"]


# --- layers -----------------------------------------------------------------------------------


def conv(n: Network, x: str) -> str | None:
    b, c, h, w = n.shapes[x]
    k = n.pick([1, 1, 3])
    group = n.pick([g for g in (1, 1, 2, 3, 4, c) if c % g == 0])
    out = group * n.pick([1, 2, 3]) if group > 1 else n.pick([c, 4, 6, 1, 8])
    inputs = [x, n.weight(out, c // group, k, k, fan_in=c // group * k * k)]
    if n.chance():
        inputs.append(n.weight(out))
    stride = 2 if min(h, w) > 3 and n.chance(4) else 1
    size = [(d + 2 * (k // 2) - k) // stride + 1 for d in (h, w)]
    attrs = {"pads": [k // 2] * 4, "strides": [stride] * 2, "group": group}
    return n.node("Conv", inputs, (b, out, *size), **attrs)


def conv_transpose(n: Network, x: str) -> str | None:
    b, c, h, w = n.shapes[x]
    group = n.pick([g for g in (1, 2, c) if c % g == 0])
    per = n.pick([1, 2, 4])
    inputs = [x, n.weight(c, per, 2, 2, fan_in=c / group)]
    if n.chance():
        inputs.append(n.weight(group * per))
    return n.node("ConvTranspose", inputs, (b, group * per, h + 1, w + 1), group=group)


def batch_norm(n: Network, x: str) -> str | None:
    c = n.shapes[x][1]
    vectors = [n.weight(c) for _ in range(3)]
    variance = n.weight(c, positive=True)
    return n.node("BatchNormalization", [x, *vectors, variance], n.shapes[x], epsilon=1e-2)


def conv_norm(n: Network, x: str) -> str | None:
    y = conv(n, x)
    return activation(n, batch_norm(n, y))


def linear(n: Network, x: str) -> str | None:
    *rows, depth = n.shapes[x]
    out = n.pick([depth, 4, 6, 8])
    if len(rows) == 1 and n.chance():
        trans = n.pick([0, 1])
        weight = n.weight(*((out, depth) if trans else (depth, out)), fan_in=depth)
        bias = [n.weight(*n.pick([(out,), (1, out), (1,), (out,)]))] if n.chance() else []
        return n.node("Gemm", [x, weight, *bias], (*rows, out), transB=trans)
    y = n.node("MatMul", [x, n.weight(depth, out, fan_in=depth)], (*rows, out))
    return n.node("Add", [y, n.weight(out)], (*rows, out)) if n.chance() else y


def from_left(n: Network, x: str) -> str | None:
    shape = n.shapes[x]
    if len(shape) < 3:
        return None
    out = n.pick([shape[-2], 4])
    weight = n.weight(out, shape[-2], fan_in=shape[-2])
    return n.node("MatMul", [weight, x], (*shape[:-2], out, shape[-1]))


def einsum(n: Network, x: str) -> str | None:
    shape = n.shapes[x]
    letters = "abcdefg"[: len(shape)]
    axis = n.axis(x)
    out = n.pick([shape[axis], 4])
    result = letters.replace(letters[axis], "z")
    weight = n.weight(shape[axis], out, fan_in=shape[axis])
    dims = tuple(out if a == axis else d for a, d in enumerate(shape))
    return n.node("Einsum", [x, weight], dims, equation=f"{letters},{letters[axis]}z->{result}")


def recurrent(n: Network, x: str) -> str | None:
    if len(n.shapes[x]) != 3 or n.shapes[x][1] != BATCH:
        return None
    steps, batch, depth = n.shapes[x]
    op, gates = n.pick([("LSTM", 4), ("GRU", 3), ("RNN", 1)])
    inputs = [x, n.weight(1, gates * 3, depth, fan_in=depth), n.weight(1, gates * 3, 3, fan_in=3)]
    return n.node(op, inputs, (steps, 1, batch, 3), hidden_size=3)


def quantized_conv(n: Network, x: str) -> str | None:
    b, c, h, w = n.shapes[x]
    values = n.rng.integers(-100, 100, (6, c, 1, 1))
    scale = n.constant(np.abs(n.rng.standard_normal(6)) / 100 + 0.005, np.float32)
    shape = (6, c, 1, 1)
    weight = n.node("DequantizeLinear", [n.constant(values, np.int8), scale], shape, axis=0)
    del n.shapes[weight]
    return n.node("Conv", [x, weight], (b, 6, h, w))


# --- elementwise ------------------------------------------------------------------------------


def activation(n: Network, x: str) -> str | None:
    op = n.pick(["Relu", "Sigmoid", "Tanh", "HardSwish", "Neg", "Abs", "Clip", "silu", "Softplus"])
    shape = n.shapes[x]
    if op == "silu":
        return n.node("Mul", [x, n.node("Sigmoid", [x], shape)], shape)
    if op == "Clip":
        bounds = [n.constant(v, np.float32) for v in (-1, 2)]
        return n.node("Clip", [x, *bounds], shape)
    return n.node(op, [x], shape)


def join(n: Network, x: str) -> str | None:
    shape, other = n.shapes[x], n.like(x)
    op = n.pick(["Add", "Add", "Mul", "Sub", "Max", "Min", "Sum", "Where", "Mean"])
    if op == "Where":
        condition = n.node("Greater", [x, other], shape)
        del n.shapes[condition]
        return n.node("Where", [condition, other, n.like(x)], shape)
    return n.node(op, [x, other], shape)


def broadcast(n: Network, x: str) -> str | None:
    """With a tensor that has ones where this has more, or fewer axes."""
    shape = n.shapes[x]
    fitting = [k for k, s in n.shapes.items() if s != shape and _broadcasts(s, shape)]
    if not fitting:
        return None
    inputs = [x, n.pick(fitting)]
    return n.node(n.pick(["Add", "Mul", "Sub"]), inputs if n.chance() else inputs[::-1], shape)


def _broadcasts(small: Shape, large: Shape) -> bool:
    if len(small) > len(large):
        return False
    return all(a in (1, b) for a, b in zip(small[::-1], large[::-1], strict=False))


def with_constant(n: Network, x: str) -> str | None:
    shape = n.shapes[x]
    known = shape[1:2] + (1,) * (len(shape) - 2) if n.free else shape[1:]
    full = known if n.chance() else (1, *known)
    dims = tuple(d if n.chance() else 1 for d in full)
    if n.chance(3) and not n.symbolic:
        dims = (BATCH, *dims) if len(dims) == len(shape) - 1 else dims
    op = n.pick(["Add", "Mul", "Sub", "PRelu"])
    constant = n.weight(*dims)
    swapped = op != "PRelu" and n.chance()
    return n.node(op, [constant, x] if swapped else [x, constant], shape)


def gate(n: Network, x: str) -> str | None:
    """Squeeze and excite."""
    b, c, _, _ = n.shapes[x]
    y = n.node("GlobalAveragePool", [x], (b, c, 1, 1))
    for out in (4, c):
        weight = n.weight(out, n.shapes[y][1], 1, 1, fan_in=n.shapes[y][1])
        y = activation(n, n.node("Conv", [y, weight], (b, out, 1, 1))) or y
    return n.node("Mul", [y, x], n.shapes[x])


def residual(n: Network, x: str) -> str | None:
    b, c, h, w = n.shapes[x]
    y = n.node("Conv", [x, n.weight(5, c, 1, 1, fan_in=c)], (b, 5, h, w))
    y = n.node("Conv", [y, n.weight(c, 5, 1, 1, fan_in=5)], (b, c, h, w))
    return n.node("Add", [x, y], n.shapes[x])


def dropout(n: Network, x: str) -> str | None:
    shape = n.shapes[x]
    n.nodes.append(
        helper.make_node("Dropout", [x], [f"{x}_d{len(n.nodes)}", f"{x}_m{len(n.nodes)}"])
    )
    kept, mask = n.nodes[-1].output
    n.shapes[kept] = shape
    if not n.chance():
        return kept
    real = n.node("Cast", [mask], shape, to=TensorProto.FLOAT)
    return n.node("Mul", [kept, real], shape)


# --- moving -----------------------------------------------------------------------------------


def concat(n: Network, x: str) -> str | None:
    shape = n.shapes[x]
    axis = n.axis(x)
    fits = [k for k, s in n.shapes.items() if _differ_at_most(s, shape, axis)]
    inputs = [x, *(n.pick(fits) for _ in range(n.pick([1, 1, 2])))]
    if n.chance(4):
        inputs.append(
            n.weight(*(1 if a == axis else d for a, d in enumerate(shape)))
        ) if not n.symbolic else None
    total = sum(n.shapes[i][axis] if i in n.shapes else 1 for i in inputs)
    dims = tuple(total if a == axis else d for a, d in enumerate(shape))
    return n.node("Concat", inputs, dims, axis=axis if n.chance() else axis - len(shape))


def _differ_at_most(a: Shape, b: Shape, axis: int) -> bool:
    return len(a) == len(b) and all(
        i == axis or x == y for i, (x, y) in enumerate(zip(a, b, strict=True))
    )


def split(n: Network, x: str) -> str | None:
    shape = n.shapes[x]
    axis = n.axis(x)
    size = shape[axis]
    if size < 2:
        return None
    if n.chance():
        parts = n.pick([p for p in (2, 3) if p <= size])
        each = -(-size // parts)
        sizes = [each] * (parts - 1) + [size - each * (parts - 1)]
        if sizes[-1] < 1:
            return None
        inputs, attrs = [x], {"num_outputs": parts}
    else:
        first = n.pick(range(1, size))
        sizes = [first, size - first]
        inputs, attrs = [x, n.constant(sizes)], {}
    dims = [tuple(s if a == axis else d for a, d in enumerate(shape)) for s in sizes]
    return n.node("Split", inputs, *dims, axis=axis, **attrs)


def cut(n: Network, x: str) -> str | None:
    shape = n.shapes[x]
    axes = [n.axis(x)]
    if len(shape) > 2 and not n.free and n.chance(3):
        axes = [1, len(shape) - 1]
    starts = [n.pick([0, 1, -1, 2]) for _ in axes]
    ends = [n.pick([2**31 - 1, 2**63 - 1, -1, shape[a], -(2**31), -(2**63) + 1]) for a in axes]
    steps = [n.pick([1, 2, -1, -2, 3]) for _ in axes]
    dims = list(shape)
    for a, start, end, step in zip(axes, starts, ends, steps, strict=True):
        dims[a] = len(range(shape[a])[start : None if step < 0 and end < -(2**30) else end : step])
    if 0 in dims:
        return None
    named = [a - len(shape) if n.chance() else a for a in axes]
    return n.node("Slice", [x, *map(n.constant, (starts, ends, named, steps))], tuple(dims))


def gather(n: Network, x: str) -> str | None:
    shape = n.shapes[x]
    axis = n.axis(x)
    size = shape[axis]
    count = n.pick([1, 3, size, size + 1])
    if n.chance(4) and len(shape) > 2:
        index = n.pick([0, -1])
        return n.node(
            "Gather", [x, n.constant(index)], (*shape[:axis], *shape[axis + 1 :]), axis=axis
        )
    indices = [n.pick(range(-size, size)) for _ in range(count)]
    if n.chance(6):
        dims = (*shape[:axis], 1, count, *shape[axis + 1 :])
        return n.node("Gather", [x, n.constant([indices])], dims, axis=axis)
    return n.node(
        "Gather", [x, n.constant(indices)], (*shape[:axis], count, *shape[axis + 1 :]), axis=axis
    )


def transpose(n: Network, x: str) -> str | None:
    shape = n.shapes[x]
    fixed = 0 if n.chance(5) else 1
    order = [*range(fixed), *n.draw(st.permutations(range(fixed, len(shape))))]
    return n.node("Transpose", [x], tuple(shape[p] for p in order), perm=order)


def regroup(n: Network, x: str) -> str | None:
    """A reshape that splits one axis in two or merges two into one."""
    shape = n.shapes[x]
    if n.chance() and len(shape) > 2:
        axis = n.pick(range(1 if n.symbolic else 0, len(shape) - 1))
        merged = (*shape[:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :])
        return n.reshape(x, merged)
    axis = n.axis(x)
    parts = [k for k in (2, 3, 4) if shape[axis] % k == 0]
    if not parts or len(shape) > 4:
        return None
    k = n.pick(parts)
    return n.reshape(x, (*shape[:axis], k, shape[axis] // k, *shape[axis + 1 :]))


def reshape_anyhow(n: Network, x: str) -> str | None:
    """All axes but the batch, cut elsewhere."""
    shape = n.shapes[x]
    rest = int(np.prod(shape[1:]))
    first = n.pick([k for k in (2, 3, 4, 6, 8, 12) if rest % k == 0] or [1])
    return n.reshape(x, (shape[0], first, rest // first))


def shuffle(n: Network, x: str) -> str | None:
    b, c, h, w = n.shapes[x]
    groups = [g for g in (2, 3) if c % g == 0]
    if not groups:
        return None
    g = n.pick(groups)
    y = n.reshape(x, (b, g, c // g, h, w))
    y = n.node("Transpose", [y], (b, c // g, g, h, w), perm=[0, 2, 1, 3, 4])
    return n.reshape(y, n.shapes[x])


def flatten(n: Network, x: str) -> str | None:
    shape = n.shapes[x]
    axis = n.pick([1, 1, -1]) if len(shape) > 1 else 1
    at = axis % len(shape)
    dims = (int(np.prod(shape[:at])), int(np.prod(shape[at:])))
    return n.node("Flatten", [x], dims, axis=axis)


def squeeze(n: Network, x: str) -> str | None:
    shape = n.shapes[x]
    ones = [a for a, d in enumerate(shape) if d == 1]
    if ones and len(shape) > 2 and n.chance():
        if n.chance() and not n.symbolic:
            return n.node("Squeeze", [x], tuple(d for d in shape if d != 1))
        axis = n.pick(ones)
        return n.node("Squeeze", [x, n.constant([axis])], (*shape[:axis], *shape[axis + 1 :]))
    if len(shape) > 4:
        return None
    axis = n.pick(range(1, len(shape) + 1))
    return n.node("Unsqueeze", [x, n.constant([axis])], (*shape[:axis], 1, *shape[axis:]))


def tokens(n: Network, x: str) -> str | None:
    b, c, h, w = n.shapes[x]
    y = n.reshape(x, (b, c, h * w))
    return n.node("Transpose", [y], (b, h * w, c), perm=[0, 2, 1])


def attention(n: Network, x: str) -> str | None:
    if len(n.shapes[x]) != 3:
        return None
    b, t, c = n.shapes[x]
    heads, width = n.pick([(2, 2), (1, 4), (2, 3)])
    made = []
    for order in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        y = n.node("MatMul", [x, n.weight(c, heads * width, fan_in=c)], (b, t, heads * width))
        y = n.reshape(y, (b, t, heads, width))
        dims = tuple(n.shapes[y][p] for p in order)
        made.append(n.node("Transpose", [y], dims, perm=order))
    scores = n.node("MatMul", made[:2], (b, heads, t, t))
    weights = n.node("Softmax", [scores], (b, heads, t, t), axis=-1)
    y = n.node("MatMul", [weights, made[2]], (b, heads, t, width))
    y = n.node("Transpose", [y], (b, t, heads, width), perm=[0, 2, 1, 3])
    return n.reshape(y, (b, t, heads * width))
