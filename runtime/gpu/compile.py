"""A graph compiled for a GPU: the program, its memory, and the kernels' text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.runtime.board import Target
from graphopt.runtime.gpu.choose import Unit, unit_of
from graphopt.runtime.gpu.lowering import GpuLowering
from graphopt.runtime.gpu.source import source_of
from graphopt.runtime.lower.arena import Arena, plan
from graphopt.runtime.lower.program import Kernel, Program
from graphopt.runtime.lower.quantized import has_integers
from graphopt.runtime.lower.sizes import fix_sizes


@dataclass(frozen=True)
class GpuCompiled:
    """A network for the GPU of one target.

    Attributes:
        precision: of images and weights: float32 or float16. Sums are float32.
        symbols: the name of every kernel.
        source: all of them in OpenCL C.
        driver: what the library opens at run time: opencl or cuda.
    """

    target: Target
    precision: str
    program: Program
    arena: Arena
    symbols: Mapping[Kernel, str]
    source: str
    driver: str


def compile_for_gpu(
    graph: Graph,
    target: Target,
    *,
    precision: str | None = None,
    sizes: Mapping[str, int] | None = None,
    unit: Unit | None = None,
) -> GpuCompiled:
    """Lowers a graph for a target with a GPU.

    Args:
        graph: left as it is.
        target: the board.
        precision: of images and weights; the board's own if not given.
        sizes: numbers for named dimensions; a batch without one is 1.
        unit: what tiles are chosen for; the board's GPU if not given.

    Raises:
        UsageError: a dimension is not known, the GPU cannot compute in the precision, or the graph is
            quantized.
        UnsupportedError: an operator that neither our kernels nor TVM's can do.
    """
    assert target.gpu is not None
    used = target.precision(precision)
    if used == "int8" or has_integers(graph):
        reason = target.unsupported.get("int8", "there are no kernels for int8 on GPUs")
        raise UsageError(f"{target.name} cannot run a quantized network: {reason}")
    own = graph.copy()
    fix_sizes(own, sizes)
    program = GpuLowering(own, unit or unit_of(target.gpu, used)).run()
    kernels = dict.fromkeys(s.kernel for s in program.steps)
    symbols = {kernel: f"kernel_{i}" for i, kernel in enumerate(kernels)}
    source = source_of(symbols, used)
    return GpuCompiled(target, used, program, plan(program), symbols, source, target.gpu.kind)
