"""Operators without a kernel of ours: TVM's ONNX importer and its own lowering, one node at a time.

What comes out are the same plain C functions: whatever such a function would take from a heap is
given to it as one more array.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from graphopt.errors import UnsupportedError

Constant = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Array:
    """What a generic function works on: the node's input or output by place, a constant, or memory."""

    kind: str  # "input", "output", "constant", "memory"
    index: int
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One function and what it is given, in order."""

    function: Any
    arrays: tuple[Array, ...]


@dataclass(frozen=True)
class Generic:
    """The functions that make up one node, and the constants they read."""

    calls: tuple[Call, ...]
    constants: tuple[Constant, ...]


def generic(
    model: onnx.ModelProto, where: str, *, target: Any = "llvm", schedule: Sequence[Any] = ()
) -> Generic:
    """The functions that compute a model of one node.

    Args:
        model: one node.
        where: what it is called in errors.
        target: TVM's, whose operators are taken.
        schedule: passes that say how the functions' loops are run.

    Raises:
        UnsupportedError: TVM's importer does not know the operator, or this use of it.
    """
    from tvm import relax, transform
    from tvm.relax.frontend.onnx import from_onnx
    from tvm.target import Target

    passes = transform.Sequential(
        [
            relax.transform.DecomposeOpsForInference(),
            relax.transform.LegalizeOps(),
            relax.transform.FoldConstant(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(),
            *schedule,
        ]
    )
    try:
        with warnings.catch_warnings(), Target(target):
            warnings.simplefilter("ignore")
            module = passes(from_onnx(model, keep_params_in_input=False))
    except Exception as error:  # the importer raises whatever comes
        what = (str(error).strip() or type(error).__name__).splitlines()[-1][:200]
        raise UnsupportedError(f"{where}: TVM cannot import it ({what})") from error
    return _Reader(module, where).read()


class _Reader:
    """Reads the straight line of calls that Relax made of a node."""

    def __init__(self, module: Any, where: str) -> None:
        self._module, self._where = module, where
        self._known: dict[Any, list[Array]] = {}
        self._constants: list[Constant] = []
        self._made = 0
        self._calls: list[Call] = []

    def read(self) -> Generic:
        main = self._module["main"]
        for index, parameter in enumerate(main.params):
            self._known[parameter] = [_array("input", index, parameter.ty)]
        body = main.body
        for block in body.blocks:
            for binding in block.bindings:
                self._known[binding.var] = self._value(binding.value)
        made = self._value(body.body)
        outputs = {(a.kind, a.index): k for k, a in enumerate(made)}
        if len(outputs) != len(made) or any(a.kind != "memory" for a in made):
            raise UnsupportedError(f"{self._where}: what TVM makes of it is no computation")
        renamed = [
            Call(c.function, tuple(_as_output(a, outputs) for a in c.arrays)) for c in self._calls
        ]
        return Generic(tuple(renamed), tuple(self._constants))

    def _value(self, value: Any) -> list[Array]:
        from tvm import ir, relax

        if isinstance(value, ir.Constant):
            return [self._constant(value)]
        if isinstance(value, relax.Tuple):
            return [a for field in value.fields for a in self._value(field)]
        if isinstance(value, relax.TupleGetItem):
            return [self._value(value.tuple_value)[value.index]]
        if isinstance(value, relax.Call) and getattr(value.op, "name", "") == "relax.call_tir":
            return self._call(value)
        if value in self._known:
            return self._known[value]
        raise UnsupportedError(f"{self._where}: TVM leaves a {type(value).__name__} of it")

    def _constant(self, value: Any) -> Array:
        values = value.value.numpy()
        self._constants.append(values)
        return Array("constant", len(self._constants) - 1, str(values.dtype), values.shape)

    def _call(self, call: Any) -> list[Array]:
        function = self._module[call.args[0].name_hint]
        given = [a for argument in call.args[1].fields for a in self._value(argument)]
        (types,) = call.ty_args
        made = [self._memory(t) for t in (types.fields if hasattr(types, "fields") else [types])]
        bare, buffers = with_memory(function)
        self._calls.append(Call(bare, tuple(given + made + [self._memory(b.ty) for b in buffers])))
        return made

    def _memory(self, of: Any) -> Array:
        self._made += 1
        return _array("memory", self._made - 1, of)


def _array(kind: str, index: int, of: Any) -> Array:
    return Array(kind, index, str(of.dtype), tuple(int(d) for d in of.shape))


def _as_output(array: Array, outputs: dict[tuple[str, int], int]) -> Array:
    place = outputs.get((array.kind, array.index))
    return array if place is None else Array("output", place, array.dtype, array.shape)


def with_memory(function: Any) -> tuple[Any, list[Any]]:
    """The function with the buffers of its outermost block as parameters, and those buffers."""
    from tvm import s_tir, tirx

    root = function.body
    block = root.block
    buffers = list(block.alloc_buffers)
    if not buffers:
        return function, []
    emptied = s_tir.SBlock(
        block.iter_vars, block.reads, block.writes, block.name_hint, block.body, block.init
    )
    body = s_tir.SBlockRealize(root.iter_values, root.predicate, emptied)
    parameters = [*function.params, *buffers]
    return tirx.PrimFunc(parameters, body, function.ret_type, function.attrs), buffers
