"""Writes a network as one library for programs that have a TVM runtime.

    library = tvm.runtime.load_module("yolov3.so")
    library["main"](images, boxes)      # tensors on the CPU: inputs, then outputs

Weights lie within. It needs no more of TVM than its calling convention (c/tvm.c), on this machine or,
through TVM's own RPC server, on another.
"""

from __future__ import annotations

import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from graphopt.runtime.compile import Compiled
from graphopt.runtime.deploy.build import WEIGHTS, compiled_sources, library_objects
from graphopt.runtime.deploy.names import prefix_of, quoted
from graphopt.runtime.deploy.weights import write_weights
from graphopt.runtime.toolchain.toolchain import Toolchain

FUNCTIONS = ("main", "profile", "describe", "set_threads")
_WITHIN = """\
    .section .rodata
    .balign 64
    .globl nn_weights_within
    .hidden nn_weights_within
nn_weights_within:
    .incbin {path}
    .section .note.GNU-stack,"",%progbits
"""


def make_tvm_library(compiled: Compiled, path: Path, *, name: str, tools: Toolchain) -> None:
    """Writes the library of a compiled network.

    Args:
        compiled: the network.
        path: the library.
        name: of the model.
        tools: for an ABI of its target.

    Raises:
        ToolchainError, UnsupportedError: see `library_objects`.
    """
    with tempfile.TemporaryDirectory(prefix="graphopt-") as folder:
        work = Path(folder)
        prefix = prefix_of(name)
        weights = write_weights(compiled.program.constants, work / WEIGHTS)
        told = json.dumps(description(compiled, name), ensure_ascii=False)
        texts = {
            "description.c": f"extern const char nn_description[];\n"
            f"const char nn_description[] = {quoted(told)};\n",
            "within.s": _WITHIN.format(path=json.dumps(str(work / WEIGHTS))),
        }
        objects = library_objects(compiled, work, prefix, tools, weights, texts=texts)
        objects += compiled_sources(("tvm.c", "description.c", "within.s"), work, tools)
        tools.shared(objects, path, exports=[f"__tvm_ffi_{f}" for f in FUNCTIONS])


def description(compiled: Compiled, name: str) -> dict[str, Any]:
    """What the library tells about itself."""
    program = compiled.program
    return {
        "model": name,
        "target": compiled.target.name,
        "precision": compiled.precision,
        "threads": compiled.target.cores,
        "graphopt": version("graphopt"),
        "inputs": [_port(p) for p in program.inputs],
        "outputs": [_port(p) for p in program.outputs],
        "layers": [{"name": s.what, "macs": s.macs} for s in program.steps],
    }


def _port(port: Any) -> dict[str, Any]:
    return {"name": port.name, "dtype": port.dtype, "shape": list(port.shape)}
