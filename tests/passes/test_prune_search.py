"""The weight of two importances, searched by what is left of the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from graphopt.channels.groups import Channels
from graphopt.errors import UsageError
from graphopt.frontends import from_torch
from graphopt.ir.graph import Graph
from graphopt.passes.prune.prune import Prune
from graphopt.passes.prune.search import ranks, searched
from graphopt.pipeline import Pipeline
from graphopt.prune import prune_graph


def network() -> Graph:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Conv2d(16, 4, 1),
    )
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.1, 2.0)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return from_torch(net.eval(), (torch.zeros(1, 3, 8, 8),))


def images(count: int = 16) -> Any:
    rng = np.random.default_rng(1)
    return [rng.normal(size=(3, 8, 8)).astype(np.float32) for _ in range(count)]


def test_the_search_finds_the_score_that_keeps_the_network() -> None:
    """One score is right and one is wrong: all of the weight goes to the right one."""
    graph = network()
    channels = Channels(graph)
    right = np.arange(channels.unit_count, dtype=np.float64)
    units = [g.units for g in channels.groups]
    lowest = {int(u) for each in units for u in each[: len(each) // 2]}

    def goes(worth: Any) -> Any:
        lost = [u[np.lexsort((-u, worth[u]))][: len(u) // 2] for u in units]
        return np.sort(np.concatenate(lost))

    def judge(_: Graph) -> float:
        return judged.pop()

    asked: list[float] = []
    judged: list[float] = []

    def quality_of(worth: Any) -> Any:
        gone = goes(worth)
        asked.append(len(set(gone.tolist()) & lowest))
        judged.append(float(asked[-1]))
        return gone

    found = searched(channels, [right, -right], quality_of, _batches(graph), judge)
    assert found.weight > 0.5
    assert max(asked) == len(lowest)


def test_a_heap_of_small_scores_is_not_drowned_by_the_other() -> None:
    """As gammas after sparse training: moved to [0, 1] as they are, all but a few would be 0."""
    heap = np.array([1e-4, 3e-4, 2e-4, np.nan, 1.0])
    assert ranks(heap) == pytest.approx([0.25, 0.75, 0.5, np.nan, 1.0], nan_ok=True)
    assert ranks(np.array([2.0, 2.0, 1.0])) == pytest.approx([1, 1, 1 / 3])  # equals stay equal
    assert ranks(np.array([np.nan, np.nan])) == pytest.approx([np.nan, np.nan], nan_ok=True)


def test_either_score_alone_is_tried() -> None:
    """So that the sum is never worse than the better of the two."""
    graph = network()
    channels = Channels(graph)
    asked: list[Any] = []
    size = channels.unit_count
    rng = np.random.default_rng(0)
    one, other = rng.random(size) ** 8, rng.random(size)

    def goes(worth: Any) -> Any:
        asked.append(np.argsort(worth, kind="stable"))
        return np.arange(0)

    found = searched(channels, [one, other], goes, _batches(graph), lambda _: 0.0)
    assert {0.0, 0.5, 1.0} <= {w for w, _ in found.tried}
    orders = {tuple(o.tolist()) for o in asked}
    assert {tuple(np.argsort(s, kind="stable").tolist()) for s in (one, other)} <= orders


def test_without_labels_outputs_judge() -> None:
    how: dict[str, Any] = {"macs": "50%", "importance": "bn-gamma+chip", "multiple": 1}
    made = prune_graph(network(), search=True, data=images(), **how)
    (note,) = [n for n in made.result.rewrites if n.what.startswith("weight ")]
    tried = dict(
        tuple(map(float, part.split(": "))) for part in note.what.split("(")[1][:-1].split(", ")
    )
    assert all(quality < 0 for quality in tried.values())
    best = max(tried.values())
    weight = float(f"{made.result.facts['weight']:.3g}")
    assert tried[weight] == best
    assert 0.5 in tried
    assert len(tried) >= 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"importance": "bn-gamma", "data": images()}, "two importances"),
        ({"importance": "bn-gamma+l1"}, "judges pruned networks on images"),
    ],
)
def test_what_cannot_be_searched(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Pipeline([Prune(macs="50%", search=True, **options)]).run(network(), strict=True)


def _batches(graph: Graph) -> Any:
    from graphopt.data import load_data

    return load_data(images(), graph, batch=8)
