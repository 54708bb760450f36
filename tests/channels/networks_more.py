"""The rest of the steps random networks are made of, and the networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from networks import (
    BATCH,
    LARGEST,
    Draw,
    Network,
    Step,
    activation,
    attention,
    batch_norm,
    broadcast,
    concat,
    conv,
    conv_norm,
    conv_transpose,
    cut,
    dropout,
    einsum,
    flatten,
    from_left,
    gate,
    gather,
    join,
    linear,
    quantized_conv,
    recurrent,
    regroup,
    reshape_anyhow,
    residual,
    shuffle,
    split,
    squeeze,
    tokens,
    transpose,
    with_constant,
)
from onnx import TensorProto, helper

# --- sizes and places -------------------------------------------------------------------------


def pad(n: Network, x: str) -> str | None:
    shape = n.shapes[x]
    axis = n.axis(x)
    before, after = n.pick([(1, 2), (0, 2), (3, 0), (-1, 2), (-1, -1), (0, -1)])
    size = shape[axis] + before + after
    if size < 1 or shape[axis] < 3:
        return None
    dims = tuple(size if a == axis else d for a, d in enumerate(shape))
    mode = n.pick(["constant", "constant", "constant", "edge", "reflect"])
    if min(before, after) < 0 or max(before, after) >= shape[axis]:
        mode = "constant"  # ONNX Runtime refuses some of these
    if n.chance():
        fill = n.constant(n.pick([0, 1]), np.float32)
        inputs = [x, n.constant([before, after]), fill, n.constant([axis - len(shape)])]
    else:
        amounts = np.zeros(2 * len(shape))
        amounts[axis], amounts[axis + len(shape)] = before, after
        inputs = [x, n.constant(amounts)]
    return n.node("Pad", inputs, dims, mode=mode)


def resize(n: Network, x: str) -> str | None:
    b, c, h, w = n.shapes[x]
    if h * w > 40:
        return None
    mode = n.pick(["nearest", "linear"])
    ways = ["scales", "computed", "axes", "odd"] if n.symbolic else ["scales", "sizes", "axes"]
    way = n.pick(["scales", "odd"] if n.free else ways)
    if way == "scales":
        scales = n.constant([1, 1, 2, 2], np.float32)
        return n.node("Resize", [x, "", scales], (b, c, 2 * h, 2 * w), mode=mode)
    if way == "odd":
        scales = n.constant([1, 2, 1, 1], np.float32)
        return n.node("Resize", [x, "", scales], (b, 2 * c, h, w), mode="nearest")
    if way == "axes":
        sizes = n.constant([h + 1, c])
        return n.node("Resize", [x, "", "", sizes], (b, c, h + 1, w), mode="nearest", axes=[2, 1])
    if way == "sizes":
        sizes = n.constant([b, c, h + 1, w])
    else:
        known = n.integer("Shape", [x])
        start = n.integer("Slice", [known, n.constant([0]), n.constant([2])])
        sizes = n.integer("Concat", [start, n.constant([h + 1, w])], axis=0)
    return n.node("Resize", [x, "", "", sizes], (b, c, h + 1, w), mode=mode)


def pool(n: Network, x: str) -> str | None:
    b, c, h, w = n.shapes[x]
    op = n.pick(["MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "LpPool"])
    if op.startswith("Global"):
        return n.node(op, [x], (b, c, 1, 1))
    if min(h, w) < 2:
        return None
    if op == "MaxPool" and n.chance(8):
        size = (b, c, h - 1, w - 1)
        largest = n.node(op, [x], size, size, kernel_shape=[2, 2])
        del n.shapes[n.outs()[1]]  # positions
        return largest
    return n.node(op, [x], (b, c, h - 1, w - 1), kernel_shape=[2, 2])


def blocks(n: Network, x: str) -> str | None:
    b, c, h, w = n.shapes[x]
    if c % 4 == 0 and n.chance():
        mode = n.pick(["DCR", "CRD"])
        return n.node("DepthToSpace", [x], (b, c // 4, 2 * h, 2 * w), blocksize=2, mode=mode)
    if h % 2 or w % 2:
        return None
    return n.node("SpaceToDepth", [x], (b, 4 * c, h // 2, w // 2), blocksize=2)


def focus(n: Network, x: str) -> str | None:
    b, c, h, w = n.shapes[x]
    if h % 2 or w % 2:
        return None
    y = n.reshape(x, (b, c, h // 2, 2, w // 2, 2))
    order = n.pick([[0, 3, 5, 1, 2, 4], [0, 1, 3, 5, 2, 4]])
    y = n.node("Transpose", [y], tuple(n.shapes[y][p] for p in order), perm=order)
    return n.reshape(y, (b, 4 * c, h // 2, w // 2))


def reduce(n: Network, x: str) -> str | None:
    shape = n.shapes[x]
    axis = n.axis(x)
    op = n.pick(["ReduceSum", "ReduceMean", "ReduceMax", "ReduceL2", "ReduceL1", "ReduceSumSquare"])
    keep = 1 if len(shape) < 3 else n.pick([0, 1])
    dims = tuple(1 if a == axis else d for a, d in enumerate(shape) if a != axis or keep)
    at = n.constant([axis - len(shape) if n.chance() else axis])
    return n.node(op, [x, at], dims, keepdims=keep)


def expand(n: Network, x: str) -> str | None:
    shape = n.shapes[x]
    larger = [s for s in n.shapes.values() if len(s) == len(shape) and s != shape]
    fits = [s for s in larger if all(a in (1, b) for a, b in zip(shape, s, strict=True))]
    targets = fits or [tuple(3 if d == 1 else d for d in shape)]
    dims = n.pick(targets)
    if n.symbolic or n.chance():
        like = [k for k, s in n.shapes.items() if s == dims]
        if like and n.chance():
            return n.node("Expand", [x, n.integer("Shape", [n.pick(like)])], dims)
        return n.node(
            "Expand",
            [x, n.constant([1 if d == s else d for s, d in zip(shape, dims, strict=True)])],
            dims,
        )
    return n.node("Expand", [x, n.constant(dims)], dims)


def tile(n: Network, x: str) -> str | None:
    shape = n.shapes[x]
    repeats = [1] + [n.pick([1, 1, 2]) for _ in shape[1:]]
    return n.node(
        "Tile", [x, n.constant(repeats)], tuple(r * d for r, d in zip(repeats, shape, strict=True))
    )


def normalize_anyhow(n: Network, x: str) -> str | None:
    shape = n.shapes[x]
    op = n.pick(
        ["Softmax", "LayerNormalization", "LpNormalization", "CumSum", "MeanVarianceNormalization"]
    )
    if op == "LayerNormalization":
        return n.node(op, [x, n.weight(shape[-1]), n.weight(shape[-1])], shape, epsilon=0.1)
    if op == "CumSum":
        return n.node(op, [x, n.constant(n.pick([1, -1]))], shape)
    if op == "MeanVarianceNormalization":
        return n.node(op, [x], shape, axes=[len(shape) - 1])
    return n.node(op, [x], shape, axis=n.pick([1, -1]))


def normalize_image(n: Network, x: str) -> str | None:
    shape = n.shapes[x]
    b, c, h, w = shape
    kind = n.pick(["instance", "group", "LRN"])
    if kind == "LRN":
        return n.node("LRN", [x], shape, size=3)
    if kind == "instance" or c % 2 or h * w < 2:
        return n.node("InstanceNormalization", [x, n.weight(c), n.weight(c)], shape, epsilon=0.1)
    groups = n.pick([g for g in (2, 3, c) if c % g == 0])
    y = n.reshape(x, (b, groups, c // groups * h * w))
    ones, zeros = n.constant(np.ones(groups), np.float32), n.constant(np.zeros(groups), np.float32)
    y = n.node("InstanceNormalization", [y, ones, zeros], n.shapes[y], epsilon=0.1)
    y = n.reshape(y, shape)
    y = n.node("Mul", [y, n.weight(c, 1, 1)], shape)
    return n.node("Add", [y, n.weight(c, 1, 1)], shape)


def unfit(n: Network, x: str) -> str | None:
    """Operators that nothing can be removed behind, or that tell a size."""
    shape = n.shapes[x]
    kind = n.pick(["TopK", "ScatterND", "size", "If", "branch weight"])
    if kind == "TopK":
        k = n.constant([2])
        if shape[1] < 2:
            return None
        dims = (shape[0], 2, *shape[2:])
        best = n.node("TopK", [x, k], dims, dims, axis=1)
        del n.shapes[n.outs()[1]]  # positions
        return best
    if kind == "ScatterND":
        new = n.weight(1, *shape[1:])
        return n.node("ScatterND", [x, n.constant([[1]]), new], shape)
    if kind == "size":
        size = n.integer("Gather", [n.integer("Shape", [x]), n.constant(n.pick([1, -1]))])
        real = n.integer("Cast", [size], to=TensorProto.FLOAT)
        return n.node("Div", [x, n.integer("Sqrt", [real])], shape)
    return _branch(n, x, kind)


def _branch(n: Network, x: str, kind: str) -> str | None:
    shape = n.shapes[x]
    read = n.weight(shape[1]) if kind == "branch weight" else x
    name = f"c{len(n.nodes)}"
    inner = []
    for k, op in enumerate(("ReduceSum", "ReduceMax")):
        out = helper.make_tensor_value_info(f"{name}_{k}", TensorProto.FLOAT, [])
        node = helper.make_node(op, [read], [out.name], keepdims=0)
        inner.append(helper.make_graph([node], f"{name}_g{k}", [], [out]))
    flag = n.constant(n.pick([True, False]), np.bool_)
    picked = n.integer("If", [flag], then_branch=inner[0], else_branch=inner[1])
    return n.node("Mul", [x, n.integer("Tanh", [picked])], shape)


def rows(n: Network, x: str) -> str | None:
    """Positions flattened, whatever their number, and put back as they were."""
    b, c, h, w = n.shapes[x]
    y = n.node("Reshape", [x, n.constant([0, c, -1])], (b, c, h * w))
    if n.chance():
        y = n.node("Transpose", [y], (b, h * w, c), perm=[0, 2, 1])
        y = n.node("MatMul", [y, n.weight(c, 4, fan_in=c)], (b, h * w, 4))
        y = n.node("Transpose", [y], (b, 4, h * w), perm=[0, 2, 1])
    parts = [n.constant([-1]), n.constant([n.shapes[y][1]])]
    sizes = n.integer("Shape", [x])
    parts.append(n.integer("Slice", [sizes, n.constant([2]), n.constant([4])]))
    target = n.integer("Concat", parts, axis=0)
    z = n.node("Reshape", [y, target], (b, n.shapes[y][1], h, w))
    del n.shapes[y]
    return z


IMAGE: list[Step] = [
    conv, conv, conv_norm, conv_norm, conv_transpose, batch_norm, gate, residual, shuffle, tokens,
    pool, resize, blocks, focus, normalize_image, quantized_conv,
]  # fmt: skip
ANY: list[Step] = [
    linear, linear, from_left, einsum, activation, join, join, broadcast, with_constant, dropout,
    concat, concat, split, cut, gather, transpose, regroup, reshape_anyhow, flatten, squeeze, pad,
    reduce, expand, tile, attention, recurrent, normalize_anyhow, unfit,
]  # fmt: skip


# Steps that speak of no size but the channels'.
FREE: list[Step] = [
    conv, conv, conv_norm, conv_norm, conv_transpose, batch_norm, gate, residual, pool, resize,
    quantized_conv, activation, join, join, broadcast, with_constant, dropout, concat, concat, split,
    cut, gather, pad, reduce, einsum, rows,
]  # fmt: skip


@st.composite
def networks(draw: Draw, *, max_steps: int = 9) -> onnx.ModelProto:
    """A random valid network with one or two inputs and one or more outputs."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    kind = draw(st.sampled_from(["numbers", "batch", "batch", "image"]))
    n = Network(draw, rng, kind != "numbers", kind == "image")
    first = (BATCH, 3, *draw(st.sampled_from([(4, 4), (4, 6), (3, 5)])))
    n.shapes["x"] = first
    conv(n, "x")
    for _ in range(draw(st.integers(1, max_steps))):
        names = list(n.shapes)
        x = draw(st.sampled_from(names[-4:] if len(names) > 4 else names))
        image = len(n.shapes[x]) == 4 and n.shapes[x][0] == BATCH
        if n.free and not image:
            continue
        step = draw(st.sampled_from(FREE if n.free else [*IMAGE, *ANY] if image else ANY))
        if np.prod(n.shapes[x]) < LARGEST:
            step(n, x)
    return _finished(n, first)


def _finished(n: Network, first: Any) -> onnx.ModelProto:
    read = {i for node in n.nodes for i in node.input}
    ends = [t for t in n.shapes if t not in read and t != "x"]
    outputs = [_head(n, end) for end in ends]
    made = [t for t in n.shapes if t not in ("x", *outputs)]
    if made and n.chance(8):
        outputs.append(n.pick(made))
    dims = ["N" if n.symbolic else BATCH, 3, *(("H", "W") if n.free else first[2:])]
    graph = helper.make_graph(
        n.nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in dict.fromkeys(outputs)],
        n.weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def _head(n: Network, end: str) -> str:
    """Mostly a layer, since an output itself cannot lose anything."""
    if n.chance(12):
        return end
    shape = n.shapes[end]
    if len(shape) == 4 and (n.free or not n.chance(3)):
        weight = n.weight(2, shape[1], 1, 1, fan_in=shape[1])
        return n.node("Conv", [end, weight], (shape[0], 2, *shape[2:]))
    if n.free:
        return n.node("ReduceMax", [end, n.constant([-1])], (*shape[:-1], 1))
    if n.chance():  # everything meets everything, each element with a weight of its own
        size = int(np.prod(shape[1:]))
        every = n.node("Mul", [end, n.weight(*shape[1:], fan_in=size)], shape)
        return n.node("ReduceSum", [every, n.constant(range(1, len(shape)))], shape[:1], keepdims=0)
    return n.node("MatMul", [end, n.weight(shape[-1], 2, fan_in=shape[-1])], (*shape[:-1], 2))
