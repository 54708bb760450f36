"""What is computed together: every node of a graph in one region."""

from __future__ import annotations

from graphopt.ir.graph import Graph, Node, Tensor, is_op, sole_reader, static_shape
from graphopt.runtime.lower.fuse import ELEMENTWISE, Region, grown
from graphopt.runtime.lower.layout import ROWS, Layout

# Nothing is computed where these write.
_ALONE = (
    *("concat", "pieces", "pick", "pad", "to-pixels", "channel-softmax", "round", "unround"),
    *ROWS,
)


def regions_of(graph: Graph, layout: Layout) -> list[Region]:
    """Every node in one region, each where its last node stands."""
    found: list[tuple[int, Region]] = []
    taken: set[int] = set()
    order = {id(n): i for i, n in enumerate(graph.nodes)}
    for node in graph.nodes:
        if id(node) in taken:
            continue
        region = _region(graph, layout, node, taken)
        members = [region.first, *region.nodes]
        if region.rounding is not None:
            members.append(region.rounding)
        taken.update(id(n) for n in members)
        found.append((max(order[id(n)] for n in members), region))
    return [region for _, region in sorted(found, key=lambda f: f[0])]


def _region(graph: Graph, layout: Layout, node: Node, taken: set[int]) -> Region:
    kind = layout.kind(node)
    elementwise = is_op(node, *ELEMENTWISE) and id(node.outputs[0]) in layout.blocked
    if kind in _ALONE or not (kind or elementwise):
        return Region(node, [], node.outputs[0])
    start = [node] if elementwise else []
    if kind == "dense":
        return Region(node, [], node.outputs[0])
    image = node.outputs[0]

    def may_take(other: Node, values: set[int]) -> bool:
        return id(other) not in taken and layout.may_fuse(other, image, values)

    region = grown(graph, node, start, may_take)
    reader = sole_reader(graph, region.out)
    if reader is not None and layout.kind(reader) == "round":
        region.rounding = reader
    return region


def main_of(layout: Layout, region: Region) -> Tensor:
    """The tensor a region's expression starts from."""
    if region.nodes and region.nodes[0] is region.first:
        return main_input(layout, region.first)
    return region.first.outputs[0]


def main_input(layout: Layout, node: Node) -> Tensor:
    """The image an elementwise node that starts a region goes over."""
    shape = static_shape(node.outputs[0])
    return next(t for t in node.inputs if static_shape(t) == shape and id(t) in layout.blocked)
