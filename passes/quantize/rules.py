"""What each target computes in integers, as data.

A node is quantized only where its target has an integer kernel for it. `onnxruntime` was read off
ONNX Runtime 1.31's optimized graphs, operator by operator (tests/passes/quantize/test_rules.py does
it again with the version installed). The ARM tables describe the kernels of graphopt's own compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from graphopt.errors import UsageError
from graphopt.ir.graph import Node, input_value, is_op, scalar_of, static_shape
from graphopt.named import unknown
from graphopt.passes.quantize.grid import KINDS, Kind

_MOVES = frozenset(
    (
        *("MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice"),
        *("DepthToSpace", "Resize", "Gather", "Split", "Identity"),
    )
)
_WIDE = 16  # bits
_ACTIVATIONS = frozenset(
    (
        *("Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Mish"),
        *("Tanh", "Gelu", "Elu", "Swish"),
    )
)


@dataclass(frozen=True)
class Rules:
    """One row of the table.

    Attributes:
        name: as written on the command line.
        about: what runs it.
        activation: the type of activations.
        symmetric: whether their zero point is 0.
        weight: the type of weights, always symmetric and narrow.
        per_channel: products whose weights have one scale per output channel.
        products: operators that multiply by weights in integers.
        arithmetic: operators that compute on integers and give their result a grid of its own.
        moves: operators that pass integers on: their result has the grid of what they read.
        fused: activations computed before the result is rounded, so that only one rounding is left.
        shared: arithmetic whose operands and result have one grid, which makes it a copy.
        wide: operators that also have kernels for activations of 16 bits, weights as they are.
        ends_in_numbers: whether a product of integers whose result only floats read gives numbers.
        pools_in_bytes: whether it runs a MaxPool in front of a rounding on bytes, whatever comes before
            (see `pool_first`).
        board: whose processor the compiler's model knows, so that what integers make slower stays in
            float; empty where nothing is known.
    """

    name: str
    about: str
    activation: str = "uint8"
    symmetric: bool = False
    weight: str = "int8"
    per_channel: frozenset[str] = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
    products: frozenset[str] = frozenset(("Conv", "Gemm", "MatMul"))
    arithmetic: frozenset[str] = frozenset()
    moves: frozenset[str] = _MOVES
    fused: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()
    wide: frozenset[str] = frozenset()
    ends_in_numbers: bool = False
    pools_in_bytes: bool = False
    board: str = ""

    @property
    def activation_kind(self) -> Kind:
        """The integer type of activations."""
        return KINDS[self.activation]

    @property
    def weight_kind(self) -> Kind:
        """The integer type of weights."""
        return KINDS[self.weight]


_ORT = Rules(
    "onnxruntime",
    "ONNX Runtime on x86-64: unsigned activations, signed weights",
    # Sums, products and tables; HardSwish, Mish and Tanh have no integer kernel there.
    arithmetic=frozenset(
        (
            *("Add", "Mul", "Concat", "Sigmoid", "LeakyRelu", "Softmax"),
            *("AveragePool", "GlobalAveragePool"),
        )
    ),
    fused=frozenset(("Relu", "Clip")),
    pools_in_bytes=True,
)
_OWN = Rules(
    "a57",
    "graphopt's kernels for ARMv8.0 (Cortex-A57, A53, A72): smlal on signed bytes",
    activation="int8",
    products=frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul")),
    arithmetic=frozenset(
        (
            *("Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Softmax"),
            *_ACTIVATIONS,
        )
    ),
    moves=_MOVES | {"SpaceToDepth"},
    fused=_ACTIVATIONS,
    # The producers write into the joined tensor's buffer: nothing is left to compute.
    shared=frozenset(("Concat",)),
    # smlal multiplies halfwords as well; what is looked up in tables has 8 bits.
    wide=frozenset(
        (
            *("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Mul", "Concat"),
            *("AveragePool", "GlobalAveragePool", "SpaceToDepth", *_MOVES),
        )
    ),
    ends_in_numbers=True,
    board="tx2",
)

RULES = {
    r.name: r
    for r in (
        _ORT,
        replace(
            _ORT,
            name="onnxruntime-arm",
            about="ONNX Runtime on ARM: signed activations and weights",
            activation="int8",
        ),
        _OWN,
        replace(
            _OWN,
            name="a76",
            about="graphopt's kernels for ARMv8.2 (Cortex-A76): sdot",
            board="kirin990",
        ),
        Rules(
            "tensorrt",
            "TensorRT: symmetric signed activations and weights, activations fused",
            activation="int8",
            symmetric=True,
            products=frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul")),
            arithmetic=frozenset(("Add", "AveragePool", "GlobalAveragePool")),
            moves=frozenset((*_MOVES, "Concat")) - {"Gather", "Split"},
            fused=_ACTIVATIONS,
            shared=frozenset(("Concat",)),
        ),
    )
}


def rules_for(name: str) -> Rules:
    """The row of a target.

    Raises:
        UsageError: there is none.
    """
    if name not in RULES:
        raise UsageError(unknown("quantization target", name, RULES))
    return RULES[name]


def with_kinds(rules: Rules, activation: str | None, weight: str | None) -> Rules:
    """The same target with other integer types.

    Raises:
        UsageError: a type that is none, or weights that are unsigned.
    """
    for name in (activation, weight):
        if name is not None and name not in KINDS:
            raise UsageError(unknown("integer type", name, KINDS))
    if weight is not None and not KINDS[weight].signed:
        raise UsageError(f"weights are signed (symmetric around 0), not {weight}")
    return replace(rules, activation=activation or rules.activation, weight=weight or rules.weight)


def wide_kind(rules: Rules) -> Kind:
    """The type of the activations that are given 16 bits.

    Raises:
        UsageError: the target has no kernels for them, or they all have 16 bits.
    """
    kind = rules.activation_kind
    if kind.bits >= _WIDE:
        raise UsageError(f"activations are {kind.name} already: leave out fallback=int16")
    found = KINDS[f"{'' if kind.signed else 'u'}int{_WIDE}"]
    if not rules.wide:
        able = ", ".join(r.name for r in RULES.values() if r.wide)
        raise UsageError(
            f"{rules.name} has no kernels for {found.name} activations and would compute them in float: "
            f"take fallback=float, or a target that has some ({able})"
        )
    return found


# --- one node -------------------------------------------------------------------------------------


def why_not_integer(node: Node) -> str | None:
    """What keeps this node from an integer kernel although its operator has one, or None."""
    check = _CHECKS.get(node.op)
    return None if check is None else check(node)


def _conv(node: Node) -> str | None:
    weight = input_value(node, 1)
    if weight is None:
        return "its weight is computed"
    if not np.isfinite(weight).all():
        return "its weight holds NaN or infinite values"
    if len(node.inputs) > 2 and not node.inputs[2].is_empty() and input_value(node, 2) is None:
        return "its bias is computed"
    return None


def _gemm(node: Node) -> str | None:
    plain = all(
        node.attrs.get(k, d) == d for k, d in (("alpha", 1.0), ("beta", 1.0), ("transA", 0))
    )
    if not plain:
        return "it scales or transposes its operands"
    bias = input_value(node, 2)
    if bias is not None and bias.ndim > 1 and bias.shape[0] != 1:
        return "its bias is a matrix"
    return _conv(node)


def _matmul(node: Node) -> str | None:
    weight = input_value(node, 1)
    if input_value(node, 0) is not None:
        return "its first operand is a constant"
    if weight is None:
        return None
    if not np.isfinite(weight).all():
        return "its weight holds NaN or infinite values"
    return None if weight.ndim == 2 else "its weight is no matrix"


def _resize(node: Node) -> str | None:
    if node.attrs.get("mode", "nearest") != "nearest":
        return "it interpolates"
    return None


def _max_pool(node: Node) -> str | None:
    return "it also gives indices" if len(node.outputs) > 1 else None


def _both_computed(node: Node) -> str | None:
    constant = any(input_value(node, i) is not None for i in range(2))
    return "one operand is a constant" if constant else None


def _concat(node: Node) -> str | None:
    if any(input_value(node, i) is not None for i in range(len(node.inputs))):
        return "it joins a constant"
    return None


def _clip(node: Node) -> str | None:
    low = scalar_of(node.inputs[1]) if len(node.inputs) > 1 else None
    return None if low == 0 else "its lower bound is not 0"


def _average(node: Node) -> str | None:
    return "it rounds its size up" if node.attrs.get("ceil_mode", 0) else None


def _softmax(node: Node) -> str | None:
    shape = static_shape(node.outputs[0])
    axis = node.attrs.get("axis", -1)
    last = axis == -1 or (shape is not None and axis == len(shape) - 1)
    return None if last else "it does not run over the last axis"


_CHECKS: dict[str, Callable[[Node], str | None]] = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Resize": _resize,
    "MaxPool": _max_pool,
    "Add": _both_computed,
    "Mul": _both_computed,
    "Concat": _concat,
    "AveragePool": _average,
    "Softmax": _softmax,
}


def is_fusable(node: Node, rules: Rules) -> bool:
    """Whether the node is an activation the target computes before it rounds."""
    if not is_op(node, *rules.fused):
        return False
    # What a bound of 0 cuts off is cut off by the grid as well; another bound has to be computed.
    return node.op != "Clip" or rules.fused >= _ACTIVATIONS or _clip(node) is None
