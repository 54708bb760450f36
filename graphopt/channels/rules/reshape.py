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
from graphopt.channels.view import Axes, DenyError, View

Span = tuple[range, range]


def segments(old: list[Any], new: list[Any]) -> list[Span] | None:
    """Runs of old and new axes with equal products, or None where the shapes do not match."""
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
            else:
                return None
        spans.append((range(a, i), range(b, j)))
    return spans


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
    old = view.dims(0)
    new = _completed(old, view.out_dims())
    spans = segments(old, new)
    if spans is None:
        raise DenyError(f"turns {old} into {new}, which cannot be followed")
    if view.node.op == "Reshape" and view.value(1) is None and _constant_target(new) is None:
        raise DenyError("has a target shape computed at run time")
    out: Axes = [None] * len(new)
    for old_span, new_span in spans:
        for axis in old_span:
            if axes[axis] is not None:
                _carry(view, axis, axes[axis], (old_span, new_span), (old, new), out)
    view.give(out)


def _completed(old: list[Any], new: list[Any]) -> list[Any]:
    """The new dimensions, with the one that follows from the count of elements worked out."""
    unknown = [a for a, d in enumerate(new) if not isinstance(d, int) and d not in old]
    rest = Counter(d for a, d in enumerate(new) if a not in unknown and not isinstance(d, int))
    if len(unknown) != 1 or rest != Counter(d for d in old if not isinstance(d, int)):
        return new
    counts = [math.prod(d for d in dims if isinstance(d, int)) for dims in (old, new)]
    if not counts[1] or counts[0] % counts[1]:
        return new
    return [counts[0] // counts[1] if a in unknown else d for a, d in enumerate(new)]


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
        if len(old) == len(new) == 1:
            out[new_span[0]] = vector
            return
        view.freeze(vector, "mixes it with a dimension of unknown size")
        return
    along = [1] * len(old)
    along[axis - old_span[0]] = vector.size
    laid = np.broadcast_to(vector.reshape(along), old).reshape(new)
    at, labels = _read_off(view, laid)
    if out[new_span[at]] is not None:
        view.freeze(labels, "merges two axes that can both lose channels")
        return
    out[new_span[at]] = labels


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


def _constant_target(dims: list[Any]) -> list[int] | None:
    """A Reshape target for these dimensions: one unknown is left to be worked out."""
    unknown = [d for d in dims if not isinstance(d, int)]
    return None if len(unknown) > 1 else [d if isinstance(d, int) else -1 for d in dims]


def _shrink_reshape(cut: Cut) -> None:
    dims = cut.out_dims()
    shrunk = [cut.out_kept(a) is not None for a in range(len(dims))]
    if not any(shrunk):
        return
    target = cut.ints(1)
    if target is None:
        target = _constant_target(dims)
        assert target is not None, "the label rule let a computed target through"
    cut.set_ints(
        1,
        [dims[a] if shrunk[a] and t > 0 else t for a, t in enumerate(target)],
        "shape",
    )


RULES: dict[str, Rule] = {
    "Reshape": Rule(_reshape, _shrink_reshape),
    **dict.fromkeys(("Flatten", "Squeeze", "Unsqueeze"), Rule(_reshape)),
}
