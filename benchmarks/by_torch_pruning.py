"""An ONNX file pruned by Torch-Pruning: a user's way with a file and no module is onnx2torch."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.environments import python_of
from graphopt.frontends.onnx_file import load, save
from graphopt.pipeline import Pipeline
from graphopt.registry import parse_passes

SCRIPT = Path(__file__).with_name("torch_pruning_file.py")
OLD_ENOUGH = "lower-opset{opset=13}"  # for onnx2torch


def prune(
    source: Path,
    target: Path,
    left: float,
    *,
    count: str = "macs",
    importance: str = "l2",
    scope: str = "local",
) -> None:
    """Writes what Torch-Pruning leaves of a network; see benchmarks/torch_pruning_file.py.

    Args:
        source, target: ONNX files.
        left: the share that stays.
        count: of "macs" or "parameters".
        importance: "l2", or "bn" for the scales of batch normalizations.
        scope: "global", or "local" for the same share off every layer.

    Raises:
        subprocess.CalledProcessError: it fails on this network; the reason is in its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        old, made = Path(folder) / "old.onnx", Path(folder) / "made.onnx"
        save(Pipeline(parse_passes(OLD_ENOUGH)).run(load(source), strict=True).graph, old)
        command = [str(python_of("torch-pruning-onnx")), str(SCRIPT), str(old), str(made)]
        command += ["--left", str(left), "--count", count]
        command += ["--importance", importance, "--scope", scope]
        subprocess.run(command, check=True, stdout=sys.stderr)
        save(load(made), target)
