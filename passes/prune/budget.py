"""How much may be left: limits on what a network costs.

A budget is written as what is left of a cost: "0.5" and "50%" are half of the original, "4.1G",
"12.5M" and "300k" absolute numbers.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from graphopt.errors import UsageError
from graphopt.passes.prune.account import Totals

_TOO_SMALL = 1e-3  # of what there is: who writes 50 means 50%
_SUFFIX = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Budget:
    """`metric` (see Totals) may be at most `limit`, absolute."""

    metric: str
    limit: float

    @classmethod
    def parse(cls, metric: str, text: str | float | Budget, original: Totals) -> Budget:
        """A budget from its text (see the module docstring); one that is there already stays.

        Raises:
            UsageError: not a number, nothing left, hardly anything, or more than there is.
        """
        if isinstance(text, Budget):
            return text
        whole = original.of(metric)
        match = re.fullmatch(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*([%kKmMgGtT]?)\s*", str(text))
        try:
            number = float(match[1]) if match else math.nan
        except ValueError:
            number = math.nan
        if match is None or not math.isfinite(number):
            raise UsageError(
                f"{metric} budget {text!r} is not a number; write 0.5, 50% or 4.1G of what is left"
            )
        suffix = match[2].lower()
        if suffix == "%":
            number, suffix = number / 100, ""
        absolute = bool(suffix) or number > 1
        limit = number * _SUFFIX[suffix] if absolute else number * whole
        if limit <= 0:
            raise UsageError(f"{metric} budget {text!r} leaves nothing")
        if absolute and not suffix and limit < _TOO_SMALL * whole:
            raise UsageError(
                f"{metric} budget {text!r} is an absolute number, and the model has "
                f"{in_words(whole)}; a share is written 50% or 0.5"
            )
        if limit > whole:
            raise UsageError(
                f"{metric} budget {text!r} is more than the model has ({in_words(whole)})"
            )
        return cls(metric, limit)


def in_words(number: float) -> str:
    """A large number with three digits and a unit."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
