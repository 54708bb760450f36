"""Graphs of one operator, with inputs: what the FX view has to compute as ONNX Runtime does.

A case names an operator, its inputs and its attributes:

    case("Conv", normal(2, 4, 7, 7), const(normal(6, 2, 3, 3)), group=2, pads=[1, 1, 1, 1])

Inputs are arrays or kinds of random values; they are fed unless they are wrapped in `const`, None is left out.
Values are drawn from the text of the case, so that a new case changes no other.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Random:
    """Values to draw."""

    text: str
    shape: tuple[int, ...]
    draw: Callable[[np.random.Generator], Array]
    is_float: bool = True


@dataclass(frozen=True)
class Const:
    """An input that is a constant of the graph."""

    value: Any


def normal(*shape: int, scale: float = 1.0, shift: float = 0.0, kind: Any = np.float32) -> Random:
    """Standard normal values, scaled and moved."""
    text = f"normal{shape}*{scale}+{shift}{np.dtype(kind)}"
    return Random(
        text, shape, lambda r: np.asarray(r.standard_normal(shape) * scale + shift).astype(kind)
    )


def uniform(low: float, high: float, *shape: int) -> Random:
    """Values evenly between two."""
    text = f"uniform{low, high, shape}"
    return Random(text, shape, lambda r: np.asarray(r.uniform(low, high, shape)).astype(np.float32))


def whole(low: int, high: int, *shape: int, kind: Any = np.int64) -> Random:
    """Whole numbers from `low` to below `high`."""
    text = f"whole{low, high, shape}{np.dtype(kind)}"
    return Random(
        text, shape, lambda r: np.asarray(r.integers(low, high, shape)).astype(kind), is_float=False
    )


def const(value: Any) -> Const:
    """The input as a constant of the graph; lists are int64."""
    return Const(np.array(value, np.int64) if isinstance(value, list | int) else value)


def flags(*values: int) -> Array:
    """A row of truth values."""
    return np.array(values, np.bool_)


def floats(*values: float) -> Array:
    """A row of single precision."""
    return np.array(values, np.float32)


def scalar(value: Any, kind: Any = np.float32) -> Array:
    """One value without dimensions."""
    return np.array(value, kind)


@dataclass(frozen=True)
class Case:
    """One operator with inputs and attributes; `outputs` results are asked for."""

    op: str
    inputs: tuple[Any, ...]
    attributes: dict[str, Any]
    outputs: int
    opset: int
    rtol: float

    @property
    def name(self) -> str:
        """Short, for the list of tests; not unique."""
        return self.op + "".join(f"-{k}={v}" for k, v in self.attributes.items()).replace(" ", "")

    def arrays(self) -> list[Array | None]:
        """The values of all inputs."""
        rng = np.random.default_rng(zlib.crc32(f"{self.name}{self._text()}".encode()))
        return [self._array(value, rng) for value in self.inputs]

    def _text(self) -> str:
        plain = [v.value if isinstance(v, Const) else v for v in self.inputs]
        return " ".join(v.text if isinstance(v, Random) else "" for v in plain)

    def _array(self, value: Any, rng: np.random.Generator) -> Array | None:
        if isinstance(value, Const):
            value = value.value
        return value.draw(rng) if isinstance(value, Random) else value

    def model(self) -> tuple[onnx.ModelProto, dict[str, Array]]:
        """The graph, and what to feed."""
        arrays = self.arrays()
        names = ["" if a is None else f"in{i}" for i, a in enumerate(arrays)]
        feeds, constants = {}, []
        for name, value, array in zip(names, self.inputs, arrays, strict=True):
            if array is None:
                continue
            if isinstance(value, Const):
                constants.append(onnx.numpy_helper.from_array(array, name))
            else:
                feeds[name] = array
        results = [f"out{i}" for i in range(self.outputs)]
        node = helper.make_node(self.op, names, results, name="the_node", **self.attributes)
        return one_graph([node], feeds, results, constants, self.opset), feeds


def one_graph(
    nodes: list[onnx.NodeProto],
    feeds: dict[str, Array],
    results: list[str],
    constants: list[onnx.TensorProto],
    opset: int,
) -> onnx.ModelProto:
    """A model of nodes, its inputs typed by what they are fed and its outputs by inference."""
    inputs = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in feeds.items()
    ]
    outputs = [onnx.ValueInfoProto(name=name) for name in results]
    graph = helper.make_graph(nodes, "one", inputs, outputs, constants)
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def case(
    op: str, *inputs: Any, outputs: int = 1, opset: int = 20, rtol: float = 1e-5, **attributes: Any
) -> Case:
    """One case; `rtol` is wider only where the reference itself is less exact."""
    return Case(op, inputs, attributes, outputs, opset, rtol)
