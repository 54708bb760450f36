"""Anchors for a labelled set: k-means over the sizes of its boxes.

    d(box, anchor) = 1 - IoU of the two with one centre

so that large boxes count no more than small ones. Redmon and Farhadi, "YOLO9000", CVPR 2017 (YOLOv2).
Centres move to the medians of their boxes: with means, as in the paper, the IoU falls again (0.61
instead of 0.62 on 256 images of COCO).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from graphopt.data.images import Preprocess
from graphopt.errors import GraphoptError, UsageError
from graphopt.evaluate import Example, Examples, open_examples
from graphopt.evaluate.decoders.anchors import Anchors
from graphopt.evaluate.pictures import Pictures, Placement, image_size

Array = np.ndarray[Any, Any]

_LEAST = 1.0  # pixels; what is narrower or lower is not trained on either
_STARTS = 8
_STEPS = 100


def fitted_anchors(
    source: str | Examples,
    size: int | tuple[int, int] | Pictures,
    scales: int = 3,
    per_scale: int = 3,
    *,
    seed: int = 0,
) -> tuple[Anchors, ...]:
    """Anchors as the decoders of YOLO take them: per scale, finest first, each in order of area.

    Args:
        source: labelled images, as for `graphopt.evaluate.evaluate`.
        size: height and width of the input (a number for both) on which pictures are letterboxed, or
            how they become inputs.
        scales: how many maps the detector has.
        per_scale: anchors of each.
        seed: of the starting points; one seed, one result.

    Raises:
        UsageError: no such data, or fewer sizes of boxes than anchors.
    """
    if scales < 1 or per_scale < 1:
        raise UsageError(f"{scales} scales of {per_scale} anchors: take at least one of each")
    sizes = box_sizes(open_examples(source, "detection"), size)
    found = clustered(sizes, scales * per_scale, seed)
    pairs = [(round(float(w), 1), round(float(h), 1)) for w, h in found]
    return tuple(tuple(pairs[k * per_scale : (k + 1) * per_scale]) for k in range(scales))


def box_sizes(examples: Examples, size: int | tuple[int, int] | Pictures) -> Array:
    """Width and height (n, 2) of all boxes in pixels of the input; crowds and specks are left out."""
    if not isinstance(size, Pictures):
        size = Pictures(Preprocess(size=(size, size) if isinstance(size, int) else size))
    found = [np.zeros((0, 2))]
    for index in range(len(examples)):
        try:
            example = examples[index]
            boxes = _placed(example, size).to_input(example.boxes)
        except GraphoptError:  # whoever trains on it is told
            continue
        kept = slice(None) if example.crowd is None else ~example.crowd
        found.append((boxes[:, 2:] - boxes[:, :2])[kept])
    sizes = np.concatenate(found)
    return sizes[np.isfinite(sizes).all(1) & (sizes >= _LEAST).all(1)]


def clustered(sizes: Array, count: int, seed: int) -> Array:
    """The centres (count, 2) with the highest mean IoU of `_STARTS` tries, in order of area.

    Raises:
        UsageError: fewer different sizes than centres.
    """
    different = len(np.unique(sizes, axis=0))
    if different < count:
        raise UsageError(
            f"{len(sizes)} boxes of {different} sizes are too few for {count} anchors: take fewer "
            "anchors, or the published ones"
        )
    rng = np.random.default_rng(seed)
    tries = [_clustered(sizes, _spread(sizes, count, rng)) for _ in range(_STARTS)]
    best = max(tries, key=lambda centres: mean_overlap(sizes, centres))
    return best[np.argsort(best.prod(1), kind="stable")]


def mean_overlap(sizes: Array, anchors: Array) -> float:
    """The mean over boxes of the IoU with the anchor that fits best, 0 to 1."""
    return float(overlaps(sizes, anchors).max(1).mean())


def overlaps(sizes: Array, anchors: Array) -> Array:
    """IoU (n, k) of sizes (n, 2) and anchors (k, 2) with one centre."""
    shared = np.minimum(sizes[:, None], anchors[None]).prod(-1)
    return np.asarray(shared / (sizes.prod(1)[:, None] + anchors.prod(1)[None] - shared))


def _spread(sizes: Array, count: int, rng: np.random.Generator) -> Array:
    """Starting points far from each other, as k-means++ draws them."""
    chosen = sizes[rng.integers(len(sizes))][None]
    while len(chosen) < count:
        far = (1 - overlaps(sizes, chosen).max(1)).clip(0) ** 2
        following = rng.choice(len(sizes), p=far / far.sum())
        chosen = np.concatenate([chosen, sizes[following][None]])
    return chosen


def _clustered(sizes: Array, centres: Array) -> Array:
    """The best of the centres on the way to where every one is the median of those nearest to it.

    One that nobody is nearest to stays.
    """
    best, highest, before = centres, 0.0, np.full(len(sizes), -1)
    for _ in range(_STEPS):
        table = overlaps(sizes, centres)
        nearest, mean = table.argmax(1), float(table.max(1).mean())
        if mean > highest:
            best, highest = centres, mean
        if (nearest == before).all():
            break
        before = nearest
        own = [sizes[nearest == k] for k in range(len(centres))]
        centres = np.stack(
            [np.median(o, axis=0) if len(o) else c for o, c in zip(own, centres, strict=True)]
        )
    return best


def _placed(example: Example, pictures: Pictures) -> Placement:
    if isinstance(example.image, np.ndarray):
        return Placement((1, 1), (0, 0), pictures.size[::-1])
    return pictures.placement(*image_size(example.image))
