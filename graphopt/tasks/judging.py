"""How well a graph does on labelled images, asked again and again while it changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphopt.evaluate import Evaluation, Examples
from graphopt.ir.graph import Graph
from graphopt.runtime.run import open_graph
from graphopt.tasks.setup import meaning_of

FIGURES = ("ap50", "ap", "top1")


def judging(
    labels: str | Examples,
    task: str = "auto",
    *,
    decoder: Any = None,
    preprocess: str = "",
    limit: int | None = 200,
) -> Callable[[Graph], dict[str, float]]:
    """What measures graphs of one kind; the pictures are read once.

    Args:
        labels: KIND:WHERE (graphopt.evaluate.examples), or a labelled set.
        task: "detection", "classification" or "auto".
        decoder: what a detector's outputs mean, if they do not say.
        preprocess: how images become inputs.
        limit: at most so many images, evenly spaced over the set.

    Returns:
        A function from a graph to "ap50" and "ap", or "top1", as shares between 0 and 1.
    """
    prepared: list[Evaluation] = []

    def judge(graph: Graph) -> dict[str, float]:
        if not prepared:
            kind, meant = meaning_of(graph, task, decoder)
            prepared.append(
                Evaluation.prepare(
                    graph,
                    labels,
                    kind,
                    decoder=meant,
                    preprocess=preprocess,
                    limit=limit,
                    keep=True,
                )
            )
        found = prepared[0].on(open_graph(graph, optimized=True))
        return {k: v for k, v in found.items() if k in FIGURES}

    return judge
