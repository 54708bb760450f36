"""Cases with parameters drawn by hypothesis, for the operators with the most of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from operator_cases import Case, case, const, normal

_AUTO = st.sampled_from(["NOTSET", "NOTSET", "NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"])


def _ints(draw: Any, low: int, high: int, count: int) -> list[int]:
    return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))


def _windows(draw: Any, rank: int) -> dict[str, Any]:
    """Kernel, strides, dilations and padding of a window."""
    kernel = _ints(draw, 1, 3, rank)
    how = {"kernel_shape": kernel, "auto_pad": draw(_AUTO), "strides": _ints(draw, 1, 3, rank)}
    if how["auto_pad"] == "NOTSET":
        how["pads"] = [draw(st.integers(0, k - 1)) for k in kernel * 2]
        how["dilations"] = _ints(draw, 1, 2, rank)
    return how


def _image(draw: Any, channels: int, rank: int) -> Any:
    return normal(draw(st.integers(1, 2)), channels, *_ints(draw, 5, 9, rank))


@st.composite
def convs(draw: Any) -> Case:
    rank, group = draw(st.integers(1, 3)), draw(st.sampled_from([1, 1, 2]))
    how = _windows(draw, rank)
    weight = const(normal(2 * group, 4 // group, *how["kernel_shape"]))
    bias = draw(st.sampled_from([None, const(normal(2 * group))]))
    return case("Conv", _image(draw, 4, rank), weight, bias, group=group, **how)


@st.composite
def transposed_convs(draw: Any) -> Case:
    rank, group = draw(st.integers(1, 2)), draw(st.sampled_from([1, 1, 2]))
    how = _windows(draw, rank)
    if draw(st.booleans()):
        how["output_padding"] = [draw(st.integers(0, s - 1)) for s in how["strides"]]
    image = _image(draw, 4, rank)
    if how["auto_pad"] != "VALID" and draw(st.booleans()):
        sizes = zip(image.shape[2:], how["strides"], strict=True)
        how["output_shape"] = [n * step + draw(st.integers(-1, 3)) for n, step in sizes]
        how.pop("pads", None)
    weight = const(normal(4, 3, *how["kernel_shape"]))
    bias = draw(st.sampled_from([None, const(normal(3 * group))]))
    return case("ConvTranspose", image, weight, bias, group=group, **how)


@st.composite
def pools(draw: Any) -> Case:
    rank = draw(st.integers(1, 3))
    how = _windows(draw, rank)
    op = draw(st.sampled_from(["MaxPool", "AveragePool", "LpPool"]))
    if how["auto_pad"] == "NOTSET":
        how["ceil_mode"] = draw(st.integers(0, 1))
    if op == "AveragePool":
        how["count_include_pad"] = draw(st.integers(0, 1))
    outputs = draw(st.integers(1, 2)) if op == "MaxPool" else 1
    return case(op, _image(draw, 2, rank), outputs=outputs, **how)


@st.composite
def resizes(draw: Any) -> Case:
    rank = draw(st.integers(1, 2))
    how = {
        "mode": draw(
            st.sampled_from(["nearest", "linear", "cubic"] if rank == 2 else ["nearest", "linear"])
        ),
        "coordinate_transformation_mode": draw(
            st.sampled_from(["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
        ),
    }
    if how["mode"] == "nearest":
        rounds = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
        how["nearest_mode"] = draw(st.sampled_from(rounds))
    image = _image(draw, 2, rank)
    if draw(st.booleans()):
        sizes = [*image.shape[:2], *_ints(draw, 1, 12, rank)]
        return case("Resize", image, None, None, const(sizes), **how)
    scales = draw(st.lists(st.integers(4, 30), min_size=rank, max_size=rank))
    return case(
        "Resize", image, None, const(np.array([1, 1, *(s / 10 for s in scales)], np.float32)), **how
    )


@st.composite
def slices(draw: Any) -> Case:
    axes = draw(st.permutations([0, 1, -1]))[: draw(st.integers(1, 3))]
    count = len(axes)
    steps = draw(st.lists(st.sampled_from([-3, -2, -1, 1, 2, 3]), min_size=count, max_size=count))
    starts, ends = _ints(draw, -8, 8, count), _ints(draw, -8, 8, count)
    rows = [starts, ends, axes, steps]
    fed = draw(st.booleans())
    return case(
        "Slice", normal(4, 5, 3), *(np.array(r, np.int64) if fed else const(r) for r in rows)
    )


@st.composite
def pads(draw: Any) -> Case:
    mode = draw(st.sampled_from(["constant", "constant", "reflect", "edge", "wrap"]))
    low = -2 if mode == "constant" else 0
    return case("Pad", normal(3, 4, 3), const(_ints(draw, low, 2, 6)), mode=mode)


@st.composite
def gathers(draw: Any) -> Case:
    shape = tuple(_ints(draw, 1, 4, draw(st.integers(1, 3))))
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    size = shape[axis]
    wanted = _ints(draw, 1, 3, draw(st.integers(0, 2)))
    at = np.array(_ints(draw, -size, size - 1, int(np.prod(wanted))), np.int64).reshape(wanted)
    return case("Gather", normal(*shape), const(at) if draw(st.booleans()) else at, axis=axis)


@st.composite
def splits(draw: Any) -> Case:
    axis = draw(st.integers(-2, 1))
    if draw(st.booleans()):
        count = draw(st.integers(1, 4))
        shape = [3, 3]
        shape[axis] = draw(st.integers(count, 9))
        return case("Split", normal(*shape), axis=axis, num_outputs=count, outputs=count)
    parts = draw(st.lists(st.integers(0, 3), min_size=1, max_size=4))
    shape = [3, 3]
    shape[axis] = sum(parts)
    return case("Split", normal(*shape), const(parts), axis=axis, outputs=len(parts))


@st.composite
def reductions(draw: Any) -> Case:
    ops = ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    rank = draw(st.integers(1, 4))
    axes = draw(st.lists(st.integers(0, rank - 1), unique=True, max_size=rank))
    axes = [a - rank if draw(st.booleans()) else a for a in axes]
    given = draw(st.sampled_from([None, const(axes), np.array(axes, np.int64)]))
    how = {"keepdims": draw(st.integers(0, 1)), "noop_with_empty_axes": draw(st.integers(0, 1))}
    return case(
        f"Reduce{draw(st.sampled_from(ops))}", normal(*_ints(draw, 1, 4, rank)), given, **how
    )


DRAWN = {
    "conv": convs(),
    "conv_transpose": transposed_convs(),
    "gather": gathers(),
    "pad": pads(),
    "pool": pools(),
    "reduce": reductions(),
    "resize": resizes(),
    "slice": slices(),
    "split": splits(),
}
