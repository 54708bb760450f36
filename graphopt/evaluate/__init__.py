"""How well a model does its job: real metrics on labelled images.

evaluate("model.onnx", "yolo:val/", "detection")["ap"]
evaluate("model.onnx", "imagefolder:val/", "classification", preprocess="crop")["top1"]

measure = Evaluation.prepare(graph, "coco:instances.json", "detection", decoder="yolov5", keep=True)
for each in variants:  # the same images, read once
    measure.on(open_graph(each, optimized=True))["ap"]
"""

from __future__ import annotations

from graphopt.evaluate.decoders import DECODERS
from graphopt.evaluate.decoders.base import Candidates, Decoder
from graphopt.evaluate.evaluation import Evaluation, evaluate
from graphopt.evaluate.examples import KINDS, Example, Examples, open_examples
from graphopt.evaluate.nms import Rules

__all__ = [
    "DECODERS",
    "KINDS",
    "Candidates",
    "Decoder",
    "Evaluation",
    "Example",
    "Examples",
    "Rules",
    "evaluate",
    "open_examples",
]
