"""Cases of operators that look through windows: convolutions, poolings, resizing, padding."""

from __future__ import annotations

import itertools

import numpy as np
from operator_cases import case, const, floats, normal, uniform, whole

_W = const(normal(6, 4, 3, 3))
_B = const(normal(6))
_CONV = [
    case("Conv", normal(2, 4, 7, 6), _W),
    case("Conv", normal(2, 4, 7, 6), _W, _B, pads=[1, 1, 1, 1], strides=[2, 1]),
    case("Conv", normal(2, 4, 7, 6), _W, _B, pads=[0, 2, 1, 0]),
    case("Conv", normal(2, 4, 9, 8), _W, _B, dilations=[2, 3], pads=[2, 3, 2, 3]),
    case("Conv", normal(2, 4, 7, 6), const(normal(6, 2, 3, 3)), _B, group=2),
    case(
        "Conv",
        normal(2, 4, 7, 6),
        const(normal(4, 1, 3, 3)),
        group=4,
        kernel_shape=[3, 3],
        pads=[1] * 4,
    ),
    case("Conv", normal(2, 4, 7, 6), normal(6, 4, 3, 3), normal(6)),
    case("Conv", normal(2, 4, 7, 6), _W, auto_pad="VALID"),
    case(
        "Conv", normal(2, 4, 9), const(normal(3, 4, 3)), const(normal(3)), pads=[1, 1], strides=[2]
    ),
    case("Conv", normal(1, 2, 4, 5, 6), const(normal(3, 2, 2, 3, 3)), pads=[0, 1, 1, 1, 1, 1]),
    *(
        case("Conv", normal(1, 4, 8, 7), _W, auto_pad=auto, strides=strides)
        for auto in ("SAME_UPPER", "SAME_LOWER")
        for strides in ([1, 1], [2, 2], [3, 2])
    ),
    case("Conv", normal(1, 4, 8, 7), const(normal(6, 4, 2, 4)), auto_pad="SAME_UPPER"),
    case("Conv", normal(1, 4, 8, 7), const(normal(6, 4, 2, 4)), auto_pad="SAME_LOWER"),
    case("DeformConv", normal(1, 2, 5, 5), const(normal(3, 2, 2, 2)), normal(1, 8, 4, 4), opset=19),
    case(
        "DeformConv",
        normal(2, 2, 5, 6),
        const(normal(3, 2, 3, 3)),
        normal(2, 18, 3, 3),
        const(normal(3)),
        normal(2, 9, 3, 3),
        strides=[2, 2],
        pads=[1, 1, 1, 0],
        opset=19,
    ),
    case(
        "DeformConv",
        normal(1, 4, 6, 6),
        const(normal(4, 2, 3, 3)),
        normal(1, 36, 4, 4, scale=2),
        None,
        normal(1, 18, 4, 4),
        group=2,
        offset_group=2,
        dilations=[2, 2],
        pads=[1, 1, 1, 1],
        opset=19,
    ),
]

_V = const(normal(4, 3, 3, 3))
_TRANSPOSED = [
    case("ConvTranspose", normal(2, 4, 4, 3), _V),
    case(
        "ConvTranspose",
        normal(2, 4, 4, 3),
        _V,
        const(normal(3)),
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        output_padding=[1, 1],
    ),
    case(
        "ConvTranspose", normal(2, 4, 4, 3), _V, const(normal(3)), strides=[2, 3], pads=[0, 1, 1, 0]
    ),
    case(
        "ConvTranspose",
        normal(2, 4, 4, 3),
        const(normal(4, 2, 3, 3)),
        const(normal(4)),
        group=2,
        dilations=[2, 1],
    ),
    case("ConvTranspose", normal(2, 4, 5), const(normal(4, 3, 4)), strides=[2], pads=[1, 1]),
    case(
        "ConvTranspose",
        normal(1, 2, 3, 3, 2),
        const(normal(2, 3, 2, 3, 2)),
        strides=[2, 1, 2],
        pads=[0, 1, 0, 0, 1, 1],
    ),
    case(
        "ConvTranspose",
        normal(2, 4, 4, 3),
        _V,
        const(normal(3)),
        strides=[2, 2],
        output_shape=[8, 6],
    ),
    case(
        "ConvTranspose",
        normal(2, 4, 4, 3),
        _V,
        const(normal(3)),
        strides=[2, 2],
        output_shape=[8, 7],
        auto_pad="SAME_UPPER",
    ),
    case(
        "ConvTranspose",
        normal(2, 4, 4, 3),
        _V,
        const(normal(3)),
        strides=[2, 2],
        output_shape=[8, 7],
        auto_pad="SAME_LOWER",
    ),
    case(
        "ConvTranspose",
        normal(2, 4, 4, 3),
        _V,
        const(normal(3)),
        strides=[3, 3],
        output_shape=[12, 9],
        output_padding=[1, 1],
    ),
    *(
        case(
            "ConvTranspose",
            normal(1, 4, 4, 3),
            const(normal(4, 3, 4, 3)),
            strides=strides,
            auto_pad=auto,
        )
        for auto in ("SAME_UPPER", "SAME_LOWER", "VALID")
        for strides in ([2, 2], [1, 3])
    ),
]

_POOL = (
    {"kernel_shape": [3, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1, 1, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 0, 1], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "pads": [2, 2, 2, 2]},
    {"kernel_shape": [2, 3], "dilations": [2, 2], "strides": [2, 1]},
    {
        "kernel_shape": [2, 2],
        "dilations": [2, 2],
        "strides": [2, 2],
        "ceil_mode": 1,
        "pads": [1, 1, 0, 0],
    },
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [3, 2], "strides": [3, 1], "auto_pad": "VALID"},
)
_LINE = {"kernel_shape": [3], "strides": [2], "pads": [1, 1]}
_CUBE = {"kernel_shape": [2, 3, 2], "pads": [0, 1, 1, 1, 1, 0]}
_IMAGE = normal(2, 3, 8, 7)
_POOLING = [
    *(case("MaxPool", _IMAGE, **how) for how in _POOL),
    *(case("MaxPool", _IMAGE, outputs=2, **how) for how in _POOL),
    *(case("MaxPool", _IMAGE, outputs=2, storage_order=1, **how) for how in _POOL[:3]),
    *(case("MaxPool", normal(2, 3, 9), outputs=n, **_LINE) for n in (1, 2)),
    *(case("MaxPool", normal(2, 2, 5, 4, 6), outputs=n, **_CUBE) for n in (1, 2)),
    case("MaxPool", normal(1, 2, 5, 4, 6), outputs=2, storage_order=1, **_CUBE),
    case("MaxPool", whole(0, 255, 2, 3, 8, 7, kind=np.uint8), **_POOL[1]),
    case("MaxPool", whole(-99, 99, 2, 3, 8, 7, kind=np.int8), **_POOL[2]),
    *(
        case("AveragePool", _IMAGE, count_include_pad=count, **how)
        for how in _POOL
        for count in (0, 1)
    ),
    *(case("AveragePool", normal(2, 3, 9), count_include_pad=n, **_LINE) for n in (0, 1)),
    *(case("AveragePool", normal(2, 2, 5, 4, 6), count_include_pad=n, **_CUBE) for n in (0, 1)),
    *(case("LpPool", _IMAGE, **how) for how in _POOL),
    case("LpPool", _IMAGE, p=1, **_POOL[1]),
    case("LpPool", _IMAGE, p=3, **_POOL[1]),
    *(
        case(op, normal(*shape))
        for op in ("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
        for shape in ((2, 3, 4, 5), (2, 3, 4), (2, 2, 2, 3, 4))
    ),
    case("GlobalLpPool", _IMAGE, p=1),
    case("GlobalLpPool", _IMAGE, p=3),
    case(
        "MaxUnpool",
        normal(1, 1, 2, 2),
        const(np.array([[[[0, 3], [8, 10]]]])),
        kernel_shape=[2, 2],
        strides=[2, 2],
    ),
    case(
        "MaxUnpool",
        normal(1, 2, 2),
        const(np.array([[[0, 3], [5, 6]]])),
        kernel_shape=[2],
        strides=[2],
    ),
    case(
        "MaxUnpool",
        normal(1, 1, 2, 2),
        const(np.array([[[[0, 3], [10, 12]]]])),
        const([1, 1, 5, 5]),
        kernel_shape=[2, 2],
        strides=[2, 2],
    ),
    case("Col2Im", normal(2, 2 * 6, 12), const([5, 5]), const([2, 3])),
    case(
        "Col2Im", normal(1, 6, 9), const([6, 6]), const([2, 3]), strides=[2, 2], pads=[0, 1, 0, 0]
    ),
    case(
        "Col2Im",
        normal(1, 4, 16),
        const([5, 5]),
        const([2, 2]),
        dilations=[2, 2],
        pads=[0, 1, 1, 0],
    ),
    case("Col2Im", normal(1, 2 * 3, 4), const([6]), const([3])),
    case("Col2Im", normal(1, 8, 12), const([3, 4, 3]), const([2, 2, 2])),
]

# Of the last, whole positions depend on how ONNX Runtime was compiled: not for floor and ceil.
_COORDINATES = (
    "half_pixel",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "half_pixel_symmetric",
)
_ROUND = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
_NONE = None
_SMALL = normal(1, 2, 4, 5)
_UP, _DOWN, _ODD = floats(1, 1, 2, 2), floats(1, 1, 0.5, 0.6), floats(1, 1, 1.7, 2.3)


def _how(coordinates: str, **more: object) -> dict[str, object]:
    return {"coordinate_transformation_mode": coordinates, **more}


_RESIZE = [
    *(
        case("Resize", _SMALL, _NONE, const(scales), mode="nearest", **_how(c, nearest_mode=r))
        for c, r, scales in itertools.product(_COORDINATES[:4], _ROUND, (_UP, _DOWN, _ODD))
    ),
    *(
        case("Resize", _SMALL, _NONE, _NONE, const(sizes), mode=mode, **_how(c))
        for c, mode in itertools.product(_COORDINATES, ("nearest", "linear", "cubic"))
        for sizes in ([1, 2, 8, 10], [1, 2, 3, 4], [1, 2, 9, 3], [1, 2, 4, 1])
    ),
    *(
        case("Resize", _SMALL, _NONE, const(scales), mode=mode, **_how(c))
        for c, mode, scales in itertools.product(
            _COORDINATES, ("linear", "cubic"), (_UP, _DOWN, _ODD)
        )
    ),
    *(
        case("Resize", _SMALL, _NONE, const(s), mode="cubic", cubic_coeff_a=-0.5, exclude_outside=1)
        for s in (_UP, _DOWN)
    ),
    *(
        case("Resize", normal(1, 2, 9, 8), _NONE, const(s), mode=mode, antialias=1, rtol=3e-5)
        for s in (_UP, floats(1, 1, 0.5, 0.5), floats(1, 1, 0.4, 0.3))
        for mode in ("linear", "cubic")
    ),
    *(
        case(
            "Resize",
            normal(1, 2, 6, 4),
            _NONE,
            _NONE,
            const([5, 7]),
            axes=[2, 3],
            keep_aspect_ratio_policy=policy,
        )
        for policy in ("not_larger", "not_smaller", "stretch")
    ),
    case("Resize", normal(1, 2, 6, 4), _NONE, const(floats(2.0, 1.5)), axes=[3, 2], mode="linear"),
    case(
        "Resize", normal(1, 2, 6, 4), _NONE, const(floats(2.0, 1.5)), axes=[-1, -2], mode="linear"
    ),
    case("Resize", normal(1, 2, 6, 4), _NONE, _NONE, np.array([1, 2, 9, 9]), mode="linear"),
    case("Resize", normal(1, 2, 6, 4), _NONE, floats(1, 1, 2, 3)),
    case("Resize", normal(1, 2, 6), _NONE, const(floats(1, 1, 2)), mode="linear"),
    case("Resize", normal(1, 2, 6), _NONE, const(floats(1, 1, 2))),
    case("Resize", normal(1, 2, 3, 4, 5), _NONE, const(floats(1, 1, 2, 2, 2)), mode="linear"),
    case("Resize", normal(1, 2, 3, 4, 5), _NONE, const(floats(1, 1, 2, 1, 3))),
    *(
        case(
            "Resize", normal(1, 1, 99, 99), _NONE, _NONE, const([1, 1, n, n]), mode=mode, **_how(c)
        )
        for n in (50, 100, 198, 197, 233)
        for mode in ("linear", "cubic")
        for c in ("half_pixel", "align_corners")
    ),
    case("Resize", normal(5, 4), _NONE, const(floats(2, 2)), mode="linear"),
    case("Resize", normal(1, 2, 6, 4), _NONE, const(floats(1, 1, 1, 1))),
    case(
        "Resize",
        normal(1, 2, 6, 4),
        const(floats(0, 0, 0.2, 0.3, 1, 1, 0.7, 0.9)),
        _NONE,
        const([1, 2, 5, 5]),
        mode="linear",
        coordinate_transformation_mode="tf_crop_and_resize",
    ),
    case(
        "Resize",
        normal(1, 2, 6, 4),
        const(floats(0, 0, -0.2, 0.3, 1, 1, 0.7, 1.4)),
        _NONE,
        const([1, 2, 5, 5]),
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=7.5,
    ),
]

_PADS = [
    case("Pad", normal(2, 3, 4), const([0, 1, 2, 1, 0, 3])),
    case("Pad", normal(2, 3, 4), const([0, 1, 2, 1, 0, 3]), const(np.array(1.5, np.float32))),
    case("Pad", normal(2, 3, 4), const([0, -1, 2, 0, 0, -3])),
    case("Pad", normal(2, 3, 4), np.array([0, 1, 2, 1, 0, 3]), np.array(1.5, np.float32)),
    case("Pad", normal(2, 3, 4), const([2, 1]), None, const([-1])),
    case("Pad", normal(2, 3, 4), const([2, 1, 0, 1]), None, const([2, 0])),
    *(
        case("Pad", normal(2, 4, 5), const([0, 1, 2, 0, 3, 4]), mode=m)
        for m in ("reflect", "edge", "wrap")
    ),
    *(
        case("Pad", normal(2, 4, 5), const([0, -1, 2, 0, 2, -1]), mode=m)
        for m in ("reflect", "edge")
    ),
    case("Pad", whole(0, 9, 2, 3), const([0, 1, 1, 0]), const(np.array(5, np.int64))),
    case("Pad", whole(0, 2, 2, 3, kind=np.bool_), const([0, 1, 1, 0])),
]

_GRIDS = [
    *(
        case(
            "GridSample",
            normal(2, 3, 4, 5),
            uniform(-1.3, 1.3, 2, 3, 4, 2),
            mode=mode,
            padding_mode=p,
            align_corners=a,
        )
        for mode in ("linear", "nearest", "cubic")
        for p in ("zeros", "border", "reflection")
        for a in (0, 1)
    ),
    case("GridSample", normal(2, 3, 4, 5), uniform(-1, 1, 2, 3, 4, 2), mode="bilinear", opset=16),
    case("GridSample", normal(1, 2, 3, 4, 5), uniform(-1.2, 1.2, 1, 2, 3, 4, 3)),
    *(case("AffineGrid", normal(2, 2, 3), const([2, 3, 4, 5]), align_corners=a) for a in (0, 1)),
    *(case("AffineGrid", normal(2, 3, 4), const([2, 3, 2, 4, 5]), align_corners=a) for a in (0, 1)),
]

CASES = [*_CONV, *_TRANSPOSED, *_POOLING, *_RESIZE, *_PADS, *_GRIDS]
