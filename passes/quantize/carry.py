"""Puts the pairs of a placement into a graph: r(x) for every tensor that is carried as integers."""

from __future__ import annotations

from collections.abc import Mapping

from graphopt.ir.graph import Graph
from graphopt.passes.quantize.grid import Grid
from graphopt.passes.quantize.pairs import GridTensors, add_grid, add_pair
from graphopt.passes.quantize.placement import Placement


def put_in(graph: Graph, placement: Placement, grids: Mapping[int, Grid]) -> dict[str, GridTensors]:
    """A pair on every carried tensor; the constants of their grids by the tensors' names.

    Args:
        graph: equal to the one the placement was made for.
        placement: where integers are.
        grids: by number.
    """
    by_name = graph.tensors()
    made = {t.name for found in placement.results.values() for t in found}
    inside = {n.name for n in placement.nodes}
    of_grid: dict[int, GridTensors] = {}
    found: dict[str, GridTensors] = {}
    for name, number in placement.carried.items():
        if number not in of_grid:
            of_grid[number] = add_grid(graph, name, grids[number])
        tensor = by_name[name]
        everyone = name in made
        readers = [n for n in tensor.outputs if n.name in inside]
        _, dequantize = add_pair(graph, tensor, of_grid[number], None if everyone else readers)
        found[dequantize.outputs[0].name] = of_grid[number]
    return found
