"""Operators that pick, order and join elements: labels are moved exactly as the data is."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.channels.cut import Cut, Mask, positions
from graphopt.channels.rules.rule import Rule
from graphopt.channels.view import Axis, DenyError, View, holes
from graphopt.ir.graph import add_constant, add_node, set_input


def _transpose(view: View) -> None:
    axes = view.take_all(0)
    order = view.attr("perm", list(reversed(range(len(axes)))))
    view.give([axes[p] for p in order])


# --- Concat, Split ----------------------------------------------------------------------------


def _concat(view: View) -> None:
    rank = len(view.out_dims())
    joined = int(view.attr("axis", 0)) % rank
    inputs = range(len(view.node.inputs))
    axes: list[Axis] = []
    for axis in range(rank):
        pieces = [view.take(i, axis) for i in inputs]
        axes.append(_joined(view, pieces, axis) if axis == joined else view.unite(*pieces))
    view.give(axes)


def _joined(view: View, pieces: list[Axis], axis: int) -> Axis:
    if all(p is None for p in pieces):
        return None
    sizes = [view.dims(i)[axis] for i in range(len(pieces))]
    if not all(isinstance(s, int) for s in sizes):
        for piece in pieces:
            view.freeze(piece, "joins it with a tensor of unknown size")
        return None
    parts = [holes(s) if p is None else p for s, p in zip(sizes, pieces, strict=True)]
    return np.concatenate(parts)


def _split(view: View) -> None:
    axes = view.take_all(0)
    axis = int(view.attr("axis", 0)) % len(axes)
    start = 0
    for k, tensor in enumerate(view.node.outputs):
        size = view.out_dims(k)[axis]
        whole = axes[axis]
        if whole is not None and not isinstance(size, int):
            raise DenyError("splits it into pieces of unknown size")
        part = None if whole is None else whole[start : start + size]
        start += size if isinstance(size, int) else 0
        view.give([part if a == axis else v for a, v in enumerate(axes)], k)
        del tensor


def _shrink_split(cut: Cut) -> None:
    axis = int(cut.node.attrs.get("axis", 0)) % len(cut.node.inputs[0].shape)
    if cut.kept(0, axis) is None:
        return
    sizes = [cut.out_dims(k)[axis] for k in range(len(cut.node.outputs))]
    cut.node.attrs.pop("num_outputs", None)
    cut.set_ints(1, sizes, "split")


# --- Slice, Gather ----------------------------------------------------------------------------


def _windows(
    starts: list[int], ends: list[int], axes: list[int] | None, steps: list[int] | None, rank: int
) -> dict[int, slice]:
    """What a Slice takes of each axis it names."""
    axes = list(range(len(starts))) if axes is None else [a % rank for a in axes]
    steps = [1] * len(starts) if steps is None else steps
    # An end far below zero means "past the first element", which is None in Python.
    return {
        axis: slice(start, None if step < 0 and end < -(2**30) else end, step)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True)
    }


def _slice(view: View) -> None:
    axes = view.take_all(0)
    if view.has(3) and view.value(3) is None:
        raise DenyError("slices along an axis computed at run time")
    named = (
        [int(a) % len(axes) for a in view.ints(3, "axes")]
        if view.has(3)
        else list(range(view.dims(1)[0]))
    )
    if any(axes[a] is not None for a in named):
        windows = _windows(
            view.ints(1, "bounds"),
            view.ints(2, "bounds"),
            named,
            view.ints(4, "steps") if view.has(4) else None,
            len(axes),
        )
        for axis, window in windows.items():
            vector = axes[axis]
            axes[axis] = None if vector is None else vector[window]
    else:
        for axis in named:
            axes[axis] = None
    view.give(axes)


def _shrink_slice(cut: Cut) -> None:
    shape = cut.node.inputs[0].shape
    starts, ends = cut.ints(1), cut.ints(2)
    if starts is None or ends is None:
        return  # computed bounds: no axis they are about loses anything
    windows = _windows(starts, ends, cut.ints(3), cut.ints(4), len(shape))
    if all(cut.kept(0, a) is None for a in windows):
        return
    shrunk = {
        axis: _shrunk_window(cut.kept(0, axis), cut.old(0, axis), window)
        for axis, window in windows.items()
    }
    dims = [cut.new(0, a) if cut.kept(0, a) is not None else d for a, d in enumerate(shape)]
    for axis, taken in shrunk.items():
        if not isinstance(taken, slice):
            dims[axis] = len(taken)
            _gather_before(cut, axis, taken, list(dims))
    _set_windows(cut, {a: w for a, w in shrunk.items() if isinstance(w, slice)})


def _shrunk_window(mask: Mask | None, size: int, window: slice) -> slice | list[int]:
    """The same elements after removal: a slice, or where no slice takes them their positions."""
    if mask is None:
        return window
    taken = positions(mask, size)[window]
    taken = taken[taken >= 0]
    if not len(taken):
        return slice(0, 0, 1)
    first, last = int(taken[0]), int(taken[-1])
    step = int(taken[1] - taken[0]) if len(taken) > 1 else 1
    if step != 0 and np.array_equal(taken, first + step * np.arange(len(taken))):
        end = last + (1 if step > 0 else -1)
        return slice(first, None if end < 0 else end, step)
    return [int(t) for t in taken]


def _gather_before(cut: Cut, axis: int, taken: list[int], shape: list[Any]) -> None:
    source = cut.node.inputs[0]
    name = cut.node.outputs[0].name
    indices = add_constant(cut.graph, f"{name}_indices", np.array(taken, np.int64))
    set_input(
        cut.node,
        0,
        add_node(
            cut.graph,
            "Gather",
            [source, indices],
            like=source,
            attrs={"axis": axis},
            base=f"{name}_gather",
            shape=shape,
        ),
    )


def _set_windows(cut: Cut, windows: dict[int, slice]) -> None:
    spread = list(windows.items())
    far = -(2**31)
    cut.set_ints(1, [w.start for _, w in spread], "starts")
    cut.set_ints(2, [far if w.stop is None else w.stop for _, w in spread], "ends")
    cut.set_ints(3, [a for a, _ in spread], "axes")
    cut.set_ints(4, [w.step for _, w in spread], "steps")


def _gather(view: View) -> None:
    axes = view.take_all(0)
    axis = int(view.attr("axis", 0)) % len(axes)
    indices = view.value(1)
    rank = len(view.dims(1))
    middle = view.take_all(1)  # indices that are computed channel by channel
    vector = axes[axis]
    if vector is not None and indices is not None and rank == 1:
        middle = [vector[indices]]
    elif vector is not None and indices is not None and rank == 0:
        view.freeze(vector[indices.reshape(1)], "picks this element by its number")
    else:
        view.freeze(vector, "picks elements by numbers it computes")
    view.give([*axes[:axis], *middle, *axes[axis + 1 :]])


def _shrink_gather(cut: Cut) -> None:
    axis = int(cut.node.attrs.get("axis", 0)) % len(cut.node.inputs[0].shape)
    mask = cut.kept(0, axis)
    if mask is None:
        return
    size = cut.old(0, axis)
    indices = cut.node.inputs[1].values
    moved = positions(mask, size)[indices]
    kept = moved[moved >= 0] if indices.ndim else moved
    name = f"{cut.node.outputs[0].name}_indices"
    set_input(cut.node, 1, add_constant(cut.graph, name, kept.astype(np.int64)))


def _gather_nd(view: View) -> None:
    """Only what is a Gather on the first axis: constant indices of one number each."""
    indices = view.value(1)
    if indices is None or indices.shape[-1] != 1 or int(view.attr("batch_dims", 0)):
        raise DenyError("picks elements by several numbers, or by numbers it computes")
    first, *rest = view.take_all(0)
    view.take_all(1)
    if indices.ndim != 2:
        view.freeze(first, "picks elements by a table of numbers")
        view.give([*[None] * (indices.ndim - 1), *rest])
        return
    view.give([None if first is None else first[indices[:, 0]], *rest])


def _shrink_gather_nd(cut: Cut) -> None:
    mask = cut.kept(0, 0)
    if mask is not None:
        moved = positions(mask, cut.old(0, 0))[cut.node.inputs[1].values]
        kept = moved[moved[:, 0] >= 0]
        name = f"{cut.node.outputs[0].name}_indices"
        set_input(cut.node, 1, add_constant(cut.graph, name, kept.astype(np.int64)))


RULES: dict[str, Rule] = {
    "Transpose": Rule(_transpose),
    "Concat": Rule(_concat),
    "Split": Rule(_split, _shrink_split),
    "Slice": Rule(_slice, _shrink_slice),
    "Gather": Rule(_gather, _shrink_gather),
    "GatherND": Rule(_gather_nd, _shrink_gather_nd),
}
