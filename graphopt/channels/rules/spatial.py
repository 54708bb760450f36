"""Operators over positions that treat channels alike: pooling, resizing, sampling, blocks."""

from __future__ import annotations

import numpy as np

from graphopt.channels.cut import Cut
from graphopt.channels.labels import Vector
from graphopt.channels.rules.rule import Rule
from graphopt.channels.rules.told import has_known_sizes, resized_axes
from graphopt.channels.view import Axis, DenyError, View
from graphopt.ir.graph import input_of


def _pool(view: View) -> None:
    """(N, C, ...) -> (N, C, ...): every channel by itself."""
    if len(view.node.outputs) > 1:
        raise DenyError("gives out positions counted over all channels")
    rank = len(view.dims(0))
    view.give([view.take(0, 0), view.take(0, 1), *[None] * (rank - 2)])


def _sample(view: View) -> None:
    """GridSample, RoiAlign, MaxRoiPool: positions come from another input."""
    rank = len(view.out_dims())
    view.give([None, view.take(0, 1), *[None] * (rank - 2)])


# --- Resize -----------------------------------------------------------------------------------


def _resize(view: View) -> None:
    axes = view.take_all(0)
    if view.attr("coordinate_transformation_mode", "") == "tf_crop_and_resize":
        raise DenyError("crops while it resizes")
    named = [a % len(axes) for a in view.attr("axes", list(range(len(axes))))]
    for axis in named:
        vector = axes[axis]
        if vector is None:
            continue
        if view.out_dims()[axis] != vector.size:
            view.freeze(vector, "interpolates between channels")
            axes[axis] = None
        elif view.has(3) and (
            (view.value(3) is None and not has_known_sizes(view.node))
            or view.attr("keep_aspect_ratio_policy", "stretch") != "stretch"
        ):
            view.freeze(vector, "has a size computed at run time")
            axes[axis] = None
    view.give(axes)


def _shrink_resize(cut: Cut) -> None:
    given, changed = cut.ints(3), resized_axes(cut.node)
    if input_of(cut.node, 3) is None:
        return  # scales: 1 for the axes that lose channels
    dims = cut.out_dims()
    if given is not None:
        named = [a % len(dims) for a in cut.node.attrs.get("axes", range(len(dims)))]
        losing = [cut.out_kept(a) is not None for a in named]
        sizes = [
            dims[a] if lost else given[k]
            for k, (a, lost) in enumerate(zip(named, losing, strict=True))
        ]
        cut.set_ints(3, sizes, "sizes")
    elif changed is not None:  # only the axes that change need a size
        cut.set_ints(3, [dims[a] for a in changed], "sizes")
        cut.node.attrs["axes"] = changed


# --- blocks -----------------------------------------------------------------------------------


def _depth_to_space(view: View) -> None:
    """b*b input channels make one output channel; which ones, the mode says."""
    block = int(view.attr("blocksize", 1))
    vector = view.take(0, 1)
    out: Axis = None
    if vector is not None:
        mode = view.attr("mode", "DCR")
        per_out = (
            vector.reshape(block * block, -1).T
            if mode in ("DCR", b"DCR")
            else vector.reshape(-1, block * block)
        )
        out = view.unite_rows(per_out)
    view.give([view.take(0, 0), out, None, None])


def _space_to_depth(view: View) -> None:
    """One input channel makes b*b output channels, C apart from each other."""
    block = int(view.attr("blocksize", 1))
    vector = view.take(0, 1)
    out: Vector | None = None if vector is None else np.tile(vector, block * block)
    view.give([view.take(0, 0), out, None, None])


_POOLS = "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool"

RULES: dict[str, Rule] = {
    **dict.fromkeys(_POOLS.split(), Rule(_pool)),
    **dict.fromkeys(("GridSample", "RoiAlign", "MaxRoiPool"), Rule(_sample)),
    "Resize": Rule(_resize, _shrink_resize, size_input=3),
    "DepthToSpace": Rule(_depth_to_space),
    "SpaceToDepth": Rule(_space_to_depth),
}
