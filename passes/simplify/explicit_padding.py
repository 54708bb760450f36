"""Writes out the padding that convolutions and pools choose themselves (auto_pad).

    VALID: p = 0          SAME: p = max((ceil(n / s) - 1) s + (k - 1) d + 1 - n, 0)

for an axis of n values, with half of p before and half behind; of an odd p the larger half stands
behind (SAME_UPPER) or before (SAME_LOWER). With a stride of 1 it is (k - 1) d whatever n is. Not
handled: transposed convolutions, and pools whose strides leave values unread behind the last window, for
which SAME means less padding than none (ONNX Runtime refuses to run those).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir.graph import Graph, Node, nodes_of
from graphopt.pass_base import Context, Exact, Pass

_POOLS = ("MaxPool", "AveragePool", "LpPool")
# The input that holds the filters, whose sizes are the window's where no attribute says them.
_FILTERS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}


@dataclass(frozen=True)
class ExplicitPadding(Pass):
    """auto_pad=SAME_UPPER, SAME_LOWER or VALID becomes the pads it means, where the size is known."""

    name: ClassVar[str] = "explicit-padding"
    numerics: ClassVar[Exact] = Exact()

    def run(self, graph: Graph, context: Context) -> None:
        for node in nodes_of(graph, *_FILTERS, *_POOLS):
            how = node.attrs.get("auto_pad", "NOTSET")
            if how == "NOTSET":
                continue
            window = _window(node)
            if window is None:
                context.refused(node, "the size of its window is not known")
                continue
            missing = list(_missing(node, window, how))
            reason = _why_not(node, missing)
            if reason:
                context.refused(node, reason)
                continue
            pads = [_halves(m or 0, how) for m in missing]
            del node.attrs["auto_pad"]
            node.attrs["pads"] = [b for b, _ in pads] + [a for _, a in pads]
            if how != "VALID":
                node.attrs.pop("ceil_mode", None)  # SAME rounds up, and pads as much as that takes
            context.rewrote(node, f"{how} is pads={node.attrs['pads']}")


def _window(node: Node) -> list[int] | None:
    if "kernel_shape" in node.attrs:
        return [int(k) for k in node.attrs["kernel_shape"]]
    filters = node.inputs[_FILTERS[node.op]].shape
    if filters is None or not all(isinstance(k, int) for k in filters[2:]):
        return None
    return list(filters[2:])


def _missing(node: Node, window: list[int], how: str) -> Iterator[int | None]:
    """What every axis lacks for its last window; None where that depends on a size nobody knows."""
    if how == "VALID":
        yield from [0] * len(window)
        return
    ones = [1] * len(window)
    strides, dilations = (node.attrs.get(a, ones) for a in ("strides", "dilations"))
    shape = node.inputs[0].shape or [None] * (len(window) + 2)
    for n, k, s, d in zip(shape[2:], window, strides, dilations, strict=True):
        reach = (k - 1) * d + 1
        if s == 1:
            yield reach - 1
        else:
            yield (-(-n // s) - 1) * s + reach - n if isinstance(n, int) else None


def _why_not(node: Node, missing: list[int | None]) -> str | None:
    if any(m is None for m in missing):
        return "its padding depends on the size of the image, which is not known"
    if node.op in _POOLS and any(m < 0 for m in missing if m is not None):
        return "its strides leave values unread, and SAME would be less padding than none"
    return None


def _halves(missing: int, how: str) -> tuple[int, int]:
    missing = max(missing, 0)
    before = (missing + (how == "SAME_LOWER")) // 2
    return before, missing - before
