"""Reductions: sums over channels count what is left; means and extremes over channels hold them."""

from __future__ import annotations

from graphopt.channels.rules.rule import Rule
from graphopt.channels.view import Axis, View

_SUMS = ("ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare")
_OTHERS = ("ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd")


def _sum(view: View) -> None:
    """A channel that is zero adds nothing to a sum of (absolute, squared) values."""
    _reduce(view, over_channels_ok=True)


def _other(view: View) -> None:
    _reduce(view, over_channels_ok=False)


def _reduce(view: View, *, over_channels_ok: bool) -> None:
    rank = len(view.dims(0))
    given = view.ints(1, "axes") if view.has(1) else []
    if not given and not view.attr("noop_with_empty_axes", 0):
        given = list(range(rank))
    over = {a % rank for a in given}
    out: list[Axis] = []
    for axis in range(rank):
        vector = view.take(0, axis)
        if axis not in over:
            out.append(vector)
            continue
        if over_channels_ok:
            view.contract(0, axis, vector)
        else:
            view.freeze(vector, "reduces over these channels")
        if view.attr("keepdims", 1):
            out.append(None)
    view.give(out)


def _arg(view: View) -> None:
    rank = len(view.dims(0))
    axis = int(view.attr("axis", 0)) % rank
    view.freeze(view.take(0, axis), "reduces over these channels")
    keep = bool(view.attr("keepdims", 1))
    view.give([None if a == axis else view.take(0, a) for a in range(rank) if a != axis or keep])


def _along(view: View) -> None:
    """TopK, CumSum, Trilu-like: everything along one axis counts; other axes are apart."""
    rank = len(view.dims(0))
    axis = view.attr("axis", -1)
    if view.node.op == "CumSum":
        (axis,) = view.ints(1, "axis")
    axis = int(axis) % rank
    view.freeze(view.take(0, axis), "needs everything along these channels")
    axes = [None if a == axis else view.take(0, a) for a in range(rank)]
    for k in range(len(view.node.outputs)):
        view.give(axes, k)


RULES: dict[str, Rule] = {
    **dict.fromkeys(_SUMS, Rule(_sum)),
    **dict.fromkeys(_OTHERS, Rule(_other)),
    **dict.fromkeys(("ArgMax", "ArgMin"), Rule(_arg)),
    **dict.fromkeys(("TopK", "CumSum"), Rule(_along)),
}
