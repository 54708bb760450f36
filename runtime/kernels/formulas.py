"""Elementwise functions on vectors, without branches: the same instructions on every processor.

exp, log and what is made of them are polynomials after a reduction of the argument (Cody and Waite,
"Software Manual for the Elementary Functions", 1980; coefficients of S. Moshier's Cephes library,
expf and logf: a relative error of about 1e-7 in float32).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from graphopt.runtime.kernels.simd import Machine, Value, cast, constant, let

Attributes: TypeAlias = Mapping[str, float]

# The least number of a type.
LOWEST = {"float32": -3.4028234663852886e38, "float16": -65504.0, "int8": -128, "uint8": 0}

_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
_LOG = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)
# erf(x) = 1 - (a1 t + ... + a5 t^5) exp(-x^2), t = 1 / (1 + p x): Abramowitz and Stegun, 7.1.26.
_ERF_P = 0.3275911
_ERF = (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)


class Numbers:
    """Constants and intrinsics of one vector type."""

    def __init__(self, dtype: str, lanes: int) -> None:
        self.dtype, self.lanes = dtype, lanes

    def __call__(self, value: float) -> Value:
        return constant(value, self.dtype, self.lanes)

    def let(self, value: Value) -> Value:
        """The value, computed here once."""
        return let(value)

    def max(self, a: Value, b: Value) -> Value:
        """The larger of two in every lane."""
        from tvm import tirx

        return tirx.Max(a, b)

    def min(self, a: Value, b: Value) -> Value:
        """The smaller of two in every lane."""
        from tvm import tirx

        return tirx.Min(a, b)

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        """a where the condition holds, else b."""
        from tvm import tirx

        return tirx.Select(condition, a, b)

    def intrinsic(self, name: str, value: Value) -> Value:
        """A function of TIR on every lane: floor, sqrt, fabs, ..."""
        from tvm import tirx

        return getattr(tirx, name)(value)

    def fused(self, a: Value, b: Value, c: Value) -> Value:
        """a b + c, rounded once; slow where a processor has no such instruction."""
        from tvm import tirx

        return tirx.call_llvm_pure_intrin(self._vector(self.dtype), "llvm.fma", a, b, c)

    def integers(self, value: Value) -> Value:
        """Rounded towards zero to int32."""
        from tvm import tirx

        return tirx.Cast(self._vector("int32"), value)

    def floats(self, value: Value) -> Value:
        """An int32 as a number."""
        from tvm import tirx

        return tirx.Cast(self._vector("float32"), value)

    def bits(self, value: Value, dtype: str) -> Value:
        """The same bits as another type."""
        from tvm import tirx

        return tirx.reinterpret(self._vector(dtype), value)

    def integer(self, value: int) -> Value:
        """An int32 in every lane."""
        return constant(value, "int32", self.lanes)

    def _vector(self, dtype: str) -> str:
        return dtype if self.lanes == 1 else f"{dtype}x{self.lanes}"


def _polynomial(n: Numbers, x: Value, coefficients: tuple[float, ...]) -> Value:
    value = n(coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + n(coefficient)
    return value


def exp(n: Numbers, x: Value) -> Value:
    """e^x = 2^k e^r, k = floor(x / ln 2 + 1/2), |r| <= ln 2 / 2; saturates at 2^127 and 2^-126."""
    x = n.let(n.max(n.min(x, n(88.0)), n(-87.3)))
    k = n.let(n.intrinsic("floor", x * n(math.log2(math.e)) + n(0.5)))
    r = n.let(x - k * n(_LN2_HIGH) - k * n(_LN2_LOW))
    value = _polynomial(n, r, _EXP) * (r * r) + r + n(1.0)
    power = (n.integers(k) + n.integer(127)) << n.integer(23)
    return n.let(value * n.bits(power, "float32"))


def log(n: Numbers, x: Value) -> Value:
    """ln x = k ln 2 + ln f, sqrt(1/2) <= f < sqrt 2; for x > 0 that is no denormal."""
    bits = n.let(n.bits(x, "int32"))
    k = n.floats(((bits >> n.integer(23)) & n.integer(255)) - n.integer(126))
    f = n.let(n.bits((bits & n.integer(0x007FFFFF)) | n.integer(0x3F000000), "float32"))
    small = f < n(math.sqrt(0.5))
    k = n.let(n.select(small, k - n(1.0), k))
    f = n.let(n.select(small, f + f, f) - n(1.0))
    square = n.let(f * f)
    value = _polynomial(n, f, _LOG) * (f * square) + k * n(_LN2_LOW) - square * n(0.5)
    return n.let(f + value + k * n(_LN2_HIGH))


def sigmoid(n: Numbers, x: Value) -> Value:
    """1 / (1 + e^-x)."""
    return n(1.0) / (n(1.0) + exp(n, n(0.0) - x))


def tanh(n: Numbers, x: Value) -> Value:
    """1 - 2 / (e^2x + 1)."""
    return n(1.0) - n(2.0) / (exp(n, x + x) + n(1.0))


def softplus(n: Numbers, x: Value) -> Value:
    """ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|)."""
    return n.max(x, n(0.0)) + log(n, n(1.0) + exp(n, n(0.0) - n.intrinsic("abs", x)))


def mish(n: Numbers, x: Value) -> Value:
    """x tanh(ln(1 + e^x)) = x w / (w + 2), w = e^x (e^x + 2); x itself from 20 on."""
    e = exp(n, n.min(x, n(20.0)))
    w = n.let(e * (e + n(2.0)))
    return x * (w / (w + n(2.0)))


def erf(n: Numbers, x: Value) -> Value:
    """The error function to 1.5e-7."""
    size = n.let(n.intrinsic("abs", x))
    t = n.let(n(1.0) / (n(1.0) + n(_ERF_P) * size))
    value = n.let(n(1.0) - _polynomial(n, t, _ERF) * t * exp(n, n(0.0) - size * size))
    return n.select(x < n(0.0), n(0.0) - value, value)


def _hard_sigmoid(n: Numbers, x: Value, alpha: float, beta: float) -> Value:
    return n.max(n.min(x * n(alpha) + n(beta), n(1.0)), n(0.0))


def _leaky(n: Numbers, x: Value, slope: Value, is_small: bool) -> Value:
    # A slope between 0 and 1 makes it a maximum, which is one instruction less.
    return n.max(x, x * slope) if is_small else n.select(x < n(0.0), x * slope, x)


def _clip(n: Numbers, x: Value, attrs: Attributes) -> Value:
    if "min" in attrs:
        x = n.max(x, n(attrs["min"]))
    return n.min(x, n(attrs["max"])) if "max" in attrs else x


def _elu(n: Numbers, x: Value, alpha: float, gamma: float = 1.0) -> Value:
    below = n(alpha) * (exp(n, n.min(x, n(0.0))) - n(1.0))
    return n(gamma) * n.select(x < n(0.0), below, x)


def _gelu(n: Numbers, x: Value) -> Value:
    return n(0.5) * x * (n(1.0) + erf(n, x * n(math.sqrt(0.5))))


Formula: TypeAlias = "Callable[[Numbers, tuple[Any, ...], Attributes], Value]"


def apply(op: str, values: tuple[Value, ...], attrs: Attributes, machine: Machine) -> Value:
    """An operator on vectors of the machine's type.

    In float16 only what one or two instructions do is computed as it is; the rest goes through
    float32, where the polynomials hold.
    """
    lanes = machine.lanes
    if machine.dtype == "float32" or op in _SIMPLE:
        return FORMULAS[op](Numbers(machine.dtype, lanes), values, attrs)
    wide = tuple(let(cast(v, "float32", lanes)) for v in values)
    return cast(FORMULAS[op](Numbers("float32", lanes), wide, attrs), machine.dtype, lanes)


_SIMPLE = {
    *("Identity", "Relu", "LeakyRelu", "PRelu", "Clip", "HardSigmoid", "HardSwish", "Abs", "Neg"),
    *("Add", "Sub", "Mul", "Min", "Max"),
}

# Operator of ONNX -> its value on vectors.
FORMULAS: dict[str, Formula] = {
    "Identity": lambda n, x, a: x[0],
    "Relu": lambda n, x, a: n.max(x[0], n(0.0)),
    "LeakyRelu": lambda n, x, a: _leaky(n, x[0], n(a["alpha"]), 0 <= a["alpha"] <= 1),
    "PRelu": lambda n, x, a: _leaky(n, x[0], x[1], is_small=False),
    "Clip": lambda n, x, a: _clip(n, x[0], a),
    "Sigmoid": lambda n, x, a: sigmoid(n, x[0]),
    "Tanh": lambda n, x, a: tanh(n, x[0]),
    "HardSigmoid": lambda n, x, a: _hard_sigmoid(n, x[0], a["alpha"], a["beta"]),
    "HardSwish": lambda n, x, a: x[0] * _hard_sigmoid(n, x[0], 1 / 6, 0.5),
    "Mish": lambda n, x, a: mish(n, x[0]),
    "Softplus": lambda n, x, a: softplus(n, x[0]),
    "Softsign": lambda n, x, a: x[0] / (n(1.0) + n.intrinsic("abs", x[0])),
    "Elu": lambda n, x, a: _elu(n, x[0], a["alpha"]),
    "Selu": lambda n, x, a: _elu(n, x[0], a["alpha"], a["gamma"]),
    "Celu": lambda n, x, a: _elu(n, x[0] / n(a["alpha"]), 1.0, a["alpha"]),
    "Gelu": lambda n, x, a: _gelu(n, x[0]),
    "Erf": lambda n, x, a: erf(n, x[0]),
    "Exp": lambda n, x, a: exp(n, x[0]),
    "Abs": lambda n, x, a: n.intrinsic("abs", x[0]),
    "Neg": lambda n, x, a: n(0.0) - x[0],
    "Sqrt": lambda n, x, a: n.intrinsic("sqrt", x[0]),
    "Reciprocal": lambda n, x, a: n(1.0) / x[0],
    "Floor": lambda n, x, a: n.intrinsic("floor", x[0]),
    "Ceil": lambda n, x, a: n.intrinsic("ceil", x[0]),
    "Add": lambda n, x, a: x[0] + x[1],
    "Sub": lambda n, x, a: x[0] - x[1],
    "Mul": lambda n, x, a: x[0] * x[1],
    "Div": lambda n, x, a: x[0] / x[1],
    "Min": lambda n, x, a: n.min(x[0], x[1]),
    "Max": lambda n, x, a: n.max(x[0], x[1]),
}
