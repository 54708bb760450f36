"""Channel shuffles, and strided pieces of images, as what has a kernel over blocked images.

    y[c] = x[p(c)], by a chain of Reshape, Transpose, Slice, Split, ...   ->  Gather(x, p), axis 1
    y = x[:, :, ::s, ::t]   ->  MaxPool of 1x1, strides s, t

That a chain moves whole channels is found out by sending the numbers 0, 1, 2, ... through it: what comes
out says which channel of x every channel of y is, or that pixels are mixed up.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    add_constant,
    add_node,
    input_of,
    input_value,
    is_op,
    produced_by,
    replace_uses,
    static_shape,
    sweep,
)
from graphopt.runtime.lower.layout import Layout, image_shape
from graphopt.runtime.lower.quantized import grid_of, rounding_of

Values = np.ndarray[Any, Any]
_MOVES = (
    *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"),
    *("Transpose", "Slice", "Gather", "Split"),
)
_LONGEST = 12  # nodes of a chain


def picks_to_gathers(graph: Graph, layout: Callable[[Graph], Layout]) -> None:
    """Rewrites what moves channels or takes every n-th pixel of blocked images.

    Images behind that are blocked from then on, and what moves those too: until nothing is left.
    """
    found = True
    while found:
        known, found = layout(graph), False
        for node in list(graph.nodes):
            if is_op(node, *_MOVES) and known.kind(node) is None:
                for out in list(node.outputs):
                    found |= _rewrite(graph, known, out)
        sweep(graph)


def _rewrite(graph: Graph, layout: Layout, out: Tensor) -> bool:
    if image_shape(out) is None:
        return False
    strides = _strides(layout, out)
    chain = None if strides else _chain(layout, out)
    if strides is not None:
        source = out.inputs[0].inputs[0]
        attrs: dict[str, Any] = {"kernel_shape": [1, 1], "strides": strides}
        made = add_node(graph, "MaxPool", [source], like=out, attrs=attrs)
    elif chain is not None and chain.picks is not None:
        picks = add_constant(graph, f"{out.name}_channels", chain.picks)
        made = add_node(graph, "Gather", [chain.source, picks], like=out, attrs={"axis": 1})
    else:
        return False
    maker = out.inputs[0]
    if len(maker.outputs) == 1:
        made.inputs[0].name, maker.name = maker.name, ""
    replace_uses(graph, out, made)
    return True


# --- every n-th pixel ---------------------------------------------------------------------------------


def _strides(layout: Layout, out: Tensor) -> list[int] | None:
    """The strides of a Slice of rows and columns from the first on, or None where it is something else."""
    node = produced_by(out, "Slice")
    if node is None or id(node.inputs[0]) not in layout.blocked:
        return None
    given, made = image_shape(node.inputs[0]), image_shape(out)
    cuts = _cuts(node)
    if given is None or made is None or cuts is None or cuts[1] != slice(None):
        return None
    steps = [c.step or 1 for c in cuts[2:]]
    if any(c.start not in (None, 0) for c in cuts[2:]) or min(steps) < 1 or max(steps) == 1:
        return None
    whole = all(m == -(-g // s) for g, m, s in zip(given[1:], made[1:], steps, strict=True))
    return steps if whole else None


def _cuts(node: Node) -> list[slice] | None:
    """What a Slice takes of every axis, or None where run time tells it."""
    shape = static_shape(node.inputs[0])
    told = [_numbers(node, i) for i in range(1, 5)]
    starts, ends, axes, steps = told
    if shape is None or starts is None or ends is None or None in told:
        return None
    cuts = [slice(None)] * len(shape)
    for i, axis in enumerate(axes or range(len(starts))):
        step = steps[i] if steps else 1
        if step < 1:
            return None
        first, last, _ = slice(starts[i], ends[i]).indices(shape[axis])
        if (first, last, step) != (0, shape[axis], 1):
            cuts[axis] = slice(first, last, step)
    return cuts


def _numbers(node: Node, index: int) -> list[int] | None:
    """An input that is told as a constant; nothing where it is left out, None where run time tells it."""
    if input_of(node, index) is None:
        return []
    values = input_value(node, index)
    return None if values is None else [int(v) for v in values.reshape(-1)]


# --- chains -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chain:
    """What makes an image of a blocked one by moving values.

    Attributes:
        source: the blocked image.
        picks: which of its channels each of the result's is; None where they are no whole channels.
    """

    source: Tensor
    picks: Values | None


def _chain(layout: Layout, out: Tensor) -> _Chain | None:
    made, steps, tensor = image_shape(out), list[tuple[Node, int]](), out
    while len(steps) < _LONGEST:
        node = produced_by(tensor, *_MOVES)
        if node is None:
            return None
        number = next(i for i, t in enumerate(node.outputs) if t is tensor)
        steps.append((node, number))
        tensor = _unrounded(node.inputs[0])
        shape = image_shape(tensor)
        if id(tensor) in layout.blocked and shape is not None and shape[1:] == made[1:]:  # type: ignore[index]
            return _Chain(tensor, _picked(shape, steps[::-1]))
    return None


def _unrounded(tensor: Tensor) -> Tensor:
    """A tensor before a rounding that changes nothing, because what it was moved from has that grid."""
    rounding = rounding_of(tensor)
    if rounding is None or produced_by(rounding.inputs[0], *_MOVES) is None:
        return tensor
    source = rounding.inputs[0]
    while (node := produced_by(source, *_MOVES)) is not None:
        source = node.inputs[0]
    before = rounding_of(source)
    return (
        rounding.inputs[0]
        if before is not None and grid_of(before) == grid_of(rounding)
        else tensor
    )


def _picked(shape: tuple[int, int, int], steps: list[tuple[Node, int]]) -> Values | None:
    channels, height, width = shape
    values: Values | None = np.arange(channels * height * width).reshape(1, *shape)
    for node, number in steps:
        values = None if values is None else _moved(node, number, values)
    if values is None:
        return None
    picks = values[0, :, 0, 0] // (height * width)
    pixels = np.arange(height * width).reshape(height, width)
    same = np.array_equal(values[0], picks[:, None, None] * (height * width) + pixels)
    return picks.astype(np.int64) if same else None


def _moved(node: Node, number: int, values: Values) -> Values | None:
    """Output `number` of a node that moves values; None where run time tells it how."""
    if is_op(node, "Transpose"):
        return values.transpose(node.attrs.get("perm", range(values.ndim)[::-1]))
    if is_op(node, "Slice"):
        cuts = _cuts(node)
        return None if cuts is None else values[tuple(cuts)]
    if is_op(node, "Gather"):
        indices = input_value(node, 1)
        return None if indices is None else values.take(indices, int(node.attrs.get("axis", 0)))
    if is_op(node, "Split"):
        axis = int(node.attrs.get("axis", 0))
        sizes = [(static_shape(t) or (0,) * values.ndim)[axis] for t in node.outputs]
        return np.split(values, np.cumsum(sizes)[:-1], axis)[number]
    wanted = static_shape(node.outputs[0])
    return None if wanted is None else values.reshape(wanted)
