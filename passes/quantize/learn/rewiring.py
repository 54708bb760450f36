"""Edits the torch.fx graph of a rounded graph's view so that grids and weights are modules of it.

    scale_x, zero_x -> Q -> DQ      becomes      grid_x() = (scale, zero) -> Q -> DQ

One module per grid: tensors that share one in the graph go on sharing it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import fx, nn

from graphopt.errors import UsageError
from graphopt.fx import tensors
from graphopt.fx.build import Place, origin
from graphopt.ir.graph import Constant, Graph, Node, Tensor, input_of, is_op, label, nodes_of
from graphopt.passes.quantize.grid import Grid
from graphopt.passes.quantize.learn.grids import Gate, LearnedGrid, ObservedGrid
from graphopt.passes.quantize.learn.units import InUnits, axis_of_channels
from graphopt.passes.quantize.pairs import Pair, grid_of

_ROOM = "rounding"  # the submodule everything here is put into


@dataclass(frozen=True)
class Shared:
    """A grid and everyone on it.

    Attributes:
        grid: as it stands in the graph.
        readers: the QuantizeLinear and DequantizeLinear nodes.
        rounded: the tensors that are rounded to it.
    """

    grid: Grid
    readers: tuple[Node, ...]
    rounded: tuple[Tensor, ...]

    @property
    def scale(self) -> Tensor:
        """The constant that holds the scale."""
        return self.readers[0].inputs[1]

    @property
    def zero(self) -> Tensor | None:
        """The constant that holds the zero point."""
        return input_of(self.readers[0], 2)

    @property
    def is_weight(self) -> bool:
        """Whether constants are rounded."""
        return all(isinstance(t, Constant) for t in self.rounded)


def shared_grids(graph: Graph) -> list[Shared]:
    """The grids of a graph to which anything is rounded, in order."""
    readers: dict[str, list[Node]] = {}
    for node in nodes_of(graph, "QuantizeLinear", "DequantizeLinear"):
        if isinstance(node.inputs[1], Constant):
            readers.setdefault(node.inputs[1].name, []).append(node)
    found = []
    for nodes in readers.values():
        rounding = [n for n in nodes if is_op(n, "QuantizeLinear")]
        if rounding:
            rounded = tuple(n.inputs[0] for n in rounding)
            found.append(Shared(grid_of(rounding[0]), tuple(nodes), rounded))
    return found


class Rewiring:
    """One edit after another, and `finish`."""

    def __init__(self, view: fx.GraphModule, found: list[Shared]) -> None:
        self._view, self._found = view, found
        self._nodes = tensors(view)
        self._room = _ROOM
        while hasattr(view, self._room):
            self._room += "_"
        activations = [s for s in found if not s.is_weight]
        self._symmetric = all(_in_the_middle(s.grid) for s in activations)
        self._power_of_two = all(_is_power_of_two(s.grid.scale) for s in found)

    def learn(self, counts: list[float], *, offsets: bool) -> None:
        """Grids whose scales are parameters."""
        for k, (each, count) in enumerate(zip(self._found, counts, strict=True)):
            offset = offsets and not self._symmetric and not each.is_weight
            offset = offset and each.zero is not None
            made = LearnedGrid(each.grid, count, offset=offset, power_of_two=self._power_of_two)
            self._read(each, self._put(f"grid{k}", made), zero=offset)

    def observe(self) -> None:
        """Grids that are moved by what is seen in front of them."""
        for k, each in enumerate(self._found):
            symmetric = self._symmetric or each.is_weight or each.zero is None
            watched = [n for n in _quantizing(each) if not isinstance(n.inputs[0], Constant)]
            made = ObservedGrid(
                each.grid,
                symmetric=symmetric,
                power_of_two=self._power_of_two,
                places=len(watched),
            )
            path = self._put(f"grid{k}", made)
            self._read(each, path, zero=not symmetric)
            for j, reader in enumerate(watched):
                self._see(self._node(reader), f"{path}.seen.{j}")

    def keep_narrow(self) -> None:
        """Weights do not become the smallest integer."""
        for each in self._found:
            for reader in _quantizing(each):
                grid = grid_of(reader)
                if grid.narrow:
                    self._node(reader).update_kwarg("limits", (grid.low, grid.high))

    def count_in_units(self, graph: Graph) -> None:
        """Trained weights and biases as unit times share."""
        constants = {t.name: t for t in graph.tensors().values() if isinstance(t, Constant)}
        known = origin(self._view)
        for k, place in enumerate(list(known.places)):
            node = self._nodes.get(place.constant)
            owner, _, name = place.path.rpartition(".")
            module = self._view.get_submodule(owner)
            parameter = module._parameters.get(name)
            if node is None or node.op != "get_attr" or parameter is None:
                continue
            if not parameter.requires_grad or str(node.target) != place.path:
                continue
            axis = axis_of_channels(constants[place.constant])
            path = self._put(f"parameter{k}", InUnits(parameter, axis))
            with self._view.graph.inserting_before(node):
                counted = self._view.graph.call_module(path)
            counted.meta = dict(node.meta)
            node.replace_all_uses_with(counted)
            delattr(module, name)
            known.places[k] = replace(place, path=f"{path}.value")

    def gate(self, found: list[Pair]) -> None:
        """A gate behind every rounded activation."""
        path = self._put("gate", Gate())
        for pair in found:
            if pair.is_weight:
                continue
            rounded, source = self._node(pair.dequantize), self._node(pair.quantize).args[0]
            with self._view.graph.inserting_after(rounded):
                gate = self._view.graph.call_module(path, (source, rounded))
            rounded.replace_all_uses_with(gate, delete_user_cb=lambda n, gate=gate: n is not gate)

    def finish(self) -> None:
        """Drops what nobody reads any more and makes the view run as it is."""
        for node in list(self._view.graph.nodes):
            if node.op == "get_attr" and not node.users:
                self._view.graph.erase_node(node)
        self._view.graph.lint()
        self._view.recompile()

    def _put(self, name: str, module: nn.Module) -> str:
        path = f"{self._room}.{name}"
        module.train(self._view.training)
        self._view.add_submodule(path, module)
        return path

    def _read(self, each: Shared, path: str, *, zero: bool) -> None:
        """Everyone on a grid reads the module at `path`."""
        graph = self._view.graph
        first = next(n for n in graph.nodes if n.op != "placeholder")
        with graph.inserting_before(first):
            made = graph.call_module(path)
            scale = graph.call_function(operator.getitem, (made, 0))
            zero_point = graph.call_function(operator.getitem, (made, 1)) if zero else None
        for reader in each.readers:
            node = self._node(reader)
            rest = node.args[2:] if zero_point is None else (zero_point,)
            node.args = (node.args[0], scale, *rest)
        self._remember(f"{path}.scale", each.scale, each, 1)
        if zero and each.zero is not None:
            if len(each.zero.outputs) > len(each.readers):
                raise UsageError(
                    f"zero point {each.zero.name!r} is shared by grids of other scales"
                )
            self._remember(f"{path}.zero", each.zero, each, 2)

    def _remember(self, path: str, constant: Tensor, each: Shared, index: int) -> None:
        """Where `write_back` finds what a constant has become, for each of its readers here."""
        places = origin(self._view).places
        places += [Place(path, constant.name, label(n), index) for n in each.readers]

    def _see(self, quantize: fx.Node, path: str) -> None:
        with self._view.graph.inserting_before(quantize):
            seen = self._view.graph.call_module(path, (quantize.args[0],))
        quantize.args = (seen, *quantize.args[1:])

    def _node(self, node: Node) -> fx.Node:
        return self._nodes[node.outputs[0].name]


def _quantizing(each: Shared) -> Iterator[Node]:
    return (n for n in each.readers if is_op(n, "QuantizeLinear"))


def _in_the_middle(grid: Grid) -> bool:
    """Whether the zero point is that of a symmetric grid."""
    middle = 0 if grid.kind.signed else (grid.kind.low + grid.kind.high + 1) // 2
    return bool((grid.zero == middle).all())


def _is_power_of_two(scale: Any) -> bool:
    return bool((np.frexp(scale)[0] == 0.5).all())
