"""How much of what pruning lost comes back by training, without labels and with them.

    python -m benchmarks.recover [--models resnet20,...] [--macs 0.7,0.5] [--epochs 5] [--json FILE]
    python -m benchmarks.recover --load FILE --markdown FILE

Per network and budget (MACs that are left) the score on held-back images before, right after pruning, and
after training in one of these ways, all with the same optimizer and images:

    label-free          what `graphopt optimize --prune --recover` does: heads and features of the
                        original, after the same share off every layer by L2 norm, compensated linearly
    uncompensated       the same without compensation
    heads alone         the same without features
    labels              plain fine-tuning on labels after the same pruning (classifiers, and detectors
                        whose raw maps a loss is known for)
    both                labels and the original's heads and features
    compensated         label-free after what `graphopt prune` does for itself, where no training
                        follows: isomorphic shares, and weights refitted to the original
    compensated+labels  the same, fine-tuned on labels
    torch-pruning       what Torch-Pruning leaves of the file (as a module made by onnx2torch; L2, the same
                        share off every layer), fine-tuned on labels; detectors, on the original's heads.
                        No row where it fails on the network, which is said on stderr

Top-1 for classifiers (5000 test images), COCO AP for detectors (128 images of val2017). Training images:
the 15000 of the CIFAR subset, or 128 of train2017, whose labels only the rows that say so see; these
are shifted, mirrored and zoomed. Training is as in `RECIPES` unless said otherwise.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.by_torch_pruning import prune
from benchmarks.markdown import as_markdown
from benchmarks.prune_accuracy import ASSETS, CIFAR, COCO, NETWORKS, labelled
from graphopt.channels.plan import Plan
from graphopt.distill import BEFORE_TRAINING
from graphopt.errors import UsageError
from graphopt.frontends.onnx_file import load
from graphopt.fx import to_fx, write_back
from graphopt.ir.graph import Graph
from graphopt.passes.distill.distillation import Distillation
from graphopt.passes.distill.recover import Recover
from graphopt.passes.distill.recovery import default_terms, freed
from graphopt.pipeline import Pipeline
from graphopt.prune import PREPARATION, Pruned, prune_graph
from graphopt.registry import parse_passes
from graphopt.report.terminal import console, print_rows
from graphopt.runtime.run import open_graph
from graphopt.tasks import TaskSetup, task_for
from graphopt.tasks.samples import TARGETS, labelled_samples
from graphopt.training import Objective, Recipe, Task, Trainer

Array = np.ndarray[Any, Any]

METHODS = (
    "label-free",
    "uncompensated",
    "heads alone",
    "labels",
    "both",
    "compensated",
    "compensated+labels",
    "torch-pruning",
)
PEER = METHODS[-1]
RECIPES = {
    "classification": "batch=64 workers=0",
    "detection": "batch=16 optimizer=adamw lr=0.002 augment=flip|shift=0.1|zoom=0.3 workers=0",
}
EPOCHS = {"classification": 5.0, "detection": 40.0}
_TEST_LIMIT = {"classification": 5000, "detection": 128}


@dataclass(frozen=True)
class Row:
    """One network, budget and way of training."""

    network: str
    macs: float
    method: str
    epochs: float
    before: float
    pruned: float
    after: float
    seconds: float


class Samples:
    """Inputs and labels in memory, as a training run wants them."""

    def __init__(self, names: list[str], images: Array, labels: Array) -> None:
        self.names, self.images, self.labels = names, images, labels
        self.what = "arrays"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return dict(zip(self.names, (self.images[index], self.labels[index]), strict=True))


class Bench:
    """A network, its test images and its training images."""

    def __init__(self, name: str, recipe: str, epochs: float) -> None:
        what = NETWORKS[name]
        self.name, self.task = name, what.task
        self.recipe, self.epochs = recipe or RECIPES[what.task], epochs or EPOCHS[what.task]
        self.file = ASSETS / "models" / f"{what.file}.onnx"
        loaded = load(self.file)
        self.graph = Pipeline(parse_passes(PREPARATION)).run(loaded, strict=True).graph
        data = (CIFAR, CIFAR) if what.task == "classification" else (COCO, COCO)
        ends = (":test", ":train") if what.task == "classification" else ("/val2017", "/train2017")
        self.test = labelled(
            self.graph, NETWORKS[self.name], data[0] + ends[0], _TEST_LIMIT[what.task]
        )
        self.metric = "top1" if what.task == "classification" else "ap"
        self.before = self.score(self.graph)
        self.loss, self.samples = self._training(data[1] + ends[1])

    def _training(self, source: str) -> tuple[Callable[..., Any] | None, Samples]:
        """The loss on labels, None where none is known, and images with labels."""
        name = self.graph.inputs[0].name
        if self.task == "detection":
            setup = _setup(self.graph, NETWORKS[self.name].decoder)
            if setup is not None:
                samples = labelled_samples(source, self.graph, setup)
                each = [samples[i] for i in range(len(samples))]
                images, boxes = (np.stack([e[key] for e in each]) for key in (name, TARGETS))
                return setup.loss, Samples([name, TARGETS], images, boxes)
        images, labels = [], []
        for held, feeds in labelled(self.graph, NETWORKS[self.name], source, None).batches():
            images.append(next(iter(feeds.values()))[: len(held)])
            labels += [int(e.classes[0]) if len(e.classes) else 0 for e, _, _ in held]
        samples = Samples([name, "label"], np.concatenate(images), np.array(labels, np.int64))
        return (nn.functional.cross_entropy if self.task == "classification" else None), samples

    def score(self, graph: Graph) -> float:
        """Top-1 or AP in percent."""
        return 100 * self.test.on(open_graph(graph, optimized=True, threads=1))[self.metric]

    def pruned(self, macs: float, **options: Any) -> Pruned:
        """The network with so many MACs left, compensated on training images."""
        images, size = self.samples.images[:256], self.graph.inputs[0].shape[0]
        batch = size if isinstance(size, int) else 32  # a fixed one is all the network takes
        calibration = [images[i : i + batch] for i in range(0, len(images), batch)]
        chosen = {"macs": str(macs), "data": calibration, **options}
        return prune_graph(self.graph, preparation="", **chosen)

    def pruned_by_peer(self, macs: float) -> Graph:
        """What Torch-Pruning leaves.

        Raises:
            subprocess.CalledProcessError: it fails on this network.
        """
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / "made.onnx"
            prune(self.file, made, macs)
            return Pipeline(parse_passes(PREPARATION)).run(load(made), strict=True).graph

    def trained(self, small: Graph, plan: Plan | None, method: str) -> tuple[Graph, float]:
        """The pruned network after training, and the seconds that took."""
        graph = small.copy()
        alone = method == "heads alone" or plan is None
        wanted = Recover(feature="none" if alone else "auto")
        student = freed(graph)
        view = to_fx(student)
        example = torch.from_numpy(self.samples.images[:2])
        model: nn.Module = view
        if self.on_labels(method):
            assert self.loss is not None
            objective: Objective = Task(self.loss)
        else:
            task = self.loss if method == "both" else None
            terms = default_terms(student, self.graph, plan, wanted)
            made = Distillation(view, to_fx(freed(self.graph)), terms, example=example, task=task)
            objective, model = made, made.student
        names = self.samples.names
        if method != "both" and not self.on_labels(method):
            names = names[:1]
        recipe = Recipe.parse(self.recipe, epochs=self.epochs)
        trainer = Trainer(model, objective, self.samples, names, recipe)
        started = time.perf_counter()
        trainer.run()
        write_back(view, graph)
        return graph, time.perf_counter() - started

    def on_labels(self, method: str) -> bool:
        """Whether labels alone are what is trained on."""
        return "labels" in method or (method == PEER and self.task == "classification")


def _setup(graph: Graph, decoder: str | None) -> TaskSetup | None:
    """The loss of a detector, None where none is known for what it puts out."""
    try:
        return task_for(graph, "detection", decoder=decoder)
    except UsageError:
        return None


def main() -> None:
    """Trains every network in every way and prints one row per network, budget and way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="resnet8,resnet20")
    parser.add_argument("--macs", default="0.7,0.5")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--epochs", type=float, default=0, help="5, detectors 40")
    parser.add_argument("--recipe", default="", help="see graphopt.training.Recipe and RECIPES")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--load", type=Path, nargs="*", default=[], help="rows of earlier runs")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    rows = [Row(**r) for path in options.load for r in json.loads(path.read_text())]
    if not options.load:
        rows = run(options, lambda done: _save(options.json, done))
    columns, cells = table(rows)
    print_rows(console(), columns, cells)
    if options.markdown:
        options.markdown.write_text(page(columns, cells), encoding="utf-8")


def run(options: argparse.Namespace, keep: Callable[[list[Row]], None]) -> list[Row]:
    """Every row, kept as soon as it is there."""
    rows: list[Row] = []
    for name in options.models.split(","):
        bench = Bench(name, options.recipe, options.epochs)
        for macs in (float(m) for m in options.macs.split(",")):
            for method in options.methods.split(","):
                if bench.loss is None and (bench.on_labels(method) or method == "both"):
                    continue
                found = _pruned(bench, macs, method)
                if found is None:
                    continue
                small, plan = found
                after, seconds = bench.trained(small, plan, method)
                scores = bench.before, bench.score(small), bench.score(after)
                rows.append(Row(name, macs, method, bench.epochs, *scores, seconds))
                print(rows[-1], file=sys.stderr, flush=True)
                keep(rows)
    return rows


def _pruned(bench: Bench, macs: float, method: str) -> tuple[Graph, Plan | None] | None:
    """What is trained and, where we pruned it, which channels are left; None where the peer fails."""
    if method != PEER:
        how = {} if method.startswith("compensated") else dict(BEFORE_TRAINING)
        if method == "uncompensated":
            how["compensation"] = "none"
        made = bench.pruned(macs, **how)
        return made.graph, made.plan
    try:
        return bench.pruned_by_peer(macs), None
    except subprocess.CalledProcessError as error:
        print(f"{bench.name}: {PEER} fails ({error})", file=sys.stderr, flush=True)
        return None


def _save(path: Path | None, rows: list[Row]) -> None:
    if path is not None:
        path.write_text(json.dumps([asdict(r) for r in rows], indent=1), encoding="utf-8")


def table(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Columns and cells of the printed table."""
    columns = [
        "network",
        ">MACs left",
        ">before",
        "trained on",
        ">epochs",
        ">pruned",
        ">trained",
        ">lost",
        ">s",
    ]
    cells = [
        [
            r.network,
            f"{r.macs:.0%}",
            f"{r.before:.1f}",
            r.method,
            f"{r.epochs:g}",
            f"{r.pruned:.1f}",
            f"{r.after:.1f}",
            f"{r.before - r.after:.1f}",
            f"{r.seconds:.0f}",
        ]
        for r in rows
    ]
    return columns, cells


def page(columns: list[str], cells: list[list[str]]) -> str:
    """The table as Markdown."""
    text = (__doc__ or "").split("\n\n")
    intro = "\n\n".join(part.strip("\n") for part in [text[0], *text[2:]])
    return "\n".join(["# Recovery after pruning", "", intro, "", as_markdown(columns, cells), ""])


if __name__ == "__main__":
    main()
