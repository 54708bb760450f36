"""How long it takes to find what belongs together and to remove half of it, side by side.

    python -m benchmarks.prune_speed [--only yolov4] [--tools graphopt,onnxsim] [--repeats 5]
                                     [--markdown FILE]

Milliseconds of processor time without imports, loading and exporting. "prune" is finding the groups,
judging and removing; "prepare" is the lossless simplification before it: ours, which makes more of
some graphs prunable, and onnxsim's, whose pruning works on its simplified graphs only.
Torch-Pruning has none. "times" is a peer's time divided by ours: of pruning alone, and of both
steps together. Everyone has one thread, half of the MACs (graphopt) or of every layer's channels
(the others) as the goal, importance L2, nothing annotated by hand; "left" is the share of the
parameters that is left, for who removes less has less to do. MB is the peak of memory above what
was in use with the model loaded. graphopt and onnxsim read the same ONNX file; Torch-Pruning has
the module. The tools take turns, each run is a process of its own, and the medians are shown. No
result is checked here: `prune_coverage` does that.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.markdown import as_markdown

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "out" / "bench" / "prune"
LIMIT_S = 420
NETWORKS = {
    "resnet50": 224,
    "mobilenetv3-large": 224,
    "densenet121": 224,
    "retinanet-r50-fpn": 512,
    "yolov4": 416,
    "vit-b-16": 224,
}
TOOLS = ("graphopt", "torch-pruning", "onnxsim")


def main() -> None:
    """Measures every tool on every network and prints one row per network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="networks whose name contains this")
    parser.add_argument("--tools", default=",".join(TOOLS))
    parser.add_argument("--repeats", type=int, default=5, help="runs of every tool")
    parser.add_argument("--markdown", type=Path, help="write the table as a page")
    options = parser.parse_args()
    tools = options.tools.split(",")
    rows = [
        [name, f"{exported(name).stat().st_size / 1e6:.0f}", *_cells(row)]
        for name in NETWORKS
        if options.only in name
        for row in [medians(name, tools, options.repeats)]
    ]
    columns = ["network", ">model MB"]
    for tool in tools:
        columns += [] if tool == "torch-pruning" else [f">{tool} prepare"]
        columns += [f">{tool} prune", ">MB", ">left"]
        columns += [] if tool == "graphopt" else [">times prune", ">times both"]
    from graphopt.report.terminal import console, print_rows

    print_rows(console(), columns, rows)
    if options.markdown:
        options.markdown.write_text(page(columns, rows), encoding="utf-8")


def medians(name: str, tools: Sequence[str], repeats: int) -> dict[str, dict[str, Any]]:
    """What every tool needs for one network; one failure of a tool is a failure."""
    from benchmarks.environments import python_of

    runs: dict[str, list[dict[str, Any]]] = {tool: [] for tool in tools}
    for _ in range(repeats):
        for tool in tools:
            python = Path(sys.executable) if tool == "graphopt" else python_of(tool)
            runs[tool].append(measured(python, tool, name, exported(name)))
            print(name, tool, runs[tool][-1], file=sys.stderr)
    found = {}
    for tool, each in runs.items():
        failed = [r for r in each if "failure" in r]
        middle = {k: statistics.median(r[k] for r in each) for k in each[0]} if not failed else {}
        found[tool] = failed[0] if failed else middle
    return found


def exported(name: str) -> Path:
    """The ONNX file of a network, exported once, BatchNorms kept."""
    path = FOLDER / f"{name}.onnx"
    if not path.exists():
        import torch

        from benchmarks.networks import network
        from graphopt.frontends.torch_module import to_onnx

        size = NETWORKS[name]
        FOLDER.mkdir(parents=True, exist_ok=True)
        model = to_onnx(
            network(name),
            torch.randn(1, 3, size, size),
            exporter="torchscript",
            dynamic_batch=False,
        )
        path.write_bytes(model.SerializeToString())
    return path


def measured(python: Path, tool: str, name: str, file: Path) -> dict[str, Any]:
    """What one tool needs for one network, in a process of its own with one thread."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    code = f"from benchmarks.prune_speed import work; work({tool!r}, {name!r}, {str(file)!r})"
    done = subprocess.run(
        [str(python), "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
        check=False,
    )
    lines = [x for x in done.stdout.splitlines() if x.startswith("ANSWER ")]
    if not lines:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return {"failure": last[:60]}
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("ANSWER "))
    return found


def _cells(row: dict[str, dict[str, Any]]) -> Iterator[str]:
    ours = row.get("graphopt", {})
    for tool, found in row.items():
        failure = found.get("failure")
        if tool != "torch-pruning":
            yield "" if failure else f"{found['prepare'] * 1e3:.0f}"
        yield failure or f"{found['prune'] * 1e3:.0f}"
        yield "" if failure else f"{found['megabytes']:.0f}"
        yield "" if failure else f"{found['left']:.0%}"
        if tool == "graphopt":
            continue
        for steps in (("prune",), ("prepare", "prune")):
            both = not failure and "prune" in ours
            yield f"{_sum(found, steps) / _sum(ours, steps):.1f}" if both else ""


def _sum(found: dict[str, Any], steps: Sequence[str]) -> float:
    return sum(float(found[s]) for s in steps)


def page(columns: list[str], rows: list[list[str]]) -> str:
    """The table as Markdown."""
    text = " ".join((__doc__ or "").split("\n\n")[2].split())
    return "\n".join(["# Pruning: time and memory", "", text, "", as_markdown(columns, rows), ""])


# --- inside the measured process --------------------------------------------------------------


def work(tool: str, name: str, file: str) -> None:
    """Runs one tool once and prints what it cost."""
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LIMIT_S)
    prepared = {"graphopt": _graphopt, "torch-pruning": _torch_pruning, "onnxsim": _onnxsim}[tool]
    prepare, prune, parameters = prepared(name, file)
    before = parameters()
    cost: dict[str, float] = {}
    with _peak(cost):
        for stage, each in (("prepare", prepare), ("prune", prune)):
            started = time.process_time()
            each()
            cost[stage] = time.process_time() - started
    print("ANSWER " + json.dumps({**cost, "left": parameters() / before}))


# Preparing, pruning, and counting the parameters there are.
_Job = tuple[Callable[[], Any], Callable[[], Any], Callable[[], int]]


def _graphopt(_: str, file: str) -> _Job:
    import onnxscript.optimizer
    import onnxscript.rewriter  # noqa: F401 - imports that come late come before the clock

    from graphopt.frontends.onnx_file import load
    from graphopt.ir.cost import cost_of
    from graphopt.pipeline import Pipeline
    from graphopt.prune import PREPARATION, prune_graph
    from graphopt.registry import parse_passes

    small = exported("mobilenetv3-large")
    prune_graph(load(small), macs=0.7, importance="l2", verify=False)
    held = {"graph": load(Path(file))}

    def prepare() -> None:
        held["graph"] = Pipeline(parse_passes(PREPARATION)).run(held["graph"]).graph

    def prune() -> None:
        pruned = prune_graph(held["graph"], macs=0.5, importance="l2", verify=False, preparation="")
        held["graph"] = pruned.graph

    return prepare, prune, lambda: cost_of(held["graph"]).parameters


def _torch_pruning(name: str, _: str) -> _Job:
    import torch
    import torch_pruning as tp

    from benchmarks.networks import network

    torch.set_num_threads(1)
    module, size = network(name), NETWORKS[name]
    example = torch.randn(1, 3, size, size)

    def job() -> None:
        last = [m for m in module.modules() if isinstance(m, torch.nn.Linear)][-1:]
        tp.pruner.MetaPruner(
            module,
            example,
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=0.5,
            ignored_layers=last,
        ).step()

    return lambda: None, job, lambda: sum(p.numel() for p in module.parameters())


def _onnxsim(_: str, file: str) -> _Job:
    import onnx
    import onnxsim

    held = {"model": onnx.load(file)}

    def prepare() -> None:
        held["model"], _ = onnxsim.simplify(held["model"])

    def prune() -> None:
        held["model"] = onnxsim.apply_structured_pruning(held["model"], sparsity=0.5)

    def parameters() -> int:
        weights = held["model"].graph.initializer
        return sum(math.prod(w.dims) for w in weights if w.data_type == onnx.TensorProto.FLOAT)

    return prepare, prune, parameters


@contextmanager
def _peak(found: dict[str, float]) -> Iterator[None]:
    """Megabytes of resident memory at the peak, above those in use before."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what loading left behind is no part of the start
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status("VmRSS")
    yield
    found["megabytes"] = (_status("VmHWM") - before) / 1e3


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(x for x in lines if x.startswith(field)).split()[1])


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"more than {LIMIT_S} s")


if __name__ == "__main__":
    main()
