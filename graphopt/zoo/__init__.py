"""The networks of the five systems as plain torch modules with published shapes.

`names` and `spec` need no torch; it is imported when a network is built.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graphopt.errors import UsageError
from graphopt.zoo.catalogue import ZooModel, names, spec

if TYPE_CHECKING:
    import onnx
    from torch import nn

__all__ = ["ZooModel", "build", "export", "names", "spec"]

STRIDE = 32  # the deepest map of every detector
_WIDEST = 8  # times the published channels


def build(
    name: str,
    *,
    classes: int | None = None,
    width: float = 1.0,
    decode: bool = False,
    weights: str | Path | None = None,
    seed: int = 0,
    untrained: bool = False,
) -> nn.Module:
    """The network in eval mode, with seeded weights or those of a .safetensors file.

    Args:
        name: one of `names()`.
        classes: as published if left out.
        width: a factor for all channels inside, which become multiples of 8.
        decode: puts boxes in pixels (or probabilities) into the graph in place of raw outputs; the
            names in the state dict do not change.
        weights: a state dict of this network.
        seed: of the weights where there are none.
        untrained: seeded weights to train from, instead of ones that behave like trained ones.

    Raises:
        UsageError: no such network, or a number that cannot be.
        LoadError: weights of another network.
    """
    model = spec(name)
    classes = model.classes if classes is None else classes
    if classes < 1:
        raise UsageError(f"{name}: {classes} classes; take at least one")
    if not 0 < width <= _WIDEST:
        raise UsageError(f"{name}: width={width:g} is not above 0 and at most {_WIDEST}")
    import torch

    from graphopt.zoo import checkpoint, initial, networks

    with torch.device("meta"):
        network = networks.network(model, classes, width)
    network.to_empty(device="cpu")
    if weights is not None:
        checkpoint.load_weights(network, weights)
    elif untrained:
        initial.untrained(network, seed)
    else:
        initial.initialise(network, model.input_shape, seed)
    if decode:
        network.decode = networks.decoder(model)
    return network.eval()


def export(
    name: str,
    *,
    input_size: int | tuple[int, int] | None = None,
    exporter: Literal["dynamo", "torchscript"] = "dynamo",
    dynamic_batch: bool = True,
    decode: bool = False,
    **options: Any,
) -> onnx.ModelProto:
    """The network as ONNX.

    Args:
        name: one of `names()`.
        input_size: pixels, or (height, width); as published if left out.
        exporter: which of torch's.
        dynamic_batch: any number of images at a time.
        decode: see `build`.
        options: of `build`.

    Raises:
        UsageError: a size the network cannot take, and as `build`.
    """
    model = spec(name)
    shape = _input_shape(model, input_size)
    network = build(name, decode=decode, **options)
    import torch

    from graphopt.frontends.torch_module import to_onnx

    return to_onnx(
        network,
        torch.zeros(1, *shape),
        input_names=["images"],
        output_names=list(model.decoded_outputs if decode else model.outputs),
        dynamic_batch=dynamic_batch,
        exporter=exporter,
    )


def _input_shape(model: ZooModel, input_size: int | tuple[int, int] | None) -> tuple[int, int, int]:
    if input_size is None:
        return model.input_shape
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    multiple = STRIDE if model.task == "detection" else 1
    if min(height, width) < 1 or height % multiple or width % multiple:
        raise UsageError(
            f"{model.name}: an input of {height}x{width}; take multiples of {multiple} pixels"
        )
    return model.input_shape[0], height, width
