"""Trains a network until it does again what it did before it was changed, with or without labels.

    min over weights of  E_x [ sum_heads d(head_s(x), head_t(x)) + w sum_features (1 - rho_s,t(x)) ]

The teacher is the last graph before anything changed its outputs; the images need no labels. Heads
are compared by KL divergence (classifiers), where the teacher sees something (YOLO's raw maps), or
by squared error in units of the teacher's own mean square; feature maps channel by channel by
correlation (PKD), a pruned student's with those of the teacher's it kept. `terms` says instead what
is compared where (`passes/distill/written.py`); with `labels` the loss of the task is added.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from graphopt.channels.plan import Plan
from graphopt.data import load_samples
from graphopt.data.images import METADATA
from graphopt.errors import UsageError
from graphopt.evaluate.decoders import METADATA as DECODER
from graphopt.frontends.onnx_file import load
from graphopt.ir.graph import Graph
from graphopt.pass_base import Changes, Context, Pass

if TYPE_CHECKING:
    from graphopt.passes.distill.labelled import Labels
    from graphopt.training import History, Recipe


@dataclass(frozen=True)
class Recover(Pass):
    """min E_x [ d(student(x), teacher(x)) ] over weights: training on images, labels need not be.

    The teacher is the network before it was pruned (or otherwise changed). Not handled: networks
    with nodes that have no derivative (named before training starts), and models whose images
    influence each other.
    """

    name: ClassVar[str] = "recover"
    numerics: ClassVar[Changes] = Changes("trains the weights")
    before: ClassVar[dict[str, str]] = {
        "fuse-conv-bn": "training is stable with BatchNormalizations, and folding comes after"
    }

    # What a recipe has where its text says nothing.
    defaults: ClassVar[dict[str, Any]] = {}

    data: Any = None  # images without labels: see graphopt.data
    preprocess: str = ""
    epochs: float = 5.0
    recipe: str = ""  # "lr=0.01 batch=64 ...": see graphopt.training.Recipe
    teacher: Any = None  # a Graph or a path; else the graph before anything changed its outputs
    head: str = "auto"  # a loss, see graphopt.passes.distill.losses
    feature: str = "auto"  # likewise; "none" for heads alone
    feature_weight: float = 1.0
    terms: Any = ""  # instead of head and feature: "pkd @ features * 6; kl @ heads", see written.py
    balance: bool = False  # no term's gradient is more than half of the first one's
    labels: Any = (
        None  # labelled images, KIND:WHERE as for `graphopt evaluate`: adds the task's loss
    )
    task: str = "auto"  # "detection" or "classification"
    loss: str = ""  # options of the task's loss, see graphopt.tasks
    decoder: Any = None  # what a detector's outputs mean, where they do not say
    stages: str = ""  # tensors separated by |: what leads to each is trained alone first; "known"
    stage_epochs: float = 1.0  # for each of them
    folder: str = ""  # for checkpoints and logs; an interrupted run found there goes on
    device: str = "auto"
    evaluate: Any = field(
        default=None, repr=False
    )  # called with a Graph after every epoch: metrics by name
    watch: Any = field(default=None, repr=False)  # a graphopt.training.Watch

    @classmethod
    def with_recipe(cls, options: Mapping[str, Any]) -> Pass:
        """An instance from named options and, beside them, those of a training recipe.

        Raises:
            UsageError: an option neither has.
        """
        own = {f.name for f in dataclasses.fields(cls)}
        mine = {k: v for k, v in options.items() if k.replace("-", "_") in own}
        recipe = " ".join(f"{k}={v}" for k, v in options.items() if k not in mine)
        return cls.with_options({**mine, "recipe": f"{mine.get('recipe', '')} {recipe}".strip()})

    def run(self, graph: Graph, context: Context) -> None:
        self._check_data()
        if self.epochs:
            context.rewrote("graph", told(self._trained(graph, context)))

    def training(self, seed: int) -> Recipe:
        """The recipe, with the epochs and the seed of the pass where it names none.

        Raises:
            UsageError: an option a recipe does not have, or a value that cannot be meant.
        """
        from graphopt.training import Recipe

        return Recipe.parse(self.recipe, **{**self.defaults, "epochs": self.epochs, "seed": seed})

    def _check_data(self) -> None:
        if self.data is None and self.labels is None:
            raise UsageError(
                f"{self.name} trains on images: give data=FOLDER (or arrays), or labels=KIND:WHERE"
            )

    @property
    def compares(self) -> bool:
        """Whether there is anything a teacher is needed for."""
        return bool(self.terms) or not (self.head == self.feature == "none")

    def _trained(self, graph: Graph, context: Context, **how: Any) -> History:
        """Trains `graph`. `how`: see `recovery.recover`."""
        from graphopt.passes.distill.recovery import recover

        plan = context.known.get("since_teacher") if self.teacher is None else None
        labels = self._labels(graph)
        history = recover(
            graph,
            self._teacher(graph, context) if self.compares else None,
            labels.samples
            if labels is not None
            else load_samples(self.data, graph, preprocess=self.preprocess),
            self,
            plan=plan if isinstance(plan, Plan) else None,
            seed=context.seed,
            known=context.known,
            labels=labels,
            **how,
        )
        if self.preprocess:
            graph.metadata[METADATA] = self.preprocess  # whoever evaluates it needs it again
        if labels is not None and labels.setup.decoder is not None and self.decoder is not None:
            graph.metadata[DECODER] = str(labels.setup.decoder)
        context.facts["training"] = {"rows": history.rows, "seconds": history.seconds}
        return history

    def _labels(self, graph: Graph) -> Labels | None:
        if self.labels is None:
            return None
        from graphopt.passes.distill.labelled import labels_of

        return labels_of(
            graph,
            self.labels,
            task=self.task,
            loss=self.loss,
            preprocess=self.preprocess,
            decoder=self.decoder,
        )

    def _teacher(self, graph: Graph, context: Context) -> Graph:  # noqa: ARG002
        if isinstance(self.teacher, str | Path):
            return load(Path(self.teacher))
        found = self.teacher if self.teacher is not None else context.teacher
        if not isinstance(found, Graph):
            raise UsageError(f"{self.name} has no teacher: give teacher=MODEL.onnx")
        return found


def told(history: History) -> str:
    """What a run did, in a line."""
    first, last = history.rows[0], history.rows[-1]
    return f"trained {history.steps} steps on {len(history.terms)} terms: " + ", ".join(
        f"{k} {first[k]:.3g} -> {last[k]:.3g}" for k in history.terms
    )
