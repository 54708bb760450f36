"""Random graphs over the operators the passes rewrite, drawn by hypothesis so that failures shrink.

The operators are chosen and wired so that candidates are frequent: the same weight read twice, a
result that is also an output, constants that broadcast in every direction, paddings of every kind.
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


@dataclass
class Builder:
    """A graph under construction: tensors by name with their shapes, batch 1 standing for N."""

    draw: Draw
    rng: np.random.Generator
    shapes: dict[str, Shape] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def pick(self, options: Sequence[Any]) -> Any:
        return self.draw(st.sampled_from(list(options)))

    def weight(self, values: np.ndarray[Any, Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def floats(self, *shape: int, scale: float = 1.0) -> str:
        return self.weight((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def node(self, op: str, inputs: Sequence[str], shape: Shape, **attrs: Any) -> str:
        out = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=f"n{out}", **attrs))
        self.shapes[out] = shape
        return out

    def tensor(self, rank: int | None = None) -> str | None:
        names = [n for n, s in self.shapes.items() if rank is None or len(s) == rank]
        # Recent tensors first, so that graphs are deep and still branch.
        return self.pick(names[-4:]) if names else None


def conv(b: Builder, x: str) -> str | None:
    _, c, h, w = b.shapes[x]
    k = b.pick([1, 1, 3, 3, 2])
    stride, dilation = b.pick([1, 1, 1, 2]), b.pick([1, 1, 2])
    pads = b.pick([[0] * 4, [k // 2] * 4, [0, 1, 1, 0]])
    reach = dilation * (k - 1) + 1
    oh = (h + pads[0] + pads[2] - reach) // stride + 1
    ow = (w + pads[1] + pads[3] - reach) // stride + 1
    if oh < 1 or ow < 1:
        return None
    group = b.pick([g for g in (1, 1, 2, c) if c % g == 0])
    out = group * b.pick([1, 2, 3])
    inputs = [x, b.floats(out, c // group, k, k, scale=(k * k * c / group) ** -0.5)]
    if b.pick([True, False]):
        inputs.append(b.floats(out))
    attrs = {"strides": [stride] * 2, "dilations": [dilation] * 2, "pads": pads, "group": group}
    return b.node("Conv", inputs, (1, out, oh, ow), **attrs)


def conv_transpose(b: Builder, x: str) -> str | None:
    _, c, h, w = b.shapes[x]
    if h * w > 150:
        return None
    group = b.pick([g for g in (1, 2) if c % g == 0])
    weight = b.floats(c, 2, 2, 2, scale=c**-0.5)
    return b.node("ConvTranspose", [x, weight], (1, 2 * group, h + 1, w + 1), group=group)


def batch_norm(b: Builder, x: str) -> str | None:
    shape = b.shapes[x]
    c = shape[1]
    positive = b.weight((np.abs(b.rng.standard_normal(c)) + 0.5).astype(np.float32))
    return b.node("BatchNormalization", [x, b.floats(c), b.floats(c), b.floats(c), positive], shape)


def arithmetic(b: Builder, x: str) -> str | None:
    shape = b.shapes[x]
    op = b.pick(["Mul", "Add", "Sub", "Div"])
    full = b.pick(["scalar", "channel", "last", "all"])
    kinds = {
        "scalar": (),
        "channel": (shape[1], *[1] * (len(shape) - 2)),
        "last": (shape[-1],),
        "all": shape,
    }
    constant = b.weight((np.abs(b.rng.standard_normal(kinds[full])) + 0.5).astype(np.float32))
    inputs = [x, constant] if b.pick([True, True, False]) else [constant, x]
    if op == "Div" and inputs[1] == x:
        return None
    return b.node(op, inputs, shape)


def activation(b: Builder, x: str) -> str | None:
    shape = b.shapes[x]
    op = b.pick(
        ["Relu", "LeakyRelu", "Sigmoid", "Clip", "HardSwish", "Tanh", "silu", "mish", "hswish"]
    )
    if op == "Clip":
        low, high = sorted(b.draw(st.lists(st.integers(-3, 6), min_size=2, max_size=2)))
        return b.node("Clip", [x, b.weight(np.float32(low)), b.weight(np.float32(high))], shape)
    if op == "silu":
        return b.node("Mul", [x, b.node("Sigmoid", [x], shape)], shape)
    if op == "mish":
        return b.node("Mul", [x, b.node("Tanh", [b.node("Softplus", [x], shape)], shape)], shape)
    if op == "hswish":
        gate = b.node("HardSigmoid", [x], shape, alpha=1 / 6, beta=0.5)
        return b.node("Mul", [gate, x], shape)
    return b.node(op, [x], shape)


def pad_for_max(b: Builder, x: str) -> str | None:
    """Padding with what MaxPool pads with; infinities elsewhere would make NaN of 0 * inf."""
    _, c, h, w = b.shapes[x]
    amounts = b.weight(np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
    fill = b.weight(np.float32(b.pick([-np.inf, -3.4028235e38, 0.0])))
    padded = b.node("Pad", [x, amounts, fill], (1, c, h + 2, w + 2))
    out = b.node("MaxPool", [padded], (1, c, h, w), kernel_shape=[3, 3])
    del b.shapes[padded]
    return out


def pad(b: Builder, x: str) -> str | None:
    _, c, h, w = b.shapes[x]
    mode = b.pick(["constant", "constant", "constant", "reflect", "edge"])
    pads = b.pick([[0, 0, 1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0, 1, 1], [0, 0, -1, 0, 0, 0, 1, 0]])
    oh, ow = h + pads[2] + pads[6], w + pads[3] + pads[7]
    if min(h, w) < 3 or oh < 1:
        return None
    inputs = [x, b.weight(np.array(pads, np.int64))]
    if mode == "constant" and b.pick([True, False]):
        inputs.append(b.weight(np.float32(b.pick([0.0, 1.0]))))
    return b.node("Pad", inputs, (1, c, oh, ow), mode=mode)


def pool(b: Builder, x: str) -> str | None:
    _, c, h, w = b.shapes[x]
    k = b.pick([2, 3])
    if min(h, w) < k:
        return None
    pads = b.pick([0, 0, 1])
    stride = b.pick([1, 2])
    oh, ow = (h + 2 * pads - k) // stride + 1, (w + 2 * pads - k) // stride + 1
    attrs: dict[str, Any] = {"kernel_shape": [k, k], "strides": [stride] * 2, "pads": [pads] * 4}
    op = b.pick(["MaxPool", "AveragePool"])
    if op == "AveragePool":
        attrs["count_include_pad"] = b.pick([0, 1])
    return b.node(op, [x], (1, c, oh, ow), **attrs)


def join(b: Builder, x: str) -> str | None:
    shape = b.shapes[x]
    others = [n for n, s in b.shapes.items() if s == shape]
    other = b.pick(others)
    op = b.pick(["Add", "Mul", "Concat", "Sub"])
    if op != "Concat":
        return b.node(op, [x, other], shape)
    axis = b.pick(range(1, len(shape)))
    joined = tuple(2 * d if i == axis else d for i, d in enumerate(shape))
    return b.node("Concat", [x, other], joined, axis=axis)


def split(b: Builder, x: str) -> str | None:
    shape = b.shapes[x]
    axis = b.pick(range(1, len(shape)))
    if shape[axis] < 2:
        return None
    first = b.pick(range(1, shape[axis]))
    sizes = b.weight(np.array([first, shape[axis] - first], np.int64))
    outs = [f"s{len(b.nodes)}a", f"s{len(b.nodes)}b"]
    b.nodes.append(helper.make_node("Split", [x, sizes], outs, name=outs[0], axis=axis))
    for out, size in zip(outs, (first, shape[axis] - first), strict=True):
        b.shapes[out] = tuple(size if i == axis else d for i, d in enumerate(shape))
    if not b.pick([True, False]):
        return outs[0]
    order = outs if b.pick([True, True, False]) else outs[::-1]
    return b.node("Concat", order, shape, axis=axis)


def cut(b: Builder, x: str) -> str | None:
    shape = b.shapes[x]
    axis = b.pick(range(1, len(shape)))
    start = b.pick([0, 0, 1, -1])
    step = b.pick([1, 1, 2])
    end = b.pick([shape[axis], 2**31 - 1, shape[axis] - 1])
    size = len(range(shape[axis])[start:end:step])
    if size < 1:
        return None
    arrays = [np.array([v], np.int64) for v in (start, end, axis, step)]
    out = tuple(size if i == axis else d for i, d in enumerate(shape))
    return b.node("Slice", [x, *map(b.weight, arrays)], out)


def focus(b: Builder, x: str) -> str | None:
    _, c, h, w = b.shapes[x]
    if h % 2 or w % 2:
        return None
    parts = []
    order = b.pick([[(0, 0), (1, 0), (0, 1), (1, 1)], [(0, 0), (0, 1), (1, 0), (1, 1)]])
    for dh, dw in order:
        arrays = ([dh, dw], [2**31 - 1] * 2, [2, 3], [2, 2])
        names = [b.weight(np.array(a, np.int64)) for a in arrays]
        parts.append(b.node("Slice", [x, *names], (1, c, h // 2, w // 2)))
    return b.node("Concat", parts, (1, 4 * c, h // 2, w // 2), axis=1)


def transpose(b: Builder, x: str) -> str | None:
    shape = b.shapes[x]
    perm = [0, *b.draw(st.permutations(range(1, len(shape))))]
    return b.node("Transpose", [x], tuple(shape[p] for p in perm), perm=perm)


def reshape(b: Builder, x: str) -> str | None:
    shape = b.shapes[x]
    rest = int(np.prod(shape[1:]))
    kind = b.pick(["flat", "tokens", "split", "unsqueeze", "flatten"])
    if kind == "flatten":
        return b.node("Flatten", [x], (1, rest))
    if kind == "unsqueeze":
        axis = b.pick(range(1, len(shape) + 1))
        axes = b.weight(np.array([axis], np.int64))
        wide = b.node("Unsqueeze", [x, axes], (*shape[:axis], 1, *shape[axis:]))
        return b.node("Squeeze", [wide, axes], shape) if b.pick([True, False]) else wide
    target = {
        "flat": [0, -1],
        "tokens": [0, shape[1], -1],
        "split": [-1, *_halved(shape[1]), *shape[2:]],
    }[kind]
    sizes = [1 if t == 0 or (t == -1 and i == 0) else t for i, t in enumerate(target)]
    known = int(np.prod([s for s in sizes if s > 0]))
    out = tuple(rest // known if s == -1 else s for s in sizes)
    return b.node("Reshape", [x, b.weight(np.array(target, np.int64))], out)


def _halved(channels: int) -> list[int]:
    return [2, channels // 2] if channels % 2 == 0 else [1, channels]


def dense(b: Builder, x: str) -> str | None:
    shape = b.shapes[x]
    depth, out = shape[-1], b.pick([2, 3, 4])
    scale = depth**-0.5
    if len(shape) == 2 and b.pick([True, False]):
        trans = b.pick([0, 1])
        weight = b.floats(*((out, depth) if trans else (depth, out)), scale=scale)
        inputs = [x, weight, b.floats(out)] if b.pick([True, False]) else [x, weight]
        return b.node("Gemm", inputs, (1, out), transB=trans, alpha=b.pick([1.0, 0.5]))
    return b.node("MatMul", [x, b.floats(depth, out, scale=scale)], (*shape[:-1], out))


def reduce(b: Builder, x: str) -> str | None:
    shape = b.shapes[x]
    axis, keep = b.pick(range(1, len(shape))), b.pick([0, 1])
    if len(shape) == 2 and not keep:
        return None
    axes = b.weight(np.array([axis], np.int64))
    out = tuple(1 if i == axis else d for i, d in enumerate(shape) if keep or i != axis)
    return b.node(b.pick(["ReduceMean", "ReduceMax", "ReduceSum"]), [x, axes], out, keepdims=keep)


def cast(b: Builder, x: str) -> str | None:
    shape = b.shapes[x]
    wide = b.node("Cast", [x], shape, to=b.pick([TensorProto.DOUBLE, TensorProto.FLOAT]))
    del b.shapes[wide]  # only the way back may be read: other operators are for float32
    return b.node("Cast", [wide], shape, to=TensorProto.FLOAT)


def chain(b: Builder, x: str) -> str | None:
    """Two or three operators in a row that some pass merges, now and then with a second reader."""
    steps = {
        "conv bn": [conv, batch_norm],
        "transposed bn": [conv_transpose, batch_norm],
        "conv arithmetic": [conv, arithmetic, arithmetic],
        "bn conv": [batch_norm, conv],
        "arithmetic conv": [arithmetic, conv],
        "pad conv": [pad, conv],
        "relu pad pool": [activation, pad, pool],
        "pad max pool": [pad_for_max],
        "relu pad max pool": [activation, pad_for_max],
        "conv conv": [conv, conv],
        "focus conv": [focus, conv],
        "clips": [activation, activation],
        "slices": [cut, cut],
        "reshapes": [reshape, reshape],
        "transposes": [transpose, activation, transpose],
    }
    out: str | None = x
    for step in steps[b.pick(sorted(steps))]:
        if out is None or (step in IMAGE and len(b.shapes[out]) != 4):
            return out
        out = step(b, out) or out
    return out


def branches(b: Builder, x: str) -> str | None:
    """Linear branches over one tensor, added up: RepVGG, and what only looks like it."""
    _, c, _, _ = b.shapes[x]
    out, stride = b.pick([c, c, 2 * c]), b.pick([1, 1, 2])
    sizes = b.pick([[3, 1], [3, 3], [1, 1], [5, 3], [3, 2]])
    made = [_branch(b, x, out, k, stride) for k in sizes]
    if b.shapes[made[0]] != b.shapes[made[1]]:
        return made[0]
    total = b.node("Add", made, b.shapes[made[0]])
    if b.shapes[total] == b.shapes[x] and b.pick([True, False]):
        other = x if b.pick([True, False]) else batch_norm(b, x)
        return b.node("Add", [total, other or x], b.shapes[x])
    return total


def _branch(b: Builder, x: str, out: int, k: int, stride: int) -> str:
    _, c, h, w = b.shapes[x]
    p = k // 2
    size = [(d + 2 * p - k) // stride + 1 for d in (h, w)]
    weight = b.floats(out, c, k, k, scale=(k * k * c) ** -0.5)
    attrs = {"pads": [p] * 4, "strides": [stride] * 2}
    return b.node("Conv", [x, weight], (1, out, *size), **attrs)


IMAGE = [conv, conv, batch_norm, pad, pad_for_max, pool, focus, conv_transpose, branches]
ANY = [
    arithmetic,
    arithmetic,
    activation,
    activation,
    join,
    split,
    cut,
    transpose,
    reshape,
    cast,
    reduce,
    dense,
]


@st.composite
def models(draw: Draw, *, max_nodes: int = 12) -> onnx.ModelProto:
    """A random valid model with one input (symbolic batch) and one or more outputs."""
    builder = Builder(draw, np.random.default_rng(draw(st.integers(0, 2**16))))
    shape = (
        1,
        draw(st.sampled_from([1, 2, 3, 4])),
        *draw(st.sampled_from([(8, 8), (6, 8), (5, 7)])),
    )
    builder.shapes["x"] = shape
    for _ in range(draw(st.integers(1, max_nodes))):
        on_image = draw(st.booleans())
        x = builder.tensor(4 if on_image else None)
        if x is not None and np.prod(builder.shapes[x]) < 4000:
            step = draw(st.sampled_from([chain, *IMAGE] if on_image else [chain, *ANY]))
            step(builder, x)
    return _finished(builder, shape)


def _finished(builder: Builder, shape: Shape) -> onnx.ModelProto:
    read = {i for n in builder.nodes for i in n.input}
    made = [o for n in builder.nodes for o in n.output if o in builder.shapes]
    ends = [o for o in made if o not in read]
    if made:  # now and then a result that is read is an output as well
        ends = list(
            dict.fromkeys([*ends, *builder.draw(st.lists(st.sampled_from(made), max_size=1))])
        )
    if not ends:
        builder.node("Relu", ["x"], shape)
        ends = [builder.nodes[-1].output[0]]
    graph = helper.make_graph(
        builder.nodes,
        "generated",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *shape[1:]])],
        [helper.make_tensor_value_info(e, TensorProto.FLOAT, None) for e in ends],
        builder.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)
