"""Writes out the padding that convolutions and pools choose themselves (auto_pad, output_shape).

    VALID: p = 0          SAME: p = max((ceil(n / s) - 1) s + (k - 1) d + 1 - n, 0)

for an axis of n values, with half of p before and half behind; of an odd p the larger half stands
behind (SAME_UPPER) or before (SAME_LOWER). With a stride of 1 it is (k - 1) d whatever n is. A transposed
convolution cuts what is more than n s (SAME) or than the output_shape it names,

    p = s (n - 1) + output_padding + (k - 1) d + 1 - min(n s, the same)      (or - output_shape)

with the larger half before unless it says SAME_UPPER. Not handled: strides that leave values unread behind
the last window, for which SAME would be less padding than none (ONNX Runtime runs no such pool, and begins
convolutions that leave three and more somewhere inside), and an output_shape of more than there is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from graphopt.ir.graph import Graph, Node, nodes_of
from graphopt.pass_base import Context, Exact, Pass

_POOLS = ("MaxPool", "AveragePool", "LpPool")
# The input that holds the filters, whose sizes are the window's where no attribute says them.
_FILTERS = {"Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "QLinearConv": 3}


@dataclass(frozen=True)
class ExplicitPadding(Pass):
    """auto_pad and output_shape become the pads they mean, where the size of the image is known."""

    name: ClassVar[str] = "explicit-padding"
    numerics: ClassVar[Exact] = Exact()

    def run(self, graph: Graph, context: Context) -> None:
        for node in nodes_of(graph, *_FILTERS, *_POOLS):
            how = node.attrs.get("auto_pad", "NOTSET")
            if how == "NOTSET" and "output_shape" not in node.attrs:
                continue
            window = _window(node)
            if window is None:
                context.refused(node, "the size of its window is not known")
                continue
            is_transposed = node.op == "ConvTranspose"
            missing = list((_cut if is_transposed else _missing)(node, window, how))
            reason = _why_not(node, missing)
            if reason:
                context.refused(node, reason)
                continue
            before = how != "SAME_UPPER" if is_transposed else how == "SAME_LOWER"
            pads = [_halves(max(m or 0, 0), larger_before=before) for m in missing]
            node.attrs["pads"] = [b for b, _ in pads] + [a for _, a in pads]
            for name in ("auto_pad", "output_shape"):
                node.attrs.pop(name, None)
            if how != "VALID":
                node.attrs.pop("ceil_mode", None)  # SAME rounds up, and pads as much as that takes
            context.rewrote(node, f"what it chooses is pads={node.attrs['pads']}")


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
    for n, k, s, d in _axes(node, window):
        reach = (k - 1) * d + 1
        if s == 1:
            yield reach - 1
        else:
            yield None if n is None else (-(-n // s) - 1) * s + reach - n


def _cut(node: Node, window: list[int], how: str) -> Iterator[int | None]:
    """What every axis of a transposed convolution has too much; None where its size is not known."""
    rank = len(window)
    extra, wanted = node.attrs.get("output_padding", [0] * rank), node.attrs.get("output_shape")
    for i, (n, k, s, d) in enumerate(_axes(node, window)):
        if n is None:
            yield None
            continue
        full = s * (n - 1) + int(extra[i]) + (k - 1) * d + 1
        if wanted is not None:
            yield full - int(wanted[i - rank])
        else:
            yield 0 if how == "VALID" else full - min(n * s, full)


def _axes(node: Node, window: list[int]) -> Iterator[tuple[int | None, int, int, int]]:
    """Size (None where it is not known), kernel, stride and dilation of every spatial axis."""
    ones = [1] * len(window)
    strides, dilations = (node.attrs.get(a, ones) for a in ("strides", "dilations"))
    shape = node.inputs[0].shape or [None] * (len(window) + 2)
    for n, k, s, d in zip(shape[2:], window, strides, dilations, strict=True):
        yield n if isinstance(n, int) else None, k, int(s), int(d)


def _why_not(node: Node, missing: list[int | None]) -> str | None:
    if any(m is None for m in missing):
        return "its padding depends on the size of the image, which is not known"
    least = 0 if node.op in _POOLS else -2
    if node.op != "ConvTranspose" and any(m < least for m in missing if m is not None):
        return "its strides leave values unread, and SAME would be less padding than none"
    if node.op == "ConvTranspose" and any(m < 0 for m in missing if m is not None):
        return "its output_shape is larger than what it makes"
    return None


def _halves(missing: int, *, larger_before: bool) -> tuple[int, int]:
    before = (missing + larger_before) // 2
    return before, missing - before
