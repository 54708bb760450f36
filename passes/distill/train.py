"""Trains a network on labelled images.

    min over weights of  E_(x, y) [ L_task(f(x), y) ]

L_task is the loss of what the outputs are (`graphopt.tasks`): YOLO's and RetinaNet's raw maps, or
classes. It starts from the weights the graph has; `graphopt train` makes graphs of the zoo's
networks to start from. Batch, learning rate, schedule, augmentation and so on are the recipe's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.pass_base import Changes, Context
from graphopt.passes.distill.recover import Recover


@dataclass(frozen=True)
class Train(Recover):
    """min E [ L_task(f(x), y) ] over weights: training on labelled images, without a teacher.

    The options of `recover`; terms of a distillation are added where `terms`, `head` or `feature`
    say so. Not handled: what `recover` does not, and outputs no task's loss is known for.
    """

    name: ClassVar[str] = "train"
    numerics: ClassVar[Changes] = Changes("trains the weights on labels")
    defaults: ClassVar[dict[str, Any]] = {"optimizer": "sgd", "lr": 0.01, "clip": 10.0}

    epochs: float = 30.0
    head: str = "none"
    feature: str = "none"

    def run(self, graph: Graph, context: Context) -> None:
        if self.labels is None:
            raise UsageError("train needs labelled images: give labels=KIND:WHERE")
        super().run(graph, context)
