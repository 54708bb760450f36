"""Measures the ways to compute a network's convolutions instead of believing the model of the core.

For every shape of convolution the ways that the model likes best (`runtime/lower/choose.py`: direct or
Winograd's, and which register tile) are compiled alone and run where it counts; the fastest is taken and
remembered per board, precision and shape. Not tuned: integers, depthwise and dense layers, whose tiles
hardly matter.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphopt.cache import cache_folder
from graphopt.errors import UsageError
from graphopt.frontends.normal_form import normalize
from graphopt.ir.graph import Graph, Node, static_shape
from graphopt.pipeline import Progress, silent
from graphopt.runtime.board import Target
from graphopt.runtime.compile import Compiled, compile_graph
from graphopt.runtime.deploy.bundle import drawn_inputs, make_bundle
from graphopt.runtime.deploy.tvm_library import make_tvm_library
from graphopt.runtime.lower.choose import Direct, Shape, Winograd, ways
from graphopt.runtime.lower.lowering import Lowering
from graphopt.runtime.lower.quantized import has_integers
from graphopt.runtime.machine import machine_of
from graphopt.runtime.native import NativeRunner
from graphopt.runtime.places.emulated import counts_of
from graphopt.runtime.places.place import Place
from graphopt.runtime.places.rpc import times_over_rpc
from graphopt.runtime.toolchain.find import toolchain_for

Way = Direct | Winograd
Measure = Callable[[Compiled], float]
_KINDS: dict[str, type[Direct] | type[Winograd]] = {"direct": Direct, "winograd": Winograd}
_TRIALS = 8  # ways that are measured, of each shape
_RUNS = 30  # on hardware; the least counts, which others on the machine cannot make less
_NAME = "tuned"


@dataclass(frozen=True)
class Tuned:
    """What tuning found.

    Attributes:
        ways: for each shape.
        measured: how many shapes were measured now; the others were remembered.
        gains: by shape, the time of what the model would have taken over that of the best.
    """

    ways: Mapping[Shape, Way]
    measured: int
    gains: Mapping[Shape, float]


def tune(
    graph: Graph,
    place: Place,
    precision: str = "float32",
    *,
    cache: Path | None = None,
    progress: Progress = silent,
) -> Tuned:
    """Finds the fastest way to compute every convolution of a graph.

    Args:
        graph: as it will be compiled; left as it is.
        place: the board, and where to measure: host, emulated (estimated cycles) or rpc.
        precision: float32 or float16.
        cache: the folder of what is remembered.
        progress: told what is going on.

    Raises:
        UsageError: nothing of the graph can be tuned, or not at this place.
        RunError, ToolchainError: see `counts_of` and `times_over_rpc`.
    """
    if place.board.gpu is not None or has_integers(graph) or place.kind == "ssh":
        what = f"over {place.kind}" if place.kind == "ssh" else "for GPUs and quantized networks"
        raise UsageError(f"there is no tuning {what}; leave --tune out")
    shapes = _shapes(graph, place.board, precision)
    memory = _Memory(place, precision, cache or cache_folder("tuning"))
    measure = _measure_at(place)
    gains: dict[Shape, float] = {}
    new = [s for s in shapes if s not in memory]
    for number, shape in enumerate(new, 1):
        progress(f"tuning {number} of {len(new)}: {shape}")
        figures = _figures(shape, shapes[shape], place.board, precision, measure)
        best = min(figures, key=lambda way: figures[way])
        gains[shape] = next(iter(figures.values())) / figures[best]
        memory.add(shape, best, gains[shape])
    return Tuned({s: memory[s] for s in shapes}, len(new), gains)


def _shapes(graph: Graph, board: Target, precision: str) -> dict[Shape, Node]:
    lowering = Lowering(graph.copy(), machine_of(board, precision), machine_of(board))
    lowering.run()
    return lowering.shapes


def _figures(
    shape: Shape, node: Node, board: Target, precision: str, measure: Measure
) -> dict[Way, float]:
    """What each way takes, that of the model first."""
    alone = _alone(node)
    machine = machine_of(board, precision)
    return {
        way: measure(compile_graph(alone, board, precision=precision, tuned={shape: way}))
        for way in ways(machine, shape, _TRIALS)
    }


def _alone(node: Node) -> Graph:
    """A network of one convolution like this one."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(node.inputs[1].shape).astype(np.float32)
    weight /= np.sqrt(weight[0].size)
    arrays = {"w": weight, "b": np.zeros(weight.shape[0], np.float32)}
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, static_shape(tensor))
        for name, tensor in (("x", node.inputs[0]), ("y", node.outputs[0]))
    ]
    conv = helper.make_node("Conv", ["x", "w", "b"], ["y"], name=_NAME, **dict(node.attrs))
    graph = helper.make_graph(
        [conv],
        _NAME,
        ports[:1],
        ports[1:],
        [numpy_helper.from_array(v, n) for n, v in arrays.items()],
    )
    opset = [helper.make_opsetid("", 20)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opset, ir_version=9)
    return normalize(model)


# --- where it is measured ---------------------------------------------------------------------


def _measure_at(place: Place) -> Measure:
    by = {"host": _here, "emulated": _emulated}
    if place.kind in by:
        return by[place.kind]
    return lambda compiled: _over_rpc(compiled, place.address)


def _is_it(name: str) -> bool:
    """Whether a step belongs to the convolution; the others turn layouts, which networks do not."""
    return name.removesuffix(" input") == _NAME


def _here(compiled: Compiled) -> float:
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        make_bundle(compiled, Path(name) / "bundle", name=_NAME)
        runner = NativeRunner(Path(name) / "bundle", cores=())
        feeds = drawn_inputs(compiled.program)
        times = [
            sum(v.ms for v in runner.profile(feeds)[1] if _is_it(v.name)) for _ in range(_RUNS)
        ]
        runner.close()
        return min(times)


def _emulated(compiled: Compiled) -> float:
    board = compiled.target
    tools = toolchain_for(board, board.emulated_abi)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        make_bundle(compiled, Path(name) / "bundle", name=_NAME, tools=tools)
        layers = counts_of(Path(name) / "bundle", board).layers
    return sum(float(v.cycles or v.instructions) for v in layers if _is_it(v.name))


def _over_rpc(compiled: Compiled, address: str) -> float:
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        library = Path(name) / "library.so"
        make_tvm_library(compiled, library, name=_NAME, tools=toolchain_for(compiled.target))
        feeds = drawn_inputs(compiled.program)
        return times_over_rpc(library, address, feeds, iters=_RUNS)[1].least


# --- what is remembered -----------------------------------------------------------------------


class _Memory:
    """The ways found before, in a file per board and kind of measurement."""

    def __init__(self, place: Place, precision: str, folder: Path) -> None:
        self._precision = precision
        self._file = folder / f"{place.board.name}.{place.kind}.json"
        # Kernels change with the version, and with them what is fast.
        self._about = {"graphopt": version("graphopt"), "core": place.board.core}
        self._entries = self._read()

    def __contains__(self, shape: Shape) -> bool:
        return self._key(shape) in self._entries

    def __getitem__(self, shape: Shape) -> Way:
        entry = self._entries[self._key(shape)]
        return _KINDS[entry["kind"]](**entry["way"])

    def add(self, shape: Shape, way: Way, gain: float) -> None:
        """Remembers a way; written at once, so that an interrupted run loses nothing."""
        kind = "winograd" if isinstance(way, Winograd) else "direct"
        self._entries[self._key(shape)] = {"kind": kind, "way": asdict(way), "gain": gain}
        self._file.parent.mkdir(parents=True, exist_ok=True)
        draft = self._file.with_name(f"{self._file.name}.{os.getpid()}.part")
        draft.write_text(json.dumps({**self._about, "ways": self._entries}, indent=1) + "\n")
        os.replace(draft, self._file)

    def _key(self, shape: Shape) -> str:
        return f"{self._precision} {shape}"

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {}  # none, or not one of ours: measured anew
        same = isinstance(found, dict) and all(found.get(k) == v for k, v in self._about.items())
        return dict(found["ways"]) if same else {}
