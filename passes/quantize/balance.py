"""Scales per channel that make the ranges of weights as equal as they can be.

For a channel c that the weights w_1 make and the weights w_2 read, with the ranges

    r1_c = max |w_1[c]|,   r2_c = max |w_2[:, c]|

dividing the channel by s_c = sqrt(r1_c / r2_c) gives both the range sqrt(r1_c r2_c) (Nagel et al.,
"Data-Free Quantization through Weight Equalization and Bias Correction", ICCV 2019, eq. 9-11). Where
several weights make or read a channel (residual streams, concatenations) r is the largest of theirs:
what makes a channel then reaches as far as what reads it. Layer after layer is balanced, again and
again, until nothing moves; a depthwise convolution is balanced against both its neighbours.

With channels as rows and columns of one matrix this is matrix balancing in the maximum norm, which is
known to converge (Osborne, "On Pre-Conditioning of Matrices", 1960; Schulman and Sinclair, "Analysis
of a Classical Matrix Preconditioning Algorithm", 2017): it makes the largest weight there is as small
as it can be, then the next one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.channels.labels import Floats, Vector
from graphopt.passes.quantize.scale_flow import Array, Flow, Linear

_SETTLED = 1e-4  # of the logarithm of a scale: what moves less has come to rest
_ROUNDS = 500


@dataclass
class Sides:
    """A weight as the largest magnitude between each pair of channels, group by group.

    Attributes:
        peaks: (groups, out, in) the largest magnitude over the taps.
        outs, ins: (groups, out) and (groups, in) the number of each channel's scale; 0 is held at 1.
    """

    peaks: Array
    outs: Vector
    ins: Vector

    def scaled(self, scales: Floats) -> Array:
        """The magnitudes once every channel is divided by its scale."""
        factors = scales[self.ins][:, None, :] / scales[self.outs][:, :, None]
        return np.asarray(self.peaks * factors.astype(self.peaks.dtype))


@dataclass(frozen=True)
class Balance:
    """The scales found.

    Attributes:
        scales: by number; scales[0] is 1.
        rounds: how often all channels were looked at.
        settled: whether nothing moved in the last round.
    """

    scales: Floats
    rounds: int
    settled: bool


def number_scales(flow: Flow) -> Vector:
    """The number of the scale of each label: 0 where it is held, the same where labels are one."""
    roots = flow.labels.find(np.arange(len(flow.labels), dtype=np.int64))
    free = np.ones(len(roots), bool)
    free[0] = False
    free[flow.labels.frozen_roots()] = False
    live = np.unique(roots[free[roots]])
    numbers = np.zeros(len(roots), np.int64)
    numbers[live] = np.arange(1, len(live) + 1)
    return numbers[roots]


def sides_of(linear: Linear, numbers: Vector) -> Sides:
    """The two sides of a weight."""
    node, values = linear.nodes[0], linear.values
    groups = int(node.attrs.get("group", 1)) if node.op.startswith("Conv") else 1
    flat = np.abs(values).reshape(*values.shape[:2], -1).max(axis=2, initial=0.0)
    table = flat.reshape(groups, -1, flat.shape[1])
    if out_axis(linear) == 1:
        table = table.transpose(0, 2, 1)
    return Sides(
        table,
        numbers[linear.outs].reshape(groups, -1),
        numbers[linear.ins].reshape(groups, -1),
    )


def out_axis(linear: Linear) -> int:
    """The axis of the weight that runs over output channels; the other of the first two is the input's."""
    node = linear.nodes[0]
    if node.op == "Conv" or (node.op == "Gemm" and node.attrs.get("transB", 0)):
        return 0
    return 1


def lost_bits(ranges: Array) -> float:
    """How many bits one grid for all channels loses in them on average: log2(R / r_c)."""
    alive = ranges[ranges > 0].astype(np.float64)
    return float(np.mean(np.log2(alive.max() / alive))) if alive.size else 0.0


def spread(ranges: Array) -> float:
    """How far ranges differ: the largest over the smallest that is not 0; 1 for less than two."""
    alive = ranges[ranges > 0]
    return float(alive.max() / alive.min()) if alive.size else 1.0


def balance(sides: Sequence[Sides], count: int, cap: float) -> Balance:
    """Finds the scales.

    Args:
        sides: the weights in the order of the network.
        count: how many scales there are, without number 0.
        cap: a channel that would have to be scaled by more than this at once is as good as dead,
            and left alone, as are channels one side of which is 0.
    """
    scales = np.ones(count + 1)
    sets = list(_sets(sides, count))
    moved, rounds = math.inf, 0
    while moved >= _SETTLED and rounds < _ROUNDS:
        rounds += 1
        moved = max((_balance_set(each, scales, math.log(cap)) for each in sets), default=0.0)
    return Balance(scales, rounds, moved < _SETTLED)


@dataclass(frozen=True)
class _Set:
    """Scales that are found at once, and the weights that make and read what they divide."""

    mask: Any
    makers: list[Sides]
    readers: list[Sides]

    @property
    def damping(self) -> float:
        """Less than 1 where a weight stands between channels of the set: both its ends move."""
        both = any(each is other for each in self.makers for other in self.readers)
        return 0.5 if both else 1.0


def _sets(sides: Sequence[Sides], count: int) -> Iterator[_Set]:
    """For each weight the scales that it is the first to make."""
    taken = np.zeros(count + 1, bool)
    taken[0] = True
    for each in sides:
        mask = np.zeros(count + 1, bool)
        mask[each.outs] = True
        mask &= ~taken
        taken |= mask
        makers = [s for s in sides if mask[s.outs].any()]
        readers = [s for s in sides if mask[s.ins].any()]
        if readers and makers:
            yield _Set(mask, makers, readers)


def _balance_set(each: _Set, scales: Floats, cap: float) -> float:
    """Balances in place; how far the scales moved (the largest logarithm)."""
    made, read = np.zeros_like(scales), np.zeros_like(scales)
    for sides in each.makers:
        np.maximum.at(made, sides.outs, sides.scaled(scales).max(axis=2, initial=0))
    for sides in each.readers:
        np.maximum.at(read, sides.ins, sides.scaled(scales).max(axis=1, initial=0))
    moves = each.mask & (made > 0) & (read > 0)
    logs = np.zeros_like(scales)
    logs[moves] = np.log(made[moves] / read[moves]) / 2
    logs[np.abs(logs) > cap] = 0.0
    scales *= np.exp(each.damping * logs)
    return float(np.abs(logs).max())
