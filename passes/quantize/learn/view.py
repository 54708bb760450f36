"""A view whose scales learn: made of the view of a rounded graph, and brought back into the graph."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import torch
from torch import fx, nn

from graphopt.errors import UsageError
from graphopt.fx import tap
from graphopt.fx import write_back as write_all_back
from graphopt.fx.build import origin, plain
from graphopt.ir.graph import Constant, Graph, Tensor
from graphopt.named import unknown
from graphopt.passes.quantize.learn.grids import LearnedGrid, ObservedGrid
from graphopt.passes.quantize.learn.rewiring import Rewiring, Shared, shared_grids
from graphopt.passes.quantize.pairs import Pair, pairs

SCALES = ("learned", "observed", "fixed")


def learn_grids(
    view: fx.GraphModule,
    graph: Graph,
    example: torch.Tensor | tuple[torch.Tensor, ...],
    *,
    scales: str = "learned",
    offsets: bool = False,
    gated: bool = False,
) -> None:
    """Makes the scales of a view trainable, in place, and counts its weights in units of their size.

    Weights never use the smallest integer of their type, whatever their scales become. What is not
    symmetric in the graph may become so in another way; what is stays so.

    Args:
        view: made of `graph` by `to_fx`.
        graph: rounded by `insert-fake-quant`, its weights still in float.
        example: inputs of the view, one or more images; it runs once on them.
        scales: "learned" (LSQ: trained like weights), "observed" (averages of what is seen, moved by
            a `Timing`) or "fixed".
        offsets: with learned scales, also train the zero points (LSQ+).
        gated: put gates behind activations, which a `Timing` opens.

    Raises:
        UsageError: nothing is rounded, or an unknown way.
    """
    if scales not in SCALES:
        raise UsageError(unknown("way of qat to choose scales", scales, SCALES))
    found = shared_grids(graph)
    if not found:
        raise UsageError("nothing is rounded in this graph: run insert-fake-quant before")
    rewiring = Rewiring(view, found)
    if scales == "learned":
        counts = _counts(view, found, example if isinstance(example, tuple) else (example,))
        rewiring.learn(counts, offsets=offsets)
    elif scales == "observed":
        rewiring.observe()
    rewiring.keep_narrow()
    rewiring.count_in_units(graph)
    if gated:
        rewiring.gate(list(pairs(graph)))
    rewiring.finish()


def learn_scales(
    view: fx.GraphModule, graph: Graph, example: tuple[torch.Tensor, ...], names: Collection[str]
) -> dict[str, LearnedGrid]:
    """Makes some scales of a view trainable, in place, and leaves all else as it is.

    Args:
        view: made of `graph` by `to_fx`.
        graph: with pairs, in part or as a whole.
        example: inputs of the view; it runs once on them.
        names: of the constants that hold the scales.

    Returns:
        Their grids by the constants' names.
    """
    found = [s for s in shared_grids(graph) if s.scale.name in names]
    if found:
        rewiring = Rewiring(view, found)
        rewiring.learn(_counts(view, found, example), offsets=False)
        rewiring.finish()
    return {n: g for n, g in grids_of(view).items() if isinstance(g, LearnedGrid)}


def write_back(view: nn.Module, graph: Graph) -> list[str]:
    """Gives a rounded graph the weights, scales and zero points of its view, in place.

    `graphopt.fx.write_back`, and weights are cut off where their grids end, so that the graph and
    the integers `quantize-constants` makes of it are those of the view.

    Args:
        view: made by `to_fx` and `learn_grids`, on any device.
        graph: the one it was made of, or a copy.

    Returns:
        The names of the constants that changed.

    Raises:
        GraphError: the graph is not the one the view was made of.
    """
    changed = write_all_back(view, graph)
    for pair in pairs(graph):
        if pair.is_weight and pair.grid.narrow and _cut_off(pair):
            changed.append(pair.source.name)
    return list(dict.fromkeys(changed))


def grids_of(view: nn.Module) -> dict[str, LearnedGrid | ObservedGrid]:
    """The grids of a view by the names of the constants that hold their scales."""
    module = plain(view)
    found = {}
    for place in origin(view).places:
        owner, _, last = place.path.rpartition(".")
        if last == "scale" and owner:
            grid = module.get_submodule(owner)
            if isinstance(grid, LearnedGrid | ObservedGrid):
                found[place.constant] = grid
    return found


def _cut_off(pair: Pair) -> bool:
    """Whether a weight reached beyond its grid; it does not afterwards."""
    grid, values = pair.grid, pair.source.values
    scale = grid.scale
    if grid.axis is not None:
        scale = scale.reshape([-1 if i == grid.axis else 1 for i in range(values.ndim)])
    # Only what would become the smallest integer: the rest is cut off by QuantizeLinear itself.
    beyond = np.rint(values / scale) < grid.low
    if beyond.any():
        pair.source.values = np.where(beyond, grid.low * scale, values).astype(values.dtype)
    return bool(beyond.any())


def _counts(
    view: fx.GraphModule, found: list[Shared], example: tuple[torch.Tensor, ...]
) -> list[float]:
    """How many values of one image have one scale, per grid."""
    names = [t.name for s in found for t in s.rounded if not isinstance(t, Constant)]
    was_training = view.training
    with torch.no_grad():
        _, values = tap(view.eval(), list(dict.fromkeys(names)))(*example)
    view.train(was_training)
    sizes = {name: value.numel() / max(len(value), 1) for name, value in values.items()}
    return [sum(_size(t, sizes) for t in s.rounded) / max(s.grid.scale.size, 1) for s in found]


def _size(tensor: Tensor, sizes: dict[str, float]) -> float:
    return float(tensor.values.size) if isinstance(tensor, Constant) else sizes[tensor.name]
