"""Finding values of a view by the graph's tensor names, and reading them out."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, fx, nn

from graphopt import named
from graphopt.fx.build import origin


def tensors(view: fx.GraphModule) -> dict[str, fx.Node]:
    """The nodes of a view by the names of the graph's tensors, in order."""
    return {n.meta["tensor"]: n for n in view.graph.nodes if "tensor" in n.meta}


def matching(view: fx.GraphModule, names: Sequence[str]) -> list[str]:
    """The tensor names that `names` (names or globs) stand for, in the order of the graph.

    Raises:
        UsageError: one that matches nothing, with near misses.
    """
    return named.matching("tensor", names, tensors(view))


def parameters_before(view: fx.GraphModule, name: str) -> set[str]:
    """The names of the parameters that a tensor is computed from.

    Raises:
        UsageError: no tensor is called so.
    """
    (name,) = matching(view, [name])
    owned = dict(view.named_parameters())
    seen: set[fx.Node] = set()
    found: set[str] = set()
    stack = [tensors(view)[name]]
    while stack:
        node = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        target = str(node.target)
        if node.op in ("get_attr", "call_module"):
            found |= {n for n in owned if n == target or n.startswith(f"{target}.")}
        stack += node.all_input_nodes
    return found


def held_at(view: nn.Module, path: str) -> Tensor:
    """What a view holds: a parameter, a buffer, or what a property of a submodule makes of them."""
    owner, _, name = path.rpartition(".")
    found: Tensor = getattr(view.get_submodule(owner), name)
    return found


def tap(view: fx.GraphModule, names: Sequence[str]) -> fx.GraphModule:
    """A module that returns `(outputs, {name: value})`, with the parameters of `view`.

    The values are read inside the graph, not by hooks, so that gradients flow through them and
    torch.compile sees them. Parameters, buffers of BatchNormalizations and training mode are shared.

    Args:
        view: made by `to_fx`, where it shall be (CPU, GPU).
        names: tensor names; globs are resolved by `matching`.

    Raises:
        UsageError: a name that is no tensor of the graph.
    """
    graph = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    result = graph.graph_copy(view.graph, copied)
    known = tensors(view)
    values = {name: copied[known[name]] for name in matching(view, names)}
    graph.output((result, values))
    tapped = fx.GraphModule(view, graph, class_name="TappedView")
    tapped.meta["graphopt"] = origin(view)
    tapped.training = view.training
    return tapped
