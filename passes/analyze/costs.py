"""What removing one unit saves, to first order: the others stay.

    macs(u)   = sum over linear layers of MACs / C_out * (outputs of u) + MACs / C_in * (inputs of u)
    memory(u) = sum over linear layers of the elements of their outputs that are u's

as in Group Fisher (Liu et al., ICML 2021). Symbolic dimensions count as 1, so figures are per image.
Unlike parameters, a shared weight counts in every layer that uses it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from graphopt.channels.groups import KEPT_UNIT, Channels
from graphopt.channels.labels import Vector
from graphopt.ir.cost import node_cost
from graphopt.ir.graph import Tensor
from graphopt.passes.analyze.merge import Scores


def macs_of_units(channels: Channels) -> Scores:
    """Multiply-accumulates that go with each unit."""
    return _total(channels, _macs(channels))


def memory_of_units(channels: Channels) -> Scores:
    """Elements of layers' outputs that go with each unit."""
    return _total(channels, _memory(channels))


def _total(channels: Channels, parts: Iterator[tuple[Vector, float]]) -> Scores:
    total = np.zeros(channels.unit_count)
    for units, each in parts:
        total += np.bincount(units[units != KEPT_UNIT], minlength=channels.unit_count) * each
    return total


def _macs(channels: Channels) -> Iterator[tuple[Vector, float]]:
    for site in channels.sweep.findings.sites:
        if site.role in ("output", "input"):
            each = node_cost(site.node).macs / len(site.labels)
            yield channels.units_of(site.labels), each


def _memory(channels: Channels) -> Iterator[tuple[Vector, float]]:
    nodes = {id(s.node): s.node for s in channels.sweep.findings.sites if s.role == "output"}
    for node in nodes.values():
        tensor = node.outputs[0]
        for vector in channels.sweep.axes(tensor) or []:
            if vector is not None:
                yield channels.units_of(vector), _volume(tensor) / len(vector)


def _volume(tensor: Tensor) -> int:
    return math.prod(d if isinstance(d, int) else 1 for d in tensor.shape)
