"""Decoders as text, and the decoder a model remembers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from evaluate.making import detector
from evaluate.test_decoders import SHAPES

from graphopt.errors import ModelError, UsageError
from graphopt.evaluate import DECODERS, Decoder
from graphopt.evaluate.decoders import METADATA, decoder_for
from graphopt.evaluate.decoders.anchors import Yolov3, Yolov3Tiny, Yolov4, Yolov5
from graphopt.evaluate.decoders.fastestv2 import FastestV2
from graphopt.evaluate.decoders.retina import Retina
from graphopt.evaluate.decoders.rows import Yolox
from graphopt.frontends.onnx_file import load, save

GRAPH = detector(SHAPES["yolov3-tiny"])
TWO = (((1.5, 2), (3, 4)), ((5, 6), (7, 0.1 + 0.2)))


@pytest.mark.parametrize(
    "decoder",
    [
        Yolov3(),
        Yolov3Tiny(TWO),
        Yolov4(scale_xy=(1.25, 1.1, 1.05)),
        Yolov5(TWO, (2.0, 1.9)),
        Yolox(strides=(8, 16)),
        FastestV2(TWO),
        Retina(base=3, strides=(4, 8), ratios=(1.0, 1 / 3), octaves=(1.0,)),
    ],
    ids=str,
)
def test_reads_back_equal(decoder: Decoder) -> None:
    assert decoder_for(str(decoder), GRAPH) == decoder


@pytest.mark.parametrize("name", DECODERS)
def test_what_is_as_it_comes_is_its_name(name: str) -> None:
    assert str(decoder_for(name, GRAPH)) == name


def test_how_it_is_written() -> None:
    text = "yolov3-tiny{anchors=1.5x2|3x4|5x6|7x0.30000000000000004}"
    assert str(Yolov3Tiny(TWO)) == text
    text = "yolov4{anchors=1x2|3x4 scale-xy=1.2|1.1}"
    assert decoder_for(text, GRAPH) == Yolov4((((1, 2),), ((3, 4),)), (1.2, 1.1))
    assert str(decoder_for(text, GRAPH)) == text


def test_a_function_is_named() -> None:
    own = decoder_for("numpy:concatenate", GRAPH)
    assert str(own) == "numpy:concatenate"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yolov3{anchors=1x2}", "1 anchors for 3 scales"),
        (
            "yolov3{anchors=1x2|3x4|5}",
            r"anchors='1x2\|3x4\|5' cannot be read; write it as in 10x13",
        ),
        ("yolov3{anchors=1x2|3x4|0x6}", "cannot be read"),
        ("yolov3{anchors=1x2|3x4|5xnan}", "cannot be read"),
        ("yolov3{anchors=1x2|3x4|5xinf}", "cannot be read"),
        ("yolov3{anchors=}", "cannot be read"),
        ("yolov3{scale-xy=1|1}", "scale-xy has 2 values for 3 scales"),
        ("yolov3{scale-xy=-1|1|1}", "cannot be read"),
        ("yolov3{strides=8}", "no option is called 'strides'"),
        ("decoded{anchors=1x2}", "no option is called 'anchors'"),
        ("yolov3{anchors}", "write option=value"),
        ("yolov3{", "cannot read decoder"),
        ("", "cannot read decoder"),
        ("yolov3{anchors=" + "|".join(["1x2"] * 99) + "}", "cannot be read"),
        ("yolo4", "did you mean yolov4"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        decoder_for(text, GRAPH)


# --- remembered by the model ----------------------------------------------------------------------

THREE = "1,255,8,8 a; 1,255,4,4 b; 1,255,2,2 c"


def test_a_model_remembers_its_decoder(tmp_path: Path) -> None:
    graph = detector(THREE)
    wanted = Yolov3((((4, 4), (8, 8), (9, 9)),) * 3)
    graph.metadata[METADATA] = str(wanted)
    assert decoder_for(None, graph) == wanted
    assert decoder_for("yolov4", graph) == Yolov4()  # what is given comes first
    plain = detector("1,3,4,4 y", 4)
    plain.metadata[METADATA] = "yolov4"
    save(plain, tmp_path / "m.onnx")
    assert load(tmp_path / "m.onnx").metadata[METADATA] == "yolov4"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("numpy:concatenate", "metadata graphopt.decoder: no decoder is called"),
        ("os:system", "metadata graphopt.decoder"),
        ("yolov3{anchors=1x2}", "metadata graphopt.decoder: decoder yolov3: 1 anchors"),
        ("yolov3" * 5000, "metadata graphopt.decoder"),
        ("yolov3-tiny", r"is 'yolov3-tiny', which does not fit its outputs a \(1, 255"),
        ("", "metadata graphopt.decoder"),
    ],
)
def test_a_model_cannot_name_what_it_likes(text: str, message: str) -> None:
    graph = detector(THREE)
    graph.metadata[METADATA] = text
    with pytest.raises(ModelError, match=message) as raised:
        decoder_for(None, graph)
    assert len(str(raised.value)) < 600


def test_outputs_of_unknown_size_are_believed() -> None:
    graph = detector(THREE)
    graph.metadata[METADATA] = "yolov3-tiny"
    graph.outputs[0].shape = [1, 255, "h", "w"]
    assert decoder_for(None, graph) == Yolov3Tiny()


# --- raw maps of RetinaNet ------------------------------------------------------------------------


def retina(classes: int = 3, size: int = 128, *, swap: bool = False) -> str:
    sides = [-(-size // s) for s in (8, 16, 32, 64, 128)]
    maps = [
        f"1,{9 * k},{n},{n} {name}{i}"
        for name, k in (("c", classes), ("b", 4))
        for i, n in enumerate(sides)
    ]
    return "; ".join(maps[::-1] if swap else maps)


@pytest.mark.parametrize("size", [64, 96, 128, 320])
@pytest.mark.parametrize("classes", [1, 3, 4, 80])
def test_raw_maps_are_found(classes: int, size: int) -> None:
    assert decoder_for(None, detector(retina(classes, size), size)).name == "retinanet"
    if classes != 4:  # then only the order tells
        assert (
            decoder_for(None, detector(retina(classes, size, swap=True), size)).name == "retinanet"
        )


@pytest.mark.parametrize(
    "outputs",
    [retina().replace("1,27", "1,28"), retina().replace("1,36,4,4", "1,36,4,5"), retina(size=256)],
)
def test_maps_of_something_else(outputs: str) -> None:
    with pytest.raises(UsageError, match="no decoder fits"):
        decoder_for(None, detector(outputs, 128))


def test_a_box_by_hand() -> None:
    sides = (16, 8, 4, 2, 1)
    maps = {f"c{n}": np.full((1, 27, n, n), -20, np.float32) for n in sides}
    maps |= {f"b{n}": np.zeros((1, 36, n, n), np.float32) for n in sides}
    # level of stride 16, row 2, column 3: the anchor of ratio 2 (number 2), octave 0
    anchor = 2 * 3
    maps["c8"][0, anchor * 3 + 1, 2, 3] = 20
    maps["b8"][0, anchor * 4 : anchor * 4 + 4, 2, 3] = [0.5, -0.25, np.log(2), 99]
    (found,) = decoder_for("retinanet", GRAPH).decode(maps, (128, 128))
    row, kind = np.unravel_index(found.scores.argmax(), found.scores.shape)
    w, h = 64 / 2**0.5, 64 * 2**0.5
    x, y = 48 + 0.5 * w, 32 - 0.25 * h
    tall = h * 1000 / 16 / 2
    assert kind == 1
    wanted = [x - w, y - tall, x + w, y + tall]
    assert found.boxes[row] == pytest.approx(wanted, rel=1e-4)
