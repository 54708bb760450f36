"""Finds the arithmetic of layer and RMS normalization around a square root."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphopt.ir.graph import Node, Tensor, input_value, is_op, produced_by, rank_of
from graphopt.passes.simplify.polynomial import uniform_value

Array = np.ndarray[Any, Any]


@dataclass
class Norm:
    """`root`, computed by `nodes`, is x normalized over `axes`, times gamma, plus beta."""

    op: str
    x: Tensor
    axes: list[int]
    epsilon: float
    root: Tensor
    nodes: list[Node]
    gamma: Array | None = None
    beta: Array | None = None
    dims: list[Any] = field(default_factory=list)


def norm_around(sqrt: Node) -> Norm | None:
    """The normalization whose standard deviation `sqrt` computes, or None when it is none."""
    add = produced_by(sqrt.inputs[0], "Add")
    for mean, other in _pairs(add) if add is not None else ():
        epsilon = uniform_value(other, mean)
        variance = produced_by(mean, "ReduceMean")
        square = None if variance is None else produced_by(variance.inputs[0], "Mul", "Pow")
        axes = None if variance is None else _axes(variance)
        if epsilon is None or square is None or axes is None or not _squares(square):
            continue
        d = square.inputs[0]
        for divide in _divisions(d, sqrt):
            nodes = [add, variance, square, sqrt, *divide]
            root = divide[-1].outputs[0]
            centre = _centring(d, axes)
            if centre is None:
                return Norm("RMSNormalization", d, axes, epsilon, root, nodes)
            nodes += centre
            return Norm("LayerNormalization", centre[0].inputs[0], axes, epsilon, root, nodes)
    return None


def _pairs(node: Node) -> list[tuple[Tensor, Tensor]]:
    first, second = node.inputs
    return [(first, second), (second, first)]


def _axes(mean: Node) -> list[int] | None:
    """The sorted axes of a ReduceMean that keeps them, or None when it is another one."""
    axes, rank = input_value(mean, 1), rank_of(mean.inputs[0])
    if axes is None or rank is None or not axes.size or not mean.attrs.get("keepdims", 1):
        return None
    return sorted(int(a) % rank for a in axes.reshape(-1))


def _squares(node: Node) -> bool:
    if node.op == "Mul":
        return node.inputs[0] is node.inputs[1]
    return uniform_value(node.inputs[1], node.inputs[0]) == 2.0


def _centring(d: Tensor, axes: list[int]) -> list[Node] | None:
    """The Sub and the ReduceMean that make d = x - mean(x), or None when d is something else."""
    sub = produced_by(d, "Sub")
    mean = produced_by(sub.inputs[1], "ReduceMean") if sub is not None else None
    if sub is None or mean is None or mean.inputs[0] is not sub.inputs[0]:
        return None
    return [sub, mean] if _axes(mean) == axes else None


def _divisions(d: Tensor, sqrt: Node) -> Iterator[list[Node]]:
    """The nodes that compute d / sqrt, in each of its spellings."""
    deviation = sqrt.outputs[0]
    for node in deviation.outputs:
        if is_op(node, "Div") and node.inputs[0] is d and node.inputs[1] is deviation:
            yield [node]
        inverse = is_op(node, "Div") and uniform_value(node.inputs[0], deviation) == 1.0
        if inverse or is_op(node, "Reciprocal"):
            for mul in (n for n in node.outputs[0].outputs if is_op(n, "Mul")):
                if any(t is d for t in mul.inputs):
                    yield [node, mul]
