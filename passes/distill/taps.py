"""Where to compare two graphs when nobody says: what heads put out, what they read, and where stages end.

A stage is what stands between two changes of resolution; its last tensor is what the field calls a
scale's feature. Heads are the last layers with weights before the outputs, so that a decoder, a softmax or
a reshape at the end of the graph plays no part in what is learnt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    Tensor,
    is_input,
    is_op,
    producer,
)

_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_SMALLER = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean")


def head_tensors(graph: Graph) -> list[str]:
    """What the last layers with weights before the outputs put out, biases and BatchNormalizations
    included: what the same layers put out when those are folded.
    """
    found: dict[str, None] = {}
    for output in graph.outputs:
        for tensor in _last_layers(output):
            found[tensor.name] = None
    return list(found)


def head_inputs(graph: Graph) -> list[str]:
    """The feature maps those layers read (for a classifier: before the global pooling)."""
    found: dict[str, None] = {}
    for output in graph.outputs:
        for tensor in _last_layers(output):
            feature = _feature_before(_layer_of(tensor))
            if feature is not None and not is_input(graph, feature):
                found[feature.name] = None
    return list(found)


def stage_ends(graph: Graph) -> list[str]:
    """The last feature map at every resolution, largest first; without the input's own."""
    ends: dict[int, Tensor] = {}
    for node in graph.nodes:
        source = node.inputs[0] if node.inputs else None
        before, after = _area(source), _area(node.outputs[0] if node.outputs else None)
        if source is None or not before or isinstance(source, Constant) or is_input(graph, source):
            continue
        shrinks = bool(after) and after < before and is_op(node, "Conv", *_SMALLER)
        if shrinks:
            ends[before] = source
    return [t.name for _, t in sorted(ends.items(), reverse=True)]


def default_taps(student: Graph, teacher: Graph) -> tuple[list[str], list[str]]:
    """Heads and features that both graphs have under one name, in that order."""
    both = set(student.tensors()) & set(teacher.tensors())
    heads = [n for n in head_tensors(teacher) if n in both]
    features = dict.fromkeys([*stage_ends(teacher), *head_inputs(teacher)])
    return heads, [n for n in features if n in both and n not in heads]


# --- walking back -----------------------------------------------------------------------------


def _last_layers(output: Tensor) -> Iterator[Tensor]:
    seen: set[int] = set()
    stack = [output]
    while stack:
        tensor = stack.pop(0)
        node = producer(tensor)
        if node is None or id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if _is_layer(node) or _ends_layer(node):
            yield tensor
        else:
            stack += [t for t in node.inputs if not isinstance(t, Constant)]


def _is_layer(node: Node) -> bool:
    return is_op(node, *_LAYERS) and any(isinstance(t, Constant) for t in node.inputs[1:])


def _ends_layer(node: Node) -> bool:
    """Add of a constant vector to a product, or its BatchNormalization: a part of the layer."""
    if not is_op(node, "Add", "BatchNormalization"):
        return False
    made = [producer(t) for t in node.inputs if not isinstance(t, Constant)]
    return len(made) == 1 and made[0] is not None and _is_layer(made[0])


def _layer_of(tensor: Tensor) -> Node:
    node = producer(tensor)
    if _is_layer(node):
        return node
    return next(p for t in node.inputs if (p := producer(t)) is not None)


def _feature_before(layer: Node) -> Tensor | None:
    """The nearest feature map (four axes, more than one position) above what a layer reads."""
    tensor: Tensor | None = next((t for t in layer.inputs if not isinstance(t, Constant)), None)
    while tensor is not None:
        shape = tensor.shape
        if shape is not None and len(shape) == 4 and _area(tensor) != 1:
            return tensor
        node = producer(tensor)
        if node is None:
            return None
        tensor = next((t for t in node.inputs if not isinstance(t, Constant)), None)
    return None


def _area(tensor: Tensor | None) -> int:
    """Positions of a feature map, or 0 when it is none or they are not known."""
    if tensor is None or tensor.shape is None or len(tensor.shape) != 4:
        return 0
    sizes = tensor.shape[2:]
    return math.prod(sizes) if all(isinstance(d, int) for d in sizes) else 0
