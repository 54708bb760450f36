"""Text of OpenCL C that is put together as Python computes: the other reading of the formulas.

`formulas.py` says once what an elementwise operator is; there its values are vectors of TIR, here
they are text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphopt.runtime.kernels.formulas import FORMULAS, Numbers
from graphopt.runtime.kernels.pointwise import Apply

_FUNCTIONS = {"abs": "fabs", "fabs": "fabs", "floor": "floor", "ceil": "ceil", "sqrt": "sqrt"}


@dataclass(frozen=True)
class Term:
    """An expression of C and its type without lanes, float or int."""

    text: str
    type: str = "float"

    def _with(self, sign: str, other: Term) -> Term:
        return Term(f"({self.text} {sign} {other.text})", self.type)

    def __add__(self, other: Term) -> Term:
        return self._with("+", other)

    def __sub__(self, other: Term) -> Term:
        return self._with("-", other)

    def __mul__(self, other: Term) -> Term:
        return self._with("*", other)

    def __truediv__(self, other: Term) -> Term:
        return self._with("/", other)

    def __lshift__(self, other: Term) -> Term:
        return self._with("<<", other)

    def __rshift__(self, other: Term) -> Term:
        return self._with(">>", other)

    def __and__(self, other: Term) -> Term:
        return self._with("&", other)

    def __or__(self, other: Term) -> Term:
        return self._with("|", other)

    def __lt__(self, other: Term) -> Term:
        return Term(f"({self.text} < {other.text})", "int")


class TextNumbers(Numbers):
    """Constants and functions as text.

    Attributes:
        lines: the statements so far.
    """

    def __init__(self, lanes: int) -> None:
        super().__init__("float32", lanes)
        self.lines: list[str] = []
        self._suffix = "" if lanes == 1 else str(lanes)

    def __call__(self, value: float) -> Term:
        return Term(self._wide("float", number(value)))

    def let(self, value: Term) -> Term:
        """The value, computed here once."""
        name = f"t{len(self.lines)}"
        self.lines.append(f"const {value.type}{self._suffix} {name} = {value.text};")
        return Term(name, value.type)

    def max(self, a: Term, b: Term) -> Term:
        """The larger of two in every lane."""
        return Term(f"fmax({a.text}, {b.text})")

    def min(self, a: Term, b: Term) -> Term:
        """The smaller of two in every lane."""
        return Term(f"fmin({a.text}, {b.text})")

    def select(self, condition: Term, a: Term, b: Term) -> Term:
        """a where the condition holds, else b."""
        if self.lanes == 1:
            return Term(f"({condition.text} ? {a.text} : {b.text})", a.type)
        return Term(f"select({b.text}, {a.text}, {condition.text})", a.type)

    def intrinsic(self, name: str, value: Term) -> Term:
        """A function on every lane: floor, sqrt, abs, ..."""
        return Term(f"{_FUNCTIONS[name]}({value.text})")

    def integers(self, value: Term) -> Term:
        """Rounded towards zero to int."""
        return Term(f"convert_int{self._suffix}({value.text})", "int")

    def floats(self, value: Term) -> Term:
        """An int as a number."""
        return Term(f"convert_float{self._suffix}({value.text})")

    def bits(self, value: Term, dtype: str) -> Term:
        """The same bits as another type."""
        kind = {"int32": "int", "float32": "float"}[dtype]
        return Term(f"as_{kind}{self._suffix}({value.text})", kind)

    def integer(self, value: int) -> Term:
        """An int in every lane."""
        return Term(self._wide("int", str(value)), "int")

    def _wide(self, kind: str, text: str) -> str:
        return text if self.lanes == 1 else f"({kind}{self._suffix})({text})"

    def applied(self, step: Apply, values: list[Term]) -> Term:
        """What an operator of an expression makes of these values."""
        attrs = dict(step.attrs)
        if step.op == "Constant":
            return self(attrs["value"])
        taken = tuple(values[i] for i in step.inputs)
        return self.let(FORMULAS[step.op](self, taken, attrs))


def number(value: float) -> str:
    """A number as C writes a float."""
    single = float(np.float32(value))
    if np.isinf(single):
        return "INFINITY" if single > 0 else "-INFINITY"
    text = f"{single:.9g}"
    text = text if any(c in text for c in ".e") else f"{text}.0"
    return f"({text}f)" if single < 0 else f"{text}f"
