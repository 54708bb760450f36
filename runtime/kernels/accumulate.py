"""The innermost product of floats: a register tile of columns by channel blocks."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.runtime.kernels.simd import (
    Array,
    Index,
    Machine,
    Registers,
    lane,
    let,
    loop,
    repeat,
)

# Channels of a block that are written out where single values are loaded.
_UNROLLED = 4


def accumulate(
    machine: Machine,
    given: tuple[Array, Index, Sequence[int]],
    weight: tuple[Array, Index],
    sums: Registers,
    pitch: int | None = None,
) -> None:
    """sums[k, v] += sum over the lanes i of a channel block of given[k, i] * weight[i, v].

    Args:
        machine: the processor.
        given: an array, a place in it, and how far from there the block of each column lies.
        weight: an array, and where in it [lane of the block][vectors][lanes] begins.
        sums: [columns][vectors].
        pitch: how far apart the weights of two lanes of the block lie; if not given, close together.
    """
    values, at, offsets = given
    weights, start = weight
    lanes, vectors = machine.lanes, len(sums) // len(offsets)
    pitch = vectors * lanes if pitch is None else pitch
    if machine.lane_products:
        columns = [let(values.vector(at + offset, lanes)) for offset in offsets]
        for i in range(lanes):
            for v in range(vectors):
                w = let(weights.vector(start + i * pitch + v * lanes, lanes))
                for k, column in enumerate(columns):
                    sums[k * vectors + v] += repeat(lane(column, i), lanes) * w
        return
    with loop(0, lanes // _UNROLLED) as quarter:
        for i in range(_UNROLLED):
            channel = quarter * _UNROLLED + i
            row = start + channel * pitch
            ws = [let(weights.vector(row + v * lanes, lanes)) for v in range(vectors)]
            for k, offset in enumerate(offsets):
                value = let(repeat(values.scalar(at + channel + offset), lanes))
                for v in range(vectors):
                    sums[k * vectors + v] += value * ws[v]
