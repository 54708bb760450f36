"""What tensors are called when a pass changes what they hold.

A name stands for the same values before and after every pass that keeps the outputs: students find
their tensors in teachers by it, and so do taps, and the search for where two graphs part.
"""

from __future__ import annotations

from collections.abc import Iterable

from graphopt.ir.graph import Graph, Tensor, is_output, replace_uses


def take_place(graph: Graph, old: Tensor, new: Tensor) -> None:
    """`new` holds now what `old` held: it gets its readers and its name.

    For a node that was changed to do what a later one did; a tensor that held the same all along only
    takes the readers (`replace_uses`).
    """
    replace_uses(graph, old, new)
    if not is_output(graph, new):  # an output has the name already
        new.name, old.name = old.name, new.name


def hold_other_values(graph: Graph, tensors: Iterable[Tensor]) -> None:
    """Gives new names to tensors that hold other values than before, but for outputs of the graph."""
    for tensor in tensors:
        if not is_output(graph, tensor):
            tensor.name = graph.fresh_name(tensor.name)
