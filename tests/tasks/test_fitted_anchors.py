"""k-means over sizes of boxes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluate.making import yolo
from tasks.painting import Listed, painted

from graphopt.data.images import Preprocess
from graphopt.errors import UsageError
from graphopt.evaluate import Example
from graphopt.evaluate.decoders import decoder_for
from graphopt.evaluate.decoders.anchors import Yolov3Tiny
from graphopt.evaluate.pictures import Pictures
from graphopt.tasks.anchors import (
    _clustered,
    box_sizes,
    clustered,
    fitted_anchors,
    mean_overlap,
    overlaps,
)


def boxes(sizes: list[tuple[float, float]]) -> Listed:
    corner = np.array([[0, 0, w, h] for w, h in sizes], np.float64)
    pixels = np.zeros((64, 64, 3), np.uint8)
    return Listed([Example(pixels, np.zeros(len(sizes), np.int64), corner)])


def test_clusters_are_found() -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[8, 8], [8, 32], [30, 30], [60, 20]])
    sizes = np.repeat(centres, 50, axis=0) * rng.uniform(0.9, 1.1, (200, 2))
    found = clustered(sizes, 4, seed=0)
    means = np.median(sizes.reshape(4, 50, 2), axis=1)
    np.testing.assert_allclose(found, means[[0, 1, 2, 3]][np.argsort(means.prod(1))], rtol=1e-9)
    assert mean_overlap(sizes, found) > 0.85


def test_large_boxes_count_no_more_than_small_ones() -> None:
    # euclidean k-means would spend both centres on the large ones
    sizes = np.array([[4, 4], [5, 5], [8, 8], [9, 9], [90, 90], [100, 100]], np.float64)
    found = np.sqrt(clustered(sizes, 3, 0).prod(1))
    assert ((found >= [4, 8, 90]) & (found <= [5, 9, 100])).all()


def test_near_is_what_overlaps() -> None:
    # 21 is nearer to 10 in pixels, but overlaps 40 more, which moves to the median
    sizes = np.repeat([[10.0, 10], [40, 40], [21, 21]], [3, 1, 5], axis=0)
    found = _clustered(sizes, np.array([[10.0, 10], [40, 40]]))
    assert found.tolist() == [[10, 10], [21, 21]]


def test_a_centre_that_nobody_is_nearest_to_stays() -> None:
    sizes = np.array([[10.0, 10], [12, 12]])
    found = _clustered(sizes, np.array([[9.0, 9], [99, 99]]))
    assert found.tolist() == [[11, 11], [99, 99]]


def test_the_best_on_the_way_is_kept() -> None:
    # the median of lying and standing boxes is the small one
    sizes = np.repeat([[10.0, 40], [40, 10], [11, 11]], [2, 2, 1], axis=0)
    start = np.array([[10.0, 40]])
    assert mean_overlap(sizes, np.array([[11.0, 11]])) < mean_overlap(sizes, start)
    assert _clustered(sizes, start).tolist() == [[10, 40]]


def test_overlaps_by_hand() -> None:
    assert overlaps(np.array([[2.0, 8.0]]), np.array([[4.0, 4.0]])) == pytest.approx(8 / 24)


def test_scales_are_in_order_and_the_seed_decides() -> None:
    found = fitted_anchors(painted(30), 64, scales=2, per_scale=3, seed=1)
    areas = [w * h for scale in found for w, h in scale]
    assert [len(scale) for scale in found] == [3, 3]
    assert areas == sorted(areas)
    assert found == fitted_anchors(painted(30), 64, scales=2, per_scale=3, seed=1)
    better = box_sizes(painted(30), 64)
    published = np.array(Yolov3Tiny().anchors).reshape(-1, 2)
    ours = np.array(found).reshape(-1, 2)
    assert mean_overlap(better, ours) > mean_overlap(better, published) + 0.2
    assert decoder_for(str(Yolov3Tiny(found)), None) == Yolov3Tiny(found)  # type: ignore[arg-type]


def test_sizes_are_those_on_the_input(tmp_path: Path) -> None:
    source = yolo(tmp_path, "0 0.5 0.5 0.5 0.5\n1 0.2 0.2 0.1 0.4")  # of 40 x 20
    wanted = np.array([[20, 10], [4, 8]])
    for size, factor in ((64, 1.6), ((20, 80), 1.0)):
        assert box_sizes(_open(source), size) == pytest.approx(wanted * factor)  # type: ignore[arg-type]
    stretched = Pictures(Preprocess(fit="stretch", size=(64, 64)))
    assert box_sizes(_open(source), stretched) == pytest.approx(wanted * (1.6, 3.2))


def _open(root: Path) -> object:
    from graphopt.evaluate import open_examples

    return open_examples(f"yolo:{root}", "detection")


def test_crowds_specks_and_damaged_images_do_not_count(tmp_path: Path) -> None:
    each = boxes([(8, 8), (9, 9), (0.5, 9), (float("nan"), 4)])[0]
    crowded = Example(each.image, each.classes, each.boxes, crowd=np.array([1, 0, 0, 0], bool))
    assert box_sizes(Listed([crowded]), 64).tolist() == [[9, 9]]
    root = yolo(tmp_path)
    (root / "images" / "sub" / "b.png").write_bytes(b"nonsense")
    assert len(box_sizes(_open(root), 64)) == 1  # type: ignore[arg-type]


def test_too_few_boxes() -> None:
    with pytest.raises(UsageError, match="3 boxes of 2 sizes are too few for 3 anchors"):
        fitted_anchors(boxes([(8, 8), (9, 9), (8, 8)]), 64, scales=3, per_scale=1)
    with pytest.raises(UsageError, match="0 scales of 3 anchors"):
        fitted_anchors(painted(3), 64, scales=0)
    found = fitted_anchors(boxes([(8, 8), (9, 9), (8, 8)]), 64, scales=2, per_scale=1)
    assert found == (((8, 8),), ((9, 9),))
