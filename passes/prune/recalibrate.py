"""Measures the mean and variance of BatchNormalizations anew on images.

    mean <- E[x],   var <- E[x^2] - E[x]^2   per channel, over images and positions

where every BatchNormalization before already normalizes with the statistics of the batch, as in a
forward pass in training mode (Li et al., "EagleEye", ECCV 2020: pruned networks are ranked rightly
only after this). Batches should hold many images; the averages over batches are taken.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from graphopt.channels.labels import Floats
from graphopt.errors import UsageError
from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    Tensor,
    add_constant,
    add_node,
    nodes_of,
    set_input,
    sweep,
)
from graphopt.runtime.run import Feeds, open_graph


def recalibrate(graph: Graph, data: Iterable[Feeds]) -> int:
    """Gives every BatchNormalization of `graph` statistics measured on `data`, in place.

    Returns:
        How many were measured.

    Raises:
        UsageError: there is no data.
    """
    norms = [n for n in nodes_of(graph, "BatchNormalization") if _measurable(n)]
    if not norms:
        return 0
    twin, names = _with_batch_statistics(graph, [n.outputs[0].name for n in norms])
    runner = open_graph(twin)
    sums: list[list[Floats]] = [[np.zeros(1), np.zeros(1)] for _ in norms]
    batches = 0
    for feeds in data:
        found = runner.run(feeds)
        batches += 1
        for into, pair in zip(sums, names, strict=True):
            into[0] = into[0] + found[pair[0]].reshape(-1).astype(np.float64)
            into[1] = into[1] + found[pair[1]].reshape(-1).astype(np.float64)
    if not batches:
        raise UsageError("there are no calibration images to measure statistics on")
    for node, (mean, variance) in zip(norms, sums, strict=True):
        for index, values in ((3, mean / batches), (4, variance / batches)):
            old = node.inputs[index].values
            own = add_constant(graph, node.inputs[index].name, values.astype(old.dtype))
            if len(node.inputs[index].outputs) == 1:
                node.inputs[index].values = own.values
            else:
                set_input(node, index, own)
    return len(norms)


def _measurable(norm: Node) -> bool:
    return all(isinstance(t, Constant) for t in norm.inputs[1:5]) and len(norm.outputs) == 1


def _with_batch_statistics(graph: Graph, results: list[str]) -> tuple[Graph, list[tuple[str, str]]]:
    """A copy whose BatchNormalizations use and give out the statistics of the batch."""
    twin = graph.copy()
    made_by = {t.name: n for n in twin.nodes for t in n.outputs}
    given: list[Tensor] = []
    names: list[tuple[str, str]] = []
    for result in results:
        node = made_by[result]
        source = node.inputs[0]
        over = [a for a in range(len(source.shape)) if a != 1]
        axes = add_constant(twin, f"{result}_axes", np.array(over, np.int64))
        flat = [source.shape[1]]
        keep = {"keepdims": 1}
        wide = [1, source.shape[1], *[1] * (len(source.shape) - 2)]
        mean = add_node(twin, "ReduceMean", [source, axes], like=source, attrs=keep, shape=wide)
        centred = add_node(twin, "Sub", [source, mean], like=source)
        square = add_node(twin, "Mul", [centred, centred], like=source)
        var = add_node(twin, "ReduceMean", [square, axes], like=source, attrs=keep, shape=wide)
        shape = add_constant(twin, f"{result}_flat", np.array([-1], np.int64))
        for index, measured in ((3, mean), (4, var)):
            vector = add_node(twin, "Reshape", [measured, shape], like=source, shape=flat)
            set_input(node, index, vector)
            given.append(vector)
        names.append((given[-2].name, given[-1].name))
    twin.outputs = given
    sweep(twin)
    return twin, names
