"""Which function plans a region."""

from __future__ import annotations

from collections.abc import Callable

from graphopt.ir.graph import is_op
from graphopt.runtime.lower.fuse import Region
from graphopt.runtime.lower.layout import ROWS
from graphopt.runtime.lower.lowering import Lowering, is_alias
from graphopt.runtime.lower.plan_generic import plan_alias, plan_constant, plan_generic
from graphopt.runtime.lower.plan_images import (
    plan_channel_softmax,
    plan_concat,
    plan_enlarge,
    plan_image_pool,
    plan_interpolate,
    plan_pieces,
    plan_pointwise,
    plan_pool,
)
from graphopt.runtime.lower.plan_integers import plan_back, plan_integers, plan_rounding
from graphopt.runtime.lower.plan_picks import plan_pad, plan_pick
from graphopt.runtime.lower.plan_products import plan_conv, plan_dense, plan_depthwise
from graphopt.runtime.lower.plan_rows import (
    plan_rows_product,
    plan_rows_softmax,
    plan_to_pixels,
    plan_to_rows,
)
from graphopt.runtime.lower.plan_transposed import plan_transposed

_PLANNERS: dict[str, Callable[[Lowering, Region], None]] = {
    "conv": plan_conv,
    "depthwise": plan_depthwise,
    "dense": plan_dense,
    "pool": plan_pool,
    "image-pool": plan_image_pool,
    "enlarge": plan_enlarge,
    "concat": plan_concat,
    "pieces": plan_pieces,
    "round": plan_rounding,
    "unround": plan_back,
    "transposed": plan_transposed,
    "pick": plan_pick,
    "pad": plan_pad,
    "to-pixels": plan_to_pixels,
    "to-rows": plan_to_rows,
    "rows-product": plan_rows_product,
    "rows-softmax": plan_rows_softmax,
    "interpolate": plan_interpolate,
    "channel-softmax": plan_channel_softmax,
}
# Those that integers do not take part in, and those that make integers or numbers of them.
_OF_NUMBERS = ("round", "unround", "to-pixels", "interpolate", "channel-softmax", *ROWS)


def plan(lowering: Lowering, region: Region) -> None:
    """Plans the kernels of one region."""
    node = region.first
    kind = lowering.layout.kind(node)
    if kind not in _OF_NUMBERS and plan_integers(lowering, region):
        return
    if kind is not None:
        _PLANNERS[kind](lowering, region)
    elif region.nodes:
        plan_pointwise(lowering, region)
    elif is_alias(node):
        plan_alias(lowering, node)
    elif is_op(node, "Constant"):
        plan_constant(lowering, node)
    else:
        plan_generic(lowering, node)
