"""TIR functions to one object file of plain C functions, without a runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def object_file(functions: Mapping[str, Any], llvm: Mapping[str, Any], path: Path) -> None:
    """Writes the functions, compiled, to `path`.

    Args:
        functions: TIR functions by the name of their symbol: kernels of ours, or scheduled blocks of
            TVM's. Each becomes `void name(T *, ..., int32_t begin, int32_t end)`; the latter kind
            takes arrays only.
        llvm: TVM's description of the target, {"kind": "llvm", "mtriple": ..., ...}.
    """
    import tvm
    from tvm import tirx

    target = tvm.target.Target(dict(llvm))
    module = tvm.IRModule(
        {
            n: f.with_attr("global_symbol", n).with_attr("tirx.noalias", True)
            for n, f in functions.items()
        }
    )
    module = _lowered(tirx.transform.BindTarget(target)(module))
    built = tvm.get_global_func("target.build.llvm")(module, target)
    built.write_to_file(str(path), "o")


def _lowered(module: Any) -> Any:
    from tvm import s_tir, tirx, transform

    blocks = [
        s_tir.transform.CanonicalizeLoop(),
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.CompactBufferAllocation(),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.LowerOpaqueBlock(),
    ]
    rest = [
        tirx.transform.Apply(with_pointers),
        tirx.transform.StmtSimplify(),
        tirx.transform.FlattenBuffer(),
        tirx.transform.NarrowDataType(32),
        tirx.transform.VectorizeLoop(True),
        tirx.transform.UnrollLoop(),
        tirx.transform.StmtSimplify(),
        tirx.transform.CommonSubexprElim(),
        tirx.transform.LowerTVMBuiltin(),
        tirx.transform.LowerIntrin(),
    ]
    return transform.Sequential([*blocks, *rest])(module)


def with_pointers(function: Any) -> Any:
    """The function with pointers for the buffers it is given, as plain C passes them."""
    from tvm import tirx
    from tvm.script.ir_builder import tirx as build

    parameters, views = [], []
    for parameter in function.params:
        if not isinstance(parameter.ty, tirx.BufferType):
            parameters.append(parameter)
            continue
        kind = build.handle(str(parameter.ty.dtype)).ty
        pointer = tirx.Var(f"{parameter.name}_pointer", kind)
        parameters.append(pointer)
        views.append(tirx.DeclBuffer(parameter, data=pointer))
    if not views:
        return function
    body = tirx.SeqStmt([*views, function.body])
    return tirx.PrimFunc(parameters, body, function.ret_type, function.attrs)
