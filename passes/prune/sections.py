"""Sections of a network: groups of channel groups with one feature-map scale and one kind of module.

System 2 (Chu et al., "Group channel pruning and spatial attention distilling", Applied Intelligence
2022, arXiv 2306.01526) gives every section of YOLOv4 a threshold of its own: the stem and early
stages, the later stages by scale, the neck's way up, and the way down with the heads. Here they are
found in the graph: on the way of the data the scale of feature maps falls (a backbone), may rise (a
neck that upsamples) and fall again (a second way down); a section is one such direction, and in the
first one every scale that holds enough parameters is a section of its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from graphopt.channels.groups import Channels
from graphopt.ir.graph import Graph, Node, Tensor, producer

_ENOUGH = 0.03  # of all parameters: smaller stretches join the next one


@dataclass(frozen=True)
class Section:
    """A name made of direction and scale, and the numbers of its channel groups."""

    name: str
    groups: tuple[int, ...]


@dataclass
class _Stretch:
    direction: int
    scales: list[int]
    groups: list[int]
    parameters: float


def sections(channels: Channels) -> list[Section]:
    """The sections of a network, in the order of the data; every channel group is in one."""
    merged = _merged(_stretches(channels))
    return [
        Section(
            f"{k + 1}: {_word(s.direction)} at 1/{'..'.join(_scales(s.scales))}", tuple(s.groups)
        )
        for k, s in enumerate(merged)
    ]


def _stretches(channels: Channels) -> list[_Stretch]:
    """The groups of one direction and scale, by the first layer that makes a group."""
    first: dict[int, tuple[Node, float]] = {}
    for site in channels.sweep.findings.sites:
        if site.role == "output":
            size = float(math.prod(site.node.inputs[site.index].shape or [0]))
            for group in channels.groups_on(channels.units_of(site.labels)):
                node, known = first.get(group, (site.node, 0.0))
                first[group] = (node, known + size)
    directions = _directions(channels.graph)
    largest = max((_extent(n.outputs[0]) for n, _ in first.values()), default=1)
    found: dict[tuple[int, int], _Stretch] = {}
    for group, (node, parameters) in first.items():
        scale = round(math.log2(largest / _extent(node.outputs[0])))
        key = directions[id(node)], scale
        each = found.setdefault(key, _Stretch(key[0], [scale], [], 0.0))
        each.groups.append(group)
        each.parameters += parameters
    rising = {d for d, _ in found if d % 2}
    return [
        found[key] for key in sorted(found, key=lambda k: (k[0], -k[1] if k[0] in rising else k[1]))
    ]


def _directions(graph: Graph) -> dict[int, int]:
    """How often the scale has turned, up or down, on the way to each node: 0 in a backbone."""
    turns: dict[int, int] = {}
    for node in graph.nodes:
        makers = [producer(t) for t in node.inputs]
        before = max((turns.get(id(m), 0) for m in makers if m is not None), default=0)
        old = max((_extent(t) for t in node.inputs[:1]), default=1)
        new = _extent(node.outputs[0])
        grows = new > old > 1
        shrinks = 1 < new < old
        turned = (grows and before % 2 == 0) or (shrinks and before % 2 == 1)
        turns[id(node)] = before + turned
    return turns


def _merged(stretches: list[_Stretch]) -> list[_Stretch]:
    """In the backbone small stretches join the next; later each direction is one section."""
    total = sum(s.parameters for s in stretches) or 1.0
    found: list[_Stretch] = []
    for each in stretches:
        last = found[-1] if found else None
        joins = last is not None and last.direction == each.direction
        if last is not None and joins and (each.direction or last.parameters < _ENOUGH * total):
            last.scales += each.scales
            last.groups += each.groups
            last.parameters += each.parameters
        else:
            found.append(each)
    return found


def _extent(tensor: Tensor) -> int:
    """The height of an image, 1 for anything else."""
    dims = tuple(tensor.shape or ())
    return dims[2] if len(dims) == 4 and isinstance(dims[2], int) else 1


def _word(direction: int) -> str:
    return "backbone" if direction == 0 else ("way up" if direction % 2 else "way down")


def _scales(scales: list[int]) -> list[str]:
    spread = sorted({2**s for s in scales})
    return [str(spread[0])] if len(spread) == 1 else [str(spread[0]), str(spread[-1])]
