"""What `benchmarks.arm` compiles: single layers, and networks at sizes an emulator gets through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphopt.frontends.normal_form import normalize
from graphopt.frontends.onnx_file import load, save
from graphopt.ir.graph import Graph
from graphopt.pipeline import Pipeline
from graphopt.registry import default_passes
from graphopt.runtime.lower.sizes import fix_sizes

ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets" / "models"


def _zoo(name: str, size: int) -> Callable[[], Graph]:
    def make() -> Graph:
        from graphopt.zoo import export

        return normalize(export(name, input_size=size, dynamic_batch=False))

    return make


def _asset(name: str) -> Callable[[], Graph]:
    return lambda: load(ASSETS / f"{name}.onnx")


def _transformer() -> Graph:
    """As wide as DeiT-Tiny, two blocks of its twelve, 96 pixels: 37 tokens."""
    import torch

    from benchmarks.networks import VisionTransformer
    from graphopt.frontends.torch_module import to_onnx

    torch.manual_seed(0)
    module, image = VisionTransformer(192, 2, 3, 16, 96).eval(), torch.zeros(1, 3, 96, 96)
    return normalize(to_onnx(module, image, exporter="torchscript", dynamic_batch=False))


def _layer(
    depth: int, out: int, size: int, kernel: int, stride: int, groups: int = 1
) -> Callable[[], Graph]:
    """One convolution with a bias and a ReLU."""

    def make() -> Graph:
        rng = np.random.default_rng(0)
        fan = depth // groups * kernel * kernel
        weight = rng.standard_normal((out, depth // groups, kernel, kernel)) / np.sqrt(fan)
        bias = rng.standard_normal(out) * 0.1
        after = (size + 2 * (kernel // 2) - kernel) // stride + 1
        conv = helper.make_node(
            "Conv",
            ["x", "w", "b"],
            ["c"],
            kernel_shape=[kernel] * 2,
            strides=[stride] * 2,
            pads=[kernel // 2] * 4,
            group=groups,
        )
        graph = helper.make_graph(
            [conv, helper.make_node("Relu", ["c"], ["y"])],
            "layer",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, depth, size, size])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, out, after, after])],
            [
                numpy_helper.from_array(v.astype(np.float32), n)
                for n, v in (("w", weight), ("b", bias))
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return normalize(model)

    return make


# Names without hyphens and dots: a converter of ncnn's looks for other files otherwise.
CASES: dict[str, Callable[[], Graph]] = {
    "conv3x3": _layer(64, 64, 56, 3, 1),
    "conv3x3_stride2": _layer(64, 128, 104, 3, 2),
    "conv1x1": _layer(256, 64, 56, 1, 1),
    "depthwise3x3": _layer(128, 128, 56, 3, 1, groups=128),
    "resnet20_32": _asset("cifar10_resnet20_bn"),
    "mobilenetv2_96": _zoo("mobilenetv2", 96),
    "yolov3_tiny_160": _zoo("yolov3-tiny", 160),
    "yolov3_mobilenetv3_128": _zoo("yolov3-mobilenetv3", 128),
    "vit_96": _transformer,
}


def prepared(name: str, folder: Path) -> Path:
    """Writes a case, optimized and with a batch of one, as every engine gets it."""
    graph = CASES[name]()
    fix_sizes(graph)
    done = Pipeline(default_passes()).run(graph)
    path = folder / f"{name}.onnx"
    save(done.graph, path)
    model = onnx.load(path)
    del model.graph.value_info[:]
    onnx.save(model, path)
    return path
