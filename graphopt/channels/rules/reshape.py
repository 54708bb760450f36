"""Reshape, Flatten, Squeeze, Unsqueeze: the same elements in other axes.

The axes of both shapes are cut into segments of equal products. Within a segment the labels are
laid out over the old axes and read off in the new ones. Merging axes repeats labels. Splitting an
axis leaves a choice: only whole slices of one of the new axes can go, and what shares a slice is
united.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from graphopt.channels.cut import Cut
from graphopt.channels.labels import KEPT, Vector
from graphopt.channels.rules.rule import Rule
from graphopt.channels.rules.targets import completed, constant_target
from graphopt.channels.rules.told import has_known_sizes
from graphopt.channels.view import Axes, DenyError, View

Span = tuple[range, range]


def segments(old: list[Any], new: list[Any]) -> list[Span] | None:
    """Runs of old and new axes with equal products, or None where the shapes do not match.

    Where sizes are unknown, one run is what lies between equal beginnings and equal ends.
    """
    old, new = _one_unknown(old, new)
    spans: list[Span] = []
    i = j = 0
    while i < len(old) or j < len(new):
        a, b = i, j
        left, right = _take(old, i), _take(new, j)
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while left != right:
            wants_old = _missing(left, right)
            if wants_old and i < len(old):
                left, i = _times(left, old[i]), i + 1
            elif j < len(new):
                right, j = _times(right, new[j]), j + 1
            elif i < len(old):
                left, i = _times(left, old[i]), i + 1
            elif all(isinstance(d, int) for d in [*old[a:], *new[b:]]):
                return None
            else:
                return [*spans, *_between(old, new, a, b)]
        spans.append((range(a, i), range(b, j)))
    return spans


def _between(old: list[Any], new: list[Any], a: int, b: int) -> list[Span]:
    """The rest of both shapes from a and b on, axes that are equal from the end apart."""
    ends: list[Span] = []
    i, j = len(old), len(new)
    while i > a and j > b and old[i - 1] == new[j - 1]:
        i, j = i - 1, j - 1
        ends.insert(0, (range(i, i + 1), range(j, j + 1)))
    return [(range(a, i), range(b, j)), *ends]


_Product = tuple[int, Any]


def _take(dims: list[Any], at: int) -> _Product:
    return _times((1, Counter()), dims[at]) if at < len(dims) else (1, Counter())


def _times(product: _Product, dim: Any) -> _Product:
    number, names = product
    if isinstance(dim, int):
        return number * dim, names
    return number, names + Counter([dim])


def _missing(left: _Product, right: _Product) -> bool:
    """Whether the left product has to grow to meet the right one."""
    if right[1] - left[1]:
        return True
    if left[1] - right[1]:
        return False
    return left[0] < right[0]


def _one_unknown(old: list[Any], new: list[Any]) -> tuple[list[Any], list[Any]]:
    """One unknown dimension on both sides is the same when the known ones agree."""
    odd = [[a for a, d in enumerate(dims) if not isinstance(d, int)] for dims in (old, new)]
    if [len(o) for o in odd] != [1, 1]:
        return old, new
    counts = [math.prod(d for d in dims if isinstance(d, int)) for dims in (old, new)]
    if counts[0] != counts[1]:
        return old, new
    named = [list(old), list(new)]
    for dims, (at,) in zip(named, odd, strict=True):
        dims[at] = "?"
    return named[0], named[1]


def _reshape(view: View) -> None:
    axes = view.take_all(0)
    if all(a is None for a in axes):
        return
    old, new = completed(view.dims(0), view.out_dims())
    spans = segments(old, new)
    if spans is None:
        raise DenyError(f"turns {old} into {new}, which cannot be followed")
    if view.node.op == "Reshape" and view.value(1) is None and not has_known_sizes(view.node):
        raise DenyError("has a target shape computed at run time")
    out: Axes = [None] * len(new)
    for old_span, new_span in spans:
        for axis in old_span:
            if axes[axis] is not None:
                _carry(view, axis, axes[axis], (old_span, new_span), (old, new), out)
    view.give(out)


def _carry(
    view: View,
    axis: int,
    vector: Any,
    spans: Span,
    dims: tuple[list[Any], list[Any]],
    out: Axes,
) -> None:
    """Lays the labels of one old axis over its segment and reads them off in the new axes."""
    old_span, new_span = spans
    old = [dims[0][a] for a in old_span]
    new = [dims[1][a] for a in new_span]
    if not new:
        view.freeze(vector, "drops its only element")
        return
    if not all(isinstance(d, int) for d in old + new):
        innermost = axis == old_span[-1] and isinstance(new[-1], int)
        carried = _innermost(view, vector, new[-1]) if innermost else None
        if len(old) == len(new) == 1:
            carried = vector
        if carried is None or (carried == KEPT).all():
            view.freeze(vector, "mixes it with a dimension of unknown size")
            return
        out[new_span[-1]] = carried
        return
    along = [1] * len(old)
    along[axis - old_span[0]] = vector.size
    laid = np.broadcast_to(vector.reshape(along), old).reshape(new)
    at, labels = _read_off(view, laid)
    if out[new_span[at]] is not None:
        view.freeze(labels, "merges two axes that can both lose channels")
        return
    out[new_span[at]] = labels


def _innermost(view: View, vector: Vector, size: int) -> Vector | None:
    """The labels of the last axis of a run in its new last axis, whatever stands before both."""
    if vector.size % size == 0:
        return view.unite_rows(vector.reshape(-1, size).T)
    return np.tile(vector, size // vector.size) if size % vector.size == 0 else None


def _read_off(view: View, laid: Vector) -> tuple[int, Vector]:
    """The axis of `laid` that carries the labels, and what they are along it."""
    varying = [a for a in range(laid.ndim) if laid.shape[a] > 1]
    if len(varying) <= 1:
        at = varying[0] if varying else 0
        return at, laid.reshape(-1).copy()
    roots = view.roots(laid)
    for at in varying:
        rows = np.moveaxis(roots, at, 0).reshape(laid.shape[at], -1)
        if (rows == rows[:, :1]).all():
            return at, np.moveaxis(laid, at, 0).reshape(laid.shape[at], -1)[:, 0].copy()
    if (laid == KEPT).any():
        raise DenyError("splits an axis of which a part keeps its size")
    by_size = sorted(varying, key=lambda a: -laid.shape[a])
    way, depends = view.choose(len(by_size))
    at = by_size[way]
    labels = view.unite_rows(np.moveaxis(laid, at, 0).reshape(laid.shape[at], -1))
    depends(labels)
    return at, labels


def _shrink_reshape(cut: Cut) -> None:
    dims, target = cut.out_dims(), cut.ints(1)
    if target is None:
        target = constant_target(cut.node.inputs[0].shape, cut.node.outputs[0].shape)
        if target is None:
            return  # a computed target: no axis it is about loses anything
    # A zero copies the size that stands at the same place in the input, which may be another axis.
    sizes = [d if t >= 0 and isinstance(d, int) else t for d, t in zip(dims, target, strict=True)]
    cut.set_ints(1, sizes, "shape")
    cut.node.attrs.pop("allowzero", None)


def _shrink_squeeze(cut: Cut) -> None:
    """Without axes every axis of one element goes: one that has just become so must stay."""
    if cut.ints(1) is None:
        shape = cut.node.inputs[0].shape
        cut.set_ints(1, [a for a, d in enumerate(shape) if d == 1], "axes")


RULES: dict[str, Rule] = {
    "Reshape": Rule(_reshape, _shrink_reshape, size_input=1),
    "Squeeze": Rule(_reshape, _shrink_squeeze),
    **dict.fromkeys(("Flatten", "Unsqueeze"), Rule(_reshape)),
}
