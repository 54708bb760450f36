"""Moves a Pad into the padding of the convolution or pool that reads it.

    conv(pad(x, p), pads=q) == conv(x, pads=p+q)          zeros
    average_pool(pad(x, p)) == average_pool(x, pads=p, count_include_pad=1)      zeros, no padding yet
    max_pool(pad(x, p), pads=q) == max_pool(x, pads=p+q)  minus infinity, the edge, or zeros and x >= 0

A MaxPool pads with minus infinity: folding zeros into it is wrong where x is negative (ONNX Runtime
1.31 does it by default). It is right where x is known not to be negative, behind a Relu say, and
every window sees at least one real element. The values of the edge are in such a window already. Not
handled: ceil_mode, auto_pad, negative padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    input_of,
    input_value,
    is_op,
    is_output,
    nodes_of,
    produced_by,
    producer,
    rank_of,
    replace_uses,
    sole_reader,
)
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.fuse.linear import pads_of

_READERS = ("Conv", "AveragePool", "MaxPool")
_NEVER_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp")
_KEEP_SIGN = (
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "Concat",
    "Resize",
    "Transpose",
    "Reshape",
)


@dataclass(frozen=True)
class FusePad(Pass):
    """conv(pad(x, p), pads=q) == conv(x, pads=p+q); pools too, where their padding is the same."""

    name: ClassVar[str] = "fuse-pad"
    numerics: ClassVar[Close] = Close(rtol=1e-5)  # a kernel may add in another order

    def run(self, graph: Graph, context: Context) -> None:
        for pad in nodes_of(graph, "Pad"):
            reader = sole_reader(graph, pad.outputs[0])
            if not is_op(reader, *_READERS) or reader.inputs[0] is not pad.outputs[0]:
                continue
            reason = (
                why_not_spatial(pad) or why_not_padded(graph, reader) or why_not_equal(pad, reader)
            )
            if reason:
                context.refused(pad, reason)
                continue
            begins, ends = spatial_padding(pad)
            pads = [a + b for a, b in zip(pads_of(reader), begins + ends, strict=True)]
            reader.attrs["pads"] = pads
            if reader.op == "AveragePool":
                reader.attrs["count_include_pad"] = 1
            replace_uses(graph, pad.outputs[0], pad.inputs[0])
            context.rewrote(pad, f"folded into the padding of {reader.op} {reader.name}")


def spatial_padding(pad: Node) -> tuple[list[int], list[int]]:
    """Padding before and after every spatial axis."""
    pads = [int(p) for p in input_value(pad, 1)]  # type: ignore[union-attr]
    rank = len(pads) // 2
    return pads[2:rank], pads[rank + 2 :]


def why_not_spatial(pad: Node) -> str | None:
    """The reason the Pad is no padding of spatial axes that is known now, or None."""
    pads, rank = input_value(pad, 1), rank_of(pad.inputs[0])
    if rank is None:
        return "how many dimensions it pads is not known"
    if pads is None or (input_of(pad, 2) and input_value(pad, 2) is None):
        return "its padding is computed at run time"
    if input_of(pad, 3) is not None:
        return "it names the axes it pads"
    if pads.min(initial=0) < 0:
        return "it crops (negative padding)"
    if any(pads[i] for i in (0, 1, rank, rank + 1)):
        return "it pads batch or channels"
    return None


def why_not_padded(graph: Graph, reader: Node) -> str | None:
    """The reason the reader cannot take more padding, or None."""
    if reader.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET"):
        return f"{reader.op} {reader.name} chooses its padding itself (auto_pad)"
    if reader.attrs.get("ceil_mode", 0):
        return f"{reader.op} {reader.name} rounds its size up, and then it depends on where the padding is"
    if any(t.outputs or is_output(graph, t) for t in reader.outputs[1:]):
        return f"the indices of {reader.op} {reader.name} are read, and they count the padding"
    return None


def why_not_equal(pad: Node, reader: Node) -> str | None:
    """The reason the reader's own padding is not the Pad's, or None."""
    mode = str(pad.attrs.get("mode", "constant"))
    if mode != "constant" and not (mode == "edge" and reader.op == "MaxPool"):
        return f"it pads by {mode}, which {reader.op} does not"
    value = input_value(pad, 2)
    fill = 0.0 if value is None else float(np.asarray(value).reshape(-1)[0])
    begins, ends = spatial_padding(pad)
    if reader.op == "Conv":
        return None if fill == 0 else f"it fills with {fill:g}, a convolution with zeros"
    kernel = [int(k) for k in reader.attrs["kernel_shape"]]
    total = [p + q for p, q in zip(pads_of(reader), begins + ends, strict=True)]
    dilated = any(d != 1 for d in reader.attrs.get("dilations", []))
    if any(p >= k for p, k in zip(total, kernel * 2, strict=True)) or (dilated and any(total)):
        return "some windows would see padding only"
    if reader.op == "AveragePool":
        return _average_differs(fill, reader)
    if mode == "edge" or np.isneginf(fill) or fill <= np.finfo(np.float32).min:
        return None
    if fill == 0 and never_negative(pad.inputs[0]):
        return None
    return f"it fills with {fill:g}, MaxPool with minus infinity, and its input may be negative"


def _average_differs(fill: float, reader: Node) -> str | None:
    if fill != 0:
        return f"it fills with {fill:g}, AveragePool with zeros"
    if any(pads_of(reader)) and not reader.attrs.get("count_include_pad", 0):
        return "the AveragePool does not count its own padding, but would have to count this one"
    return None


def never_negative(tensor: Tensor) -> bool:
    """Whether the values are known to be zero or more, from the operators that make them."""
    for _ in range(8):
        node = producer(tensor)
        if node is None:
            return False
        if produced_by(tensor, *_NEVER_NEGATIVE):
            return True
        if produced_by(tensor, "Clip"):
            low = input_value(node, 1)
            return low is not None and float(low.reshape(-1)[0]) >= 0
        if not produced_by(tensor, *_KEEP_SIGN) or (node.op == "Concat" and len(node.inputs) > 1):
            return False
        if node.op == "Resize" and node.attrs.get("mode", "nearest") == "cubic":
            return False  # overshoots
        tensor = node.inputs[0]
    return False
