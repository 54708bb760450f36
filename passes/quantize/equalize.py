"""Makes the ranges of a layer's channels equal, at the expense of the layer that reads them.

    w2 f(w1 x + b1) == (w2 s) f((w1 / s) x + b1 / s),   s_c = sqrt(max |w1[c]| / max |w2[:, c]|)

for f(x / s) == f(x) / s with s > 0: Relu, LeakyRelu, PRelu, pooling, resizing, reshaping, residual
additions and concatenations, depthwise and other convolutions in between (Nagel et al., "Data-Free
Quantization through Weight Equalization and Bias Correction", ICCV 2019, section 4.1). One grid for
a whole weight then serves all its channels. The scales are found in `graphopt.passes.quantize.balance`
and carried by `graphopt.passes.quantize.scale_flow`; the network computes what it computed.

Not handled: curved activations (Sigmoid, SiLU, HardSwish, Mish), BatchNormalizations that are not
folded, channels that an output of the model or a subgraph sees, and a Clip to [0, 6], whose bound
would be another one in every channel, unless `relu6=min` (or `loosen-clips` before) is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.channels.labels import Floats, Vector
from graphopt.errors import UsageError
from graphopt.ir.graph import (
    Graph,
    Tensor,
    add_constant,
    add_node,
    label,
    replace_uses,
    set_input,
)
from graphopt.ir.names import hold_other_values
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.quantize.balance import (
    Sides,
    balance,
    lost_bits,
    number_scales,
    out_axis,
    sides_of,
    spread,
)
from graphopt.passes.quantize.scale_flow import Bounded, Flow, Linear, Offset

_RELU6 = ("keep", "min")
_LEAST = 0.02  # of the logarithm of a scale: less is not worth rounding the weights once more


@dataclass(frozen=True)
class Equalize(Pass):
    """w2 relu(w1 x + b1) == (w2 s) relu((w1 / s) x + b1 / s), s making the channels' ranges equal."""

    name: ClassVar[str] = "equalize"
    numerics: ClassVar[Close] = Close(rtol=1e-4)
    after: ClassVar[dict[str, str]] = {
        "fuse-conv-bn": "scales go into weights, and stop at a BatchNormalization"
    }

    relu6: str = "keep"  # a Clip to [0, 6]: "keep" it, or "min": a Relu and a Min per channel
    cap: float = (
        1e4  # a channel that wants a larger scale than this is left alone, as a dead one is
    )

    def run(self, graph: Graph, context: Context) -> None:
        if self.relu6 not in _RELU6:
            raise UsageError(f"relu6={self.relu6} is not one of {', '.join(_RELU6)}")
        if not self.cap > 1:
            raise UsageError(f"cap={self.cap:g} is the largest scale, and more than 1")
        flow = Flow(graph, bound_channels=self.relu6 == "min")
        linears = flow.linears
        numbers = number_scales(flow)
        sides = [sides_of(each, numbers) for each in linears]
        found = balance(sides, int(numbers.max(initial=0)), self.cap)
        _log_held(flow, linears, numbers, context)
        if np.abs(np.log(found.scales)).max() < _LEAST:
            return
        if not found.settled:
            context.refused("graph", f"scales still moved after {found.rounds} rounds")
        for each in linears:
            _scale_weight(graph, each, found.scales[numbers])
        made: dict[tuple[int, bytes], Tensor] = {}  # a bias that is shared stays shared
        for offset in flow.offsets:
            _scale_offset(graph, offset, found.scales[numbers], made)
        for bounded in flow.bounded:
            _bound_channels(graph, bounded, found.scales[numbers])
        hold_other_values(graph, _scaled(graph, flow, found.scales[numbers]))
        _log_spreads(linears, sides, found.scales, context)
        context.facts["equalized"] |= {"rounds": found.rounds, "settled": found.settled}


def _scaled(graph: Graph, flow: Flow, scales: Floats) -> list[Tensor]:
    made = [(t, flow.of(t)) for node in graph.nodes for t in node.outputs]
    return [t for t, marks in made if marks is not None and (scales[marks] != 1).any()]


def _scale_weight(graph: Graph, linear: Linear, scales: Floats) -> None:
    ins, outs = scales[linear.ins], scales[linear.outs]
    if (ins == 1).all() and (outs == 1).all():
        return
    node, weight = linear.nodes[0], linear.nodes[0].inputs[1]
    factors = _factors(linear, ins, outs)
    wide = weight.values.astype(np.float64) * factors.reshape(
        *factors.shape, *[1] * (weight.values.ndim - 2)
    )
    new = add_constant(graph, weight.name, wide.astype(weight.values.dtype))
    for node in linear.nodes:
        set_input(node, 1, new)


def _factors(linear: Linear, ins: Floats, outs: Floats) -> Floats:
    """What every pair of the weight's first two axes is multiplied by."""
    node = linear.nodes[0]
    groups = int(node.attrs.get("group", 1)) if node.op.startswith("Conv") else 1
    table = ins.reshape(groups, 1, -1) / outs.reshape(groups, -1, 1)  # (groups, out, in)
    if out_axis(linear) == 1:
        table = table.transpose(0, 2, 1)
    return np.asarray(table.reshape(-1, table.shape[2]))


def _scale_offset(
    graph: Graph, offset: Offset, scales: Floats, made: dict[tuple[int, bytes], Tensor]
) -> None:
    by = scales[offset.marks]
    if (by == 1).all():
        return
    old = offset.node.inputs[offset.index]
    key = id(old.values), by.tobytes()
    if key not in made:
        values = (old.values.astype(np.float64) / by).astype(old.values.dtype)
        made[key] = add_constant(graph, old.name, values)
    set_input(offset.node, offset.index, made[key])


def _bound_channels(graph: Graph, bounded: Bounded, scales: Floats) -> None:
    """Clip(x, 0, c) becomes Min(Relu(x), c / s)."""
    by = scales[bounded.marks]
    if (by == 1).all():
        return
    out = bounded.node.outputs[0]
    relu = add_node(graph, "Relu", [bounded.node.inputs[0]], like=out)
    kind = np.dtype(out.dtype)
    limit = add_constant(graph, f"{out.name}_bound", (bounded.bound / by).astype(kind))
    replace_uses(graph, out, add_node(graph, "Min", [relu, limit], like=out))


# --- telling ------------------------------------------------------------------------------------


def _log_held(flow: Flow, linears: Sequence[Linear], numbers: Vector, context: Context) -> None:
    """Says of every layer with channels that keep their scale why, unless only outputs follow it."""
    first: dict[int, str] = {}
    for marks, reason in flow.labels.frozen:
        for root in np.unique(flow.labels.find(marks)).tolist():
            first.setdefault(root, reason.what)
    is_read = np.zeros(len(numbers), bool)
    for each in linears:
        is_read[flow.labels.find(each.ins)] = True
    for each in linears:
        roots = flow.labels.find(each.outs)
        held = roots[numbers[each.outs] == 0]
        if not len(held):
            continue
        why = first[int(held[0])]
        if "is an output of the model" in why and not is_read[roots].any():
            continue  # nothing reads it: never a candidate
        many = "its channels" if len(held) == len(roots) else f"{len(held)} of its channels"
        context.refused(each.nodes[0], f"{many} keep their scale: {why}")


def _log_spreads(
    linears: Sequence[Linear], sides: Sequence[Sides], scales: Floats, context: Context
) -> None:
    """Logs for every changed layer how far the ranges of its channels differ, before and after."""
    layers: dict[str, dict[str, float]] = {}
    ones = np.ones_like(scales)
    for linear, each in zip(linears, sides, strict=True):
        touched = np.concatenate([each.ins.reshape(-1), each.outs.reshape(-1)])
        if (scales[touched] == 1).all():
            continue
        row: dict[str, float] = {}
        for side, axis in (("out", 2), ("in", 1)):
            for when, at in (("before", ones), ("after", scales)):
                ranges = each.scaled(at).max(axis=axis, initial=0)
                row[f"{side}_{when}"] = spread(ranges)
                row[f"{side}_bits_{when}"] = lost_bits(ranges)
        layers[label(linear.nodes[0])] = row
        context.rewrote(linear.nodes[0], _told(row))
    keys = [f"{side}_{when}" for side in ("out", "in") for when in ("before", "after")]
    bits = {
        when: float(
            np.mean([r[f"out_bits_{when}"] + r[f"in_bits_{when}"] for r in layers.values()])
        )
        for when in ("before", "after")
    }
    context.facts["equalized"] = {
        "layers": layers,
        # Ratios of the largest to the smallest range, and log2(largest / range) over channels.
        "median": {key: float(np.median([r[key] for r in layers.values()])) for key in keys},
        "lost_bits": bits,
    }


def _told(row: Mapping[str, float]) -> str:
    told = [
        f"of {name} channels differ {row[f'{side}_before']:.3g}-fold -> {row[f'{side}_after']:.3g}-fold"
        for side, name in (("out", "output"), ("in", "input"))
    ]
    return "ranges " + ", ".join(told)
