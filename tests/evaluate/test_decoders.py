"""Decoders on tensors made by hand, and how one is found from a model's outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from making import detector

from graphopt.errors import UsageError
from graphopt.evaluate import DECODERS, Candidates
from graphopt.evaluate.decoders import decoder_for

Array = np.ndarray[Any, Any]

SHAPES = {
    "yolov3-tiny": "1,255,4,4 a; 1,255,2,2 b",
    "yolox": "1,84,85 a",
    "decoded": "1,252,85 a",
    "fastestdet": "1,85,4,4 a",
    "yolo-fastestv2": "1,12,4,4 a; 1,3,4,4 b; 1,80,4,4 c; 1,12,2,2 d; 1,3,2,2 e; 1,80,2,2 f",
    "ultra-light": "1,50,2 scores; 1,50,4 boxes",
    "retinanet": "1,50,4 boxes; 1,50,80 scores",
}


def best(found: list[Candidates]) -> tuple[list[float], int, float]:
    """The box, class and score of the best candidate on the only image."""
    (only,) = found
    row, kind = np.unravel_index(only.scores.argmax(), only.scores.shape)
    return only.boxes[row].tolist(), int(kind), float(only.scores[row, kind])


def raw_map(cell: dict[int, float], channels: int, size: int, at: tuple[int, int]) -> Array:
    """A map of zeros, -20 where a probability would be; `cell` at a row and column."""
    made = np.zeros((1, channels, size, size), np.float32)
    per_anchor = channels // 3
    for anchor in range(3):
        made[:, anchor * per_anchor + 4 : (anchor + 1) * per_anchor] = -20
    for channel, value in cell.items():
        made[0, channel, at[0], at[1]] = value
    return made


@pytest.mark.parametrize(
    ("name", "width", "height"), [("yolov3", 62, 45), ("yolov4", 76, 55), ("yolov5", 62, 45)]
)
def test_the_second_anchor_in_the_middle_of_a_cell(name: str, width: int, height: int) -> None:
    middle = raw_map({8 + 4: 20, 8 + 6: 20}, 24, 4, (1, 2))  # row 1, column 2 of stride 16
    maps = {
        "p5": raw_map({}, 24, 2, (0, 0)),
        "p3": raw_map({}, 24, 8, (0, 0)),
        "p4": middle,
    }
    found, kind, score = best(decoder_for(name, detector(SHAPES["yolox"])).decode(maps, (64, 64)))
    x, y, w, h = 40, 24, width / 2, height / 2
    assert found == pytest.approx([x - w, y - h, x + w, y + h], abs=1e-3)
    assert (kind, score) == (1, pytest.approx(1))


def test_offsets_of_the_two_kinds_of_yolo() -> None:
    t = 1.2
    s = 1 / (1 + np.exp(-t))
    cell = {0: t, 1: t, 2: t, 3: t, 4: 20, 5: 20}
    maps = {"a": raw_map(cell, 24, 4, (0, 0)), "b": raw_map({}, 24, 2, (0, 0))}
    found, _, _ = best(decoder_for("yolov3-tiny", detector(SHAPES["yolox"])).decode(maps, (64, 64)))
    w, h = 10 * np.exp(t), 14 * np.exp(t)
    assert found == pytest.approx([s * 16 - w / 2, s * 16 - h / 2, s * 16 + w / 2, s * 16 + h / 2])
    maps["c"] = raw_map({}, 24, 1, (0, 0))
    found, _, _ = best(decoder_for("yolov5", detector(SHAPES["yolox"])).decode(maps, (64, 64)))
    xy, w, h = (2 * s - 0.5) * 16, 10 * (2 * s) ** 2, 13 * (2 * s) ** 2
    assert found == pytest.approx([xy - w / 2, xy - h / 2, xy + w / 2, xy + h / 2], rel=1e-5)


def test_yolox() -> None:
    rows = np.zeros((1, 21, 7), np.float32)
    rows[0, 16 + 3] = [0.5, 0.25, 0, np.log(2), 0.5, 0.1, 0.8]  # stride 16, row 1, column 1
    found, kind, score = best(
        decoder_for("yolox", detector(SHAPES["yolox"])).decode({"o": rows}, (32, 32))
    )
    assert found == pytest.approx([24 - 8, 20 - 16, 24 + 8, 20 + 16])
    assert (kind, score) == (1, pytest.approx(0.4))


def test_decoded_rows() -> None:
    rows = np.array([[[10, 20, 4, 6, 0.5, 0.2, 0.6]]], np.float32)
    found, kind, score = best(
        decoder_for("decoded", detector(SHAPES["yolox"])).decode({"o": rows}, (32, 32))
    )
    assert found == pytest.approx([8, 17, 12, 23])
    assert (kind, score) == (1, pytest.approx(0.3))


def test_fastestdet() -> None:
    raw = np.zeros((1, 8, 4, 4), np.float32)
    raw[0, :, 1, 2] = [0.5, 0.1, -0.2, 0, 1, 0.2, 0.9, 0.0]
    found, kind, score = best(
        decoder_for("fastestdet", detector(SHAPES["yolox"])).decode({"o": raw}, (64, 64))
    )
    x, y = (2 + np.tanh(0.1)) * 16, (1 - np.tanh(0.2)) * 16
    w, h = 32, 64 / (1 + np.exp(-1))
    assert found == pytest.approx([x - w / 2, y - h / 2, x + w / 2, y + h / 2], rel=1e-5)
    assert (kind, score) == (1, pytest.approx(0.5**0.6 * 0.9**0.4))


def test_fastestv2_shares_classes_between_anchors() -> None:
    outputs = {}
    for size in (4, 2):
        outputs[f"reg{size}"] = np.zeros((1, 12, size, size), np.float32)
        outputs[f"obj{size}"] = np.full((1, 3, size, size), -20, np.float32)
        outputs[f"cls{size}"] = np.zeros((1, 5, size, size), np.float32)
    outputs["obj2"][0, 2, 1, 0] = 20
    outputs["cls2"][0, 4, 1, 0] = 3
    outputs["reg2"][0, 8:12, 1, 0] = t = 0.7
    s = 2 / (1 + np.exp(-t))
    decoder = decoder_for("yolo-fastestv2", detector(SHAPES["yolox"]))
    found, kind, score = best(decoder.decode(outputs, (64, 64)))
    x, y, w, h = (s - 0.5) * 32, (s + 0.5) * 32, 279.92 * s**2 / 2, 258.87 * s**2 / 2
    assert found == pytest.approx([x - w, y - h, x + w, y + h], rel=1e-5)
    assert (kind, score) == (4, pytest.approx(np.exp(3) / (np.exp(3) + 4), rel=1e-5))


def test_ultra_light_is_in_fractions_of_the_image() -> None:
    scores, boxes = np.array([[[0.1, 0.9]]]), np.array([[[0.25, 0.5, 0.5, 1.0]]])
    decoder = decoder_for("ultra-light", detector(SHAPES["yolox"]))
    found, kind, score = best(decoder.decode({"scores": scores, "boxes": boxes}, (240, 320)))
    assert found == pytest.approx([80, 120, 160, 240])
    assert (kind, score) == (0, 0.9)


def test_wild_outputs_stay_finite() -> None:
    maps = {k: np.full((1, 24, s, s), 1e4, np.float32) for k, s in (("a", 4), ("b", 2))}
    (found,) = decoder_for("yolov3-tiny", detector(SHAPES["yolox"])).decode(maps, (64, 64))
    assert np.isfinite(found.boxes).all()


# --- which one --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHAPES)
def test_a_decoder_is_found_from_the_outputs(name: str) -> None:
    assert decoder_for(None, detector(SHAPES[name])).name == name


def test_three_raw_maps_may_be_several() -> None:
    maps = "1,255,8,8 a; 1,255,4,4 b; 1,255,2,2 c"
    with pytest.raises(UsageError, match=r"several decoders fit .*yolov3, yolov4, yolov5"):
        decoder_for(None, detector(maps))


def test_no_decoder_fits() -> None:
    with pytest.raises(UsageError, match=r"no decoder fits the outputs a \(1, 10\)"):
        decoder_for(None, detector("1,10 a"))


def test_decoders_of_ones_own() -> None:
    graph = detector("1,10 a")
    own = decoder_for(lambda outputs, size: [Candidates(outputs["a"], np.array(size))], graph)
    assert own.decode({"a": np.ones(1)}, (1, 2))[0].scores.tolist() == [1, 2]
    assert decoder_for("numpy:concatenate", graph).name == "own"


@pytest.mark.parametrize("name", ["numpy:absent", "absent_module:x", "yolov55"])
def test_decoders_that_are_not_there(name: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be imported|did you mean"):
        decoder_for(name, detector("1,10 a"))


def test_every_decoder_is_tested() -> None:
    assert set(SHAPES) | {"yolov3", "yolov4", "yolov5"} == set(DECODERS)
