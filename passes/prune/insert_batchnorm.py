"""Gives a network whose BatchNormalizations were folded into its convolutions new ones.

    y = conv(x, w, b)  becomes  y = bn(conv(x, w)),
    mean = E[y] - b,  var = Var[y],  gamma = sqrt(var + eps),  beta = E[y]

per channel, measured on images: the identity in inference, and in training what a network trained with
BatchNormalization has. Importances and sparsity training that read gamma then work on any file, and
training is stable; `fuse-conv-bn` folds them again. Not handled: layers whose result is an output
of the model or goes into a BatchNormalization already, and products of rank other than 2.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.channels.labels import Floats
from graphopt.data import load_data
from graphopt.errors import UsageError
from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    Tensor,
    Variable,
    add_constant,
    add_node,
    input_of,
    is_op,
    is_output,
    nodes_of,
    rank_of,
    sweep,
)
from graphopt.pass_base import Close, Context, Pass
from graphopt.runtime.run import Feeds, open_graph

EPSILON = 1e-5


@dataclass(frozen=True)
class InsertBatchnorm(Pass):
    """conv(x, w, b) == bn(conv(x, w)) with mean = E[y] - b, gamma = sqrt(Var[y] + eps), beta = E[y]."""

    name: ClassVar[str] = "insert-batchnorm"
    # The mean is taken away and put back: values far below it lose digits (1e-6 on real networks).
    numerics: ClassVar[Close] = Close(rtol=1e-3)
    before: ClassVar[dict[str, str]] = {
        "fuse-conv-bn": "it would fold what was there, and this one puts it back"
    }

    data: Any = None  # images the statistics are measured on: see graphopt.data
    preprocess: str = ""
    batch: int = 8
    limit: int = 256
    momentum: float = 0.9

    def run(self, graph: Graph, context: Context) -> None:
        layers = []
        for node in nodes_of(graph, "Conv", "ConvTranspose", "Gemm"):
            reason = _why_not(graph, node)
            if reason is None:
                layers.append(node)
            elif reason:
                context.refused(node, reason)
        if not layers:
            return
        if self.data is None:
            raise UsageError(
                "insert-batchnorm measures statistics on images: give data=FOLDER (or arrays)"
            )
        feeds = load_data(
            self.data, graph, preprocess=self.preprocess, batch=self.batch, limit=self.limit
        )
        results = [n.outputs[0].name for n in layers]
        for node, (mean, var) in zip(layers, statistics(graph, results, feeds), strict=True):
            self._insert(graph, node, mean, var)
            context.rewrote(node, f"BatchNormalization of {len(mean)} channels put behind")

    def _insert(self, graph: Graph, node: Node, mean: Floats, var: Floats) -> None:
        result = node.outputs[0]
        kind = node.inputs[1].values.dtype
        bias = _without_bias(node)
        stem = node.inputs[1].name.removesuffix("weight").rstrip("._") or result.name
        values = {
            "weight": np.sqrt(var + EPSILON),
            "bias": mean,
            "running_mean": mean - bias,
            "running_var": var,
        }
        constants = [
            add_constant(graph, f"{stem}_bn.{name}", array.astype(kind))
            for name, array in values.items()
        ]
        readers = list(result.outputs)
        attrs = {"epsilon": EPSILON, "momentum": self.momentum}
        normal = add_node(
            graph, "BatchNormalization", [result, *constants], like=result, attrs=attrs
        )
        for reader in readers:
            for index, tensor in enumerate(reader.inputs):
                if tensor is result:
                    reader.inputs[index] = normal
        normal.name, result.name = result.name, normal.name  # the bias went to the other side


def _why_not(graph: Graph, node: Node) -> str | None:
    """Why a layer gets none: None when it does, "" when there is nothing to say about it."""
    result, bias = node.outputs[0], input_of(node, 2)
    if is_output(graph, result) or not result.outputs:
        return "its result is an output of the model"
    if any(is_op(r, "BatchNormalization") for r in result.outputs):
        return ""
    if any(graph.is_inner(r) for r in result.outputs):
        return "its result is read in a subgraph"
    if not isinstance(node.inputs[1], Constant):
        return "its weights are computed"
    if bias is not None and not isinstance(bias, Constant):
        return "its bias is computed"
    if node.op == "Gemm" and (rank_of(result) != 2 or not _plain_bias(node, bias)):
        return "its bias is not one number per channel"
    return None


def _plain_bias(node: Node, bias: Tensor | None) -> bool:
    return node.attrs.get("beta", 1.0) == 1.0 and (bias is None or bias.values.ndim == 1)


def _without_bias(node: Node) -> Any:
    """Takes the bias off a layer; the BatchNormalization makes up for it."""
    bias = input_of(node, 2)
    if bias is None:
        return 0.0
    values = bias.values.astype(np.float64)
    del node.inputs[2]
    return values


def statistics(
    graph: Graph, results: list[str], data: Iterable[Feeds]
) -> list[tuple[Floats, Floats]]:
    """Mean and variance per channel (axis 1) of tensors, over all images and positions.

    Raises:
        UsageError: there is no data.
    """
    twin, names = _with_moments(graph, results)
    runner = open_graph(twin)
    sums = [[np.zeros(1), np.zeros(1)] for _ in results]
    images = 0
    for feeds in data:
        found = runner.run(feeds)
        size = len(next(iter(feeds.values())))
        images += size
        for into, pair in zip(sums, names, strict=True):
            for k in range(2):
                into[k] = into[k] + size * found[pair[k]].reshape(-1).astype(np.float64)
    if not images:
        raise UsageError("there are no calibration images to measure statistics on")
    means = [(first / images, second / images) for first, second in sums]
    return [(mean, np.maximum(square - mean**2, 0)) for mean, square in means]


def _with_moments(graph: Graph, results: list[str]) -> tuple[Graph, list[tuple[str, str]]]:
    """A copy that gives out the mean and the mean square of every channel."""
    twin = graph.copy()
    tensors = twin.tensors()
    names: list[tuple[str, str]] = []
    given: list[Variable] = []
    for result in results:
        source = tensors[result]
        over = [a for a in range(rank_of(source) or 0) if a != 1]
        axes = add_constant(twin, f"{result}_axes", np.array(over, np.int64))
        wide = add_node(twin, "Cast", [source], like=source, attrs={"to": 1}, base=f"{result}_wide")
        wide.dtype = np.dtype(np.float32)
        square = add_node(twin, "Mul", [wide, wide], like=wide)
        pair = [
            add_node(twin, "ReduceMean", [t, axes], like=t, attrs={"keepdims": 0}, shape=[None])
            for t in (wide, square)
        ]
        given += pair
        names.append((pair[0].name, pair[1].name))
    twin.outputs = given
    sweep(twin)
    return twin, names
