"""The text of all kernels of a program, and what is put before it for each kind of driver."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from graphopt.runtime.gpu.text import Term, TextNumbers
from graphopt.runtime.kernels import formulas
from graphopt.runtime.lower.program import Kernel

_FOLDER = Path(__file__).parent / "cl"
_DEFINES = {"float32": "#define ELEMENT_FLOAT\n", "float16": ""}


def source_of(symbols: Mapping[Kernel, str], precision: str) -> str:
    """The kernels in OpenCL C, for any driver of OpenCL 1.2 or later.

    Where the driver computes in half, REAL_HALF is to be defined.
    """
    kernels = "\n".join(kernel.build(name) for kernel, name in symbols.items())
    return "\n".join([_DEFINES[precision] + _read("kernels.h"), kernels])


def clang_header() -> str:
    """What clang is told of OpenCL C's functions: `cl/ptx.h`, and the formulas."""
    return _read("ptx.h") + "".join(_defined(name) for name in _FUNCTIONS)


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


# TVM's kernels call these on single numbers.
_FUNCTIONS = {
    "exp": formulas.exp,
    "log": formulas.log,
    "tanh": formulas.tanh,
    "erf": formulas.erf,
}


def _defined(name: str) -> str:
    numbers = TextNumbers(1)
    value = _FUNCTIONS[name](numbers, Term("x"))
    lines = "".join(f"    {line}\n" for line in numbers.lines)
    return f"MANY float {name}(float x) {{\n{lines}    return {value.text};\n}}\n"
