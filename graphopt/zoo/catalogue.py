"""The facts about each network of the zoo, readable without torch.

`params_millions` and `gflops` are the published figures (1 MAC = 2 FLOP, at `input_shape` and
`classes`); `source` says whose they are. The tests hold the modules to them.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from graphopt.errors import UsageError

Task = Literal["detection", "classification"]

YOLO_OUTPUTS = ("p3", "p4", "p5")
RETINA_OUTPUTS = tuple(f"{kind}_p{level}" for kind in ("cls", "box") for level in range(3, 8))


@dataclass(frozen=True)
class ZooModel:
    """One network: what goes in, what comes out, and what was published about its size."""

    name: str
    task: Task
    input_shape: tuple[int, int, int]
    classes: int
    params_millions: float
    gflops: float
    source: str
    outputs: tuple[str, ...]
    decoded_outputs: tuple[str, ...]


def names() -> tuple[str, ...]:
    """The names `spec`, `build` and `export` take."""
    return tuple(_MODELS)


def spec(name: str) -> ZooModel:
    """The facts about one network; UsageError with the nearest names if there is none."""
    if name in _MODELS:
        return _MODELS[name]
    near = difflib.get_close_matches(name, _MODELS, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"take one of {', '.join(_MODELS)}"
    raise UsageError(f"no network {name!r} in the zoo: {hint}")


def _yolo(
    name: str,
    params_millions: float,
    gflops: float,
    source: str,
    *,
    size: int = 416,
    classes: int = 80,
    outputs: tuple[str, ...] = YOLO_OUTPUTS,
) -> ZooModel:
    shape = (3, size, size)
    decoded = ("predictions",)
    return ZooModel(
        name, "detection", shape, classes, params_millions, gflops, source, outputs, decoded
    )


def _classifier(
    name: str, size: int, classes: int, params_millions: float, gflops: float, source: str
) -> ZooModel:
    shape = (3, size, size)
    decoded = ("probabilities",)
    return ZooModel(
        name,
        "classification",
        shape,
        classes,
        params_millions,
        gflops,
        source,
        ("logits",),
        decoded,
    )


_PJREDDIE = "pjreddie.com/darknet/yolo and its cfg, COCO"
_WRN = "Zagoruyko & Komodakis, attention transfer: 0.6, 0.2, 2.2, 0.7 M; more digits counted"
_CIFAR_RESNET = "params: He et al. 2016, table 6; FLOPs counted, 2 per MAC"

_ALL = (
    _yolo("yolov3", 61.95, 65.86, _PJREDDIE),
    _yolo("yolov3-spp", 63.0, 141.45, f"{_PJREDDIE}; params: ultralytics/yolov3", size=608),
    _yolo("yolov3-tiny", 8.85, 5.56, _PJREDDIE, outputs=("p4", "p5")),
    _yolo("yolov4", 64.04, 59.67, "yolov4 cfg with the 20 classes of VOC", classes=20),
    _yolo("yolov3-mobilenetv3", 24.2, 18.04, "SpursLipu yolov3-mobilenet-coco.cfg, counted"),
    ZooModel(
        "retinanet-r50-fpn",
        "detection",
        (3, 800, 1280),
        80,
        37.74,
        478.64,
        "mmdetection get_flops, 239.32 GMAC; its params leave out the frozen stem and stage 1",
        RETINA_OUTPUTS,
        ("boxes", "scores"),
    ),
    _classifier("wrn-40-1", 32, 10, 0.5639, 0.1672, _WRN),
    _classifier("wrn-16-1", 32, 10, 0.1751, 0.0536, _WRN),
    _classifier("wrn-40-2", 32, 10, 2.2435, 0.6566, _WRN),
    _classifier("wrn-16-2", 32, 10, 0.6917, 0.2028, _WRN),
    _classifier("resnet20", 32, 10, 0.27, 0.0812, _CIFAR_RESNET),
    _classifier("resnet32", 32, 10, 0.46, 0.1378, _CIFAR_RESNET),
    _classifier("resnet56", 32, 10, 0.85, 0.251, _CIFAR_RESNET),
    _classifier("resnet50", 224, 1000, 25.557, 8.178, "torchvision ResNet50_Weights"),
    _classifier("mobilenetv2", 224, 1000, 3.505, 0.602, "torchvision MobileNet_V2_Weights"),
    _classifier("mobilenetv3-large", 224, 1000, 5.483, 0.434, "torchvision MobileNet_V3_Large"),
)
_MODELS = {model.name: model for model in _ALL}
