"""Operators that read sizes (Shape, Size) or make axes longer (Pad, Expand, Tile)."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.channels.cut import Cut
from graphopt.channels.rules.rule import Rule
from graphopt.channels.rules.told import has_known_sizes, told_positions
from graphopt.channels.view import Axis, DenyError, View, holes
from graphopt.ir.graph import Constant, Tensor, add_constant, add_node, set_input


def _shape(view: View) -> None:
    """Shape tells sizes; axes whose size gets into anything but targets of reshapes are held."""
    rank = len(view.dims(0))
    first, last = int(view.attr("start", 0)), int(view.attr("end", rank))
    listed = list(range(rank))[first:last]
    told = told_positions(view.node.outputs[0], len(listed), view.seen_outside)
    for axis in range(rank):
        vector = view.take(0, axis)
        if axis in listed and listed.index(axis) in told:
            view.freeze(vector, "tells the size of this axis to a computation")
    view.give([None])


def _size(view: View) -> None:
    for axis, vector in enumerate(view.take_all(0)):
        view.freeze(vector, f"tells the size of axis {axis} to a computation")
    view.give([])


# --- Pad --------------------------------------------------------------------------------------


def _pads(view: View) -> dict[int, tuple[int, int]]:
    """What a Pad adds before and after each axis it names."""
    rank = len(view.dims(0))
    pads = view.ints(1, "pads")
    axes = view.ints(3, "axes") if view.has(3) else list(range(rank))
    half = len(pads) // 2
    return {a % rank: (pads[k], pads[k + half]) for k, a in enumerate(axes)}


def _pad(view: View) -> None:
    axes = view.take_all(0)
    mode = view.attr("mode", "constant")
    for axis, (before, after) in _pads(view).items():
        if before == 0 and after == 0:
            continue
        size = view.dims(0)[axis]
        if axes[axis] is None and (axis != 1 or not isinstance(size, int)):
            continue
        if mode not in ("constant", b"constant"):
            view.freeze(axes[axis], "pads it with copies of other channels")
            axes[axis] = None
            continue
        axes[axis] = _padded(view, axes[axis], size, before, after)
    view.give(axes)


def _padded(view: View, vector: Axis, size: int, before: int, after: int) -> Axis:
    """Channels of a constant come into being; a negative pad crops."""
    inner = holes(size) if vector is None else vector
    inner = inner[max(0, -before) : size - max(0, -after)]
    return np.concatenate([view.fresh(max(0, before)), inner, view.fresh(max(0, after))])


def _shrink_pad(cut: Cut) -> None:
    rank = len(cut.node.inputs[0].shape)
    pads, axes = cut.ints(1), cut.ints(3)
    if pads is None:
        return
    axes = list(range(rank)) if axes is None else [a % rank for a in axes]
    half = len(pads) // 2
    for k, axis in enumerate(axes):
        out, inner = cut.out_kept(axis), cut.kept(0, axis)
        before, after = pads[k], pads[k + half]
        if out is None and inner is None:
            continue
        pads[k] = _shrunk_pad(before, out, inner, at_end=False)
        pads[k + half] = _shrunk_pad(after, out, inner, at_end=True)
    cut.set_ints(1, pads, "pads")


def _shrunk_pad(pad: int, out: Any, inner: Any, *, at_end: bool) -> int:
    """What is left of a pad, or of a crop, on one side."""
    if pad == 0:
        return 0
    mask = out if pad > 0 else inner
    if mask is None:
        return pad
    count = abs(pad)
    left = int((mask[-count:] if at_end else mask[:count]).sum())
    return left if pad > 0 else -left


# --- Expand, Tile -----------------------------------------------------------------------------


def _expand(view: View) -> None:
    """An axis of one element is repeated: each copy is a channel of its own."""
    new = view.out_dims()
    rank = len(view.dims(0))
    target_known = view.value(1) is not None or has_known_sizes(view.node)
    axes: list[Axis] = []
    for axis, size in enumerate(new):
        own = axis - (len(new) - rank)
        vector = view.take(0, own) if own >= 0 else None
        old = view.dims(0)[own] if own >= 0 else 1
        if old == size and size != 1:
            if vector is not None and not target_known:
                raise DenyError("has a target shape computed at run time")
            axes.append(vector)
            continue
        view.freeze(vector, "broadcasts its only element")
        grows = isinstance(size, int) and size > 1 and old == 1
        axes.append(view.fresh(size) if grows and target_known else None)
    view.give(axes)


def _shrink_expand(cut: Cut) -> None:
    dims = cut.out_dims()
    if cut.ints(1) is None and not has_known_sizes(cut.node):
        return  # a computed target: no axis it is about loses anything
    source = cut.node.inputs[0].shape
    taken_over = [1] * (len(dims) - len(source)) + list(source)
    # One stands for "as in the input", which is right for every axis that is taken over.
    sizes = [d if isinstance(d, int) else 1 for d in dims]
    odd = [not isinstance(d, int) and d != taken_over[a] for a, d in enumerate(dims)]
    computed = cut.node.inputs[1]
    cut.set_ints(1, sizes, "shape")
    if any(odd) and not isinstance(computed, Constant):
        _keep_computed(cut, computed, odd)


def _keep_computed(cut: Cut, computed: Tensor, where: list[bool]) -> None:
    """Where the input has one element and the name of another size is asked for, it is computed."""
    name = cut.node.outputs[0].name
    mask = add_constant(cut.graph, f"{name}_computed", np.array(where))
    inputs = [mask, computed, cut.node.inputs[1]]
    chosen = add_node(
        cut.graph, "Where", inputs, like=computed, base=f"{name}_shape", shape=[len(where)]
    )
    set_input(cut.node, 1, chosen)


def _tile(view: View) -> None:
    axes = view.take_all(0)
    repeats = view.value(1)
    if repeats is None:
        for vector in axes:
            view.freeze(vector, "repeats it a number of times computed at run time")
        return
    for axis, times in enumerate(int(r) for r in repeats):
        vector = axes[axis]
        if times == 1:
            continue
        if view.dims(0)[axis] == 1:
            view.freeze(vector, "broadcasts its only element")
            axes[axis] = view.fresh(times)
        elif vector is not None:
            axes[axis] = np.tile(vector, times)
    view.give(axes)


def _shrink_tile(cut: Cut) -> None:
    dims = cut.out_dims()
    repeats = cut.ints(1)
    assert repeats is not None, "the label rule gives no labels where repeats are computed"
    for axis in range(len(dims)):
        if cut.out_kept(axis) is not None and cut.old(0, axis) == 1:
            repeats[axis] = int(dims[axis])
    cut.set_ints(1, repeats, "repeats")


RULES: dict[str, Rule] = {
    "Shape": Rule(_shape),
    "Size": Rule(_size),
    "Pad": Rule(_pad, _shrink_pad),
    "Expand": Rule(_expand, _shrink_expand, size_input=1),
    "Tile": Rule(_tile, _shrink_tile),
}
