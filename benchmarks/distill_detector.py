"""What `benchmarks.distill_losses` trains for detection: the trained example, pruned, on drawn images."""

from __future__ import annotations

from typing import ClassVar

from graphopt.distill import BEFORE_TRAINING, recovering
from graphopt.evaluate.evaluation import Evaluation
from graphopt.ir.graph import Graph
from graphopt.pipeline import Pipeline
from graphopt.prune import PREPARATION
from graphopt.registry import parse_passes, pass_class
from graphopt.runtime.run import open_graph
from graphopt.zoo.trained import trained_example

ALONE = "labels alone"
_TRAINING, _TEST = "shapes:train,count=32", "shapes:test,count=300"
_CALIBRATION = "shapes:train,count=64"
_RECIPE = {"batch": 16, "optimizer": "adamw", "lr": 0.004, "workers": 0}
# A loss is weighted up until balancing holds it at half of the labels' gradient.
_LARGE = 1e3


class Detector:
    """A pruned detector, and labelled images."""

    name, metric, epochs = "detection", "AP", 50
    losses: ClassVar[tuple[str, ...]] = (
        "objectness-scaled @ heads",
        "mse{anchors=3} @ heads",
        "teacher-bounded @ boxes",
        "masked-feature @ features",
        "pkd @ features",
        "spatial-attention @ features",
    )

    def __init__(self) -> None:
        self.graph = Pipeline(parse_passes(PREPARATION)).run(trained_example()).graph
        self.test = self._prepared(_TEST)
        images = [feeds for _, feeds in self._prepared(_CALIBRATION).batches()]
        self.prune = pass_class("prune").with_options(
            {"macs": "0.5", "data": images, **BEFORE_TRAINING}
        )
        self.before = self._score(self.graph)
        self.pruned = self._score(Pipeline([self.prune]).run(self.graph).graph)

    def trained(self, loss: str, epochs: float, seed: int) -> float:
        """AP after training on labels and one loss."""
        how = (
            {"head": "none", "feature": "none"}
            if loss == ALONE
            else {"terms": f"{loss} * {_LARGE:g}"}
        )
        train = recovering(
            {**_RECIPE, **how, "epochs": epochs}, labels=_TRAINING, balance=loss != ALONE
        )
        outcome = Pipeline([self.prune, train]).run(self.graph, seed=seed, strict=True)
        return self._score(outcome.graph)

    def _prepared(self, data: str) -> Evaluation:
        return Evaluation.prepare(self.graph, data, "detection", keep=True)

    def _score(self, graph: Graph) -> float:
        return 100 * float(self.test.on(open_graph(graph, optimized=True, threads=1))["ap"])
