"""Small facts of activations, computed by nodes added to a copy of the graph, batch by batch.

Only the results leave the copy: no activation is kept, however large the network and the data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from graphopt.data import some
from graphopt.ir.graph import Graph, Tensor, add_constant, add_node, rank_of, sweep
from graphopt.oracle import errors_of
from graphopt.runtime.run import Feeds, open_graph

Array: TypeAlias = "np.ndarray[Any, Any]"
# Adds nodes to the graph that reduce a tensor, and returns their result.
Probe = Callable[[Graph, Tensor], Tensor]


def probed(
    graph: Graph, probes: Sequence[tuple[str, Probe]], data: Iterable[Feeds]
) -> Iterator[list[Array]]:
    """For every batch what the probes make of the tensors named, in order.

    Args:
        graph: left as it is.
        probes: names of tensors and what to compute of them.
        data: feeds for the graph's inputs, a batch at a time.

    Raises:
        UsageError: there is no data.
    """
    twin = graph.copy()
    tensors = twin.tensors()
    results = [probe(twin, tensors[name]) for name, probe in probes]
    twin.outputs = results
    sweep(twin)
    runner = open_graph(twin)
    for feeds in some(data):
        found = runner.run(feeds)
        yield [found[t.name] for t in results]


def largest_magnitude(graph: Graph, tensor: Tensor) -> Tensor:
    """max |x| over all elements; 0 where there are none."""
    size = add_node(graph, "Abs", [tensor], like=tensor)
    zero = add_constant(graph, f"{tensor.name}_zero", np.zeros((1,), np.dtype(tensor.dtype)))
    flat = add_constant(graph, f"{tensor.name}_flat", np.array([-1], np.int64))
    row = add_node(graph, "Reshape", [size, flat], like=tensor, shape=[None])
    # The zero is for tensors without elements, of which there is no largest.
    filled = add_node(graph, "Concat", [row, zero], like=tensor, attrs={"axis": 0}, shape=[None])
    return add_node(graph, "ReduceMax", [filled], like=tensor, attrs={"keepdims": 0}, shape=[])


def smallest_per_channel(graph: Graph, tensor: Tensor) -> Tensor:
    """The least value of each channel (axis 1)."""
    return _over_positions(graph, "ReduceMin", tensor)


def mean_per_channel(graph: Graph, tensor: Tensor) -> Tensor:
    """The mean of each channel (axis 1)."""
    return _over_positions(graph, "ReduceMean", tensor)


def mean_square_per_channel(graph: Graph, tensor: Tensor) -> Tensor:
    """The mean of the squares of each channel (axis 1)."""
    return _over_positions(graph, "ReduceMean", add_node(graph, "Mul", [tensor] * 2, like=tensor))


def _over_positions(graph: Graph, op: str, tensor: Tensor) -> Tensor:
    over = [a for a in range(rank_of(tensor) or 0) if a != 1]
    axes = add_constant(graph, f"{tensor.name}_axes", np.array(over, np.int64))
    return add_node(graph, op, [tensor, axes], like=tensor, attrs={"keepdims": 0}, shape=[None])


def share_above(bound: float) -> Probe:
    """The share of elements greater than `bound`."""

    def probe(graph: Graph, tensor: Tensor) -> Tensor:
        kind = np.dtype(tensor.dtype)
        limit = add_constant(graph, f"{tensor.name}_limit", np.array(bound, kind))
        above = add_node(graph, "Greater", [tensor, limit], like=tensor)
        above.dtype = np.dtype(bool)
        number = add_node(graph, "Cast", [above], like=tensor, attrs={"to": 1})
        number.dtype = np.dtype(np.float32)
        attrs = {"keepdims": 0}
        return add_node(graph, "ReduceMean", [number], like=number, attrs=attrs, shape=[])

    return probe


def largest_error(before: Graph, after: Graph, data: Iterable[Feeds]) -> float:
    """The largest error (see `graphopt.oracle`) of the outputs of `after` on the data."""
    old, new = open_graph(before), open_graph(after)
    worst: list[Mapping[str, float]] = [errors_of(old.run(f), new.run(f)) for f in data]
    return max((e for errors in worst for e in errors.values()), default=0.0)
