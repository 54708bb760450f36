"""Normalizations: statistics per channel keep channels apart, statistics over channels hold them."""

from __future__ import annotations

from graphopt.channels.cut import Cut
from graphopt.channels.rules.rule import Rule
from graphopt.channels.view import DenyError, View

_OVER = "takes statistics over these channels, and removing one would change them"


def _batch_norm(view: View) -> None:
    if len(view.node.outputs) > 1:
        raise DenyError("is in training mode")
    axes = view.take_all(0)
    channels = view.join(axes[1], (1, 0), (2, 0), (3, 0), (4, 0))
    for i, role in enumerate(("scale", "shift", "mean", "variance"), start=1):
        view.site(role, i, 0)
    view.give([axes[0], channels, *axes[2:]])


def _instance_norm(view: View) -> None:
    channels = view.join(view.take(0, 1), (1, 0), (2, 0))
    view.site("scale", 1, 0)
    view.site("shift", 2, 0)
    _hold(view, range(2, len(view.dims(0))))
    view.give([view.take(0, 0), channels, *[None] * (len(view.dims(0)) - 2)])


def _group_norm(view: View) -> None:
    """Whole groups go; scale and shift are per channel (opset 21) or per group (opset 18)."""
    groups = int(view.attr("num_groups", 1))
    channels = view.take(0, 1)
    _hold(view, range(2, len(view.dims(0))))
    if channels is None or groups == 1:
        view.freeze(channels, _OVER)
        view.give([view.take(0, 0), *[None] * (len(view.dims(0)) - 1)])
        return
    per_group = view.unite_rows(channels.reshape(groups, -1))
    for i, role in ((1, "scale"), (2, "shift")):
        per_channel = view.dims(i)[0] == channels.size
        view.join(channels if per_channel else per_group, (i, 0))
        view.site(role, i, 0)
    view.give([view.take(0, 0), channels, *[None] * (len(view.dims(0)) - 2)])


def _shrink_group_norm(cut: Cut) -> None:
    width = cut.old(0, 1) // int(cut.node.attrs["num_groups"])
    cut.node.attrs["num_groups"] = cut.new(0, 1) // width


def _layer_norm(view: View) -> None:
    rank = len(view.dims(0))
    first = int(view.attr("axis", -1)) % rank
    _hold(view, range(first, rank))
    for i in range(1, len(view.node.inputs)):
        if view.has(i):
            for axis in range(len(view.dims(i))):
                view.freeze(view.take(i, axis), "scales or shifts what it takes statistics over")
    view.give([view.take(0, a) if a < first else None for a in range(rank)])


def _over_axis(default: int) -> Rule:
    """Operators that need all of one axis and keep the others apart."""

    def label(view: View) -> None:
        rank = len(view.dims(0))
        axis = int(view.attr("axis", default)) % rank
        _hold(view, [axis])
        view.give([view.take(0, a) if a != axis else None for a in range(rank)])

    return Rule(label)


def _mean_variance(view: View) -> None:
    rank = len(view.dims(0))
    over = {int(a) % rank for a in view.attr("axes", [0, 2, 3])}
    _hold(view, over)
    view.give([view.take(0, a) if a not in over else None for a in range(rank)])


def _local_response(view: View) -> None:
    view.freeze(view.take(0, 1), "mixes neighbouring channels")


def _hold(view: View, axes: range | list[int] | set[int]) -> None:
    for axis in axes:
        view.freeze(view.take(0, axis), _OVER)


RULES: dict[str, Rule] = {
    "BatchNormalization": Rule(_batch_norm),
    "InstanceNormalization": Rule(_instance_norm),
    "GroupNormalization": Rule(_group_norm, _shrink_group_norm),
    "LayerNormalization": Rule(_layer_norm),
    "RMSNormalization": Rule(_layer_norm),
    "MeanVarianceNormalization": Rule(_mean_variance),
    "LRN": Rule(_local_response),
    "LpNormalization": _over_axis(-1),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _over_axis(-1)),
}
