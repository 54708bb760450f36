"""Convolutions: y[o] = sum over the input channels of o's group of w[o, i] * x[i] + b[o].

Without groups the input channels are summed over and the output channels are the weight's. With
groups there are two right ways: whole groups go (inputs and outputs of a group are one piece;
depthwise convolutions are this), or the same part of every group goes (inputs and outputs apart).
"""

from __future__ import annotations

import numpy as np

from graphopt.channels.cut import Cut
from graphopt.channels.rules.rule import Rule
from graphopt.channels.view import Axis, DenyError, View, holes


def _conv(view: View) -> None:
    _convolve(view, in_axis=1, out_axis=0)


def _conv_transpose(view: View) -> None:
    _convolve(view, in_axis=0, out_axis=1)


def _convolve(view: View, *, in_axis: int, out_axis: int) -> None:
    groups = int(view.attr("group", 1))
    if groups == 1:
        out = _dense(view, in_axis, out_axis)
    elif in_axis == 0:
        out = _grouped_transposed(view, groups)
    else:
        out = _grouped(view, groups)
    if view.has(2):
        out = view.join(out, (2, 0))
        view.site("bias", 2, 0)
    view.give([view.take(0, 0), out, *[None] * (len(view.dims(0)) - 2)])


def _dense(view: View, in_axis: int, out_axis: int) -> Axis:
    inputs = view.join(view.take(0, 1), (1, in_axis))
    view.contract(0, 1, inputs)
    view.site("input", 1, in_axis)
    view.site("output", 1, out_axis)
    return view.take(1, out_axis)


def _grouped(view: View, groups: int) -> Axis:
    width, count = _sizes(view, 1), _sizes(view, 0)
    if width > 1 and not _whole(view, groups, width):
        inputs = _same_part(view, view.take(0, 1), groups)
        view.contract(0, 1, view.look(0, 1))
        if inputs is not None:
            view.join(inputs, (1, 1))
        out = view.take(1, 0)
        view.site("input", 1, 1)
        view.site("output", 1, 0)
        _same_part(view, out, groups)
        return out
    per_group = _whole_groups(view, view.take(0, 1), groups)
    out = view.take(1, 0)
    view.site("output", 1, 0)
    if out is None or per_group is None:
        view.freeze(out, "has groups over channels that stay")
        return None
    view.unite(per_group, _whole_groups(view, out, groups))
    if width == 1 and count == groups:
        view.site("depthwise", 1, 0)
    return out


def _grouped_transposed(view: View, groups: int) -> Axis:
    """w is (inputs, outputs of a group, ...): the outputs have no axis of their own to label."""
    per_group = _whole_groups(view, view.take(0, 1), groups)
    weight = view.take(1, 0)
    if per_group is None or weight is None:
        view.freeze(weight, "has groups over channels that stay")
        return None
    view.unite(view.look(0, 1), weight)
    view.site("output", 1, 0)
    return np.repeat(per_group, _sizes(view, 1))


def _whole(view: View, groups: int, width: int) -> bool:
    """Whether whole groups go. Many narrow groups: yes at first; few wide ones: not at first."""
    way, depends = view.choose(2)
    both = [v for v in (view.look(0, 1), view.look(1, 0)) if v is not None]
    depends(np.concatenate([holes(0), *both]))
    return (way == 0) == (groups >= width)


def _whole_groups(view: View, vector: Axis, groups: int) -> Axis:
    return None if vector is None else view.unite_rows(vector.reshape(groups, -1))


def _same_part(view: View, vector: Axis, groups: int) -> Axis:
    return None if vector is None else view.unite_rows(vector.reshape(groups, -1).T)


def _sizes(view: View, axis: int) -> int:
    size = view.dims(1)[axis]
    if not isinstance(size, int):
        raise DenyError("has a weight of unknown size")
    return size


def _shrink_conv(cut: Cut) -> None:
    if cut.node.attrs.get("group", 1) != 1:
        cut.node.attrs["group"] = cut.new(0, 1) // cut.new(1, 1)


def _shrink_conv_transpose(cut: Cut) -> None:
    groups = cut.node.attrs.get("group", 1)
    if groups != 1:
        cut.node.attrs["group"] = cut.new(0, 1) // (cut.old(0, 1) // groups)


def _deform_conv(view: View) -> None:
    """DeformConv: x, w, offset, b, mask; the offsets are shared by all channels."""
    if int(view.attr("group", 1)) != 1 or int(view.attr("offset_group", 1)) != 1:
        raise DenyError("has groups of channels or offsets")
    out = _dense(view, 1, 0)
    if view.has(3):
        out = view.join(out, (3, 0))
    view.give([view.take(0, 0), out, None, None])


RULES: dict[str, Rule] = {
    "Conv": Rule(_conv, _shrink_conv),
    "ConvTranspose": Rule(_conv_transpose, _shrink_conv_transpose),
    "DeformConv": Rule(_deform_conv),
}
