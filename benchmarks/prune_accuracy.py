"""How much accuracy is left right after pruning, without any training, on real labelled images.

    python -m benchmarks.prune_accuracy [--models NAME,...] [--macs 0.7,0.5,0.3] [--json FILE]
    python -m benchmarks.prune_accuracy --load FILE... --markdown FILE

On the networks and labelled images of the project's assets: 1,000 test and 256 calibration images of
CIFAR-10, 48 and 32 of COCO. Per model and budget (MACs that are left): every importance with isomorphic
allocation, then every allocation with the best importance, then every compensation with both. `none`
and `linear` are compensations; recalibration measures BatchNormalizations anew; refit is linear and
then a fit of every layer to what the original computed. Rankings by the best on the same images read
high. Gradients are the network's own, without labels. What is kept is
(score - chance) / (score before - chance), the score being top-1 or AP, chance 1 / classes or 0.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.prune_accuracy_tables import Row, means, page, show, summaries
from graphopt.channels.groups import Channels
from graphopt.channels.removal import remove
from graphopt.errors import GraphoptError
from graphopt.evaluate import Evaluation, Example, Examples, Rules, open_examples
from graphopt.frontends.onnx_file import load
from graphopt.ir.graph import Graph
from graphopt.ir.shapes import infer_shapes
from graphopt.passes.analyze import IMPORTANCES, scores
from graphopt.passes.prune import sensitivity
from graphopt.passes.prune.allocation import ALLOCATIONS
from graphopt.passes.prune.choose import Wishes, choose
from graphopt.passes.prune.compensate import compensate, readers
from graphopt.passes.prune.mend import mending
from graphopt.passes.prune.moments import Moments, measure
from graphopt.passes.prune.recalibrate import recalibrate
from graphopt.passes.prune.selection import Limits
from graphopt.pipeline import Pipeline
from graphopt.prune import PREPARATION
from graphopt.registry import parse_passes
from graphopt.report.terminal import console, print_rows
from graphopt.runtime.run import open_graph

ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"
CIFAR = f"npz:{ASSETS}/data/cifar10/cifar10_jpeg_subset.npz"
COCO = f"yolo:{ASSETS}/data/coco256/images"
IMAGENET = "mean=0.485,0.456,0.406, std=0.229,0.224,0.225"

Key = tuple[str, int, int]

EVERY = (*ALLOCATIONS, *sensitivity.PARTS)


@dataclass(frozen=True)
class Network:
    """A trained network, the images it is tested on, and those it is calibrated on."""

    file: str
    task: str
    preprocess: str = ""
    decoder: str | None = None

    @property
    def sets(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """Test and calibration: where, and how many images."""
        if self.task == "classification":
            return (f"{CIFAR}:test", 1000), (f"{CIFAR}:train", 256)
        return (f"{COCO}/val2017", 48), (f"{COCO}/train2017", 32)


NETWORKS = {
    "resnet8": Network("mlperf_tiny_resnet8_bn", "classification", "scale=1"),
    "resnet20": Network("cifar10_resnet20_bn", "classification", IMAGENET),
    "resnet32": Network("cifar10_resnet32_bn", "classification", IMAGENET),
    "resnet56": Network("cifar10_resnet56_bn", "classification", IMAGENET),
    "yolov5n": Network("yolov5n_416_bn", "detection", decoder="yolov5"),
    "yolox_nano": Network("yolox_nano", "detection"),
    "fastestdet": Network("fastestdet_352_bn", "detection"),
    "yolo_fastestv2": Network("yolo_fastestv2_352_bn", "detection"),
}


@dataclass(frozen=True)
class Recipe:
    """One way to prune."""

    importance: str
    allocation: str = "isomorphic"
    compensation: str = "none"
    recalibration: bool = False


class Shuffled(Examples):
    """A labelled set in a drawn order: the arrays are sorted by class."""

    def __init__(self, inner: Examples, seed: int = 0) -> None:
        self._inner = inner
        self._order = np.random.default_rng(seed).permutation(len(inner))
        self.task = inner.task  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, index: int) -> Example:
        return self._inner[int(self._order[index])]


def labelled(graph: Graph, what: Network, source: str, limit: int | None) -> Evaluation:
    """Labelled images of a network's task in a drawn order, held in memory for several models."""
    return Evaluation.prepare(
        graph,
        Shuffled(open_examples(source, what.task)),
        what.task,
        decoder=what.decoder,
        preprocess=what.preprocess,
        limit=limit,
        rules=Rules(score=0.005, iou=0.6),
        keep=True,
    )


class Bench:
    """A prepared network: what does not depend on the recipe is computed once."""

    def __init__(self, name: str, limits: Limits | None = None) -> None:
        self.name = name
        self.limits = limits or Limits()
        what = NETWORKS[name]
        loaded = load(ASSETS / "models" / f"{what.file}.onnx")
        self.graph: Graph = Pipeline(parse_passes(PREPARATION)).run(loaded, strict=True).graph
        self.channels = Channels(self.graph.copy())
        self.test, calibration = (labelled(self.graph, what, *s) for s in what.sets)
        self.feeds = [feeds for _, feeds in calibration.batches()]
        self.metric = "top1" if what.task == "classification" else "ap"
        self.chance = 0.1 if what.task == "classification" else 0.0
        self.before = self.score(self.graph)
        self._scores: dict[str, Any] = {}
        self._times: dict[tuple[str, str], Any] = {}

    def score(self, graph: Graph) -> float:
        """Top-1 or AP of a variant."""
        return self.test.on(open_graph(graph, optimized=True, threads=1))[self.metric]

    def importance(self, name: str) -> Any:
        """The scores of all units, computed once."""
        if name not in self._scores:
            self._scores[name] = scores(self.channels, name, data=self.feeds)
        return self._scores[name]

    def times(self, recipe: Recipe) -> Any:
        """When units go, for the allocations that measure it (once); None for the others."""
        if recipe.allocation not in sensitivity.PARTS:
            return None
        key = (recipe.importance, recipe.allocation)
        if key not in self._times:
            found, parts = self.importance(key[0]), sensitivity.PARTS[key[1]](self.channels)
            errors = sensitivity.measure(self.channels, found, parts, self.feeds[:1])
            count = self.channels.unit_count
            self._times[key] = sensitivity.times(count, found, parts, errors)
        return self._times[key]

    @cached_property
    def moments(self) -> dict[Key, Moments | None]:
        """What every layer that can lose inputs reads, measured once."""
        everything = np.arange(self.channels.unit_count)
        places = [
            (c.node.inputs[0], c.axis, len(c.labels))
            for r in readers(self.channels, everything)
            for c in r.contractions
        ]
        found = measure(self.channels.graph, places, self.feeds)
        return {(t.name, a, c): m for (t, a, c), m in zip(places, found, strict=True)}

    def _moments_of(self, contraction: Any) -> Moments | None:
        tensor = contraction.node.inputs[0]
        return self.moments[tensor.name, contraction.axis, len(contraction.labels)]

    def choice(self, recipe: Recipe, macs: float) -> Any:
        """What goes."""
        wishes = Wishes({"macs": macs}, allocation=recipe.allocation, limits=self.limits)
        found = self.importance(recipe.importance)
        return choose(self.channels, found, wishes, self.times(recipe))

    def pruned(self, removed: Any, compensation: str, recalibration: bool) -> Graph:
        """The network without the units."""
        graph = self.graph.copy()
        channels = self.channels.of(graph)
        if compensation == "refit":
            mend = mending(channels, removed, compensation, self.feeds, 0)
            remove(channels, removed)
            infer_shapes(graph)
            mend()
            return graph
        found = readers(channels, removed)
        seen = [[self._moments_of(c) for c in r.contractions] for r in found]
        remove(channels, removed)
        infer_shapes(graph)
        if compensation != "none":
            compensate(channels, removed, found, seen, compensation)
        if recalibration:
            recalibrate(graph, self.feeds)
        return graph

    def row(self, recipe: Recipe, macs: float) -> Row:
        """Prunes by a recipe, and measures."""
        base: dict[str, Any] = {"network": self.name, "macs": macs, "before": self.before}
        base |= asdict(recipe)
        started = time.perf_counter()
        try:
            made = self.choice(recipe, macs)
            graph = self.pruned(made.removed, recipe.compensation, recipe.recalibration)
            score = self.score(graph)
        except GraphoptError as error:
            return Row(**base, note=str(error))
        return Row(
            **base,
            score=score,
            kept=max(0.0, (score - self.chance) / (self.before - self.chance)),
            macs_left=made.after.macs / made.before.macs,
            seconds=round(time.perf_counter() - started, 2),
        )


def main() -> None:
    """Runs the benchmark and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", default=",".join(NETWORKS), help="comma-separated")
    parser.add_argument("--importances", default=",".join(IMPORTANCES), help="comma-separated")
    parser.add_argument("--allocations", default=",".join(EVERY), help="comma-separated")
    parser.add_argument("--macs", default="0.7,0.5,0.3", help="shares that are left")
    parser.add_argument("--json", type=Path, help="write all rows here, after every model")
    parser.add_argument(
        "--load", type=Path, nargs="+", help="show rows of earlier --json files as one"
    )
    parser.add_argument("--markdown", type=Path, help="write the tables as a page")
    options = parser.parse_args()
    rows: list[Row] = []
    if options.load:
        rows = [Row(**row) for file in options.load for row in json.loads(file.read_text())]
    else:
        budgets = [float(m) for m in options.macs.split(",")]
        for name in options.models.split(","):
            own = list(run(name, _names(options.importances), _names(options.allocations), budgets))
            rows += own
            show(name, own)
            if options.json:
                options.json.write_text(json.dumps([asdict(r) for r in rows], indent=1))
    for title, columns, table in summaries(rows):
        print(f"\n{title}")
        print_rows(console(), columns, table)
    if options.markdown:
        options.markdown.write_text(page(rows, (__doc__ or "").split("\n\n")[-1]), encoding="utf-8")


def run(
    name: str, importances: Sequence[str], allocations: Sequence[str], budgets: Sequence[float]
) -> Iterator[Row]:
    """All rows of one network, in the order of the module's text."""
    bench = Bench(name)
    done: list[Row] = []

    def tried(recipes: Sequence[Recipe]) -> Iterator[Row]:
        for recipe in recipes:
            for macs in budgets:
                done.append(bench.row(recipe, macs))
                yield done[-1]

    plain = ("none", "linear")
    first = allocations[0] if "isomorphic" not in allocations else "isomorphic"
    yield from tried([Recipe(i, first, c) for i in importances for c in plain])
    best = _best(done, lambda r: r.importance)
    others = [a for a in allocations if a != first]
    yield from tried([Recipe(best, a, c) for a in others for c in plain])
    where = _best([r for r in done if r.importance == best], lambda r: r.allocation)
    rest = [("mean", False), ("none", True), ("linear", True), ("refit", False)]
    yield from tried([Recipe(best, where, c, again) for c, again in rest])


def _best(rows: Sequence[Row], by: Callable[[Row], str]) -> str:
    kept = means([r for r in rows if r.compensation == "linear"] or rows, by)
    return max(kept, key=lambda k: kept[k]) if kept else by(rows[0])


def _names(text: str) -> list[str]:
    return [n.strip() for n in text.split(",") if n.strip()]


if __name__ == "__main__":
    main()
