"""Which slices of a network belong to which unit: read off the analysis of a graph, or of layers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from graphopt.channels.groups import KEPT_UNIT, Channels
from graphopt.channels.labels import Vector
from graphopt.errors import UsageError
from graphopt.fx.build import origin, plain
from graphopt.ir.graph import Constant, Tensor, is_op, producer
from graphopt.named import matching
from graphopt.passes.analyze.places import parameter_places
from graphopt.passes.prune.sparsity.units import Slices, Units

# torch keeps the base of its BatchNorms (and of SyncBatchNorm) private.
Norm = nn.modules.batchnorm._BatchNorm
Parameters = Callable[[str], Any]  # from a constant's name to the parameter, or None


def of_view(view: nn.Module) -> Parameters:
    """The parameters of a view made by `to_fx`, by the names of constants."""
    module = plain(view)
    known = origin(view)
    held = dict(module.named_parameters(remove_duplicate=False))
    return lambda constant: held.get(known.path(constant) or "")


def of_module(module: nn.Module) -> Parameters:
    """The parameters of a module, by the names its exported graph has for them."""
    return dict(_unwrapped(module).named_parameters(remove_duplicate=False)).get


def coupled(
    channels: Channels, role: str, parameters: Parameters, names: Sequence[str] = ("*",)
) -> Units:
    """The units of an analyzed graph that can be removed, with their slices in parameters of a role.

    Args:
        channels: the analysis.
        role: "scale" for gammas, "output" for the filters that make a channel.
        parameters: where the values are trained; what has none there, or is frozen, is left out.
        names: globs; only constants that match one of them.

    Raises:
        UsageError: no channel can be removed, or a name that matches no constant of this role.
    """
    if not channels.unit_count:
        held = next(channels.held(), None)
        why = f" (layer {held.layer!r}: {held.reason.what})" if held else ""
        raise UsageError(
            f"no channel of this graph can be removed{why}; where shapes are computed, run the passes "
            "fold-shapes and simplify first"
        )
    places = [(_located(p.tensor, p.axis), p.units) for p in parameter_places(channels, role)]
    known = [(at[0].name, at[1], units) for at, units in places if at is not None]
    wanted = _matching([name for name, _, _ in known], names, f"{role} of removable channels")
    found: list[tuple[nn.Parameter, int, Vector]] = []
    for name, axis, units in known:
        parameter = parameters(name)
        if name in wanted and parameter is not None and parameter.requires_grad:
            found.append((parameter, axis, units))
    return _compact(found, channels)


def separate(module: nn.Module, names: Sequence[str]) -> Units:
    """Every channel of every matching BatchNorm as a unit of its own.

    Raises:
        UsageError: a name that matches none.
    """
    norms = {
        name: each
        for name, each in _unwrapped(module).named_modules()
        if isinstance(each, Norm) and each.weight is not None and each.weight.requires_grad
    }
    slices: list[Slices] = []
    layers: list[Vector] = []
    seen: set[int] = set()
    start = 0
    for name in _matching(list(norms), names, "BatchNorm"):
        gamma = norms[name].weight
        if id(gamma) not in seen:  # shared by several
            seen.add(id(gamma))
            slices.append(Slices(gamma, 0, np.arange(start, start + len(gamma))))
            layers.append(np.full(len(gamma), len(layers)))
            start += len(gamma)
    return Units(slices, np.concatenate([np.zeros(0, np.int64), *layers]))


def _compact(found: list[tuple[nn.Parameter, int, Vector]], channels: Channels) -> Units:
    """Units numbered anew, without those that have no slice."""
    present = np.unique(np.concatenate([np.zeros(0, np.int64), *(u for *_, u in found)]))
    present = present[present != KEPT_UNIT]
    number = np.full(channels.unit_count + 1, len(present), np.int64)  # the last for KEPT_UNIT
    number[present] = np.arange(len(present))
    slices = [Slices(parameter, axis, number[units]) for parameter, axis, units in found]
    _, layers = np.unique(channels.group_of_unit[present], return_inverse=True)
    return Units(slices, layers.reshape(-1))


def _located(tensor: Tensor, axis: int) -> tuple[Tensor, int] | None:
    """The constant behind a parameter and the axis in it; None when more than transposing lies between."""
    while not isinstance(tensor, Constant):
        node = producer(tensor)
        if node is None or not is_op(node, "Identity", "Transpose"):
            return None
        if is_op(node, "Transpose"):
            turned = range(len(tensor.shape))[::-1]
            axis = list(node.attrs.get("perm", turned))[axis]
        tensor = node.inputs[0]
    return tensor, axis


def _unwrapped(module: nn.Module) -> nn.Module:
    """What is inside the wrappers of torch, which prefix names; a user's own `module` is none."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(getattr(module, "_orig_mod", None), nn.Module):
            module = module._orig_mod
        else:
            return module


def _matching(known: Sequence[str], names: Sequence[str], kind: str) -> list[str]:
    everything = list(dict.fromkeys(known))
    wanted = matching(kind, [n for n in names if n != "*"], everything)
    return everything if "*" in names else wanted  # of nothing, too
