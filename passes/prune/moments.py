"""First and second moments of what linear operators read, summed up inside ONNX Runtime.

For a tensor and one of its axes (its channels), over all images and positions p:

    n = number of p,   s = sum_p x_p,   S = sum_p x_p x_p^T

The products are taken by nodes added to a copy of the graph, so that only C and C x C numbers leave
it and no activation is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.channels.labels import Floats
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph, Tensor, Variable, add_constant, add_node
from graphopt.runtime.run import Feeds, open_graph

_LARGEST = 4096  # channels: beyond, the C x C matrix costs more than it brings


@dataclass
class Moments:
    """Sums over images and positions; `second` is None where only means were wanted."""

    count: float
    first: Floats
    second: Floats

    @property
    def mean(self) -> Floats:
        """(C,) the mean of every channel."""
        return self.first / self.count

    @property
    def covariance(self) -> Floats:
        """(C, C) the covariance of channels."""
        return self.second / self.count - np.outer(self.mean, self.mean)

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count, self.first + other.first, self.second + other.second
        )


Place = tuple[Tensor, int, int]  # a tensor of the graph, the axis of its channels, how many


def measure(graph: Graph, places: Iterable[Place], data: Iterable[Feeds]) -> list[Moments | None]:
    """The moments at every place, in order; None where there are too many channels.

    Args:
        graph: the graph the tensors belong to; left as it is.
        places: tensors and their channel axes.
        data: feeds for the graph's inputs, a batch at a time.

    Raises:
        UsageError: there is no data.
    """
    wanted = [(tensor.name, axis, channels) for tensor, axis, channels in places]
    twin, outputs = _with_sums(graph, [w for w in dict.fromkeys(wanted) if w[2] <= _LARGEST])
    sums: dict[tuple[str, int], Moments] = {}
    if not outputs:
        return [None] * len(wanted)
    runner = open_graph(twin)
    for feeds in data:
        found = runner.run(feeds)
        for (name, axis, channels), (first, second, source) in outputs.items():
            positions = math.prod(found[source]) / channels
            each = Moments(
                positions, found[first].astype(np.float64), found[second].astype(np.float64)
            )
            known = sums.get((name, axis))
            sums[name, axis] = each if known is None else known + each
    if not sums:
        raise UsageError("there are no calibration images to measure activations on")
    return [sums.get((name, axis)) for name, axis, _ in wanted]


def _with_sums(
    graph: Graph, wanted: list[tuple[str, int, int]]
) -> tuple[Graph, dict[tuple[str, int, int], tuple[str, str, str]]]:
    """A copy that gives out, for every place, the two sums and the shape of the tensor."""
    twin = graph.copy()
    tensors = twin.tensors()
    outputs: dict[tuple[str, int, int], tuple[str, str, str]] = {}
    given = []
    for name, axis, channels in wanted:
        source = tensors[name]
        rank = len(source.shape)
        order = [axis, *(a for a in range(rank) if a != axis)]
        first = add_node(twin, "Transpose", [source], like=source, attrs={"perm": order})
        flat = add_constant(twin, f"{name}_flat", np.array([channels, -1], np.int64))
        rows = add_node(twin, "Reshape", [first, flat], like=source, shape=[channels, None])
        columns = add_node(twin, "Transpose", [rows], like=source, shape=[None, channels])
        square = add_node(twin, "MatMul", [rows, columns], like=source, shape=[channels] * 2)
        over = add_constant(twin, f"{name}_over", np.array([1], np.int64))
        total = add_node(
            twin, "ReduceSum", [rows, over], like=source, attrs={"keepdims": 0}, shape=[channels]
        )
        size = Variable(twin.fresh_name(f"{name}_size"), np.int64, [rank])
        _give_shape(twin, source, size)
        outputs[name, axis, channels] = (total.name, square.name, size.name)
        given += [total, square, size]
    twin.outputs = given
    return twin, outputs


def _give_shape(graph: Graph, source: Tensor, size: Tensor) -> None:
    graph.nodes.append(gs.Node("Shape", graph.fresh_name(size.name), {}, [source], [size]))
