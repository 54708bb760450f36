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
    quantization,
    recurrent,
    reduction,
    resize,
    sequence,
    sizes,
)
from graphopt.fx.slots import NUMBERS, SCALAR, WHOLE

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
    **quantization.ROWS,
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
# These give back values they are given, so that whole numbers stay whole numbers (`slots.py`).
MOVEMENTS = (
    *("CenterCropPad", "Clip", "Compress", "Concat", "DepthToSpace", "Expand", "Flatten", "Gather"),
    *("GatherElements", "GatherND", "GlobalMaxPool", "Max", "MaxPool", "Min", "Pad", "ReduceMax"),
    *("ReduceMin", "Relu", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split", "Squeeze"),
    *("Tile", "Transpose", "Unsqueeze", "Where"),
)
# Keywords the builder fills in itself: how many results are read, of which type the first is, and the
# smallest and largest integer of that type.
OUTPUTS, KIND, LIMITS = "outputs", "kind", "limits"


@dataclass(frozen=True)
class Row:
    """What a function's signature says.

    Attributes:
        function: computes the operator.
        slots: for every positional parameter whether it takes numbers, one number or a tensor.
        keywords: the attributes it knows; None when its signature cannot be read (none, then).
        several: whether it returns a sequence of tensors.
        makes_whole: whether its (first) result is integers held as floating-point numbers.
    """

    function: Callable[..., Any]
    slots: tuple[str, ...]
    keywords: frozenset[str]
    several: bool
    makes_whole: bool = False

    def slot(self, index: int) -> str:
        """What input `index` takes: NUMBERS, SCALAR, WHOLE or "" for any tensor."""
        return self.slots[index] if index < len(self.slots) else ""

    def takes_number(self, index: int) -> bool:
        """Whether a constant in input `index` arrives as Python numbers."""
        return self.slot(index) in (*NUMBERS, SCALAR)


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
    several = returns.startswith(("Seq", "tuple"))
    makes_whole = returns.startswith((WHOLE, f"tuple[{WHOLE}"))
    return Row(function, tuple(slots), frozenset(keywords), several, makes_whole)


def _slot(annotation: str) -> str:
    kind = annotation.removesuffix(" | None")
    return kind if kind in (*NUMBERS, SCALAR, WHOLE) else ""
