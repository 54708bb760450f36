"""A graph as text, in the manner of ONNX's textual syntax, made for reading and for golden tests.

    graph (float[N,3,8,8] x) => (float[N,8,8,8] y)
      float[8,3,3,3] w0  # rms 0.1987
      int64[2] c0 = {0, 1}
      y = Conv <pads = [1, 1, 1, 1]> (x, w0)  # float[N,8,8,8]

Tensors other than inputs and outputs are named by order, attributes are sorted, large constants are
shown as shape and root mean square: the text does not depend on names, hashes or the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.graph import Constant, Graph, Tensor

_SHORT = 8  # constants up to this many elements are printed in full
_TYPE_NAMES = {"float32": "float", "float64": "double"}


def to_text(graph: Graph) -> str:
    """The text of the graph."""
    return "\n".join(_Printer(graph).lines()) + "\n"


def outline(graph: Graph) -> str:
    """A text for telling whether two graphs are the same: of large constants only the beginning.

    Unlike `to_text` this does not read every weight.
    """
    return "\n".join(_Printer(graph, value=_beginning).lines())


class _Printer:
    def __init__(
        self,
        graph: gs.Graph,
        names: dict[int, str] | None = None,
        value: Callable[[Any], str] | None = None,
    ) -> None:
        self._graph = graph
        self._value = value or _value
        self._names = dict(names or {})
        self._constants = 0
        self._values = len(self._names)
        for tensor in [*graph.inputs, *graph.outputs]:
            self._names[id(tensor)] = tensor.name

    def lines(self) -> list[str]:
        ins = ", ".join(f"{_type(t)} {t.name}" for t in self._graph.inputs)
        outs = ", ".join(f"{_type(t)} {self._name(t)}" for t in self._graph.outputs)
        lines = [f"graph ({ins}) => ({outs})"]
        for node in self._graph.nodes:
            lines += [f"  {self._constant(t)}" for t in node.inputs if self._is_new_constant(t)]
            lines += [f"  {line}" for line in self._node(node)]
        return lines

    def _is_new_constant(self, tensor: Tensor) -> bool:
        return isinstance(tensor, Constant) and id(tensor) not in self._names

    def _constant(self, tensor: Tensor) -> str:
        name = f"c{self._constants}"
        self._constants += 1
        self._names[id(tensor)] = name
        return f"{_type(tensor)} {name}{self._value(tensor.values)}"

    def _node(self, node: Any) -> list[str]:
        outs = ", ".join(self._name(t) for t in node.outputs)
        ins = ", ".join(self._name(t) for t in node.inputs)
        op = f"{node.domain}.{node.op}" if node.domain else node.op
        plain = {k: v for k, v in sorted(node.attrs.items()) if not isinstance(v, gs.Graph)}
        attrs = ", ".join(f"{k} = {_attribute(v)}" for k, v in plain.items())
        types = ", ".join(_type(t) for t in node.outputs)
        lines = [f"{outs} = {op} {f'<{attrs}> ' if attrs else ''}({ins})  # {types}"]
        for key, value in sorted(node.attrs.items()):
            if isinstance(value, gs.Graph):
                inner = _Printer(value, self._names, self._value).lines()
                lines += [f"  {key}: {inner[0]}", *(f"  {line}" for line in inner[1:])]
        return lines

    def _name(self, tensor: Tensor) -> str:
        if tensor.is_empty():
            return '""'
        if id(tensor) not in self._names:
            self._names[id(tensor)] = f"t{self._values}"
            self._values += 1
        return self._names[id(tensor)]


def _type(tensor: Tensor) -> str:
    if tensor.dtype is None:
        return "?"
    name = getattr(tensor.dtype, "name", None) or np.dtype(tensor.dtype).name
    name = _TYPE_NAMES.get(name, name)
    if tensor.shape is None:
        return f"{name}[?...]"
    return f"{name}[{','.join('?' if d is None else str(d) for d in tensor.shape)}]"


def _value(values: Any) -> str:
    if values.size <= _SHORT:
        return f" = {{{', '.join(_number(v) for v in values.reshape(-1))}}}"
    if values.dtype.kind in "fiu":
        return f"  # rms {float(np.sqrt(np.mean(np.square(values.astype(np.float64))))):.4g}"
    return ""


def _beginning(values: Any) -> str:
    # .flat, because reshape copies all of a transposed array.
    return f" = {np.asarray(values.flat[:64]).tobytes().hex()}"


def _number(value: Any) -> str:
    return f"{float(value):.6g}" if np.dtype(type(value)).kind == "f" else str(value)


def _attribute(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Constant):
        return f"{_type(value)}{_value(value.values)}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_attribute(v) for v in value)}]"
    return f'"{value}"' if isinstance(value, str) else str(value)
