"""What tests of repairs share: networks and images of the project's own machines, and what is kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from graphopt.frontends.onnx_file import load
from graphopt.ir.graph import Graph
from graphopt.passes.quantize.signal import Signal, worst
from graphopt.pipeline import Pipeline
from graphopt.registry import default_passes
from graphopt.runtime.run import open_graph

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Batches = list[dict[str, np.ndarray]]


def cifar(name: str, assets: Path) -> tuple[Graph, Batches, Batches]:
    """A network of CIFAR-10, and images of all classes: 96 to calibrate on and 64 others."""
    graph = Pipeline(default_passes()).run(load(assets / "models" / f"{name}.onnx")).graph
    held = np.load(assets / "data" / "cifar10" / "cifar10_jpeg_subset.npz")

    def batches(images: np.ndarray) -> Batches:
        data = images.astype(np.float32)
        if not name.startswith("mlperf"):
            data = (data / 255 - MEAN) / SPREAD
        if graph.inputs[0].shape[1] == 3:
            data = data.transpose(0, 3, 1, 2)
        given = graph.inputs[0].name
        return [{given: data[k : k + 16].astype(np.float32)} for k in range(0, len(data), 16)]

    return graph, batches(held["x_train"][::156][:96]), batches(held["x_test"][::78][:64])


def kept(graph: Graph, exact: Graph, batches: Batches) -> float:
    """Decibels of the outputs of `exact` that are left, of the worst of them."""
    return worst(Signal(open_graph(exact), batches).of(open_graph(graph)))
