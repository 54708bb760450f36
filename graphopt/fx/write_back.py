"""What a view has learnt, back into the graph by name."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from torch import nn

from graphopt.errors import GraphError
from graphopt.fx.address import held_at
from graphopt.fx.build import Place, origin, plain
from graphopt.fx.constants import to_array
from graphopt.ir.graph import Constant, Graph, Tensor, add_constant, label, set_input

Array = np.ndarray[Any, Any]


def write_back(view: nn.Module, graph: Graph) -> list[str]:
    """Gives the constants of `graph` the values they have in `view`, in place.

    What has not changed keeps its array, so that a view nobody trained leaves the graph bit for bit
    as it is. Statistics that several BatchNormalizations shared and that have come apart become
    constants of their own.

    Args:
        view: made by `to_fx`, on any device, also wrapped by torch.compile or DistributedDataParallel.
        graph: the one the view was made from, or a copy of it.

    Returns:
        The names of the constants that changed.

    Raises:
        GraphError: a constant is missing in the graph or has another shape; the graph is unchanged then.
    """
    module = plain(view)
    by_constant: dict[str, list[Place]] = defaultdict(list)
    for place in origin(view).places:
        by_constant[place.constant].append(place)
    constants = {t.name: t for t in graph.tensors().values() if isinstance(t, Constant)}
    learnt = {}
    for name, places in by_constant.items():
        values = [held_at(module, p.path) for p in places]
        learnt[name] = [to_array(v, _kind(constants, name, v)) for v in values]
    changed = []
    for name, arrays in learnt.items():
        if _give(graph, constants[name], by_constant[name], arrays):
            changed.append(name)
    return changed


def _kind(constants: dict[str, Tensor], name: str, values: Any) -> np.dtype[Any]:
    constant = constants.get(name)
    if constant is None:
        raise GraphError(
            f"the graph has no constant {name!r}: it is not the one the view was made from"
        )
    if tuple(constant.values.shape) != tuple(values.shape):
        raise GraphError(
            f"constant {name!r} is {list(constant.values.shape)} in the graph and "
            f"{list(values.shape)} in the view"
        )
    kind: np.dtype[Any] = constant.values.dtype
    return kind


def _give(graph: Graph, constant: Tensor, places: list[Place], arrays: list[Array]) -> bool:
    if all(_same(arrays[0], other) for other in arrays[1:]):
        if _same(constant.values, arrays[0]):
            return False
        constant.values = arrays[0]
        return True
    nodes = {label(n): n for n in graph.nodes}
    for place, values in zip(places, arrays, strict=True):
        own = add_constant(graph, constant.name, values)
        set_input(nodes[place.node], place.index, own)
    return True


def _same(a: Array, b: Array) -> bool:
    return a.tobytes() == b.tobytes()
