"""Prunes a little, trains what is left, and again, as long as the accuracy stands it.

    G_0 = G,   G_k = recover(prune(G_(k-1), B_k)),   B_k = B_0 - k / K (B_0 - B),   k = 1 ... K
    the result is the last G_k before the first with  metric(G) - metric(G_k) > max_drop

The teacher of every round is the network before the first: heads are compared as they are, feature
maps by the channels that are left of it. Several small cuts with training between them cost less
than a large one (Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient
Inference", ICLR 2017); that it stops by itself means nobody has to know the right budget before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from graphopt.errors import BudgetError, UsageError
from graphopt.ir.cost import cost_of
from graphopt.ir.graph import Graph, sweep
from graphopt.ir.shapes import infer_shapes
from graphopt.named import read_options
from graphopt.pass_base import Changes, Context, Pass
from graphopt.passes.distill.recover import Recover
from graphopt.passes.prune.facts import add_up
from graphopt.passes.prune.prune import Prune


@dataclass(frozen=True)
class PruneRecover(Pass):
    """G_k = recover(prune(G_(k-1))), in rounds, until a labelled metric loses more than max-drop.

    Not handled: what `prune` and `recover` do not.
    """

    name: ClassVar[str] = "prune-recover"
    numerics: ClassVar[Changes] = Changes("removes channels and trains the rest")
    before: ClassVar[dict[str, str]] = dict(Prune.before)

    prune: Any = ""  # "macs=30% importance=l2": the options of `prune`, with the budget of the end
    recover: Any = ""  # "epochs=2 lr=0.004": those of `recover` and of its recipe, for every round
    rounds: int = 4
    max_drop: float | None = None  # points (percent) the metric may lose; needs `judge`
    judge: Any = (
        None  # labelled images, KIND:WHERE: the metric is measured on them after each round
    )
    images: int = 500  # at most so many of them
    data: Any = None  # images without labels, for both
    preprocess: str = ""
    folder: str = ""  # for checkpoints; an interrupted run found there goes on
    device: str = "auto"
    watch: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        # What cannot be meant is told of before anything is trained.
        self._wanted()
        self._training()

    def run(self, graph: Graph, context: Context) -> None:
        wanted = self._wanted()
        rounds = self._rounds(wanted, graph)
        measure = _Measure(graph, self)
        facts: dict[str, Any] = {}
        told: list[dict[str, Any]] = []
        for number, (step, training) in enumerate(rounds, 1):
            trial = graph.copy()
            made = _round(trial, step, training, context, facts)
            row = {"round": number, **measure.of(trial)}
            told.append(row)
            if self.max_drop is not None and row["lost"] > self.max_drop:
                context.refused(
                    f"round {number}", f"undone, {self.max_drop:g} are allowed: {_words(row)}"
                )
                break
            context.rewrote(f"round {number}", _words(row))
            graph.become(trial)
            context.proof = made.proof
            facts = _together(facts, made.facts)
        if not facts:
            raise BudgetError(
                f"the first of {self.rounds} rounds already costs too much ({_words(told[0])}, "
                f"{self.max_drop:g} allowed): take more rounds, more epochs or a larger max-drop"
            )
        plan = dataclasses.replace(facts["plan"], settings=wanted.settings())
        context.facts |= {**facts, "plan": plan, "rounds": told}

    def _wanted(self) -> Prune:
        """What is pruned in the end.

        Raises:
            UsageError: options that cannot be meant.
        """
        wanted: Prune = _made(Prune.with_options, self.prune, self._images(), "prune")
        if wanted.plan is not None or wanted.rounds != 1:
            raise UsageError(
                "prune-recover takes budgets, and rounds of its own: no plan or rounds"
            )
        return wanted

    def _rounds(self, wanted: Prune, graph: Graph) -> list[tuple[Prune, Recover]]:
        """What every round prunes and how it trains."""
        training, found = self._training(), []
        for number, step in enumerate(wanted.steps(graph, self.rounds), 1):
            folder = str(Path(self.folder) / f"round{number}") if self.folder else ""
            found.append((step, dataclasses.replace(training, folder=folder or training.folder)))
        return found

    def _training(self) -> Recover:
        if self.rounds < 1:
            raise UsageError(f"prune-recover: rounds={self.rounds} is not a number from 1 on")
        more = {**self._images(), "device": self.device}
        if self.watch is not None:
            more["watch"] = self.watch
        made: Recover = _made(Recover.with_recipe, self.recover, more, "recover")
        return made

    def _images(self) -> dict[str, Any]:
        images = {} if self.data is None else {"data": self.data}
        return {**images, "preprocess": self.preprocess} if self.preprocess else images


class _Measure:
    """The metric of graphs beside that of the first one; costs alone where nobody judges."""

    def __init__(self, graph: Graph, wanted: PruneRecover) -> None:
        self._of: Callable[[Graph], dict[str, float]] | None = None
        if wanted.judge is not None:
            from graphopt.tasks.judging import judging

            self._of = judging(wanted.judge, preprocess=wanted.preprocess, limit=wanted.images)
            self._metric, self._before = next(iter(self._of(graph).items()))
        elif wanted.max_drop is not None:
            raise UsageError(
                "max-drop is measured on labelled images: give judge=KIND:WHERE (coco:, voc:, ...)"
            )

    def of(self, graph: Graph) -> dict[str, Any]:
        cost = cost_of(graph)
        row: dict[str, Any] = {"macs": cost.macs, "parameters": cost.parameters}
        if self._of is None:
            return row
        after = self._of(graph)[self._metric]
        return {**row, "metric": self._metric, "after": after, "lost": 100 * (self._before - after)}


def _made(
    kind: Callable[[Mapping[str, Any]], Pass], given: Any, more: Mapping[str, Any], name: str
) -> Any:
    """A pass from its options; one that is made already is taken as it is."""
    if isinstance(given, Pass):
        return given
    options = read_options(given, name) if isinstance(given, str) else dict(given)
    return kind({**more, **options})


def _round(
    graph: Graph, step: Prune, training: Recover, context: Context, facts: Mapping[str, Any]
) -> Context:
    """Prunes and trains a graph in place; what both found out."""
    made = Context(context.seed, context.teacher, {**context.known, **facts})
    step.run(graph, made)
    sweep(graph)
    infer_shapes(graph)
    made.known = {**made.known, **made.facts}
    training.run(graph, made)
    return made


def _together(earlier: Mapping[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """What the rounds so far did, told as one."""
    if earlier:
        add_up(facts, dict(earlier))
        trained, before = facts.get("training"), earlier.get("training")
        if trained and before:
            facts["training"] = {
                "rows": [*before["rows"], *trained["rows"]],
                "seconds": before["seconds"] + trained["seconds"],
            }
    return facts


def _words(row: Mapping[str, Any]) -> str:
    cost = f"{row['macs'] / 1e6:.3g} M MACs, {row['parameters'] / 1e6:.3g} M parameters"
    if "metric" not in row:
        return cost
    return f"{cost}, {row['metric']} {100 * row['after']:.1f}, {row['lost']:.1f} points lost"
