"""One row per ONNX operator: the function that computes it and what its slots take.

The families are in `operators/`. A row is a plain function (see `slots.py`); what the builder has to
know of it is read off its signature.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from graphopt.fx.operators import (
    activation,
    arithmetic,
    attention,
    convolution,
    detection,
    indexing,
    movement,
    normalization,
    pooling,
    products,
    recurrent,
    reduction,
    resize,
    sequence,
    sizes,
)
from graphopt.fx.slots import NUMBERS, SCALAR

OPERATORS: dict[str, Callable[..., Any]] = {
    **activation.ROWS,
    **arithmetic.ROWS,
    **attention.ROWS,
    **convolution.ROWS,
    **detection.ROWS,
    **indexing.ROWS,
    **movement.ROWS,
    **normalization.ROWS,
    **pooling.ROWS,
    **products.ROWS,
    **recurrent.ROWS,
    **reduction.ROWS,
    **resize.ROWS,
    **sequence.ROWS,
    **sizes.ROWS,
}
# These behave differently in training; the builder makes modules of them (`modules.py`).
MODULES = ("BatchNormalization", "Dropout")
# These make their results from sizes and have no tensor whose device they could share.
CREATORS = ("Shape", "Size", "ConstantOfShape", "Range")
# Keywords the builder fills in itself: how many results are read, and of which type the first is.
OUTPUTS, KIND = "outputs", "kind"


@dataclass(frozen=True)
class Row:
    """What a function's signature says.

    Attributes:
        function: computes the operator.
        slots: for every positional parameter whether it takes numbers, one number or a tensor.
        keywords: the attributes it knows; None when its signature cannot be read (none, then).
        several: whether it returns a sequence of tensors.
    """

    function: Callable[..., Any]
    slots: tuple[str, ...]
    keywords: frozenset[str]
    several: bool

    def slot(self, index: int) -> str:
        """What input `index` takes: NUMBERS, SCALAR or "" for a tensor."""
        return self.slots[index] if index < len(self.slots) else ""


@cache
def row(op: str) -> Row | None:
    """The row of a standard operator, or None."""
    function = OPERATORS.get(op)
    if function is None:
        return None
    try:
        signature = inspect.signature(function)
    except ValueError:  # torch's own functions have none
        return Row(function, (), frozenset(), several=False)
    slots, keywords = [], set()
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            keywords.add(name)
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            slots.append(_slot(str(parameter.annotation)))
    returns = str(signature.return_annotation)
    return Row(function, tuple(slots), frozenset(keywords), returns.startswith(("Seq", "tuple")))


def _slot(annotation: str) -> str:
    kind = annotation.removesuffix(" | None")
    return kind if kind in (*NUMBERS, SCALAR) else ""
