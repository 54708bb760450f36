"""Post-training int8 side by side: graphopt and its peers on trained networks with labelled images.

    python -m benchmarks.quantize [--models NAME,...] [--tools NAME,...] [--json FILE]
    python -m benchmarks.quantize --load FILE... --markdown FILE

Every tool gets the same float file (BatchNormalizations folded by graphopt's lossless passes) and the
same calibration images; the rows with qat train on more of them, without labels. Every result is
scored on the same held-back images and timed in ONNX Runtime in turn with the float file. Top-1 for
classifiers (5000 images), COCO AP for detectors (128 images of val2017, on which AP moves by half a point
for nothing). A peer has a row for each of its calibrators, each once with everything quantized and once
with the last products and what follows them excluded, which its users do by hand. Of NAME-half half of
the operations were removed and what is left was trained without labels, as `graphopt optimize --prune 50%
--recover` does, before anybody quantizes it (kept in out/bench/quantize).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.environments import python_of
from benchmarks.markdown import as_markdown
from benchmarks.prune_accuracy import ASSETS, CIFAR, COCO, NETWORKS, Network, labelled
from graphopt.errors import GraphoptError
from graphopt.frontends.onnx_file import load, save
from graphopt.ir.graph import Graph
from graphopt.pipeline import Pipeline
from graphopt.prune import PREPARATION, pruning
from graphopt.quantize import quantizing
from graphopt.registry import default_passes, parse_passes, pass_class
from graphopt.report.terminal import console, print_rows
from graphopt.runtime.measure import compare_latency
from graphopt.runtime.run import open_file

HALF = "-half"
MODELS = tuple(f"{name}{half}" for name in NETWORKS for half in ("", HALF))
CALIBRATION = {"classification": 256, "detection": 64}
TRAINING = {"classification": 4096, "detection": 128}  # without labels, for the rows with qat
TEST = {"classification": 5000, "detection": 128}
FOLDER = Path(__file__).parents[1] / "out" / "bench" / "quantize"
_RECOVERY = {"classification": (4, "batch=64 workers=0"), "detection": (8, "batch=16 workers=0")}


@dataclass(frozen=True)
class Row:
    """One network quantized by one tool."""

    model: str
    tool: str
    setting: str
    metric: str
    before: float
    after: float | None
    size: float | None = None  # of the float file
    latency: float | None = None  # likewise
    seconds: float | None = None
    failure: str = ""


@dataclass(frozen=True)
class Way:
    """A tool with a setting."""

    tool: str
    setting: str
    options: dict[str, Any]


_INT4 = {"weight": "int4", "floor": 0}


def ways(head: Sequence[str]) -> list[Way]:
    """Everything that is compared; `head` names the nodes from the last products on."""
    found = [
        Way("graphopt", "defaults", {}),
        Way("graphopt", "no repair, no floor", {"repair": "none", "floor": 0}),
        Way("graphopt", "equalize, bias", {"repair": "equalize,bias"}),
        Way("graphopt", "adaround, bias", {"repair": "adaround,bias"}),
        Way("graphopt", "qat, 1 epoch", {"qat": "epochs=1 workers=0"}),
        Way("graphopt", "int4 weights", _INT4),
        Way("graphopt", "int4 weights, adaround", _INT4 | {"repair": "adaround,bias"}),
        Way("graphopt", "int4 weights, reconstruct", _INT4 | {"repair": "reconstruct,bias"}),
        Way("graphopt", "int4 weights, qat", _INT4 | {"qat": "epochs=1 workers=0"}),
    ]
    for method in ("MinMax", "Percentile", "Entropy"):
        found.append(Way("onnxruntime", method, {"method": method}))
        found.append(
            Way("onnxruntime", f"{method}, head excluded", {"method": method, "exclude": head})
        )
    for fast, name in ((True, "fast bias"), (False, "accurate bias")):
        found.append(Way("nncf", name, {"fast": fast}))
        found.append(Way("nncf", f"{name}, head excluded", {"fast": fast, "exclude": head}))
    return [*found, Way("neural-compressor", "static", {})]


def halved(file: Path, what: Network, source: str) -> Graph:
    """A network without half of its operations, trained on images without labels; made once."""
    made = FOLDER / f"{file.stem}{HALF}.onnx"
    if not made.exists():
        graph = Pipeline(parse_passes(PREPARATION)).run(load(file), strict=True).graph
        shown = labelled(graph, what, source, None)
        images = [row for _, feeds in shown.batches() for row in next(iter(feeds.values()))]
        epochs, recipe = _RECOVERY[what.task]
        plain = {"importance": "l2", "allocation": "uniform", "compensation": "none"}
        passes = [
            pruning(macs="50%", **plain),
            pass_class("recover").with_options(
                {"data": images, "epochs": epochs, "recipe": recipe}
            ),
        ]
        FOLDER.mkdir(parents=True, exist_ok=True)
        save(Pipeline(passes).run(graph, strict=True).graph, made)
    return load(made)


class Bench:
    """A network in float, its images, and what comes of quantizing it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        what = NETWORKS[name.removesuffix(HALF)]
        places = (f"{CIFAR}:test", f"{CIFAR}:train")
        if what.task == "detection":
            places = (f"{COCO}/val2017", f"{COCO}/train2017")
        file = ASSETS / "models" / f"{what.file}.onnx"
        loaded = load(file) if not name.endswith(HALF) else halved(file, what, places[1])
        self.graph = Pipeline(default_passes()).run(loaded, strict=True).graph
        self.float = folder / f"{name}.onnx"
        save(self.graph, self.float)
        self.test = labelled(self.graph, what, places[0], TEST[what.task])
        # The first of the training images are those for calibration.
        shown = labelled(self.graph, what, places[1], TRAINING[what.task])
        batches = [next(iter(feeds.values())) for _, feeds in shown.batches()]
        self.images = np.concatenate(batches)
        self.calibration = CALIBRATION[what.task]
        self.metric = "top1" if what.task == "classification" else "ap"
        self.arrays = folder / f"{name}.npz"
        np.savez(self.arrays, x=self.images[: self.calibration])
        self.before = self._score(self.float)

    def _score(self, path: Path) -> float:
        return self.test.on(open_file(path, optimized=True))[self.metric]

    def rows(self, tools: Sequence[str]) -> Iterator[Row]:
        """A row per way, as they are done."""
        from graphopt.passes.quantize.placement import head

        names = [n.name for n in head(self.graph)]
        for way in ways(names):
            if way.tool in tools:
                yield self._row(way)

    def _row(self, way: Way) -> Row:
        made = self.folder / f"{self.name}.{way.tool}.onnx"
        row = {"model": self.name, "tool": way.tool, "setting": way.setting}
        row |= {"metric": self.metric, "before": self.before}
        try:
            seconds = self._ours(way, made) if way.tool == "graphopt" else self._peer(way, made)
            after = self._score(made)
            latency = compare_latency(self.float, made, self._feeds(), threads=1, keep_open=True)
        except (GraphoptError, subprocess.SubprocessError) as error:
            return Row(**row, after=None, failure=_short(error))
        size = made.stat().st_size / self.float.stat().st_size
        return Row(**row, after=after, size=size, latency=latency.ratio, seconds=seconds)

    def _ours(self, way: Way, made: Path) -> float:
        started = time.perf_counter()
        images = {"images": self.calibration, "cache": False}
        passes = quantizing(list(self.images), **{**images, **way.options})
        save(Pipeline(passes).run(self.graph, strict=True).graph, made)
        return time.perf_counter() - started

    def _feeds(self) -> dict[str, Any]:
        first = self.graph.inputs[0]
        batch = first.shape[0] if isinstance(first.shape[0], int) else 16
        return {first.name: self.images[:batch]}

    def _peer(self, way: Way, made: Path) -> float:
        job = {
            "tool": way.tool,
            "model": str(self.float),
            "data": str(self.arrays),
            "output": str(made),
            "options": way.options,
        }
        file = self.folder / "job.json"
        file.write_text(json.dumps(job), encoding="utf-8")
        script = Path(__file__).with_name("quantize_peers.py")
        command = [str(python_of(way.tool)), str(script), str(file)]
        subprocess.run(command, check=True, capture_output=True, timeout=1200)
        return float(Path(f"{made}.seconds").read_text(encoding="utf-8"))


def _short(error: Exception) -> str:
    told = getattr(error, "stderr", None)
    text = told.decode(errors="replace").strip().splitlines()[-1:] if told else [str(error)]
    return (text or [type(error).__name__])[0][:100]


# --- tables ---------------------------------------------------------------------------------------

_HEADINGS = [
    *("network", "tool", "setting", ">float", ">int8", ">lost", ">size", ">latency", ">s"),
    "failure",
]


def cells(row: Row) -> list[str]:
    """One row of the table; points are percent."""
    if row.after is None:
        return [row.model, row.tool, row.setting, f"{100 * row.before:.1f}", *[""] * 5, row.failure]
    return [
        row.model,
        row.tool,
        row.setting,
        f"{100 * row.before:.1f}",
        f"{100 * row.after:.1f}",
        f"{100 * (row.before - row.after):.1f}",
        f"{row.size:.3f}",
        f"{row.latency:.2f}",
        f"{row.seconds:.1f}",
        "",
    ]


def markdown(rows: Sequence[Row]) -> str:
    """The page: what was measured, and the table, network by network."""
    told = (__doc__ or "").split("\n\n", maxsplit=1)[1].split("\n\n", maxsplit=1)[1]
    order = {name: k for k, name in enumerate(MODELS)}
    rows = sorted(rows, key=lambda r: order[r.model])
    return f"# Quantization side by side\n\n{told}\n{as_markdown(_HEADINGS, map(cells, rows))}\n"


def main() -> None:
    """Runs the benchmark or shows what earlier runs wrote."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--models", default=",".join(MODELS), help="comma-separated")
    tools = "graphopt,onnxruntime,nncf,neural-compressor"
    parser.add_argument("--tools", default=tools, help="comma-separated")
    parser.add_argument("--json", type=Path, help="write all results here")
    parser.add_argument("--load", type=Path, nargs="+", help="show results of earlier runs")
    parser.add_argument("--markdown", type=Path, help="write the table as a page")
    options = parser.parse_args()
    rows: list[Row] = []
    for file in options.load or ():
        rows += [Row(**r) for r in json.loads(file.read_text(encoding="utf-8"))]
    if not options.load:
        with tempfile.TemporaryDirectory() as folder:
            for name in options.models.split(","):
                for row in Bench(name, Path(folder)).rows(options.tools.split(",")):
                    rows.append(row)
                    print(" | ".join(cells(row)), flush=True)
                    if options.json:
                        text = json.dumps([asdict(r) for r in rows], indent=1)
                        options.json.write_text(text, encoding="utf-8")
    print_rows(console(), _HEADINGS, map(cells, rows))
    if options.markdown:
        options.markdown.write_text(markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
