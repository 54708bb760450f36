"""Where scores are read off: parameter axes and feature maps, with the unit of every element."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from graphopt.channels.groups import KEPT_UNIT, Channels
from graphopt.channels.labels import Vector
from graphopt.channels.view import Site
from graphopt.ir.graph import Constant, Node, Tensor, is_op, label

# Element by element in the channel, so a channel's values after it are still that channel's.
_ACTIVATIONS = (
    *("Clip", "Relu", "LeakyRelu", "PRelu", "ThresholdedRelu", "Elu", "Selu", "Celu", "Gelu"),
    *("Swish", "Mish", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Softplus", "Softsign"),
)
_POINTWISE = ("BatchNormalization", "Identity", "Cast", *_ACTIVATIONS, "Exp", "Log", "Abs", "Neg")
_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Pow")


@dataclass(frozen=True)
class Place:
    """An axis of a tensor along which channels lie.

    Attributes:
        layer: how reports call the layer.
        role: a `Site` role, or "feature" for what the layer computes.
        node: the layer's node.
        tensor: the parameter or feature map.
        axis: which of its axes.
        units: the unit of every element of the axis, -1 where none can be removed.
    """

    layer: str
    role: str
    node: Node
    tensor: Tensor
    axis: int
    units: Vector


def parameter_places(channels: Channels, role: str) -> list[Place]:
    """The parameter axes of a role that hold something removable; a shared weight counts once."""
    found: dict[tuple[int, int, bytes], Place] = {}
    for site in channels.sweep.findings.sites:
        if site.role == role:
            place = _place(channels, site)
            if (place.units != KEPT_UNIT).any():
                key = id(place.tensor), place.axis, place.units.tobytes()
                found.setdefault(key, place)
    return list(found.values())


def gate_places(channels: Channels) -> list[Place]:
    """The parameter axes behind which a channel's mask stands when it is put on what layers read.

    These are the input sides of weights, and for depthwise and grouped convolutions, which have no
    input side of their own, the only side there is.
    """
    two_sided = {id(s.node) for s in channels.sweep.findings.sites if s.role == "input"}
    outputs = parameter_places(channels, "output")
    grouped = [p for p in outputs if p.node.attrs.get("group", 1) != 1]
    return parameter_places(channels, "input") + [p for p in grouped if id(p.node) not in two_sided]


def feature_places(channels: Channels) -> list[Place]:
    """For every layer with an output side, its feature map after normalization and activation."""
    found: dict[tuple[int, int], Place] = {}
    for place in parameter_places(channels, "output"):
        feature = _feature(channels, place)
        if feature is not None:
            found.setdefault((id(feature.tensor), feature.axis), feature)
    return list(found.values())


def only_units(places: Iterable[Place], wanted: Vector) -> list[Place]:
    """The places that hold some of the `wanted` units (a mask), blind to all others."""
    blind = [replace(p, units=_kept_where(p.units, wanted)) for p in places]
    return [p for p in blind if (p.units != KEPT_UNIT).any()]


def _kept_where(units: Vector, wanted: Vector) -> Vector:
    seen = (units != KEPT_UNIT) & wanted[units]
    return np.where(seen, units, KEPT_UNIT)


def _place(channels: Channels, site: Site) -> Place:
    tensor = site.node.inputs[site.index]
    units = channels.units_of(site.labels)
    return Place(label(site.node), site.role, site.node, tensor, site.axis, units)


def _feature(channels: Channels, place: Place) -> Place | None:
    tensor = activated(place.node.outputs[0])
    wanted = np.unique(place.units[place.units != KEPT_UNIT])
    for axis, vector in enumerate(channels.sweep.axes(tensor) or []):
        if vector is not None:
            units = channels.units_of(vector)
            if np.isin(units, wanted).any():
                return Place(place.layer, "feature", place.node, tensor, axis, units)
    return None


# --- from a layer's output to what leaves its activation ------------------------------------------


def activated(tensor: Tensor) -> Tensor:
    """What becomes of a layer's output in its normalization and activation, gates such as Mish too."""
    while True:
        following = _next(tensor)
        if following is None:
            return tensor
        tensor = following


def _next(tensor: Tensor) -> Tensor | None:
    readers = list({id(n): n for n in tensor.outputs}.values())
    if len(readers) == 1 and _is_pointwise(readers[0], tensor):
        return readers[0].outputs[0]
    if len(readers) == 2:  # x * gate(x): the product, when the gate is computed from x alone
        for product in readers:
            if is_op(product, "Mul") and len(product.inputs) == 2:
                other = [t for t in product.inputs if t is not tensor]
                if len(other) == 1 and any(t is tensor for t in _chain_above(other[0])):
                    return product.outputs[0]
    return None


def _chain_above(tensor: Tensor) -> Iterator[Tensor]:
    while tensor.inputs:
        node = tensor.inputs[0]
        source = next((t for t in node.inputs if not isinstance(t, Constant)), None)
        if source is None or not _is_pointwise(node, source):
            return
        yield source
        tensor = source


def _is_pointwise(node: Node, data: Tensor) -> bool:
    if is_op(node, *_ARITHMETIC):  # with a constant, such as the x + 3 of a spelled-out h-swish
        return all(t is data or isinstance(t, Constant) for t in node.inputs)
    return is_op(node, *_POINTWISE) and node.inputs[0] is data
