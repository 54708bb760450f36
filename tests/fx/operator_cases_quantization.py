"""Cases of operators that make integers of real numbers, and of operators of integers."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto
from operator_cases import case, const, floats, normal, scalar, uniform, whole

_X = normal(2, 3, 4, 5, scale=3)
_SCALE = const(scalar(0.037))
# Halves, what is clipped, infinities, numbers so small that they have few digits, both zeros.
_EDGES = floats(0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 1e9, -1e9, np.inf, -np.inf, 1e-45, -1e-45, -0.0, 0)
_NARROW = normal(2, 3, 8, scale=3, kind=np.float16)

_TO_INTEGERS = [
    case("QuantizeLinear", _X, _SCALE),  # to uint8
    *(
        case("QuantizeLinear", _X, _SCALE, const(scalar(zero, kind)), opset=21)
        for kind, zero in (
            (np.uint8, 128),
            (np.int8, -7),
            (np.int8, 127),
            (np.uint16, 40000),
            (np.int16, -30000),
        )
    ),
    *(
        case("QuantizeLinear", _EDGES, const(scalar(s)), const(scalar(zero, kind)))
        for s in (1.0, 0.5, 3e-39, 1e30)
        for kind, zero in ((np.uint8, 3), (np.int8, -3), (np.int8, 0))
    ),
    case("QuantizeLinear", _X, const(floats(0.03, 0.1, 2)), const(np.array([0, 9, -9], np.int8))),
    case("QuantizeLinear", _X, const(floats(0.03, 0.1)), const(np.array([0, 9], np.uint8)), axis=0),
    case("QuantizeLinear", _X, uniform(0.01, 0.1, 5), whole(0, 9, 5, kind=np.uint8), axis=-1),
    case("QuantizeLinear", normal(7), const(floats(0.1)), const(np.array([3], np.int8))),
    case("QuantizeLinear", _NARROW, const(scalar(0.0371, np.float16)), const(scalar(3, np.int8))),
    case("QuantizeLinear", _X, _SCALE, output_dtype=TensorProto.INT16, opset=21),
    case("QuantizeLinear", _X, _SCALE, output_dtype=TensorProto.INT8, saturate=0, opset=21),
    *(
        case(
            "QuantizeLinear",
            normal(3, 7, 4),
            const(uniform(0.01, 0.1, 3, count, 4)),
            const(whole(-9, 9, 3, count, 4, kind=np.int8)),
            axis=axis,
            block_size=size,
            opset=21,
        )
        for count, size, axis in ((4, 2, 1), (7, 1, -2), (1, 7, 1))
    ),
    case(
        "QuantizeLinear",
        normal(3, 8),
        const(uniform(0.01, 0.1, 3, 2)),
        block_size=4,
        opset=23,
        output_dtype=TensorProto.INT8,
    ),
    case(
        "QuantizeLinear",
        normal(40),
        _SCALE,
        opset=23,
        output_dtype=TensorProto.INT8,
        precision=TensorProto.FLOAT,
    ),
    case("DynamicQuantizeLinear", normal(3, 50), outputs=3, opset=20),
    case("DynamicQuantizeLinear", uniform(2, 3, 40), outputs=3),
    case("DynamicQuantizeLinear", uniform(-3, -2, 40), outputs=3),
    case("DynamicQuantizeLinear", np.zeros((2, 3), np.float32), outputs=3),
]

_BYTES = whole(-128, 128, 2, 3, 4, 5, kind=np.int8)
_FROM_INTEGERS = [
    case("DequantizeLinear", _BYTES, _SCALE),
    case("DequantizeLinear", _BYTES, _SCALE, const(scalar(-128, np.int8))),
    case("DequantizeLinear", _BYTES, uniform(0.01, 0.1, 3)),
    case("DequantizeLinear", _BYTES, uniform(0.01, 0.1), const(scalar(5, np.int8))),
    case(
        "DequantizeLinear",
        const(_BYTES),
        uniform(0.01, 0.1, 5),
        const(whole(-9, 9, 5, kind=np.int8)),
        axis=-1,
    ),
    case("DequantizeLinear", whole(-(2**31), 2**31, 60, kind=np.int32), const(scalar(1e-7))),
    *(
        case("DequantizeLinear", whole(0, 2**15, 60, kind=kind), _SCALE, zero, opset=21)
        for kind in (np.int16, np.uint16)
        for zero in (None, const(scalar(30000, kind)))
    ),
    case("DequantizeLinear", _BYTES, const(scalar(0.0371, np.float16))),
    case("DequantizeLinear", _BYTES, _SCALE, output_dtype=TensorProto.FLOAT16, opset=23),
    *(
        case(
            "DequantizeLinear",
            whole(-128, 128, 3, 7, kind=np.int8),
            uniform(0.01, 0.1, *shape),
            const(whole(-9, 9, *shape, kind=np.int8)),
            axis=axis,
            block_size=size,
            opset=21,
        )
        for shape, size, axis in (((3, 4), 2, 1), ((2, 7), 2, 0))
    ),
]

_A, _B = whole(0, 256, 2, 4, 6, kind=np.uint8), whole(-128, 128, 6, 5, kind=np.int8)
_IMAGE, _KERNEL = (
    whole(0, 256, 2, 4, 7, 6, kind=np.uint8),
    whole(-128, 128, 6, 2, 3, 3, kind=np.int8),
)
_PLACES = (
    {"pads": [1, 1, 1, 1], "group": 2},
    {"pads": [2, 0, 1, 3], "strides": [2, 1], "group": 2},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2], "group": 2},
    {"dilations": [2, 1], "pads": [2, 1, 2, 1], "group": 2, "kernel_shape": [3, 3]},
)
_ZERO, _LESS = const(scalar(131, np.uint8)), const(scalar(-3, np.int8))
_OUT = (const(scalar(4.5)), const(scalar(121, np.uint8)))
_CHANNELS = (const(uniform(0.001, 0.1, 6)), const(np.zeros(6, np.int8)))
_BETWEEN_INTEGERS = [
    *(case("ConvInteger", _IMAGE, const(_KERNEL), _ZERO, **how) for how in _PLACES),
    case("ConvInteger", _IMAGE, _KERNEL, group=2),
    case("ConvInteger", _IMAGE, const(_KERNEL), _ZERO, _LESS, group=2),
    *(
        case(
            "QLinearConv",
            *(_IMAGE, _SCALE, _ZERO),
            *(const(_KERNEL), *_CHANNELS),
            *(*_OUT, const(whole(-9999, 9999, 6, kind=np.int32))),
            **how,
        )
        for how in _PLACES
    ),
    case(
        "QLinearConv",
        *(whole(-128, 128, 1, 4, 5, 5, kind=np.int8), _SCALE, _LESS),
        *(const(whole(-128, 128, 8, 4, 1, 1, kind=np.int8)), const(scalar(0.02))),
        *(const(scalar(0, np.int8)), const(scalar(0.3)), const(scalar(-5, np.int8))),
    ),
    case("MatMulInteger", _A, _B),
    case("MatMulInteger", _A, const(_B), _ZERO, _LESS),
    case("MatMulInteger", _A, const(_B), _ZERO, const(whole(-9, 9, 5, kind=np.int8))),
    case("QLinearMatMul", _A, _SCALE, _ZERO, const(_B), const(scalar(0.02)), _LESS, *_OUT),
    case(
        "QLinearMatMul",
        *(_A, _SCALE, _ZERO),
        *(const(_B), const(uniform(0.01, 0.1, 5)), const(whole(-9, 9, 5, kind=np.int8))),
        *_OUT,
    ),
    case(
        "QLinearMatMul",
        *(whole(-128, 128, 6, 4, kind=np.int8), _SCALE, const(scalar(-7, np.int8))),
        *(const(whole(-128, 128, 4, 5, kind=np.int8)), const(scalar(0.02)), _LESS),
        *(const(scalar(0.5)), const(scalar(11, np.int8))),
    ),
]

CASES = [*_TO_INTEGERS, *_FROM_INTEGERS, *_BETWEEN_INTEGERS]
