"""What each operator does with the scales of its input (see `graphopt.passes.quantize.scale_flow`).

A rule gives the labels of the node's outputs, or holds those of its inputs. An operator without a row
in `RULES` holds them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from graphopt.channels.labels import KEPT, Vector
from graphopt.channels.rules.reshape import segments
from graphopt.channels.rules.targets import completed
from graphopt.ir.graph import (
    Node,
    Tensor,
    input_of,
    input_value,
    is_op,
    rank_of,
    scalar_of,
    value_of,
)
from graphopt.passes.quantize.scale_flow import Bounded, Flow, Marks, Offset

Rule = Callable[[Flow, Node], None]


def rule_for(node: Node) -> Rule | None:
    """The rule of a standard operator, or None."""
    return RULES.get(node.op) if is_op(node, node.op) else None


# --- one input, element by element ------------------------------------------------------------


def _same(flow: Flow, node: Node) -> None:
    flow.give(node, flow.of(node.inputs[0]))


def _dropout(flow: Flow, node: Node) -> None:
    training = input_of(node, 2)
    if training is not None and (value_of(training) is None or scalar_of(training)):
        flow.hold_inputs(node, "Dropout in training mode draws random numbers")
        return
    _same(flow, node)


def _prelu(flow: Flow, node: Node) -> None:
    if flow.of(node.inputs[1]) is not None:
        flow.hold_inputs(node, "the slope of PRelu is computed from scaled values")
        return
    _same(flow, node)


def _clip(flow: Flow, node: Node) -> None:
    lo, hi = _bound(node, 1, -math.inf), _bound(node, 2, math.inf)
    if lo is None or hi is None:
        flow.hold_inputs(node, "the bounds of Clip are computed at run time")
    elif lo in (0, -math.inf) and hi in (0, math.inf):
        _same(flow, node)
    elif flow.bound_channels and lo == 0 and hi > 0:
        marks = flow.of(node.inputs[0])
        assert marks is not None  # or no rule would be asked
        flow.bounded.append(Bounded(node, hi, marks))
        _same(flow, node)
    else:
        hint = " (see loosen-clips, or relu6=min)" if lo == 0 else ""
        flow.hold_inputs(node, f"Clip to [{lo:g}, {hi:g}] is not positively homogeneous{hint}")


def _bound(node: Node, index: int, default: float) -> float | None:
    tensor = input_of(node, index)
    return default if tensor is None else scalar_of(tensor)


# --- several inputs ---------------------------------------------------------------------------


def _add(flow: Flow, node: Node) -> None:
    """Add, Max, ...: all operands have the same scales, and constants are scaled with them."""
    rank = rank_of(node.outputs[0]) or 0
    computed = [t for t in node.inputs if value_of(t) is None]
    marks = [flow.of(t) for t in computed]
    if any(m is None for m in marks):
        flow.hold_inputs(node, f"{node.op} joins it with a tensor that has no scale of its own")
        return
    out = flow.unite(node, *(_padded(m, rank) for m in marks if m is not None))
    for index, tensor in enumerate(node.inputs):
        if value_of(tensor) is not None and np.any(tensor.values):
            flow.offsets.append(Offset(node, index, out))
    flow.give(node, out)


def _mul(flow: Flow, node: Node) -> None:
    marks = [flow.of(t) for t in node.inputs]
    if marks[0] is not None and marks[1] is not None:
        flow.hold_inputs(node, "Mul multiplies two scaled tensors")
        return
    one = marks[0] if marks[0] is not None else marks[1]
    assert one is not None
    flow.give(node, _padded(one, rank_of(node.outputs[0]) or one.ndim))


def _div(flow: Flow, node: Node) -> None:
    if flow.of(node.inputs[1]) is not None:
        flow.hold_inputs(node, "Div divides by it")
        return
    marks = flow.of(node.inputs[0])
    assert marks is not None
    flow.give(node, _padded(marks, rank_of(node.outputs[0]) or marks.ndim))


def _padded(marks: Vector, rank: int) -> Vector:
    """Labels of a tensor that broadcasts to a larger rank."""
    return marks.reshape((1,) * (rank - marks.ndim) + marks.shape)


def _concat(flow: Flow, node: Node) -> None:
    rank = rank_of(node.outputs[0]) or 0
    axis = int(node.attrs["axis"]) % rank
    sizes = [_size(t, axis) for t in node.inputs]
    marks = [flow.of(t) for t in node.inputs]
    known = [m for m in marks if m is not None]
    along = any(m.shape[axis] > 1 for m in known) or axis == 1
    if any(s is None for s in sizes) and along:
        flow.hold_inputs(node, "Concat joins tensors of unknown size")
        return
    if not along:
        if len(known) < len(marks):
            flow.hold_inputs(node, "Concat joins it with a tensor that has no scale of its own")
            return
        flow.give(node, flow.unite(node, *known))
        return
    flow.give(node, _joined(marks, [s or 0 for s in sizes], axis, rank))


def _joined(marks: Sequence[Marks], sizes: Sequence[int], axis: int, rank: int) -> Vector:
    filled = [np.full((1,) * rank, KEPT, np.int64) if m is None else m for m in marks]
    across = np.broadcast_shapes(*((*m.shape[:axis], 1, *m.shape[axis + 1 :]) for m in filled))
    parts = [
        np.broadcast_to(m, (*across[:axis], size, *across[axis + 1 :]))
        for m, size in zip(filled, sizes, strict=True)
    ]
    return np.concatenate(parts, axis)


def _size(tensor: Tensor, axis: int) -> int | None:
    size = None if tensor.shape is None else tensor.shape[axis]
    return size if isinstance(size, int) else None


# --- windows over positions -------------------------------------------------------------------


def _spatial(flow: Flow, node: Node) -> None:
    marks = flow.of(node.inputs[0])
    assert marks is not None
    if marks.size != marks.shape[0] * marks.shape[1]:
        flow.hold_inputs(node, f"{node.op} mixes positions whose scales differ")
        return
    for index in range(len(node.outputs)):
        # MaxPool's second output counts positions, which scales do not move.
        flow.give(node, marks if index == 0 else None, index)


def _resize(flow: Flow, node: Node) -> None:
    same_channels = _size(node.inputs[0], 1) == _size(node.outputs[0], 1) is not None
    crops = node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize"
    if crops or not same_channels:
        flow.hold_inputs(node, "Resize does more than enlarge positions")
        return
    _spatial(flow, node)


def _pad(flow: Flow, node: Node) -> None:
    marks, pads = flow.of(node.inputs[0]), input_value(node, 1)
    assert marks is not None
    fill = input_of(node, 2)
    mode = node.attrs.get("mode", "constant")
    neutral = fill is None or scalar_of(fill) in (0, math.inf, -math.inf)
    if mode == "constant" and not neutral:
        flow.hold_inputs(node, "Pad fills in a value that would have to be scaled")
        return
    if pads is None or input_of(node, 3) is not None:
        flow.hold_inputs(node, "the amounts of Pad are computed, or given for some axes only")
        return
    for axis, (before, after) in enumerate(np.reshape(pads, (2, -1)).T.tolist()):
        if marks.shape[axis] == 1 or not (before or after):
            continue
        if mode != "constant" or min(before, after) < 0:
            flow.hold_inputs(node, "Pad repeats channels, or takes some away")
            return
        # Channels of zeros have any scale there is.
        marks = np.concatenate(
            [
                _new_channels(flow, marks, axis, before),
                marks,
                _new_channels(flow, marks, axis, after),
            ],
            axis,
        )
    flow.give(node, marks)


def _new_channels(flow: Flow, marks: Vector, axis: int, count: int) -> Vector:
    shape = [count if a == axis else d for a, d in enumerate(marks.shape)]
    return flow.labels.fresh(math.prod(shape)).reshape(shape)


def _reduce(flow: Flow, node: Node) -> None:
    marks, axes = flow.of(node.inputs[0]), input_value(node, 1)
    assert marks is not None
    if (axes is None and input_of(node, 1) is not None) or (axes is not None and not axes.size):
        flow.hold_inputs(node, f"the axes of {node.op} are computed at run time, or none are given")
        return
    over = range(marks.ndim) if axes is None else [int(a) % marks.ndim for a in axes.reshape(-1)]
    if any(marks.shape[a] > 1 for a in over):
        flow.hold_inputs(node, f"{node.op} mixes channels")
        return
    if not node.attrs.get("keepdims", 1):
        marks = np.squeeze(marks, axis=tuple(over))
    flow.give(node, marks)


# --- moving elements --------------------------------------------------------------------------


def _transpose(flow: Flow, node: Node) -> None:
    marks = flow.of(node.inputs[0])
    assert marks is not None
    flow.give(node, np.transpose(marks, node.attrs.get("perm")))


def _split(flow: Flow, node: Node) -> None:
    marks = flow.of(node.inputs[0])
    assert marks is not None
    axis = int(node.attrs.get("axis", 0)) % marks.ndim
    sizes = [_size(t, axis) for t in node.outputs]
    if marks.shape[axis] == 1:
        parts = [marks] * len(sizes)
    elif any(s is None for s in sizes):
        flow.hold_inputs(node, "Split makes parts of unknown size")
        return
    else:
        parts = np.split(marks, np.cumsum([s or 0 for s in sizes])[:-1], axis)
    for index, part in enumerate(parts):
        flow.give(node, part, index)


def _slice(flow: Flow, node: Node) -> None:
    marks = flow.of(node.inputs[0])
    assert marks is not None
    given = [input_value(node, i) for i in range(1, 5)]
    missing = [g is None and input_of(node, i + 1) is not None for i, g in enumerate(given)]
    if given[0] is None or given[1] is None or any(missing):
        if marks.size > 1:
            flow.hold_inputs(node, "the bounds of Slice are computed at run time")
        return
    starts, ends = given[0].reshape(-1), given[1].reshape(-1)
    axes = np.arange(len(starts)) if given[2] is None else given[2].reshape(-1)
    steps = np.ones(len(starts), np.int64) if given[3] is None else given[3].reshape(-1)
    cut = [slice(None)] * marks.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if marks.shape[axis] > 1:
            # ONNX clamps to the ends; Python reads -1 behind a negative step as the last element.
            stop = None if step < 0 and end < -marks.shape[axis] else int(end)
            cut[int(axis)] = slice(int(start), stop, int(step))
    flow.give(node, marks[tuple(cut)])


def _gather(flow: Flow, node: Node) -> None:
    marks, indices = flow.of(node.inputs[0]), input_value(node, 1)
    if marks is None or flow.of(node.inputs[1]) is not None:
        return
    axis = int(node.attrs.get("axis", 0)) % marks.ndim
    rank = rank_of(node.inputs[1])
    if marks.shape[axis] > 1 and indices is not None:
        flow.give(node, np.take(marks, indices, axis))
    elif marks.shape[axis] == 1 and rank is not None:
        shape = marks.shape[:axis] + (1,) * rank + marks.shape[axis + 1 :]
        flow.give(node, marks.reshape(shape))
    else:
        flow.hold_inputs(node, "Gather picks channels at run time")


def _reshape(flow: Flow, node: Node) -> None:
    marks = flow.of(node.inputs[0])
    assert marks is not None
    before, after = node.inputs[0].shape, node.outputs[0].shape
    target = node.op != "Reshape" or input_value(node, 1) is not None
    spans = None
    if before is not None and after is not None and target:
        old, new = completed(list(before), list(after))
        spans = segments(old, new)
    if spans is None:
        flow.hold_inputs(node, f"{node.op} cannot be followed: its sizes are not known")
        return
    out: list[Any] = [1] * len(new)
    for old_span, new_span in spans:
        if math.prod(marks.shape[a] for a in old_span) == 1:
            continue
        sizes = [*(old[a] for a in old_span), *(new[a] for a in new_span)]
        if not all(isinstance(d, int) for d in sizes):
            flow.hold_inputs(node, f"{node.op} mixes channels with an axis of unknown size")
            return
        for a in new_span:
            out[a] = new[a]
    flow.give(node, _laid_out(marks, old, out, spans))


def _laid_out(marks: Vector, old: Sequence[Any], new: Sequence[int], spans: Any) -> Vector:
    """The labels read off in new axes; what turns out equal along an axis is kept once."""
    wide = list(marks.shape)
    for old_span, new_span in spans:
        if math.prod(new[a] for a in new_span) > 1:
            for a in old_span:
                wide[a] = int(old[a])
    laid = np.broadcast_to(marks, wide).reshape(new)
    for axis in range(laid.ndim):
        first = laid.take([0], axis)
        if laid.shape[axis] > 1 and (laid == first).all():
            laid = first
    return np.ascontiguousarray(laid)


# --- what reads no values, and what must not be crossed -----------------------------------------


def _reads_no_values(flow: Flow, node: Node) -> None:
    flow.give(node, None)


def _batch_norm(flow: Flow, node: Node) -> None:
    flow.hold_inputs(node, "a BatchNormalization stands between: fold it with fuse-conv-bn first")


def _activation(flow: Flow, node: Node) -> None:
    flow.hold_inputs(node, f"{node.op} is not positively homogeneous")


_CURVED = (
    *(
        "Sigmoid",
        "Tanh",
        "HardSigmoid",
        "HardSwish",
        "Mish",
        "Gelu",
        "Elu",
        "Selu",
        "Celu",
        "Swish",
    ),
    *("Softplus", "Softsign", "Softmax", "LogSoftmax", "Exp", "Log", "Pow", "Sqrt", "Erf"),
)

RULES: dict[str, Rule] = {
    **dict.fromkeys(("Relu", "LeakyRelu", "Abs", "Neg", "Identity"), _same),
    "Dropout": _dropout,
    "PRelu": _prelu,
    "Clip": _clip,
    **dict.fromkeys(("Add", "Sub", "Sum", "Max", "Min", "Mean"), _add),
    "Mul": _mul,
    "Div": _div,
    "Concat": _concat,
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool"), _spatial),
    **dict.fromkeys(("GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"), _spatial),
    "Resize": _resize,
    "Pad": _pad,
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), _reduce),
    **dict.fromkeys(("ReduceL1", "ReduceL2"), _reduce),
    "Transpose": _transpose,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(("Shape", "Size"), _reads_no_values),
    "BatchNormalization": _batch_norm,
    **dict.fromkeys(_CURVED, _activation),
}
