"""Makes up for removed channels in the weights of whoever read them.

What a removed channel r contributed is predicted from the channels K that stay, as seen on data:

    x_r ~ A x_K + c,   A = S_rK (S_KK + ridge)^-1,   c = m_r - A m_K

(S the covariance, m the mean of the reader's input), and the prediction is folded into the reader:

    w_K += w_r A  (every tap),   b += sum over taps of w_r c

With A = 0 this is the folding of constants known from Network Slimming's detectors (act(beta) of a
channel whose gamma is 0) and of measured means; with A it is the closed-form least-squares
reconstruction of the reader's input (He et al., "Channel Pruning for Accelerating Very Deep Neural
Networks", ICCV 2017, restricted to one position). Right except where a convolution pads with zeros.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.channels.groups import Channels
from graphopt.channels.labels import Floats, Vector
from graphopt.channels.view import Contraction
from graphopt.ir.graph import (
    Constant,
    Node,
    Tensor,
    input_of,
    is_op,
)
from graphopt.passes.prune.bias import add_bias
from graphopt.passes.prune.moments import Moments

_RIDGE = 1e-2  # of the mean variance
_CONSTANT = 1e-3  # a channel that varies by less than this share of the others is a constant


@dataclass(frozen=True)
class Reader:
    """A linear operator that loses input channels: its weight's axes and the places it stands in."""

    nodes: tuple[Node, ...]
    weight: Tensor
    values: Any  # of the weight before anything was removed
    in_axis: int
    out_axis: int
    contractions: tuple[Contraction, ...]


def readers(channels: Channels, removed: Vector) -> list[Reader]:
    """The linear operators whose constant weight loses input channels, each weight once."""
    gone = channels.gone(removed)
    found: dict[int, list[Contraction]] = defaultdict(list)
    for contraction in channels.sweep.findings.contractions:
        if gone[channels.units_of(contraction.labels)].any() and _axes(contraction) is not None:
            found[id(contraction.node.inputs[1])].append(contraction)
    made = []
    for same in found.values():
        axes = _axes(same[0])
        assert axes is not None
        nodes = tuple(c.node for c in same)
        weight = same[0].node.inputs[1]
        made.append(Reader(nodes, weight, weight.values, *axes, tuple(same)))
    return made


def _axes(contraction: Contraction) -> tuple[int, int] | None:
    """The input and output axis of the weight, where the operator is one we can compensate."""
    node = contraction.node
    if contraction.index != 0 or not isinstance(input_of(node, 1), Constant):
        return None
    if is_op(node, "Conv") and node.attrs.get("group", 1) == 1:
        return 1, 0
    if is_op(node, "ConvTranspose") and node.attrs.get("group", 1) == 1:
        return 0, 1
    if is_op(node, "Gemm") and not node.attrs.get("transA", 0):
        return (1, 0) if node.attrs.get("transB", 0) else (0, 1)
    if is_op(node, "MatMul") and len(node.inputs[1].shape) == 2:
        return 0, 1
    return None


def compensate(
    channels: Channels,
    removed: Vector,
    found: Sequence[Reader],
    moments: Sequence[Sequence[Moments | None]],
    mode: str,
) -> int:
    """Folds predictions of removed channels into the weights of a graph they were removed from.

    Args:
        channels: the analysis from before the removal; its graph is edited in place.
        removed: the units that were removed.
        found: the readers, looked up before the removal.
        moments: for each of them the moments of its input in each place it stands in.
        mode: "constants" (only channels that do not vary), "mean" or "linear".

    Returns:
        How many readers were changed.
    """
    changed = 0
    for reader, seen in zip(found, moments, strict=True):
        known = [m for m in seen if m is not None]
        if not known or len(known) < len(seen):
            continue
        total = known[0]
        for each in known[1:]:
            total = total + each
        gone = channels.gone(removed)[channels.units_of(reader.contractions[0].labels)]
        weights, shift = prediction(total, gone, mode)
        changed += _fold(channels, removed, reader, gone, weights, shift)
    return changed


def prediction(moments: Moments, gone: Any, mode: str) -> tuple[Floats, Floats]:
    """(A, c) that predict the removed channels from the kept ones: (removed, kept), (removed,)."""
    kept = ~gone
    mean, covariance = moments.mean, moments.covariance
    variance = np.maximum(np.diagonal(covariance), 0.0)
    weights = np.zeros((int(gone.sum()), int(kept.sum())))
    shift = mean[gone].copy()
    if mode == "constants":
        rms = np.sqrt(np.mean(np.diagonal(moments.second)) / moments.count)
        shift[np.sqrt(variance[gone]) > _CONSTANT * rms] = 0.0
    elif mode == "linear":
        inner = covariance[np.ix_(kept, kept)]
        inner[np.diag_indices_from(inner)] += _RIDGE * max(float(variance.mean()), 1e-12)
        weights = np.linalg.solve(inner, covariance[np.ix_(kept, gone)]).T.astype(np.float64)
        shift = mean[gone] - weights @ mean[kept]
    return weights, shift


def _fold(
    channels: Channels,
    removed: Vector,
    reader: Reader,
    gone: Any,
    weights: Floats,
    shift: Floats,
) -> bool:
    whole = np.moveaxis(reader.values, (reader.out_axis, reader.in_axis), (0, 1))
    axes = channels.sweep.axes(reader.weight, reader.nodes[0], 1)
    out = None if axes is None else axes[reader.out_axis]
    if out is not None:
        whole = whole[~channels.gone(removed)[channels.units_of(out)]]
    lost = whole[:, gone].astype(np.float64)  # (out, removed, taps...)
    alpha = float(reader.nodes[0].attrs.get("alpha", 1.0)) if reader.nodes[0].op == "Gemm" else 1.0
    delta = np.einsum("or...,rk->ok...", lost, weights)
    bias = alpha * np.einsum("or,r->o", lost.reshape(*lost.shape[:2], -1).sum(2), shift)
    nodes = list(reader.nodes)
    if weights.any():
        old = nodes[0].inputs[1].values
        moved = np.moveaxis(old, (reader.out_axis, reader.in_axis), (0, 1)) + delta
        new = np.moveaxis(moved, (0, 1), (reader.out_axis, reader.in_axis)).astype(old.dtype)
        nodes[0].inputs[1].values = np.ascontiguousarray(new)
    add_bias(channels.graph, nodes, bias)
    return bool(weights.any() or bias.any())
