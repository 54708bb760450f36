"""Prunes an ONNX file with Torch-Pruning, inside the peer's own environment.

    out/bench/venv-torch-pruning-onnx/bin/python benchmarks/torch_pruning_file.py IN OUT \
        --left 0.5 [--count macs|parameters] [--importance l2|bn] [--scope local|global]

onnx2torch makes a module of the file, Torch-Pruning removes channels of it, and the arrays that are
left take the places of the file's own: no exporter has a hand in what is compared. The share of
channels to remove is found by bisection.
"""

from __future__ import annotations

import argparse
import copy
import sys
from typing import Any
from unittest.mock import MagicMock

import onnx
import torch
import torch_pruning as tp
from onnx import numpy_helper
from torch import nn

# onnx2torch wants torchvision for NonMaxSuppression and RoiAlign, and there is none for every build
# of torch; nothing of it is called here.
sys.modules["torchvision"] = sys.modules["torchvision.ops"] = MagicMock()
from onnx2torch import convert  # noqa: E402

STEPS = 12  # of the bisection: the share to a thousandth
LAYERS = {nn.Conv2d: "Conv", nn.BatchNorm2d: "BatchNormalization", nn.Linear: "Gemm"}


def main() -> None:
    """Prunes one file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("target")
    parser.add_argument("--left", type=float, required=True)
    parser.add_argument("--count", choices=["macs", "parameters"], default="macs")
    parser.add_argument("--importance", choices=["l2", "bn"], default="l2")
    parser.add_argument("--scope", choices=["local", "global"], default="local")
    options = parser.parse_args()
    model = onnx.load(options.file)
    whole = convert(model).eval()
    sizes = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    images = torch.randn(1, *sizes[1:])
    aim = options.left * counted(whole, images, options.count)
    low, high = 0.0, 1.0
    for _ in range(STEPS):
        share = (low + high) / 2
        found = pruned(whole, images, share, options)
        low, high = (share, high) if counted(found, images, options.count) > aim else (low, share)
    found = pruned(whole, images, high, options)
    put_back(model, found)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, options.target)


def pruned(whole: nn.Module, images: torch.Tensor, share: float, options: Any) -> nn.Module:
    """A copy with so large a share of the channels removed."""
    module = copy.deepcopy(whole)
    kinds = {
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "bn": tp.importance.BNScaleImportance,
    }
    pruner = tp.pruner.BasePruner(
        module,
        images,
        importance=kinds[options.importance](),
        global_pruning=options.scope == "global",
        pruning_ratio=share,
        max_pruning_ratio=0.95,
        ignored_layers=last_layers(module),
    )
    pruner.step()
    return module


def last_layers(module: nn.Module) -> list[nn.Module]:
    """The layers that make the outputs."""
    named = dict(module.named_modules())
    [output] = [n for n in module.graph.nodes if n.op == "output"]
    found, stack, seen = [], list(output.all_input_nodes), set()
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        layer = named.get(str(node.target)) if node.op == "call_module" else None
        if isinstance(layer, nn.Conv2d | nn.Linear):
            found.append(layer)
        else:
            stack += node.all_input_nodes
    return found


def counted(module: nn.Module, images: torch.Tensor, what: str) -> float:
    """Multiply-accumulates or parameters, as Torch-Pruning counts them."""
    macs, parameters = tp.utils.count_ops_and_params(module, images)
    return float(macs if what == "macs" else parameters)


def put_back(model: onnx.ModelProto, module: nn.Module) -> None:
    """Arrays of the module's layers into the file's initializers, layer by layer in order."""
    arrays = {t.name: t for t in model.graph.initializer}
    named = dict(module.named_modules())
    called = [named.get(str(n.target)) for n in module.graph.nodes if n.op == "call_module"]
    layers = [m for m in called if type(m) in LAYERS]
    nodes = [n for n in model.graph.node if n.op_type in LAYERS.values()]
    for node, layer in zip(nodes, layers, strict=True):
        assert LAYERS[type(layer)] == node.op_type
        for name, value in zip(node.input[1:], values(layer), strict=False):
            kept = value.detach().numpy().copy()
            if node.op_type == "Gemm" and kept.ndim == 2 and not _turned(node):
                kept = kept.T.copy()
            arrays[name].CopyFrom(numpy_helper.from_array(kept, name))
        for attribute in node.attribute:
            if attribute.name == "group":
                attribute.i = layer.groups
    del model.graph.value_info[:]


def values(layer: nn.Module) -> list[torch.Tensor]:
    """In the order of ONNX's inputs."""
    if isinstance(layer, nn.BatchNorm2d):
        return [layer.weight, layer.bias, layer.running_mean, layer.running_var]
    return [v for v in (layer.weight, layer.bias) if v is not None]


def _turned(node: onnx.NodeProto) -> bool:
    return any(a.name == "transB" and a.i for a in node.attribute)


if __name__ == "__main__":
    main()
