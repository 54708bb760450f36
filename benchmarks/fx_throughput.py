"""Training steps of the FX view against those of the module it came from.

    python -m benchmarks.fx_throughput [--models mobilenetv2,...] [--rounds 15] [--compile]

One step is forward, backward and SGD on random images. Both take turns, the seconds are medians of
processor time on one thread (of the clock on a GPU), and "view / module" is images per second of the
one over the other: above 1 the view is faster. With --compile both go through torch.compile.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from graphopt.frontends.normal_form import normalize
from graphopt.frontends.torch_module import to_onnx
from graphopt.fx import to_fx
from graphopt.pipeline import Pipeline
from graphopt.prune import KEEPING_NAMES
from graphopt.registry import parse_passes
from graphopt.report.terminal import console, print_rows
from graphopt.zoo import build

SIZES = {"wrn-16-2": (32, 32), "mobilenetv2": (8, 96), "resnet50": (4, 96), "yolov3-tiny": (4, 160)}


def main() -> None:
    """Measures every network and prints one row for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=",".join(SIZES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(1)
    rows = []
    for name in options.models.split(","):
        batch, size = SIZES[name]
        images = torch.randn(batch, 3, size, size)
        module = build(name).eval()
        graph = normalize(to_onnx(module, images[:2]))
        graph = Pipeline(parse_passes(KEEPING_NAMES)).run(graph).graph
        pair = [module.to(device).train(), to_fx(graph).to(device).train()]
        if options.compile:
            pair = [torch.compile(m) for m in pair]
        own, view = race(pair, images.to(device), options.rounds)
        rows.append(
            [name, f"{batch}x{size}", f"{own * 1e3:.1f}", f"{view * 1e3:.1f}", f"{own / view:.3f}"]
        )
    columns = ["network", "images", ">module ms", ">view ms", ">view / module"]
    print_rows(console(), columns, rows)


def race(modules: list[nn.Module], images: torch.Tensor, rounds: int) -> list[float]:
    """Median seconds of a training step of each, taking turns."""
    optimizers = [torch.optim.SGD(m.parameters(), lr=1e-6) for m in modules]
    seconds: list[list[float]] = [[] for _ in modules]
    for turn in range(rounds + 3):
        for k, (module, optimizer) in enumerate(zip(modules, optimizers, strict=True)):
            started = _now(images)
            outputs = module(images)
            outputs = outputs if isinstance(outputs, tuple | list) else [outputs]
            sum(o.square().mean() for o in outputs).backward()
            optimizer.step()
            optimizer.zero_grad()
            if turn >= 3:
                seconds[k].append(_now(images) - started)
    return [statistics.median(s) for s in seconds]


def _now(images: torch.Tensor) -> float:
    if images.is_cuda:
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


if __name__ == "__main__":
    main()
