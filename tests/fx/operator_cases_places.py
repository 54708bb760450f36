"""Cases of operators that move and choose values, make sizes, find boxes, and run through time."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper
from operator_cases import case, const, flags, floats, normal, scalar, uniform, whole

_SHAPES = [
    case("Concat", normal(2, 3), normal(2, 4), axis=1),
    case("Concat", normal(2, 3), const(normal(1, 3)), normal(2, 3), axis=-2),
    case("Concat", normal(2, 0), normal(2, 4), axis=1),
    case("DepthToSpace", normal(2, 8, 2, 3), blocksize=2),
    case("DepthToSpace", normal(2, 8, 2, 3), blocksize=2, mode="CRD"),
    case("Expand", normal(3, 1), const([2, 1, 4])),
    case("Expand", normal(3, 4), const([1])),
    case("Expand", normal(3, 1), np.array([3, 4])),
    case("Expand", normal(), const([2, 3])),
    *(case("Flatten", normal(2, 3, 4), axis=a) for a in (0, 1, 2, 3, -1, -3)),
    case("Flatten", normal(3)),
    case("Flatten", normal(0, 3, 2)),
    case("Flatten", normal(2, 0, 3)),
    case("Flatten", normal(2, 3, 0), axis=2),
    case("Reshape", normal(2, 3, 4), const([0, -1])),
    case("Reshape", normal(2, 3, 4), const([4, 6])),
    case("Reshape", normal(2, 0, 4), const([0, 7]), allowzero=1),
    case("Reshape", normal(2, 3), np.array([-1])),
    case("Reshape", normal(1), const([])),
    *(
        case("Slice", normal(7, 6), const(starts), const(ends), const(axes), const(steps))
        for starts, ends, axes, steps in (
            ([1], [5], [0], [2]),
            ([-3], [2**31 - 1], [1], [1]),
            ([-99], [99], [0], [3]),
            ([5, 4], [1, 0], [0, 1], [-1, -2]),
            ([-1], [-(2**63)], [1], [-1]),
            ([99], [-99], [0], [-2]),
            ([3], [3], [0], [1]),
            ([4], [2], [1], [1]),
            ([2], [4], [-1], [-1]),
            ([-1], [0], [-2], [-3]),
            ([9], [20], [0], [1]),
            ([-20], [-10], [0], [1]),
            ([-20], [-10], [0], [-1]),
            ([20], [6], [0], [-1]),
        )
    ),
    case("Slice", normal(4, 5), const([1, 0]), const([3, -1])),
    case("Slice", normal(4, 5), np.array([1]), np.array([3]), np.array([1])),
    case(
        "Slice",
        normal(4, 5),
        const(np.array([3], np.int32)),
        const(np.array([-9], np.int32)),
        const(np.array([1], np.int32)),
        const(np.array([-1], np.int32)),
    ),
    case("SpaceToDepth", normal(2, 3, 4, 6), blocksize=2),
    case("Split", normal(7, 3), num_outputs=3, outputs=3),
    case("Split", normal(9, 3), num_outputs=4, outputs=4),  # the last piece is empty
    case("Split", normal(6, 3), num_outputs=2, outputs=2),
    case("Split", normal(3, 7), const([2, 0, 5]), axis=-1, outputs=3),
    case("Split", normal(3, 7), np.array([3, 4]), axis=1, outputs=2),
    case("Squeeze", normal(1, 3, 1)),
    case("Squeeze", normal(1, 3, 1), const([-1])),
    case("Squeeze", normal(1, 3, 1), np.array([0])),
    case("Tile", normal(2, 3), const([2, 1])),
    case("Tile", normal(2, 3), np.array([0, 2])),
    case("Transpose", normal(2, 3, 4)),
    case("Transpose", normal(2, 3, 4), perm=[1, 2, 0]),
    *(case("Trilu", normal(4, 5), upper=u) for u in (0, 1)),
    *(
        case("Trilu", normal(2, 4, 5), const(scalar(k, np.int64)), upper=u)
        for u in (0, 1)
        for k in (-1, 2, 9)
    ),
    case("Unsqueeze", normal(2, 3), const([0, -1])),
    case("Unsqueeze", normal(2, 3), const([3, 1])),
    case("Unsqueeze", normal(), const([0])),
    case("CenterCropPad", normal(5, 8, 3), const([2, 5, 6])),
    case("CenterCropPad", normal(4, 7, 3), const([7, 4]), axes=[1, 0]),
    case("CenterCropPad", normal(5, 8, 3), const([10, 6]), axes=[-1, 1]),
]

_KINDS = [
    case("Cast", floats(-2.7, -0.5, 0.5, 2.7), to=TensorProto.INT64),
    case("Cast", floats(-2.7, -0.5, 0.5, 2.7), to=TensorProto.INT32),
    case("Cast", floats(-2.7, 0.0, -0.0, 0.5), to=TensorProto.BOOL),
    case("Cast", whole(-2, 3, 5), to=TensorProto.BOOL),
    case("Cast", whole(-2, 3, 5), to=TensorProto.FLOAT),
    case("Cast", flags(0, 1), to=TensorProto.FLOAT),
    case("Cast", normal(5), to=TensorProto.DOUBLE),
    case("Cast", normal(5), to=TensorProto.FLOAT16),
    case("Cast", floats(2.7, 200.9), to=TensorProto.UINT8),
    case("CastLike", normal(5), whole(0, 3, 2)),
    case("CastLike", whole(-3, 3, 5), normal(2)),
    case("Shape", normal(2, 3, 4)),
    case("Shape", normal(2, 3, 4), start=1),
    case("Shape", normal(2, 3, 4), start=-2, end=-1),
    case("Shape", normal()),
    case("Size", normal(2, 3, 4)),
    case("ConstantOfShape", np.array([2, 3])),
    case(
        "ConstantOfShape", np.array([2]), value=helper.make_tensor("v", TensorProto.INT64, [1], [7])
    ),
    case(
        "ConstantOfShape",
        np.array([2]),
        value=helper.make_tensor("v", TensorProto.BOOL, [1], [True]),
    ),
    case(
        "ConstantOfShape",
        np.array([], np.int64),
        value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.5]),
    ),
    case("Range", scalar(1, np.int64), scalar(10, np.int64), scalar(3, np.int64)),
    case("Range", scalar(10, np.int32), scalar(1, np.int32), scalar(-3, np.int32)),
    case("Range", scalar(0.5), scalar(3.0), scalar(0.7)),
    case("Range", scalar(5, np.int64), scalar(1, np.int64), scalar(1, np.int64)),
    case("EyeLike", normal(3, 4)),
    case("EyeLike", normal(3, 4), k=-1, dtype=TensorProto.INT64),
    case("EyeLike", whole(0, 9, 4, 4), k=2, dtype=TensorProto.DOUBLE),
]

_D = normal(4, 5, 3)
_TWO = const(np.array([[0, 1], [-1, 2], [3, 0]]))
_AT = const(np.array([[1], [4], [3], [7]]))
_INDEXING = [
    case("Gather", _D, const(np.array([[0, -1], [2, 1]])), axis=1),
    case("Gather", _D, whole(-4, 4, 6)),
    case("Gather", _D, const(scalar(-2, np.int64)), axis=-2),
    case("Gather", _D, const(np.array([1, 1], np.int32)), axis=-1),
    case("Gather", const(normal(9, 4)), whole(0, 9, 2, 3)),
    case("Gather", whole(0, 9, 5), const(np.array([], np.int64))),
    case("GatherElements", _D, whole(-5, 5, 4, 2, 3), axis=1),
    case("GatherElements", normal(3, 3), whole(0, 3, 2, 3)),
    case("GatherElements", normal(3, 3), whole(-3, 3, 3, 5, kind=np.int32), axis=-1),
    case("GatherND", _D, _TWO),
    case("GatherND", _D, whole(-3, 3, 2, 2, 3)),
    case("GatherND", _D, whole(-4, 4, 6, 1)),
    case("GatherND", _D, whole(-5, 5, 4, 2, 1), batch_dims=1),
    case("GatherND", _D, whole(-3, 3, 4, 5, 1), batch_dims=2),
    case("GatherND", normal(2, 3, 4, 2), whole(0, 3, 2, 5, 2), batch_dims=1),
    case("GatherND", whole(0, 9, 3, 3), whole(0, 3, 4, 2)),
    *(
        case(
            "ScatterElements",
            normal(3, 5),
            const(np.array([[1, 3], [0, -1]])),
            normal(2, 2),
            axis=1,
            reduction=r,
        )
        for r in ("none", "add", "mul", "max", "min")
    ),
    case(
        "ScatterElements",
        normal(3, 3),
        const(np.array([[1, 0, 2], [0, 2, 1]])),
        const(normal(2, 3)),
    ),
    *(
        case(
            "ScatterElements",
            normal(1, 5),
            const(np.array([[1, 1, 1, 0]])),
            normal(1, 4),
            axis=1,
            reduction=r,
        )
        for r in ("add", "mul", "max", "min")
    ),
    case("ScatterElements", whole(0, 9, 4), const([1, 1]), whole(0, 9, 2), reduction="add"),
    *(
        case("ScatterND", normal(8), _AT, normal(4), reduction=r)
        for r in ("none", "add", "mul", "max", "min")
    ),
    *(
        case(
            "ScatterND", normal(4, 2, 3), const(np.array([[0], [2]])), normal(2, 2, 3), reduction=r
        )
        for r in ("none", "add", "mul", "max", "min")
    ),
    case("ScatterND", normal(4, 5, 3), const(np.array([[[0, 1], [-1, 2]]])), normal(1, 2, 3)),
    case("ScatterND", normal(4, 5), const(np.array([[0, 1], [3, -1], [2, 2]])), normal(3)),
    case("ScatterND", normal(4, 5), const(np.array([[0], [0]])), normal(2, 5), reduction="add"),
    case("ScatterND", whole(0, 9, 4), const(np.array([[1]])), whole(0, 9, 1)),
    case("TopK", normal(3, 6), const([2]), outputs=2),
    case("TopK", normal(3, 6), const([3]), axis=0, largest=0, outputs=2),
    case("TopK", normal(3, 6, 2), np.array([4]), axis=1, outputs=2),
    case("TopK", np.array([[1, 3, 3, 0, 3, 1, 1]], np.float32), const([5]), outputs=2),
    case("TopK", np.array([[1, 3, 3, 0, 3, 1, 0]], np.float32), const([5]), largest=0, outputs=2),
    case("TopK", whole(0, 4, 12), const([7]), outputs=2),
    case("TopK", normal(3, 6), const([0]), outputs=2),
    *(
        case(
            op,
            np.array([[3, 1, 3, 1], [2, 2, 0, 0]], np.float32),
            axis=axis,
            keepdims=keep,
            select_last_index=last,
        )
        for op in ("ArgMax", "ArgMin")
        for axis in (0, -1)
        for keep in (0, 1)
        for last in (0, 1)
    ),
    case("ArgMax", normal(2, 3)),
    case("ArgMin", whole(0, 9, 3, 3, kind=np.int32), axis=1),
    *(
        case("CumSum", normal(2, 5), const(scalar(axis, np.int64)), exclusive=e, reverse=r)
        for axis in (1, -2)
        for e in (0, 1)
        for r in (0, 1)
    ),
    case("CumSum", whole(0, 9, 5, kind=np.int32), const(np.array([0], np.int32))),
    case("OneHot", whole(-4, 4, 3), const(scalar(4, np.int64)), const(floats(0, 1))),
    case("OneHot", whole(-9, 9, 2, 3), const(scalar(4, np.int64)), normal(2), axis=0),
    case(
        "OneHot",
        whole(0, 4, 2, 3),
        const(scalar(4, np.int64)),
        const(np.array([5, 7], np.int64)),
        axis=1,
    ),
    case("NonZero", np.array([[1, 0], [1, 1]], np.float32)),
    case("NonZero", whole(0, 2, 3, 4, 2, kind=np.bool_)),
    case("NonZero", scalar(3.0)),
    case("NonZero", scalar(0.0)),
    case("Compress", normal(3, 4), const(flags(1, 0, 1)), axis=0),
    case("Compress", normal(3, 4), flags(0, 1), axis=-1),
    case("Compress", normal(3, 4), const(flags(0, 1, 0, 0, 1))),
    case("ReverseSequence", normal(4, 3), const([4, 1, 2])),
    case("ReverseSequence", normal(3, 4, 2), const([4, 1, 2]), batch_axis=0, time_axis=1),
    case("Unique", np.array([2, 1, 1, 3, 4, 3], np.float32), outputs=4),
    case("Unique", np.array([2, 1, 1, 3, 4, 3], np.float32), outputs=4, sorted=0),
    case("Unique", np.array([[1, 0, 0], [1, 0, 0], [0, 0, 4]], np.float32), outputs=4, axis=0),
    case("Unique", np.array([[1, 0, 0, 1], [2, 0, 0, 2]], np.float32), outputs=2, axis=1, sorted=0),
    case("Unique", whole(0, 4, 3, 3)),
    case("Unique", normal(3, 2), axis=0, outputs=3),
]

_BOXES = const(
    np.array([[0.5, 0.5, 6.2, 7.1], [2, 1, 3, 2], [-2, -1, 4, 3], [5, 5, 12, 11]], np.float32)
)
_IMAGES = const([0, 1, 1, 0])
_SCORED = (uniform(0, 10, 2, 20, 4), uniform(0, 1, 2, 3, 20))
_LIMITS = (const([4]), const(floats(0.2)), const(floats(0.3)))
_DETECTION = [
    *(
        case(
            "RoiAlign",
            normal(2, 3, 8, 9),
            _BOXES,
            _IMAGES,
            output_height=2,
            output_width=3,
            sampling_ratio=s,
            mode=mode,
            coordinate_transformation_mode=c,
        )
        for s in (0, 2)
        for mode in ("avg", "max")
        for c in ("half_pixel", "output_half_pixel")
    ),
    case(
        "RoiAlign",
        normal(2, 3, 8, 9),
        uniform(0, 14, 5, 4),
        const([0, 0, 1, 1, 0]),
        spatial_scale=0.5,
        output_height=2,
        output_width=2,
        sampling_ratio=1,
    ),
    case("RoiAlign", normal(1, 2, 4, 4), normal(0, 4), np.zeros(0, np.int64)),
    case(
        "MaxRoiPool",
        normal(2, 3, 8, 9),
        const(
            np.array(
                [[0, 0, 0, 6, 7], [1, 2, 1, 3, 2], [1, -2, -1, 4, 3], [0, 5, 5, 12, 11]], np.float32
            )
        ),
        pooled_shape=[2, 3],
    ),
    case(
        "MaxRoiPool",
        normal(1, 3, 8, 9),
        const(np.array([[0, 1, 3, 13, 15]], np.float32)),
        pooled_shape=[3, 2],
        spatial_scale=0.5,
    ),
    case("NonMaxSuppression", *_SCORED, *_LIMITS),
    case("NonMaxSuppression", *_SCORED, *_LIMITS, center_point_box=1),
    case("NonMaxSuppression", *_SCORED, *_LIMITS[:2]),
    case("NonMaxSuppression", *_SCORED, const([3])),
    case("NonMaxSuppression", *_SCORED, np.array([4]), floats(0.4), floats(0.9)),
    case("NonMaxSuppression", *_SCORED, const([4]), const(floats(0.2)), const(floats(2.0))),
    case("NonMaxSuppression", *_SCORED),
    case(
        "NonMaxSuppression",
        np.array([[[0, 0, 1, 1]] * 3 + [[2, 2, 2, 2]] * 2], np.float32),
        np.array([[[0.5, 0.9, 0.9, 0.3, 0.3]]], np.float32),
        const([9]),
        const(floats(0.5)),
    ),
]


def _cell(gates: int, directions: int, size: int = 4) -> tuple[object, ...]:
    """x (time, batch, 3) and the weights of a cell."""
    return (
        normal(5, 2, 3),
        const(normal(directions, gates * size, 3, scale=0.5)),
        const(normal(directions, gates * size, size, scale=0.5)),
        const(normal(directions, 2 * gates * size, scale=0.5)),
    )


_WAYS = (("forward", 1), ("reverse", 1), ("bidirectional", 2))
_LENGTHS = const(np.array([5, 3], np.int32))
_RECURRENT = [
    *(
        case(op, *_cell(gates, count), hidden_size=4, direction=way, outputs=outputs)
        for op, gates, outputs in (("LSTM", 4, 3), ("GRU", 3, 2), ("RNN", 1, 2))
        for way, count in _WAYS
    ),
    *(
        case(
            op,
            *_cell(gates, count),
            _LENGTHS,
            normal(count, 2, 4),
            hidden_size=4,
            direction=way,
            outputs=2,
        )
        for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1))
        for way, count in _WAYS
    ),
    *(
        case(op, *_cell(gates, 1)[:3], hidden_size=4, clip=0.4, outputs=2)
        for op, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1))
    ),
    case(
        "LSTM",
        *_cell(4, 2),
        _LENGTHS,
        normal(2, 2, 4),
        normal(2, 2, 4),
        const(normal(2, 12)),
        hidden_size=4,
        direction="bidirectional",
        outputs=3,
    ),
    case(
        "LSTM",
        *_cell(4, 1),
        None,
        None,
        normal(1, 2, 4),
        const(normal(1, 12)),
        hidden_size=4,
        input_forget=1,
        outputs=3,
    ),
    case(
        "LSTM",
        *_cell(4, 1),
        hidden_size=4,
        activations=["HardSigmoid", "Relu", "Softsign"],
        activation_alpha=[0.3],
        activation_beta=[0.4],
        outputs=3,
    ),
    case("LSTM", *_cell(4, 1), hidden_size=4, layout=1, outputs=3),
    case(
        "GRU",
        *_cell(3, 2),
        None,
        normal(2, 2, 4),
        hidden_size=4,
        direction="bidirectional",
        linear_before_reset=1,
        outputs=2,
    ),
    case(
        "GRU",
        *_cell(3, 1),
        hidden_size=4,
        activations=["HardSigmoid", "LeakyRelu"],
        activation_alpha=[0.3, 0.2],
        activation_beta=[0.4],
        outputs=2,
    ),
    case("GRU", *_cell(3, 1), hidden_size=4, linear_before_reset=1, clip=0.5, outputs=2),
    *(
        case("RNN", *_cell(1, 1), hidden_size=4, activations=[name], outputs=2)
        for name in ("Relu", "Sigmoid", "Elu", "LeakyRelu", "Softsign", "Softplus", "HardSigmoid")
    ),
    case(
        "RNN", *_cell(1, 1), hidden_size=4, activations=["ThresholdedRelu"], activation_alpha=[0.2]
    ),
    case(
        "RNN",
        *_cell(1, 1),
        hidden_size=4,
        activations=["Affine"],
        activation_alpha=[0.7],
        activation_beta=[0.1],
    ),
    case(
        "RNN",
        *_cell(1, 1),
        hidden_size=4,
        activations=["ScaledTanh"],
        activation_alpha=[0.7],
        activation_beta=[1.1],
    ),
]

CASES = [*_SHAPES, *_KINDS, *_INDEXING, *_DETECTION, *_RECURRENT]
