"""Gives a graph fixed sizes: a compiled network has no others."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph, Variable
from graphopt.ir.shapes import infer_shapes


def fix_sizes(graph: Graph, sizes: Mapping[str, int] | None = None) -> None:
    """Replaces every named or unknown dimension of the inputs, and infers all others anew.

    Args:
        graph: changed in place.
        sizes: numbers for names of dimensions. A first dimension without one is a batch, of 1.

    Raises:
        UsageError: a dimension that is not known, or a name that is no dimension.
    """
    given = dict(sizes or {})
    names = {str(d) for t in graph.inputs for d in t.shape or () if not isinstance(d, int)}
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UsageError(f"the model has no dimension called {name!r}{hint}")
    for tensor in graph.inputs:
        if tensor.shape is None:
            raise UsageError(f"the rank of input {tensor.name!r} is not known")
        tensor.shape = [_fixed(tensor, i, given) for i in range(len(tensor.shape))]
    inputs = {id(t) for t in graph.inputs}
    for tensor in [*(t for n in graph.nodes for t in n.outputs), *graph.outputs]:
        if isinstance(tensor, Variable) and not tensor.is_empty() and id(tensor) not in inputs:
            tensor.shape = None
    infer_shapes(graph)


def _fixed(tensor: Variable, axis: int, sizes: Mapping[str, int]) -> int:
    dim = tensor.shape[axis]
    if isinstance(dim, int):
        return dim
    if dim in sizes:
        return sizes[dim]
    if axis == 0:
        return 1
    raise UsageError(
        f"dimension {axis} ({dim}) of input {tensor.name!r} is not fixed; compiled networks have "
        f"fixed sizes: give one with --size {dim}=NUMBER"
    )
