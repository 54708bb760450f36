"""What each distillation loss adds to plain fine-tuning on labels, in small controlled experiments.

    python -m benchmarks.distill_losses [--task detection] [--epochs E] [--seeds 3] [--json FILE]
    python -m benchmarks.distill_losses --load FILE --markdown FILE

One network pruned to half of its MACs is trained on a few labelled images: alone, and with one loss of
the original's outputs or feature maps added, weighted so that its gradient is at most half of the
labels'. Everything else is equal: start, images, order, steps. "gain" is against labels alone, mean over
seeds, and "gap closed" what part that is of the distance to the original.

Classification: ResNet-8 of the assets on 5000 images of CIFAR-10; top-1 on 5000 test images, 3 epochs.
Detection: the trained example (`graphopt zoo export shapes-detector`) on 32 drawn images; COCO AP on 300
others, 50 epochs.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from benchmarks.distill_detector import ALONE, Detector
from benchmarks.markdown import as_markdown
from benchmarks.recover import Bench
from graphopt.fx import to_fx, write_back
from graphopt.passes.distill.distillation import Distillation
from graphopt.passes.distill.pairing import kept_channels
from graphopt.passes.distill.recovery import freed
from graphopt.passes.distill.taps import default_taps
from graphopt.passes.distill.term import Term, Terms
from graphopt.prune import Pruned
from graphopt.report.terminal import console, print_rows
from graphopt.training import Objective, Recipe, Task, Trainer

IMAGES = 5000
HEADS = ("kl{temperature=4}", "mse", "dist{temperature=4}")
FEATURES = (
    *("hint", "spatial-attention", "hybrid-attention", "channel-distillation"),
    *("pkd", "cwd", "gram"),
)
# A loss is weighted up until balancing holds it at half of the labels' gradient.
_LARGE = 1e3


class Classifier:
    """A pruned classifier of the assets, and labelled images."""

    name, metric, epochs = "classification", "top-1", 3
    losses: ClassVar[tuple[str, ...]] = (*HEADS, *FEATURES)

    def __init__(self) -> None:
        self.bench = bench = Bench("resnet8", "batch=64 workers=0")
        bench.samples.images = bench.samples.images[:IMAGES]
        bench.samples.labels = bench.samples.labels[:IMAGES]
        self.small = bench.pruned(0.5)
        self.before, self.pruned = bench.before, bench.score(self.small.graph)

    def trained(self, loss: str, epochs: float, seed: int) -> float:
        """Top-1 after training on labels and one loss."""
        bench, graph = self.bench, self.small.graph.copy()
        view = to_fx(freed(graph))
        objective: Objective = Task(nn.functional.cross_entropy)
        model: nn.Module = view
        if loss != ALONE:
            made = Distillation(
                view,
                to_fx(freed(bench.graph)),
                terms(bench, self.small, loss),
                example=torch.from_numpy(bench.samples.images[:2]),
                task=nn.functional.cross_entropy,
                balance=True,
            )
            objective, model = made, made.student
        recipe = dataclasses.replace(Recipe.parse(bench.recipe, epochs=epochs), seed=seed)
        Trainer(model, objective, bench.samples, [bench.samples.name, "label"], recipe).run()
        write_back(view, graph)
        return bench.score(graph)


EXPERIMENTS = {each.name: each for each in (Classifier, Detector)}


def main() -> None:
    """Trains once per loss and seed, and prints one row per loss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default=",".join(EXPERIMENTS), help="comma-separated")
    parser.add_argument("--epochs", type=float, help="instead of each experiment's own")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--load", type=Path, nargs="*", default=[], help="what was found before")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    found = [json.loads(path.read_text()) for path in options.load]
    if not options.load:
        found = [run(EXPERIMENTS[name](), options) for name in options.task.split(",")]
    for each in found:
        print_rows(console(), *table(each))
    if options.markdown:
        options.markdown.write_text(page(found), encoding="utf-8")


def run(experiment: Classifier | Detector, options: argparse.Namespace) -> dict[str, Any]:
    """The score of every loss and seed."""
    epochs = options.epochs or experiment.epochs
    scores: dict[str, list[float]] = {}
    found = {
        "task": experiment.name,
        "metric": experiment.metric,
        "before": experiment.before,
        "pruned": experiment.pruned,
        "scores": scores,
    }
    for loss in (ALONE, *experiment.losses):
        seeds = range(options.seeds)
        scores[loss] = [experiment.trained(loss, epochs, seed) for seed in seeds]
        print(loss, scores[loss], file=sys.stderr, flush=True)
        if options.json:
            path = options.json.with_stem(f"{options.json.stem}-{experiment.name}")
            path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def terms(bench: Bench, small: Pruned, loss: str) -> Terms:
    """The loss on the logits, or on the last feature map of every stage."""
    heads, features = default_taps(small.graph, bench.graph)
    if loss in HEADS:
        return {(h, h): Term(loss, weight=_LARGE) for h in heads}
    kept = kept_channels(bench.graph, small.plan, features)
    # One term at a time is balanced; the stages of one loss share its part.
    return {(f, f): Term(loss, weight=_LARGE, channels=kept.get(f)) for f in features[-1:]}


def table(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells of the printed table."""
    alone = statistics.mean(found["scores"][ALONE])
    cells = []
    for loss, scores in found["scores"].items():
        mean = statistics.mean(scores)
        spread = float(np.std(scores))
        closed = (mean - alone) / max(found["before"] - alone, 1e-9)
        cells.append(
            [loss, f"{mean:.1f}", f"{spread:.1f}", f"{mean - alone:+.1f}", f"{closed:.0%}"]
        )
    return ["trained on labels and", f">{found['metric']}", ">std", ">gain", ">gap closed"], cells


def page(found: list[dict[str, Any]]) -> str:
    """The tables as Markdown."""
    intro = [" ".join(part.split()) for part in (__doc__ or "").split("\n\n")[2:]]
    text = [
        "# What each distillation loss adds",
        "",
        "What `python -m benchmarks.distill_losses` printed.",
        "",
    ]
    text += [line for part in intro for line in (part, "")]
    for each in found:
        text += [f"## {each['task'].capitalize()}", ""]
        start = f"{each['metric']} {each['before']:.1f} before, {each['pruned']:.1f} pruned."
        text += [start, "", as_markdown(*table(each)), ""]
    return "\n".join(text)


if __name__ == "__main__":
    main()
