"""A graph compiled for a target: the program, its memory, and the functions it calls.

    compiled = compile_graph(graph, target("tx2"))
    compiled.write_object(Path("kernels.o"))

The graph is taken as it is; optimize it first. What a bundle for a board is made of is in `deploy`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import UnsupportedError
from graphopt.ir.graph import Graph
from graphopt.runtime.board import Target
from graphopt.runtime.codegen import object_file
from graphopt.runtime.kernels.simd import Machine
from graphopt.runtime.lower.arena import Arena, plan
from graphopt.runtime.lower.batch import lower
from graphopt.runtime.lower.choose import Direct, Shape, Winograd
from graphopt.runtime.lower.program import Kernel, Program
from graphopt.runtime.lower.quantized import has_integers
from graphopt.runtime.lower.sizes import fix_sizes
from graphopt.runtime.machine import llvm_target, machine_of


@dataclass(frozen=True)
class Compiled:
    """A network for one target.

    Attributes:
        precision: what it is computed in: float32, float16, or int8 and one of these.
        symbols: the name of the C function of every kernel.
    """

    target: Target
    machine: Machine
    precision: str
    program: Program
    arena: Arena
    symbols: Mapping[Kernel, str]

    def write_object(self, path: Path, triple: str | None = None) -> None:
        """Compiles all kernels to one object file for the target, or another of its ABIs.

        Raises:
            UnsupportedError: an operator of which TVM makes what LLVM cannot compile.
        """
        functions = {name: kernel.build(name) for kernel, name in self.symbols.items()}
        llvm = llvm_target(self.target, triple)
        try:
            object_file(functions, llvm, path)
        except RuntimeError as error:  # TVM's InternalError, which names no node
            raise self._named(error, llvm, path) from error

    def _named(self, error: RuntimeError, llvm: Mapping[str, Any], path: Path) -> Exception:
        """The error with the node whose function it is about; the error itself where it is ours."""
        for step in self.program.steps:
            if step.ranged:
                continue
            name = self.symbols[step.kernel]
            try:
                object_file({name: step.kernel.build(name)}, llvm, path)
            except RuntimeError as own:
                path.unlink(missing_ok=True)
                words = str(own).strip().splitlines()[-1]
                return UnsupportedError(
                    f"{step.what}: LLVM cannot compile what TVM makes of it ({words})"
                )
        return error


def compile_graph(
    graph: Graph,
    target: Target,
    *,
    precision: str = "float32",
    sizes: Mapping[str, int] | None = None,
    tuned: Mapping[Shape, Direct | Winograd] | None = None,
    lasting: int | None = None,
) -> Compiled:
    """Lowers a graph for a target.

    Args:
        graph: left as it is.
        target: the board.
        precision: of images and weights that are no integers, float32 or float16; inputs and outputs
            are as the graph has them.
        sizes: numbers for named dimensions; a batch without one is 1.
        tuned: how to compute convolutions that were measured (`tune`).
        lasting: the most bytes of weights that are transformed when the network is loaded (Winograd's);
            as many as are fast if not given. `Compiled.arena.lasting` says what they take.

    Raises:
        UsageError: a dimension is not known, or the target cannot compute in the precision.
        UnsupportedError: an operator that neither our kernels nor TVM's importer can do.
    """
    own = graph.copy()
    fix_sizes(own, sizes)
    quantized = has_integers(own)
    machine = machine_of(target, precision)
    program = lower(own, machine, machine_of(target), tuned, lasting=lasting)
    kernels = dict.fromkeys(s.kernel for s in [*program.prepare, *program.steps])
    symbols = {kernel: f"graphopt_kernel_{i}" for i, kernel in enumerate(kernels)}
    name = f"int8 and {precision}" if quantized else precision
    return Compiled(target, machine, name, program, plan(program), symbols)
