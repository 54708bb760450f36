"""Which anchors in which cells answer for which boxes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphopt.tasks.matching import Matches, Matching, Scale
from graphopt.tasks.truth import Truth, first_of_each

SMALL, WIDE, LARGE = (16.0, 16.0), (32.0, 16.0), (48.0, 48.0)


def truth(*boxes: tuple[float, ...], image: int = 0) -> Truth:
    rows = torch.full((2, len(boxes), 5), -1.0)
    rows[image] = torch.tensor(boxes)
    return Truth.of(rows, 9, torch.zeros(1))


def scales(scale_xy: float = 1.0) -> list[Scale]:
    """Two anchors in 4 x 8 cells of 16 pixels, one in 2 x 4 of 32."""
    return [
        Scale(torch.tensor([SMALL, WIDE]), scale_xy, (4, 8), torch.tensor([16.0, 16.0])),
        Scale(torch.tensor([LARGE]), scale_xy, (2, 4), torch.tensor([32.0, 32.0])),
    ]


def places(found: Matches) -> list[tuple[int, ...]]:
    columns = (found.image, found.anchor, found.row, found.column, found.box)
    return [tuple(int(v) for v in row) for row in torch.stack(columns, 1)]


def around(x: float, y: float, w: float, h: float, kind: float = 0.0) -> tuple[float, ...]:
    return (kind, x - w / 2, y - h / 2, x + w / 2, y + h / 2)


def test_every_anchor_above_the_threshold() -> None:
    # IoU by size of 20 x 16: 256/320 with small, 320/512 with wide, 320/2304 with large
    fine, coarse = Matching(threshold=0.5).of(truth(around(100, 40, 20, 16), image=1), scales())
    assert places(fine) == [(1, 0, 2, 6, 0), (1, 1, 2, 6, 0)]
    assert places(coarse) == []
    fine, _ = Matching(threshold=0.7).of(truth(around(100, 40, 20, 16)), scales())
    assert places(fine) == [(0, 0, 2, 6, 0)]
    _, coarse = Matching(threshold=0.13).of(truth(around(100, 40, 20, 16)), scales())
    assert places(coarse) == [(0, 0, 1, 3, 0)]


@pytest.mark.parametrize("by", ["iou", "shape"])
def test_the_best_anchor_always(by: str) -> None:
    fine, coarse = Matching(by, threshold=0.9, ratio=1.01).of(
        truth(around(40, 40, 128, 60)), scales()
    )
    assert (places(fine), places(coarse)) == ([], [(0, 0, 1, 1, 0)])


def test_the_rule_of_shapes() -> None:
    # 40 x 12 against 16 x 16: 2.5; 32 x 16: 4/3; 48 x 48: 4
    box = truth(around(40, 40, 40, 12))
    found = [places(m) for m in Matching("shape", ratio=2.4).of(box, scales())]
    assert found == [[(0, 1, 2, 2, 0)], []]
    found = [places(m) for m in Matching("shape", ratio=2.6).of(box, scales())]
    assert found == [[(0, 0, 2, 2, 0), (0, 1, 2, 2, 0)], []]
    found = [places(m) for m in Matching("shape", ratio=4.1).of(box, scales())]
    assert len(found[1]) == 1


@pytest.mark.parametrize(
    ("x", "y", "scale_xy", "cells"),
    [
        (36, 36, 2.0, {(2, 2), (1, 2), (2, 1)}),  # row, column; a quarter into the cell
        (44, 44, 2.0, {(2, 2), (3, 2), (2, 3)}),
        (36, 44, 2.0, {(2, 2), (3, 2), (2, 1)}),
        (36, 36, 1.0, {(2, 2)}),
        (32, 32, 1.0, {(2, 2)}),  # on its edge, which no finite output reaches
        (33, 36, 1.2, {(2, 2), (2, 1)}),  # a sixteenth into the cell, reached from a tenth
        (4, 60, 2.0, {(3, 0)}),  # no cells beside the map
        (124, 4, 2.0, {(0, 7)}),
    ],
)
def test_neighbours_from_which_the_centre_is_reached(
    x: float, y: float, scale_xy: float, cells: set[tuple[int, int]]
) -> None:
    fine, _ = Matching("shape", ratio=1.5).of(truth(around(x, y, 16, 16)), scales(scale_xy))
    assert {(r, c) for _, _, r, c, _ in places(fine)} == cells
    fine, _ = Matching("iou").of(truth(around(x, y, 16, 16)), scales(scale_xy))
    assert {(r, c) for _, _, r, c, _ in places(fine)} == {(int(y // 16), int(x // 16))}


def test_centres_on_the_edge_are_in_the_last_cell() -> None:
    fine, _ = Matching(threshold=0.9).of(truth(around(128, 64, 16, 16)), scales())
    assert places(fine) == [(0, 0, 3, 7, 0)]


def test_a_place_answers_for_the_box_it_is_best_for() -> None:
    # both want (small, cell 2 2); the second fits better, though the first comes first
    both = truth(around(40, 40, 20, 18), around(40, 40, 16, 17))
    fine, _ = Matching(threshold=0.5).of(both, scales())
    assert (0, 0, 2, 2, 1) in places(fine)
    assert len({p[:4] for p in places(fine)}) == len(fine.box)
    # 24 x 16 is wide's (0.75) before small's (0.67); 16 x 30 is small's best (0.53)
    both = truth(around(40, 40, 24, 16), around(40, 40, 16, 30))
    fine, _ = Matching(threshold=0.5).of(both, scales())
    assert places(fine)[0] == (0, 0, 2, 2, 1)
    assert places(fine)[1] == (0, 1, 2, 2, 0)


def test_first_of_each() -> None:
    group = torch.tensor([3, 1, 3, 1, 2])
    rank = torch.tensor([0.5, 0.2, 0.9, 0.2, 0.0])
    assert first_of_each(group, rank).tolist() == [1, 4, 2]
    empty = torch.zeros(0, dtype=torch.long)
    assert first_of_each(empty, empty).tolist() == []


# --- truth ----------------------------------------------------------------------------------------


def test_what_fills_up_and_what_has_no_size_is_left_out() -> None:
    rows = torch.tensor(
        [
            [[-1.0, 0, 0, 0, 0], [2, 1, 1, 5, 5], [1, 3, 3, 3, 9]],
            [[0, 1, 2, 3, 4], [-1, 9, 9, 9, 9], [1, 5, 6, 7, 8]],
        ]
    )
    found = Truth.of(rows, 3, torch.zeros(1, dtype=torch.float64))
    assert found.image.tolist() == [0, 1, 1]
    assert found.kind.tolist() == [2, 0, 1]
    assert found.boxes.dtype == torch.float64
    first, second = found.padded.tolist()
    assert first == [[1, 1, 5, 5], [0, 0, 0, 0]]
    assert second == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize("rows", [torch.zeros(2, 0, 5), torch.full((2, 3, 5), -1.0)])
def test_nothing_labelled(rows: Tensor) -> None:
    found = Truth.of(rows, 3, torch.zeros(1))
    assert (len(found.boxes), tuple(found.padded.shape)) == (0, (2, 0, 4))
    assert [places(m) for m in Matching().of(found, scales())] == [[], []]
