"""The module behind each name of the catalogue, and what decodes its outputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from graphopt.zoo import darknet, mobilenet
from graphopt.zoo.catalogue import ZooModel
from graphopt.zoo.cifar import CifarResNet, WideResNet
from graphopt.zoo.decode import Anchors, RetinaDecode, YoloDecode
from graphopt.zoo.layers import Network
from graphopt.zoo.resnet import ResNet50
from graphopt.zoo.retinanet import RetinaNet
from graphopt.zoo.yolov3 import YoloV3, YoloV3Tiny
from graphopt.zoo.yolov4 import YoloV4

STRIDES = (8, 16, 32)
V3_ANCHORS: tuple[Anchors, ...] = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)
V4_ANCHORS: tuple[Anchors, ...] = (
    ((12, 16), (19, 36), (40, 28)),
    ((36, 75), (76, 55), (72, 146)),
    ((142, 110), (192, 243), (459, 401)),
)
TINY_ANCHORS: tuple[Anchors, ...] = (
    ((10, 14), (23, 27), (37, 58)),
    ((81, 82), (135, 169), (344, 319)),
)


def network(model: ZooModel, classes: int, width: float = 1.0) -> Network:
    """The module with torch's own initial weights, on torch's default device."""
    return _NETWORKS[model.name](classes, width)


def decoder(model: ZooModel) -> nn.Module:
    """What `Network.decode` is set to: boxes in pixels, or probabilities."""
    if model.task == "classification":
        return nn.Softmax(dim=1)
    if model.name == "retinanet-r50-fpn":
        return RetinaDecode()
    if model.name == "yolov3-tiny":
        return YoloDecode(TINY_ANCHORS, STRIDES[1:], (1.0, 1.0))
    if model.name == "yolov4":
        return YoloDecode(V4_ANCHORS, STRIDES, (1.2, 1.1, 1.05))
    return YoloDecode(V3_ANCHORS, STRIDES, (1.0, 1.0, 1.0))


def _yolov3(classes: int, width: float) -> Network:
    return YoloV3(darknet.Darknet53(width), darknet.taps(width), classes, width=width)


def _yolov3_spp(classes: int, width: float) -> Network:
    return YoloV3(darknet.Darknet53(width), darknet.taps(width), classes, width=width, spp=True)


def _yolov3_mobilenetv3(classes: int, width: float) -> Network:
    backbone = mobilenet.MobileNetV3YoloBackbone(width)
    return YoloV3(backbone, mobilenet.yolo_taps(width), classes, width=width)


_NETWORKS: dict[str, Callable[[int, float], Network]] = {
    "yolov3": _yolov3,
    "yolov3-spp": _yolov3_spp,
    "yolov3-tiny": YoloV3Tiny,
    "yolov4": YoloV4,
    "yolov3-mobilenetv3": _yolov3_mobilenetv3,
    "retinanet-r50-fpn": RetinaNet,
    "wrn-40-1": partial(WideResNet, 40, 1),
    "wrn-16-1": partial(WideResNet, 16, 1),
    "wrn-40-2": partial(WideResNet, 40, 2),
    "wrn-16-2": partial(WideResNet, 16, 2),
    "resnet20": partial(CifarResNet, 20),
    "resnet32": partial(CifarResNet, 32),
    "resnet56": partial(CifarResNet, 56),
    "resnet50": ResNet50,
    "mobilenetv2": mobilenet.mobilenetv2,
    "mobilenetv3-large": mobilenet.mobilenetv3_large,
}
