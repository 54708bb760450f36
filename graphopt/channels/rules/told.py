"""Where the sizes go that Shape reads: a size may change if only targets of reshapes see it.

Reshape, Expand and Resize often get their sizes from other tensors' shapes, although all of them but
the batch are known. Removal gives these nodes constant targets, so that nothing hangs on the number
any more. Whatever else sees a size (a division by sqrt(width), a slice, an output) would compute
something different, and the axis has to stay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from graphopt.channels.rules.targets import constant_target
from graphopt.channels.settle import MADE_UP
from graphopt.ir.graph import Node, Tensor, input_of, input_value, is_op

_ARITHMETIC = """
Abs Add And Cast Ceil Concat Div Equal Floor Greater GreaterOrEqual Less LessOrEqual Max Min Mod Mul
Neg Not Or Pow ReduceProd Round Sqrt Squeeze Sub Unsqueeze Where
"""

Outside = Callable[[Tensor], bool]


def told_positions(sizes: Tensor, count: int, outside: Outside) -> set[int]:
    """The elements of a tensor of `count` sizes that something other than a target sees."""
    every = set(range(count))
    if outside(sizes) or not sizes.outputs:
        return every
    seen: dict[int, bool] = {}
    told: set[int] = set()
    for reader, index in _readings(sizes):
        picked = _picked(reader, index, count)
        if picked is None:
            told |= every if _tells(reader, index, outside, seen) else set()
        elif any(_is_told(t, outside, seen) for t in reader.outputs):
            told |= picked
    return told


def _is_told(tensor: Tensor, outside: Outside, seen: dict[int, bool]) -> bool:
    """Whether anything sees the values of a tensor but the targets that removal rewrites."""
    if id(tensor) not in seen:
        seen[id(tensor)] = (
            outside(tensor)
            or not tensor.outputs
            or any(_tells(reader, i, outside, seen) for reader, i in _readings(tensor))
        )
    return seen[id(tensor)]


def _tells(reader: Node, index: int, outside: Outside, seen: dict[int, bool]) -> bool:
    if index == _SIZE_INPUTS.get(reader.op) and has_known_sizes(reader):
        return False
    passes_on = is_op(reader, *_ARITHMETIC.split()) or (
        index == 0 and is_op(reader, "Gather", "Slice", "Reshape")
    )
    return not passes_on or any(_is_told(t, outside, seen) for t in reader.outputs)


def _readings(tensor: Tensor) -> Iterator[tuple[Node, int]]:
    for reader in {id(r): r for r in tensor.outputs}.values():
        for index, source in enumerate(reader.inputs):
            if source is tensor:
                yield reader, index


def _picked(reader: Node, index: int, count: int) -> set[int] | None:
    """The positions a Gather or Slice takes, or None when it is neither or computes them."""
    taken: Any = None
    if index == 0 and is_op(reader, "Gather"):
        taken = input_value(reader, 1)
    elif index == 0 and is_op(reader, "Slice"):
        taken = _sliced(reader, count)
    return None if taken is None else {int(p) % count for p in np.asarray(taken).reshape(-1)}


def _sliced(reader: Node, count: int) -> Any:
    start, end, steps = (input_value(reader, i) for i in (1, 2, 4))
    given = input_of(reader, 4) is None or steps is not None
    if start is None or end is None or start.size != 1 or end.size != 1 or not given:
        return None
    step = 1 if steps is None else int(steps.reshape(-1)[0])
    return np.arange(count)[slice(int(start.item()), int(end.item()), step)]


# --- nodes whose sizes can be written down ------------------------------------------------------


def has_known_sizes(node: Node) -> bool:
    """Whether constants can say what a node's computed sizes do, up to what it takes over."""
    source, out = node.inputs[0].shape, node.outputs[0].shape
    if source is None or out is None:
        return False
    if is_op(node, "Reshape"):
        return constant_target(list(source), list(out)) is not None
    if is_op(node, "Expand"):
        shift = len(out) - len(source)
        return all(
            isinstance(d, int) or is_named(d) or (a >= shift and source[a - shift] == d is not None)
            for a, d in enumerate(out)
        )
    return is_op(node, "Resize") and resized_axes(node) is not None


def is_named(dim: Any) -> bool:
    """Whether a size is that of a model's input by name, which no removal changes."""
    return isinstance(dim, str) and dim.isidentifier() and not dim.startswith(MADE_UP)


def resized_axes(node: Node) -> list[int] | None:
    """The axes a Resize changes when all their sizes are known, else None."""
    before, after = node.inputs[0].shape, node.outputs[0].shape
    if node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return None
    changed = [a for a, (b, d) in enumerate(zip(before, after, strict=True)) if b is None or b != d]
    return changed if changed and all(isinstance(after[a], int) for a in changed) else None


_SIZE_INPUTS = {"Reshape": 1, "Expand": 1, "Resize": 3}
