"""Adds up linear branches that read the same tensor, as RepVGG trains them.

    conv(x, w1, b1) + conv(x, w2, b2) == conv(x, w1 + pad(w2), b1 + b2)
    conv(x, w, b) + (x * s + t)       == conv(x, w + centre(s), b + t)      BatchNorm or plain x

The kernels must have the same stride, dilation and groups and look at the same centre; the smaller
one is filled up with zeros. An identity branch needs stride 1 and as many channels out as in.
Source: Ding et al., RepVGG, CVPR 2021, section 3.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    add_constant,
    is_op,
    nodes_of,
    produced_by,
    producer,
    set_input,
    sole_reader,
)
from graphopt.ir.names import take_place
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.fuse.affine import AFFINE_OPS, affine_of, data_input
from graphopt.passes.fuse.fuse_affine_conv import in_channels
from graphopt.passes.fuse.linear import bias_of, out_channels, pads_of, set_bias, why_not_scalable

Array = np.ndarray[Any, Any]
Kernel = tuple[Array, Array]  # weight and bias, float64


@dataclass(frozen=True)
class MergeParallelConvs(Pass):
    """conv(x, w1) + conv(x, w2) + x == conv(x, w1 + pad(w2) + identity)."""

    name: ClassVar[str] = "merge-parallel-convs"
    numerics: ClassVar[Close] = Close(rtol=1e-5)
    after: ClassVar[dict[str, str]] = {
        "fuse-conv-bn": "branches end in a BatchNormalization that must be folded first"
    }

    def run(self, graph: Graph, context: Context) -> None:
        merged = True
        while merged:  # conv1 + conv2 + x is two additions: the second sees the first one's result
            merged = sum(_merge(graph, add, context) for add in nodes_of(graph, "Add")) > 0


def _merge(graph: Graph, add: Node, context: Context) -> bool:
    conv, other = _branches(add)
    if conv is None or other is None:
        return False
    reason = why_not_absorbing(graph, add, conv) or why_not_read_once(conv, other)
    kernel = reason or as_kernel(other, conv)
    if isinstance(kernel, str):
        context.refused(add, kernel)
        return False
    weight = conv.inputs[1]
    total = weight.values.astype(np.float64) + kernel[0]
    bias = bias_of(conv) + kernel[1]
    set_input(conv, 1, add_constant(graph, weight.name, total.astype(weight.values.dtype)))
    set_bias(graph, conv, bias)
    maker = producer(other)
    what = "the identity" if other is conv.inputs[0] else f"{maker.op} {maker.name}"
    take_place(graph, add.outputs[0], conv.outputs[0])
    context.rewrote(add, f"{what} merged into Conv {conv.name}")
    return True


def _branches(add: Node) -> tuple[Node, Tensor]:
    """The convolution that can hold the sum, and the other branch over the same tensor."""
    convs = [produced_by(t, "Conv") for t in add.inputs]
    order = sorted((i for i in (0, 1) if convs[i] is not None), key=lambda i: -_taps(convs[i]))
    for i in order:
        other = add.inputs[1 - i]
        if other is not add.inputs[i] and _reads(other, convs[i].inputs[0]):
            return convs[i], other
    return None, None


def _taps(conv: Node) -> int:
    return math.prod(conv.inputs[1].shape[2:]) if conv.inputs[1].shape else 0


def _reads(branch: Tensor, x: Tensor) -> bool:
    maker = producer(branch)
    if branch is x:
        return True
    if is_op(maker, "Conv"):
        return maker.inputs[0] is x
    return is_op(maker, *AFFINE_OPS) and data_input(maker) is x


def why_not_absorbing(graph: Graph, add: Node, conv: Node) -> str | None:
    """The reason the convolution cannot take another branch, or None."""
    if sole_reader(graph, conv.outputs[0]) is not add:
        return f"the result of Conv {conv.name} has a second reader"
    if conv.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return f"Conv {conv.name} chooses its padding itself (auto_pad)"
    return why_not_scalable(conv)


def why_not_read_once(conv: Node, other: Tensor) -> str | None:
    """The reason the other branch would stay anyway, or None."""
    if other is conv.inputs[0] or len(other.outputs) == 1:
        return None
    return f"the other branch {other.name} has a second reader, so nothing would be saved"


def as_kernel(branch: Tensor, conv: Node) -> Kernel | str:
    """The branch as a kernel of the convolution's shape, or why it is none."""
    maker = producer(branch)
    if is_op(maker, "Conv") and branch is not conv.inputs[0]:
        return why_not_aligned(maker, conv) or _filled_up(maker, conv)
    if in_channels(conv) != out_channels(conv):
        return "an identity branch needs as many channels out as in"
    if any(s != 1 for s in conv.attrs.get("strides", [1])) or _centre(conv) is None:
        return f"Conv {conv.name} does not keep positions: it has a stride or uneven padding"
    if branch is conv.inputs[0]:
        channels = out_channels(conv)
        return _diagonal(conv, np.ones(channels)), np.zeros(channels)
    affine = affine_of(maker, out_channels(conv), 1)
    return affine if isinstance(affine, str) else (_diagonal(conv, affine.scale), affine.shift)


def why_not_aligned(other: Node, conv: Node) -> str | None:
    """The reason two convolutions do not look at the same centres, or None."""
    if reason := why_not_scalable(other):
        return reason
    for key in ("strides", "dilations", "group"):
        ours, theirs = (_attribute(n, key) for n in (conv, other))
        if ours != theirs:
            return f"the branches differ in {key}: {ours} and {theirs}"
    if other.attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return f"Conv {other.name} chooses its padding itself (auto_pad)"
    offsets = _offsets(other, conv)
    if offsets is None:
        return "the kernels do not look at the same centre"
    return None


def _attribute(node: Node, key: str) -> Any:
    spatial = len(node.inputs[1].shape) - 2
    return node.attrs.get(key, 1 if key == "group" else [1] * spatial)


def _offsets(other: Node, conv: Node) -> list[int] | None:
    """Where the smaller kernel starts inside the larger one, per spatial axis."""
    large, small = conv.inputs[1].shape[2:], other.inputs[1].shape[2:]
    spatial = len(large)
    ours, theirs, dilations = pads_of(conv), pads_of(other), _attribute(conv, "dilations")
    offsets = []
    for axis in range(spatial):
        before, rest = divmod(ours[axis] - theirs[axis], dilations[axis])
        after = large[axis] - small[axis] - before
        same_end = ours[spatial + axis] - theirs[spatial + axis] == after * dilations[axis]
        if rest or before < 0 or after < 0 or not same_end:
            return None
        offsets.append(int(before))
    return offsets


def _filled_up(other: Node, conv: Node) -> Kernel:
    small = other.inputs[1].values.astype(np.float64)
    kernel = np.zeros(conv.inputs[1].shape, np.float64)
    window = [
        slice(o, o + k) for o, k in zip(_offsets(other, conv) or [], small.shape[2:], strict=True)
    ]
    kernel[(slice(None), slice(None), *window)] = small
    return kernel, bias_of(other)


def _centre(conv: Node) -> list[int] | None:
    """The kernel index that reads the output's own position, when size and place are kept."""
    sizes, dilations = conv.inputs[1].shape[2:], _attribute(conv, "dilations")
    pads, spatial = pads_of(conv), len(sizes)
    centre = []
    for axis in range(spatial):
        index, rest = divmod(pads[axis], dilations[axis])
        reach = dilations[axis] * (sizes[axis] - 1)
        if rest or index >= sizes[axis] or pads[axis] + pads[spatial + axis] != reach:
            return None
        centre.append(index)
    return centre


def _diagonal(conv: Node, scale: Array) -> Array:
    """The kernel that multiplies every channel by its scale."""
    kernel = np.zeros(conv.inputs[1].shape, np.float64)
    channels = np.arange(len(scale))
    kernel[(channels, channels % kernel.shape[1], *(_centre(conv) or []))] = scale
    return kernel
