"""Distinct axes: lengths counted by group, and cuts that work in blocks."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import graph_from

from graphopt.channels import removal
from graphopt.channels.groups import KEPT_UNIT, Channels

FLATTENED = """(float[1,3,4,4] x) => (float[1,5] y)
    <float[6,3,3,3] w, float[6,6,3,3] v, float[5,24] f>
    { a = Conv (x, w)  r = Relu (a)  b = Conv <pads = [1,1,1,1]> (r, v)  s = Add (a, b)
      t = Flatten (s)  y = Gemm <transB = 1> (t, f) }"""


def test_lengths_are_counts_of_the_units_left() -> None:
    channels = Channels(graph_from(FLATTENED))
    alive = np.ones(channels.unit_count, bool)
    alive[[1, 4]] = False
    left = np.append(alive, True)  # KEPT_UNIT is the last
    assert len({len(a.units) for a in channels.axes.axes}) > 1
    for axis, length in zip(channels.axes.axes, channels.axes.lengths(alive), strict=True):
        assert length == left[axis.units].sum()


def test_an_axis_knows_its_groups_and_what_stays() -> None:
    channels = Channels(graph_from(FLATTENED))
    for axis in channels.axes.axes:
        counted = sum(times * channels.groups[g].size for g, times in axis.groups)
        assert counted + axis.fixed == len(axis.units)
        assert axis.fixed == (axis.units == KEPT_UNIT).sum()


def test_labels_of_no_axis_are_an_error() -> None:
    channels = Channels(graph_from(FLATTENED))
    with pytest.raises(KeyError):
        channels.axes.of(np.array([1, 2]))


@pytest.mark.parametrize("order", ["C", "F"])
def test_cuts_in_blocks_are_the_cuts(order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "_BLOCK_BYTES", 200)
    rng = np.random.default_rng(0)
    values = np.asarray(rng.random((11, 7, 3)), order=order)
    masks = [rng.random(d) < 0.5 for d in values.shape]
    for chosen in ([0, 1], [0, 2], [1, 2], [0, 1, 2], [1], []):
        cuts = [(a, np.flatnonzero(masks[a])) for a in chosen]
        kept = [dict(cuts).get(a, np.arange(len(m))) for a, m in enumerate(masks)]
        found = removal._sliced(values, cuts)
        np.testing.assert_array_equal(found, values[np.ix_(*kept)])
        assert found.flags.c_contiguous
