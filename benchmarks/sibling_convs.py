"""Where merging convolutions of one tensor pays in ONNX Runtime: sets merge-sibling-convs' default.

    python -m benchmarks.sibling_convs [--seconds 1]

Two convolutions of 64 channels in and K out each, against one of 2K with a Split behind it; the
ratio is merged over apart, below 1 is faster.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import graphopt
from graphopt.frontends.normal_form import normalize
from graphopt.report.terminal import console, print_rows
from graphopt.runtime.measure import compare_latency

CHANNELS = (2, 4, 8, 16, 32, 64, 128)
MAPS = ((1, 80), (1, 40), (1, 20), (3, 80), (3, 40), (3, 20))


def siblings(kernel: int, side: int, channels: int) -> onnx.ModelProto:
    """Two convolutions of one tensor, each followed by an activation, as in detection heads."""
    rng = np.random.default_rng(0)
    nodes, weights, outputs = [], [], []
    for name in "ab":
        values = rng.standard_normal((channels, 64, kernel, kernel)).astype(np.float32) / 24
        weights.append(numpy_helper.from_array(values, f"w{name}"))
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", ["x", f"w{name}"], [f"c{name}"], pads=pads))
        nodes.append(helper.make_node("Relu", [f"c{name}"], [f"y{name}"]))
        outputs.append(helper.make_tensor_value_info(f"y{name}", TensorProto.FLOAT, None))
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, side, side])
    graph = helper.make_graph(nodes, "siblings", [image], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def ratio(kernel: int, side: int, channels: int, seconds: float) -> float:
    """Merged over apart, median of runs in turn."""
    graph = normalize(siblings(kernel, side, channels))
    passes = graphopt.parse_passes(f"merge-sibling-convs{{max-channels={channels}}}")
    merged = graphopt.Pipeline(passes).run(graph, oracle=graphopt.Oracle(graph), strict=True)
    with tempfile.TemporaryDirectory() as folder:
        apart, together = Path(folder) / "apart.onnx", Path(folder) / "merged.onnx"
        graphopt.save(graph, apart)
        graphopt.save(merged.graph, together)
        feeds = {
            "x": np.random.default_rng(0).standard_normal((1, 64, side, side), dtype=np.float32)
        }
        return compare_latency(apart, together, feeds, seconds=seconds).ratio


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement")
    options = parser.parse_args()
    columns = ["kernel, map", *(f">K={k}" for k in CHANNELS)]
    rows = [
        [f"{k}x{k}, {s}x{s}", *(f"{ratio(k, s, c, options.seconds):.2f}" for c in CHANNELS)]
        for k, s in MAPS
    ]
    print_rows(console(), columns, rows)


if __name__ == "__main__":
    main()
