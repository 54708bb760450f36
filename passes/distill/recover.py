"""Trains a network until it does again what it did before it was changed, without labels.

    min over weights of  E_x [ sum_heads d(head_s(x), head_t(x)) + w sum_features (1 - rho_s,t(x)) ]

The teacher is the last graph before anything changed its outputs; the images need no labels. Heads
are compared by KL divergence (classifiers) or by squared error in units of the teacher's own mean
square; feature maps channel by channel by correlation (PKD), a pruned student's with those of the
teacher's it kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from graphopt.channels.plan import Plan
from graphopt.data import load_samples
from graphopt.data.images import METADATA
from graphopt.errors import UsageError
from graphopt.frontends.onnx_file import load
from graphopt.ir.graph import Graph
from graphopt.pass_base import Changes, Context, Pass

if TYPE_CHECKING:
    from graphopt.training import History, Recipe


@dataclass(frozen=True)
class Recover(Pass):
    """min E_x [ d(student(x), teacher(x)) ] over weights: label-free training on a folder of images.

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
    stages: str = ""  # tensors separated by |: what leads to each is trained alone first; "known"
    stage_epochs: float = 1.0  # for each of them
    folder: str = ""  # for checkpoints and logs; an interrupted run found there goes on
    device: str = "auto"
    evaluate: Any = field(
        default=None, repr=False
    )  # called with a Graph after every epoch: metrics by name
    watch: Any = field(default=None, repr=False)  # a graphopt.training.Watch

    def run(self, graph: Graph, context: Context) -> None:
        self._check_data()
        if self.epochs:
            history, taps = self._trained(graph, context)
            context.rewrote("graph", told(history, taps))

    def training(self, seed: int) -> Recipe:
        """The recipe, with the epochs and the seed of the pass where it names none.

        Raises:
            UsageError: an option a recipe does not have, or a value that cannot be meant.
        """
        from graphopt.training import Recipe

        return Recipe.parse(self.recipe, **{**self.defaults, "epochs": self.epochs, "seed": seed})

    def _check_data(self) -> None:
        if self.data is None:
            raise UsageError(f"{self.name} trains on images: give data=FOLDER (or arrays)")

    def _trained(self, graph: Graph, context: Context, **how: Any) -> tuple[History, list[str]]:
        """Trains `graph`; the history and the names of the terms. `how`: see `recovery.recover`."""
        from graphopt.passes.distill.recovery import recover

        plan = context.known.get("since_teacher") if self.teacher is None else None
        history, taps = recover(
            graph,
            self._teacher(graph, context),
            load_samples(self.data, graph, preprocess=self.preprocess),
            self,
            plan=plan if isinstance(plan, Plan) else None,
            seed=context.seed,
            known=context.known,
            **how,
        )
        if self.preprocess:
            graph.metadata[METADATA] = self.preprocess  # whoever evaluates it needs it again
        context.facts["training"] = {"rows": history.rows, "seconds": history.seconds}
        return history, taps

    def _teacher(self, graph: Graph, context: Context) -> Graph:  # noqa: ARG002
        if isinstance(self.teacher, str | Path):
            return load(Path(self.teacher))
        found = self.teacher if self.teacher is not None else context.teacher
        if not isinstance(found, Graph):
            raise UsageError(f"{self.name} has no teacher: give teacher=MODEL.onnx")
        return found


def told(history: History, taps: list[str]) -> str:
    """What a run did, in a line."""
    first, last = history.rows[0], history.rows[-1]
    return f"trained {history.steps} steps on {len(taps)} pairs of tensors: " + ", ".join(
        f"{k} {first[k]:.3g} -> {last[k]:.3g}" for k in taps if k in last
    )
