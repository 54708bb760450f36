"""What a network is for: labelled samples, and the loss of its raw outputs.

    setup = task_for(graph, "detection", decoder="yolov3")
    samples = labelled_samples("yolo:train/", graph, setup)
    terms = setup.loss(view(images), targets)          # {"box": ..., "object": ..., "class": ...}

torch is imported when a loss is made, not before.
"""

from __future__ import annotations

from graphopt.tasks.samples import Labelled, labelled_samples, unlabelled_samples
from graphopt.tasks.setup import TaskSetup, task_for

__all__ = ["Labelled", "TaskSetup", "labelled_samples", "task_for", "unlabelled_samples"]
