"""Cases of operators that compute values: activations, arithmetic, reductions, normalizations, products."""

from __future__ import annotations

import numpy as np
from operator_cases import case, const, flags, floats, normal, scalar, uniform, whole

_X = normal(3, 5, scale=2.0)
_ANY = (
    *("Abs", "Asinh", "Atan", "Ceil", "Celu", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "Gelu"),
    *(
        "HardSigmoid",
        "HardSwish",
        "Hardmax",
        "IsInf",
        "IsNaN",
        "LeakyRelu",
        "LogSoftmax",
        "Mish",
        "Neg",
    ),
    *("Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softmax"),
    *("Softplus", "Softsign", "Tan", "Tanh", "ThresholdedRelu"),
)
_ONE_VALUE = [
    *(case(op, _X) for op in _ANY),
    *(case(op, normal(scale=2.0)) for op in _ANY if op not in ("Hardmax", "LogSoftmax", "Softmax")),
    *(case(op, uniform(-0.9, 0.9, 3, 4)) for op in ("Acos", "Asin", "Atanh")),
    *(case(op, uniform(0.1, 5.0, 3, 4)) for op in ("Log", "Sqrt")),
    case("Acosh", uniform(1.1, 4.0, 3, 4)),
    case("Celu", _X, alpha=0.7),
    case("Elu", _X, alpha=0.3),
    case("Gelu", _X, approximate="tanh"),
    case("HardSigmoid", _X, alpha=1 / 6, beta=0.5),
    case("HardSigmoid", _X, alpha=0.3, beta=0.1),
    case("Hardmax", normal(2, 3, 4), axis=1),
    case("Hardmax", np.array([[1, 3, 3, 0]], np.float32)),
    case("IsInf", floats(1, np.inf, -np.inf, np.nan), detect_negative=0),
    case("IsInf", floats(1, np.inf, -np.inf, np.nan), detect_positive=0),
    case("IsNaN", floats(1, np.inf, -np.inf, np.nan)),
    case("LeakyRelu", _X, alpha=0.3),
    case("LogSoftmax", normal(2, 3, 4), axis=1),
    case("Not", flags(0, 1, 1)),
    case("Neg", whole(-5, 5, 4)),
    case("Abs", whole(-5, 5, 4)),
    case("Sign", whole(-5, 5, 4)),
    case("Round", floats(-2.5, -1.5, -0.5, 0.5, 1.5, 2.5)),
    case("Relu", whole(-5, 5, 4, kind=np.int32)),
    case("PRelu", normal(2, 3, 4, 4), const(normal(3, 1, 1))),
    case("PRelu", normal(2, 3), const(normal(1))),
    case("PRelu", normal(2, 3, 4), normal(4)),
    case("PRelu", normal(2, 3, 4), normal(2, 3, 4)),
    case("Selu", _X, alpha=1.3, gamma=0.8),
    case("Shrink", _X, bias=0.4, lambd=1.0),
    case("Shrink", whole(-5, 5, 6), bias=1.0, lambd=2.0),
    case("Softmax", normal(2, 3, 4), axis=0),
    case("Softmax", normal(2, 3, 4), axis=-2),
    case("Softplus", floats(-100, -30, -20.5, 0, 15, 19, 21, 100)),
    case("Swish", _X, opset=24),
    case("Swish", _X, opset=24, alpha=1.7),
    case("ThresholdedRelu", _X, alpha=0.5),
    case("Clip", _X),
    case("Clip", _X, const(scalar(-0.5)), const(scalar(1.0))),
    case("Clip", _X, const(scalar(0.0)), const(scalar(6.0))),
    case("Clip", _X, None, const(scalar(0.7))),
    case("Clip", _X, const(scalar(0.7))),
    case("Clip", _X, scalar(-0.5), scalar(0.6)),
    case("Clip", _X, scalar(-0.5)),
    case("Clip", _X, scalar(-0.5), const(scalar(0.6))),
    case("Clip", _X, const(scalar(1.0)), const(scalar(-1.0))),  # low above high: high wins
    case("Clip", whole(-9, 9, 7), const(scalar(-2, np.int64)), const(scalar(3, np.int64))),
    case(
        "Clip",
        whole(-9, 9, 7, kind=np.int32),
        const(scalar(0, np.int32)),
        const(scalar(6, np.int32)),
    ),
    case("Clip", whole(-9, 9, 7), scalar(-2, np.int64), scalar(3, np.int64)),
    case(
        "Clip",
        whole(0, 99, 7, kind=np.uint8),
        const(scalar(9, np.uint8)),
        const(scalar(50, np.uint8)),
    ),
]

_PAIR = (normal(2, 3, 4), normal(3, 1))
_WHOLE = (whole(-9, 9, 3, 4), whole(1, 5, 4))
_BITS = (whole(0, 200, 3, 4, kind=np.uint8), whole(0, 200, 4, kind=np.uint8))
_SEVEN = [-7, -6, -1, 0, 1, 6, 7]
_ARITHMETIC = [
    *(case(op, *_PAIR) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean")),
    *(case(op, *_WHOLE) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min", "Mod")),
    *(case(op, normal(), normal()) for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")),
    *(case(op, normal(0, 3), normal(3)) for op in ("Add", "Mul", "Div")),
    *(case(op, normal(2, 3), const(normal(3))) for op in ("Add", "Sub", "Mul", "Div", "Max")),
    *(case(op, const(scalar(2.0)), normal(2, 3)) for op in ("Sub", "Div", "Pow")),
    *(case(op, normal(2, 3), normal(3), normal(2, 1)) for op in ("Max", "Min", "Sum", "Mean")),
    *(case(op, normal(2, 3)) for op in ("Max", "Min", "Sum", "Mean")),
    *(
        case(op, *operands)
        for op in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
        for operands in ((whole(0, 3, 3, 4), whole(0, 3, 4)), (normal(3), normal(3)))
    ),
    *(
        case(op, whole(0, 2, 3, 4, kind=np.bool_), flags(0, 1, 1, 0))
        for op in ("And", "Or", "Xor", "Equal")
    ),
    *(case(op, *_BITS) for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    case("BitwiseNot", whole(0, 200, 5, kind=np.uint8)),
    case("BitwiseNot", whole(-9, 9, 5, kind=np.int32)),
    case(
        "BitShift", whole(0, 200, 5, kind=np.uint8), whole(0, 8, 5, kind=np.uint8), direction="LEFT"
    ),
    case(
        "BitShift",
        whole(0, 200, 5, kind=np.uint8),
        whole(0, 8, 5, kind=np.uint8),
        direction="RIGHT",
    ),
    case(
        "BitShift",
        whole(0, 2**31, 5, kind=np.uint32),
        whole(0, 32, 5, kind=np.uint32),
        direction="RIGHT",
    ),
    case(
        "BitShift",
        whole(0, 2**62, 5, kind=np.uint64),
        whole(0, 63, 5, kind=np.uint64),
        direction="LEFT",
    ),
    case("Div", np.array(_SEVEN, np.int64), const(scalar(4, np.int64))),
    case("Div", np.array(_SEVEN, np.int32), const(scalar(-4, np.int32))),
    case("Mod", np.array(_SEVEN, np.int64), const(scalar(4, np.int64))),
    case("Mod", np.array(_SEVEN, np.int64), const(scalar(-4, np.int64))),
    case("Mod", np.array(_SEVEN, np.int64), const(scalar(4, np.int64)), fmod=1),
    case("Mod", normal(3, 4, scale=4), uniform(0.5, 2, 4), fmod=1),
    case("Pow", uniform(0.5, 2, 3, 4), normal(4)),
    case("Pow", normal(3, 4), const(scalar(2.0))),
    case("Pow", normal(3, 4), const(scalar(3, np.int64))),
    case("Pow", normal(3, 4), const(scalar(-1.0))),
    case("Pow", whole(1, 5, 4), const(scalar(1.5))),
    case("Pow", whole(1, 5, 4, kind=np.int32), const(scalar(0.5))),
    case("Pow", whole(-4, 5, 4), const(scalar(2, np.int64))),
    case("Pow", whole(-4, 5, 4), whole(0, 4, 4, kind=np.int32)),
    case("Max", flags_in := floats(1, np.nan, 3), floats(2, 2, np.nan)),
    case("Min", flags_in, floats(2, 2, np.nan)),
    case("Where", whole(0, 2, 3, 4, kind=np.bool_), normal(4), normal(2, 3, 1)),
    case("Where", whole(0, 2, 3, 4, kind=np.bool_), const(scalar(0.0)), normal(3, 4)),
    case("Where", flags(1, 0), whole(0, 9, 2), whole(0, 9, 2)),
]

_REDUCED = (
    *("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSum", "ReduceSumSquare"),
)
_REDUCTIONS = [
    *(case(op, normal(2, 3, 4), const([1])) for op in _REDUCED),
    *(case(op, normal(2, 3, 4), const([-1, 0]), keepdims=0) for op in _REDUCED),
    *(case(op, normal(2, 3, 4)) for op in _REDUCED),
    *(case(op, normal(2, 3, 4), keepdims=0) for op in _REDUCED),
    *(case(op, normal(2, 3, 4), const([]), keepdims=0) for op in _REDUCED),
    *(case(op, normal(2, 3, 4), noop_with_empty_axes=1) for op in _REDUCED),
    *(case(op, normal(2, 3, 4), const([]), noop_with_empty_axes=1) for op in _REDUCED),
    *(case(op, normal(2, 3, 4), np.array([2, 0])) for op in _REDUCED),
    *(case(op, normal()) for op in _REDUCED),
    *(
        case(op, whole(-4, 5, 2, 3), const([1]))
        for op in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd")
    ),
    *(
        case(op, whole(-4, 5, 2, 3, kind=np.int32))
        for op in ("ReduceSum", "ReduceMax", "ReduceProd", "ReduceL1")
    ),
    *(
        case(op, whole(-9, 9, 2, 3, kind=np.int32), const([1]))
        for op in ("ReduceMean", "ReduceL2", "ReduceSumSquare")
    ),
    *(case(op, normal(2, 0, 3), const([1])) for op in ("ReduceSum", "ReduceL1", "ReduceProd")),
    *(case(op, whole(0, 2, 2, 3, kind=np.bool_), const([1])) for op in ("ReduceMax", "ReduceMin")),
    case("ReduceLogSum", uniform(0.5, 2, 2, 3, 4), const([1])),
    case("ReduceLogSum", uniform(0.5, 2, 2, 3, 4), keepdims=0),
    case("ReduceLogSum", uniform(0.5, 2, 2, 3, 4), const([]), noop_with_empty_axes=1),
]

_NORMALIZATIONS = [
    case(
        "GroupNormalization",
        normal(2, 6, 3, 4),
        const(normal(6)),
        const(normal(6)),
        num_groups=3,
        opset=21,
    ),
    case(
        "GroupNormalization",
        normal(2, 6, 3),
        const(normal(6)),
        const(normal(6)),
        num_groups=1,
        epsilon=0.1,
        opset=21,
    ),
    case(
        "GroupNormalization",
        normal(2, 6, 3),
        const(normal(6)),
        const(normal(6)),
        num_groups=6,
        opset=21,
    ),
    case(
        "GroupNormalization",
        normal(2, 6, 3),
        const(normal(3)),
        const(normal(3)),
        num_groups=3,
        opset=20,
    ),
    case("InstanceNormalization", normal(2, 3, 4, 4), const(normal(3)), const(normal(3))),
    case("InstanceNormalization", normal(2, 3, 7), normal(3), normal(3), epsilon=0.1),
    case("InstanceNormalization", normal(2, 3, 1), const(normal(3)), const(normal(3))),
    case("LRN", normal(2, 7, 3, 3), size=3),
    case("LRN", normal(2, 7, 3, 3), size=5, alpha=0.3, beta=0.6, bias=2.0),
    case("LRN", normal(2, 3, 3, 3), size=7, alpha=0.3),
    case("LayerNormalization", normal(2, 3, 4), const(normal(4)), const(normal(4))),
    case("LayerNormalization", normal(2, 3, 4), const(normal(4))),
    case("LayerNormalization", normal(2, 3, 4), normal(3, 4), normal(3, 4), axis=1, epsilon=0.1),
    case("LayerNormalization", normal(2, 3, 4), const(normal(3, 4)), const(normal(3, 4)), axis=-2),
    case("LayerNormalization", normal(2, 3, 4), const(normal(4)), const(normal(4)), axis=1),
    case("LayerNormalization", normal(2, 3, 4), const(normal(4)), const(normal(3, 1)), axis=-2),
    case("LayerNormalization", normal(2, 3, 4), const(normal(2, 3, 4)), axis=0),
    case("LpNormalization", normal(2, 3, 4)),
    case("LpNormalization", normal(2, 3, 4), axis=1, p=1),
    case("LpNormalization", np.array([[0, 0], [3, 4]], np.float32), axis=1),
    case("MeanVarianceNormalization", normal(2, 3, 4, 4)),
    case("MeanVarianceNormalization", normal(2, 3, 4, 4), axes=[1, 2]),
    case("RMSNormalization", normal(2, 3, 4), const(normal(4)), opset=23),
    case("RMSNormalization", normal(2, 3, 4), const(normal(3, 4)), axis=1, epsilon=0.1, opset=23),
]

_PRODUCTS = [
    case("Det", normal(4, 4)),
    case("Det", normal(2, 3, 3, 3)),
    case("Einsum", normal(2, 3), normal(3, 4), equation="ij,jk->ik"),
    case("Einsum", normal(2, 3, 4), const(normal(2, 5, 4)), equation="bij,bkj->bik"),
    case("Einsum", normal(2, 3, 4), equation="...j->..."),
    case("Einsum", normal(3, 3), equation="ii"),
    case("Einsum", normal(2, 3), normal(3), equation="ij,j"),
    case("Gemm", normal(3, 4), const(normal(4, 5)), const(normal(5))),
    case("Gemm", normal(3, 4), const(normal(5, 4)), const(normal(5)), transB=1),
    case("Gemm", normal(3, 4), const(normal(5, 4)), transB=1),
    case("Gemm", normal(4, 3), normal(5, 4), transA=1, transB=1, alpha=0.5),
    *(
        case(
            "Gemm",
            normal(3, 4),
            const(normal(5, 4)),
            const(normal(*c)),
            transB=1,
            alpha=alpha,
            beta=beta,
        )
        for c in ((), (1,), (5,), (1, 5), (3, 1), (3, 5))
        for alpha, beta in ((1.0, 1.0), (0.5, 2.0), (1.0, 0.0))
    ),
    case("MatMul", normal(3, 4), normal(4, 5)),
    case("MatMul", normal(2, 3, 4), const(normal(4, 5))),
    case("MatMul", normal(2, 1, 3, 4), normal(5, 4, 2)),
    case("MatMul", normal(4), normal(4)),
    case("MatMul", normal(4), normal(2, 4, 3)),
    case("MatMul", normal(2, 3, 4), normal(4)),
    case("MatMul", whole(-4, 5, 2, 3), whole(-4, 5, 3, 2)),
]

_HEADS = (normal(2, 4, 3, 8), normal(2, 4, 5, 8), normal(2, 4, 5, 6))
_FLAT = (normal(2, 3, 16), normal(2, 5, 8), normal(2, 5, 8))
_BLIND = np.array([[1, 0, 1, 0, 1], [0, 0, 0, 0, 0], [0, 1, 1, 1, 1]], np.bool_)
_ATTENTION = [
    case("Attention", *_HEADS, opset=23),
    case("Attention", *_HEADS, opset=23, scale=0.3),
    case("Attention", *_HEADS, opset=23, is_causal=1),
    case("Attention", *_HEADS, opset=23, softcap=2.0),
    case("Attention", *_HEADS, normal(3, 5), opset=23),
    case("Attention", *_HEADS, whole(0, 2, 2, 1, 3, 5, kind=np.bool_), opset=23),
    case("Attention", *_HEADS, normal(2, 4, 3, 5), opset=23, softcap=3.0),
    *(case("Attention", *_HEADS, _BLIND, opset=23, softcap=cap) for cap in (0.0, 2.0)),
    case("Attention", normal(2, 4, 3, 8), normal(2, 2, 5, 8), normal(2, 2, 5, 8), opset=23),
    case("Attention", *_FLAT, opset=23, q_num_heads=4, kv_num_heads=2),
    case("Attention", *_FLAT, normal(3, 5), opset=23, q_num_heads=4, kv_num_heads=2, is_causal=1),
    case("Attention", *_HEADS, None, normal(2, 4, 2, 8), normal(2, 4, 2, 6), opset=23, outputs=3),
    case(
        "Attention",
        *_HEADS,
        None,
        normal(2, 4, 2, 8),
        normal(2, 4, 2, 6),
        opset=23,
        outputs=3,
        is_causal=1,
    ),
    *(
        case(
            "Attention",
            *_HEADS,
            normal(3, 5),
            None,
            None,
            opset=23,
            outputs=4,
            softcap=2.0,
            qk_matmul_output_mode=m,
        )
        for m in (0, 3)
    ),
    case(
        "RotaryEmbedding",
        normal(2, 3, 4, 8),
        normal(9, 4),
        normal(9, 4),
        whole(0, 9, 2, 4),
        opset=23,
    ),
    case(
        "RotaryEmbedding",
        normal(2, 3, 4, 8),
        normal(9, 4),
        normal(9, 4),
        whole(0, 9, 2, 4),
        opset=23,
        interleaved=1,
    ),
    case(
        "RotaryEmbedding",
        normal(2, 4, 24),
        normal(9, 4),
        normal(9, 4),
        whole(0, 9, 2, 4),
        opset=23,
        num_heads=3,
    ),
    case("RotaryEmbedding", normal(2, 3, 4, 8), normal(2, 4, 4), normal(2, 4, 4), opset=23),
    case(
        "RotaryEmbedding",
        normal(2, 3, 4, 8),
        normal(2, 4, 2),
        normal(2, 4, 2),
        opset=23,
        rotary_embedding_dim=4,
    ),
]

CASES = [*_ONE_VALUE, *_ARITHMETIC, *_REDUCTIONS, *_NORMALIZATIONS, *_PRODUCTS, *_ATTENTION]
