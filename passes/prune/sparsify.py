"""Trains a network so that some of its channels become dispensable, without labels.

    min over weights of  E_x d(student(x), teacher(x)) + s sum_units sqrt(n) ||gamma_unit||_2

The teacher is the network as it was before, the images need no labels. Pressure is put on the
scales of BatchNormalizations of channels that can be removed, coupled channels together; `prune` with
`importance=bn-gamma` then finds small ones and large ones with a gap between instead of a slope. For
networks without BatchNormalizations the filters themselves are pressed (`method=group-lasso`), or
`insert-batchnorm` runs first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.named import unknown
from graphopt.pass_base import Changes, Context
from graphopt.passes.distill.recover import Recover

if TYPE_CHECKING:
    from graphopt.passes.prune.sparsity import Sparsity

METHODS = ("gamma", "group-lasso")


@dataclass(frozen=True)
class Sparsify(Recover):
    """min E_x d(student(x), teacher(x)) + s sum ||gamma||: label-free sparsity training on images.

    The options of `recover`, and those of the pressure. Not handled: what `recover` does not, and
    channels that cannot be removed, which are left alone. Graphs whose shapes are computed have to be
    simplified first (`fold-shapes, simplify`), or nothing in them can be removed.
    """

    name: ClassVar[str] = "sparsify"
    numerics: ClassVar[Changes] = Changes("trains with sparsity")
    before: ClassVar[dict[str, str]] = {
        "fuse-conv-bn": "the scales that are pressed are gone after it"
    }
    after: ClassVar[dict[str, str]] = {"insert-batchnorm": "its scales are what is pressed"}

    epochs: float = 20.0
    s: float = 0.0  # 0 for one that is proposed: see graphopt.passes.prune.sparsity.propose
    schedule: str = "local-decay"  # see graphopt.passes.prune.sparsity.schedules
    method: str = "gamma"  # or "group-lasso"
    names: str = "*"  # globs of the scales (or weights) that are pressed, with spaces between

    def run(self, graph: Graph, context: Context) -> None:
        self._check_data()
        if self.method not in METHODS:
            raise UsageError(unknown("method of sparsify", self.method, METHODS))
        if not self.epochs:
            return
        made: list[Sparsity] = []

        def hooks(view: Any) -> list[Sparsity]:
            made.append(self._sparsity(graph, view, context.seed))
            return made

        history = self._trained(graph, context, hooks=hooks)
        found = made[0].facts()
        context.facts["gamma"] = found
        context.rewrote(
            "graph",
            f"trained {history.steps} steps with s = {found['s']:.3g}: mean {found['what']} "
            f"{found['mean'][0]:.3g} -> {found['mean'][-1]:.3g}, "
            f"{found['small'][-1]:.1%} of {made[0].units.count} units below {found['small_below']}",
        )

    def _sparsity(self, graph: Graph, view: Any, seed: int) -> Sparsity:
        from graphopt.passes.prune.sparsity import GammaSparsity, GroupLasso

        kind = GammaSparsity if self.method == "gamma" else GroupLasso
        return kind.for_graph(
            graph,
            view,
            s=self.s or self.training(seed),
            schedule=self.schedule,
            names=self.names.split() or ["*"],
        )

    def _teacher(self, graph: Graph, context: Context) -> Graph:
        if self.teacher is None and context.teacher is None:
            return graph.copy()
        return super()._teacher(graph, context)
