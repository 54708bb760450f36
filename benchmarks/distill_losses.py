"""What each distillation loss adds to plain fine-tuning on labels, in a small controlled experiment.

    python -m benchmarks.distill_losses [--model resnet8] [--images 5000] [--epochs 3] [--seeds 3]
    python -m benchmarks.distill_losses --load FILE --markdown FILE

One pruned network (half of the MACs) is trained on a subset of the CIFAR images with labels: alone, and
with one loss of the original's logits or feature maps added, weighted so that its gradient is at
most half of the labels'. Everything else is equal: start, images, order, steps. Top-1 on 5000 test
images, mean over seeds; "gain" is against labels alone, and "gap closed" what part that is of the
distance to the original.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

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

HEADS = ("kl{temperature=4}", "mse", "dist{temperature=4}")
FEATURES = (
    *("hint", "spatial-attention", "hybrid-attention", "channel-distillation"),
    *("pkd", "cwd", "gram"),
)
# A loss is weighted up until balancing holds it at half of the labels' gradient.
_LARGE = 1e3


def main() -> None:
    """Trains once per loss and seed, and prints one row per loss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet8")
    parser.add_argument("--macs", type=float, default=0.5)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--load", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    found = json.loads(options.load.read_text()) if options.load else run(options)
    columns, cells = table(found)
    print_rows(console(), columns, cells)
    if options.markdown:
        options.markdown.write_text(page(columns, cells), encoding="utf-8")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The score of every loss and seed."""
    bench = Bench(options.model, "batch=64 workers=0")
    bench.samples.images = bench.samples.images[: options.images]
    bench.samples.labels = bench.samples.labels[: options.images]
    small = bench.pruned(options.macs)
    found: dict[str, Any] = {
        "before": bench.before,
        "pruned": bench.score(small.graph),
        "scores": {},
    }
    for loss in ("labels alone", *HEADS, *FEATURES):
        found["scores"][loss] = [
            trained(bench, small, loss, options.epochs, seed) for seed in range(options.seeds)
        ]
        print(loss, found["scores"][loss], file=sys.stderr, flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def trained(bench: Bench, small: Pruned, loss: str, epochs: float, seed: int) -> float:
    """Top-1 after training on labels and one loss."""
    graph = small.graph.copy()
    student = freed(graph)
    view = to_fx(student)
    objective: Objective = Task(nn.functional.cross_entropy)
    model: nn.Module = view
    if loss != "labels alone":
        made = Distillation(
            view,
            to_fx(freed(bench.graph)),
            terms(bench, small, loss),
            example=torch.from_numpy(bench.samples.images[:2]),
            task=nn.functional.cross_entropy,
            balance=True,
        )
        objective, model = made, made.student
    recipe = dataclasses.replace(Recipe.parse(bench.recipe, epochs=epochs), seed=seed)
    Trainer(model, objective, bench.samples, [bench.samples.name, "label"], recipe).run()
    write_back(view, graph)
    return bench.score(graph)


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
    alone = statistics.mean(found["scores"]["labels alone"])
    cells = []
    for loss, scores in found["scores"].items():
        mean = statistics.mean(scores)
        spread = float(np.std(scores))
        closed = (mean - alone) / max(found["before"] - alone, 1e-9)
        cells.append(
            [loss, f"{mean:.1f}", f"{spread:.1f}", f"{mean - alone:+.1f}", f"{closed:.0%}"]
        )
    return ["trained on labels and", ">top-1", ">std", ">gain", ">gap closed"], cells


def page(columns: list[str], cells: list[list[str]]) -> str:
    """The table as Markdown."""
    text = (__doc__ or "").split("\n\n")
    intro = " ".join(text[2].split())
    return "\n".join(
        ["# What each distillation loss adds", "", intro, "", as_markdown(columns, cells), ""]
    )


if __name__ == "__main__":
    main()
