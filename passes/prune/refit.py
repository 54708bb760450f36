"""Refits the weights of a pruned network, layer by layer, to what the whole network computed.

For every convolution and matrix product in the order of the data, with x what it reads in the pruned
network (refitted up to here) and y what the original computed at the same place from the same images,

    minimize over w, b:   sum_p |w x_p + b - y_p|^2 + ridge |w - w_0|^2

over sampled positions p, where x_p is the patch under all taps and w_0 the weights after removal. A
closed form: with centred x and y, w = w_0 + R S^-1, S = x^T x / n + ridge I, R = (y - w_0 x)^T x / n.
This is the layer-wise reconstruction of He et al. ("Channel Pruning for Accelerating Very Deep
Neural Networks", ICCV 2017) for all layers in sequence, so that each also makes up for the errors of
those before it. Not handled: products of two activations, weights read in several places (shared
heads), and more than 1.5 GB of patches at once; they keep their weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from graphopt.channels.groups import Channels
from graphopt.channels.labels import Vector
from graphopt.errors import UsageError
from graphopt.ir.graph import Constant, Graph, Node, input_of, is_op, nodes_of, sweep
from graphopt.passes.prune.bias import add_bias
from graphopt.runtime.run import Feeds, open_graph

_SAMPLES = 8192  # positions of a layer, over all images
_IMAGES = 64
_RIDGE = 1e-2  # of the mean variance of a patch's elements
_LARGEST = 4608  # elements of a patch: 512 channels under 3x3 taps


@dataclass(frozen=True)
class Layer:
    """A layer of the pruned graph, and which outputs of the original one it has kept."""

    node: Node
    output: str
    kept: Any

    @property
    def patch(self) -> int:
        """How many elements a patch has, of one group."""
        weight = self.node.inputs[1].values
        return int(np.prod(weight.shape[1:]))


@dataclass(frozen=True)
class Targets:
    """What the original network computed: for each layer the sampled positions and their values."""

    positions: dict[str, list[Vector]]
    values: dict[str, Any]


def layers(channels: Channels, removed: Vector) -> list[Layer]:
    """The layers that can be refitted, in the order of the data; called before the removal."""
    gone = channels.gone(removed)
    found = []
    for node in nodes_of(channels.graph, "Conv", "Gemm"):
        weight = input_of(node, 1)
        if not isinstance(weight, Constant) or len(weight.outputs) != 1 or not _is_plain(node):
            continue
        axes = channels.sweep.axes(weight, node, 1)
        labels = None if axes is None else axes[0]
        kept = np.ones(weight.shape[0], bool)
        if labels is not None:
            kept = ~gone[channels.units_of(labels)]
        layer = Layer(node, node.outputs[0].name, kept)
        if layer.patch <= _LARGEST:
            found.append(layer)
    return found


def _is_plain(node: Node) -> bool:
    if is_op(node, "Gemm"):
        plain = {"transA": 0, "transB": 1, "alpha": 1.0, "beta": 1.0}
        given = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0, **node.attrs}
        return all(given[key] == value for key, value in plain.items())
    return len(node.inputs[1].shape) == 4 and node.attrs.get("auto_pad", "NOTSET") == "NOTSET"


def record(graph: Graph, found: Sequence[Layer], data: Iterable[Feeds], seed: int) -> Targets:
    """The outputs of the whole network at sampled positions of every layer."""
    images = list(islice(_singles(data), _IMAGES))
    if not images:
        raise UsageError("there are no calibration images to refit layers on")
    rng = np.random.default_rng(seed)
    positions: dict[str, list[Vector]] = {layer.output: [] for layer in found}
    values: dict[str, list[Any]] = {layer.output: [] for layer in found}
    each = max(1, _SAMPLES // len(images))
    for outputs in _runs(graph, [layer.output for layer in found], images):
        for layer in found:
            flat = _by_position(outputs[layer.output])[:, layer.kept]
            picked = rng.permutation(len(flat))[:each]
            positions[layer.output].append(np.sort(picked))
            values[layer.output].append(flat[np.sort(picked)])
    return Targets(positions, {k: np.concatenate(v) for k, v in values.items()})


def refit(graph: Graph, found: Sequence[Layer], targets: Targets, data: Iterable[Feeds]) -> int:
    """Refits the layers of a pruned graph in place; returns how many."""
    images = list(islice(_singles(data), _IMAGES))
    for layer in found:
        source = layer.node.inputs[0].name
        positions = targets.positions[layer.output]
        patches = np.concatenate(
            [
                _patches(outputs[source], layer.node, picked)
                for outputs, picked in zip(_runs(graph, [source], images), positions, strict=True)
            ]
        )
        _fit(graph, layer.node, patches, targets.values[layer.output])
    return len(found)


def _fit(graph: Graph, node: Node, patches: Any, wanted: Any) -> None:
    """`patches` is (positions, groups, elements of a patch), `wanted` (positions, outputs)."""
    weight = node.inputs[1]
    outputs, groups = weight.values.shape[0], patches.shape[1]
    new = weight.values.reshape(outputs, -1).astype(np.float64)
    known = input_of(node, 2)
    old = np.zeros(outputs) if known is None else known.values.astype(np.float64).reshape(-1)
    bias = np.zeros(outputs)
    for group in range(groups):
        own = slice(group * outputs // groups, (group + 1) * outputs // groups)
        mean, centre = (a.mean(0, dtype=np.float64) for a in (patches[:, group], wanted[:, own]))
        centred = patches[:, group] - mean
        inner = centred.T @ centred / len(centred)
        inner[np.diag_indices_from(inner)] += _RIDGE * max(float(np.diagonal(inner).mean()), 1e-12)
        left = (wanted[:, own] - centre) - centred @ new[own].T
        new[own] += np.linalg.solve(inner, centred.T @ left / len(centred)).T
        bias[own] = centre - new[own] @ mean - old[own]
    weight.values = np.ascontiguousarray(new.reshape(weight.values.shape), weight.values.dtype)
    add_bias(graph, [node], bias)


# --- running ----------------------------------------------------------------------------------


def _singles(data: Iterable[Feeds]) -> Iterator[dict[str, Any]]:
    """One image at a time, so that only one set of feature maps is held."""
    for feeds in data:
        (count,) = {len(v) for v in feeds.values()}
        for i in range(count):
            yield {name: values[i : i + 1] for name, values in feeds.items()}


def _runs(graph: Graph, names: Sequence[str], images: Sequence[Feeds]) -> Iterator[dict[str, Any]]:
    twin = graph.copy()
    tensors = twin.tensors()
    twin.outputs = [tensors[n] for n in dict.fromkeys(names)]
    sweep(twin)
    runner = open_graph(twin)
    for feeds in images:
        yield runner.run({t.name: feeds[t.name] for t in twin.inputs})


def _by_position(values: Any) -> Any:
    """(1, C, H, W) -> (H*W, C); (N, C) stays."""
    return values if values.ndim == 2 else values[0].reshape(values.shape[1], -1).T


def _patches(values: Any, node: Node, picked: Vector) -> Any:
    """(positions, groups, elements) of what the layer reads at flat output positions."""
    if values.ndim == 2:
        return values[picked][:, None]
    rows, columns = _under_taps(values, node, picked)
    pads = node.attrs.get("pads", [0, 0, 0, 0])
    padded = np.pad(values[0], ((0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    taken = padded[:, rows[:, :, None], columns[:, None, :]].transpose(1, 0, 2, 3)
    return taken.reshape(len(picked), int(node.attrs.get("group", 1)), -1)


def _under_taps(values: Any, node: Node, picked: Vector) -> tuple[Vector, Vector]:
    """The padded rows and columns of every tap, (positions, taps) each."""
    taps = node.inputs[1].shape[2:]
    strides = node.attrs.get("strides", [1, 1])
    spread = node.attrs.get("dilations", [1, 1])
    pads = node.attrs.get("pads", [0, 0, 0, 0])
    width = (values.shape[3] + pads[1] + pads[3] - spread[1] * (taps[1] - 1) - 1) // strides[1] + 1
    at = picked // width, picked % width
    rows, columns = (at[k][:, None] * strides[k] + np.arange(taps[k]) * spread[k] for k in range(2))
    return rows, columns
