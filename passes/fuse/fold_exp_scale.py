"""Folds what an exponential is multiplied by into the bias of the convolution before it.

    exp(move(conv(x, w, b))) * a == exp(move(conv(x, w, b + ln a)))          a > 0

`move` is any chain of Reshape, Transpose, Split, Slice and Concat. This is the last step of a
decoded YOLO head: box = anchor * exp(t). Needs one factor per channel of the convolution, whose
other channels (or readers) the exponential must not share. Not handled: float16, where b + ln a is
rounded more coarsely than the product.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.ir.graph import (
    Graph,
    Node,
    Tensor,
    input_of,
    input_value,
    nodes_of,
    produced_by,
    producer,
    sole_reader,
)
from graphopt.ir.names import hold_other_values, take_place
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.fuse.affine import data_input, why_not_kept
from graphopt.passes.fuse.linear import bias_of, set_bias
from graphopt.passes.fuse.origins import Origins, leaves

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FoldExpScale(Pass):
    """exp(move(conv(x, w, b))) * a == exp(move(conv(x, w, b + ln a))), a > 0 per channel."""

    name: ClassVar[str] = "fold-exp-scale"
    numerics: ClassVar[Close] = Close(rtol=1e-5)

    def run(self, graph: Graph, context: Context) -> None:
        for mul in nodes_of(graph, "Mul"):
            exp = produced_by(data_input(mul), "Exp")
            if exp is None:
                continue
            found = why_not_exp(graph, exp, mul) or shifts(graph, exp, factor(mul))
            if isinstance(found, str):
                context.refused(mul, found)
                continue
            for conv, shift in found:
                set_bias(graph, conv, bias_of(conv) + shift)
            hold_other_values(graph, _between(exp, [conv for conv, _ in found]))
            take_place(graph, mul.outputs[0], exp.outputs[0])
            context.rewrote(mul, f"its logarithm is in the bias before Exp {exp.name}")


def _between(exp: Node, convs: list[Node]) -> list[Tensor]:
    """What lies between the convolutions and Exp: all of it is shifted."""
    ends, found, waiting = {id(n) for n in convs}, {}, list(exp.inputs)
    while waiting:
        tensor = waiting.pop()
        maker = producer(tensor)
        if maker is None or id(tensor) in found:
            continue
        found[id(tensor)] = tensor
        waiting += [] if id(maker) in ends else maker.inputs
    return list(found.values())


def factor(mul: Node) -> Array:
    """The constant of a multiplication (float64)."""
    values = input_value(mul, 0)
    return np.asarray(input_value(mul, 1) if values is None else values, np.float64)


def why_not_exp(graph: Graph, exp: Node, mul: Node) -> str | None:
    """The reason the factor cannot be a summand of the exponent, or None."""
    if str(exp.outputs[0].dtype) not in ("float32", "float64"):
        return f"in {exp.outputs[0].dtype} the exponent would be rounded more coarsely"
    if sole_reader(graph, exp.outputs[0]) is not mul:
        return f"the result of Exp {exp.name} has a second reader"
    values = factor(mul)
    if not np.all((values > 0) & np.isfinite(values)):
        return "only a positive factor has a logarithm"
    return why_not_kept(exp.outputs[0], mul.outputs[0])


def shifts(graph: Graph, exp: Node, values: Array) -> list[tuple[Node, Array]] | str:
    """(convolution, ln a per channel) for all that Exp reads, or the reason there is no such thing."""
    origins = Origins()
    numbers = origins.of(exp.inputs[0])
    if numbers is None or not numbers.size or numbers.min() < 0:
        return "not all that Exp reads comes straight from convolutions"
    logarithms = np.broadcast_to(np.log(values), numbers.shape)
    found = np.zeros(origins.count)
    found[numbers] = logarithms
    if not np.array_equal(found[numbers], logarithms):
        return "the factor is not one value per channel of the convolution before it"
    touched = np.unique(numbers)
    convs = list(origins.convolutions)  # looking at other readers may meet more of them
    for conv in convs:
        if input_of(conv, 2) is not None and input_value(conv, 2) is None:
            return f"the bias of {conv.op} {conv.name} is computed at run time"
        for tensor, reader in leaves(graph, conv.outputs[0]):
            read = None if reader is exp else origins.of(tensor)
            if reader is not exp and (read is None or np.isin(read, touched).any()):
                who = "an output of the model" if reader is None else f"{reader.op} {reader.name}"
                return f"{who} reads the same channels of {conv.op} {conv.name}"
    return [(conv, found[origins.channels(conv)]) for conv in convs]
