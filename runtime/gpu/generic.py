"""Operators without a kernel of ours: TVM's ONNX importer, its schedule for GPUs, its OpenCL C.

A function of TVM's becomes a few kernels, one after another. Each is wrapped in one of our own form,
so that whoever launches kernels knows one kind only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import onnx

from graphopt.errors import UnsupportedError
from graphopt.runtime.gpu.kernel import GROUP, Array, Size, written_kernel
from graphopt.runtime.kernels import generic as on_processors
from graphopt.runtime.kernels.generic import Call, Generic

_PLACEHOLDER = "GRAPHOPT_FUNCTION"
_DEVICE_FUNCTION = 2  # TVM's calling convention of a kernel
_PARAMETER = re.compile(r"__global\s+(\w+)\*\s*(?:__restrict__|restrict)?\s*(\w+)")


@dataclass(frozen=True)
class GenericKernel:
    """A kernel TVM wrote.

    Attributes:
        source: its text, with a placeholder for the function's name.
        types: of its parameters, in OpenCL C.
    """

    source: str = field(repr=False)
    types: tuple[str, ...]
    groups: Size
    local: Size

    def text(self, name: str) -> str:
        """The kernel in OpenCL C: a function, and a kernel that calls it."""
        inner = f"{name}_inner"
        arrays = [Array(f"a{i}", t, written=True) for i, t in enumerate(self.types)]
        call = f"{inner}({', '.join(a.name for a in arrays)});"
        return self.source.replace(_PLACEHOLDER, inner) + written_kernel(
            name, self.local, arrays, call
        )

    def build(self, name: str) -> str:
        """The same."""
        return self.text(name)


@dataclass(frozen=True)
class Launch:
    """A kernel, and which arrays of its call it is given, by number."""

    kernel: GenericKernel
    arrays: tuple[int, ...]


def generic(model: onnx.ModelProto, where: str) -> Generic:
    """The functions that compute a model of one node, scheduled for a GPU.

    Raises:
        UnsupportedError: TVM's importer does not know the operator, or has none for GPUs.
    """
    from tvm import tirx

    schedule = [tirx.transform.Apply(_scheduled)]
    return on_processors.generic(model, where, target=_target(), schedule=schedule)


def _scheduled(function: Any) -> Any:
    """The function with a work-item for every element of each of its results.

    TVM's own schedule for this (dlight's Fallback) also moves what follows a sum into it, and then adds
    a bias twice where there is one term.
    """
    from tvm import s_tir
    from tvm.s_tir.dlight.analysis import normalize_prim_func

    schedule = s_tir.Schedule(function)
    blocks = normalize_prim_func(schedule)
    if blocks is None:
        raise UnsupportedError("its loops have no plain form")
    for block in [b for b in blocks if not _inlined(schedule, b.block_rv)]:
        _bind(schedule, block)
    return schedule.mod["main"]


def _inlined(schedule: Any, block: Any) -> bool:
    """Whether a block could be computed where its result is read."""
    from tvm.s_tir.schedule import ScheduleError

    try:
        schedule.compute_inline(block)
    except ScheduleError:  # a sum, a result of the function
        return False
    return True


def _bind(schedule: Any, info: Any) -> None:
    """Shares a block's elements out among work-items; each does its sums and searches by itself."""
    block, loops = info.block_rv, schedule.get_loops(info.block_rv)
    if any(schedule.get(loop).thread_binding is not None for loop in loops):
        return
    kinds = info.dom_kind()
    free = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "S"]
    sums = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == "R"]
    rest = [loop for loop, kind in zip(loops, kinds, strict=True) if kind not in "SR"]
    free = free or [schedule.add_unit_loop(block)]
    schedule.reorder(*free, *sums, *rest)
    groups, items = schedule.split(schedule.fuse(*free), factors=[None, GROUP])
    schedule.bind(groups, "blockIdx.x")
    schedule.bind(items, "threadIdx.x")
    if sums:
        schedule.decompose_reduction(block, sums[0])


def launches(call: Call, where: str) -> list[Launch]:
    """The kernels of one function, in order.

    Raises:
        UnsupportedError: TVM cannot make kernels of it.
    """
    from tvm import IRModule, tirx

    function = call.function.with_attr("global_symbol", _PLACEHOLDER)
    function = function.with_attr("tirx.noalias", True)
    try:
        module = _lowering()(
            tirx.transform.BindTarget(_target())(IRModule({_PLACEHOLDER: function}))
        )
        host = module[_PLACEHOLDER]
        made = [_launch(module, host, one, where) for one in _calls(host)]
    except UnsupportedError:
        raise
    except Exception as error:  # TVM raises whatever comes
        what = (str(error).strip() or type(error).__name__).splitlines()[-1][:200]
        raise UnsupportedError(f"{where}: TVM makes no kernels of it ({what})") from error
    if not made:
        raise UnsupportedError(f"{where}: TVM computes it without a kernel")
    return made


def _target() -> Any:
    from tvm.target import Target

    threads = {"max_num_threads": GROUP, "max_threads_per_block": GROUP}
    return Target({"kind": "opencl", "host": "llvm", **threads})


def _lowering() -> Any:
    from tvm import s_tir, tirx, transform

    from graphopt.runtime.codegen import with_pointers

    return transform.Sequential(
        [
            s_tir.transform.CanonicalizeLoop(),
            s_tir.transform.LowerCrossThreadReduction(),
            s_tir.transform.LowerInitBlock(),
            s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
            s_tir.transform.ConvertBlocksToOpaque(),
            s_tir.transform.LiftThreadBinding(),
            s_tir.transform.CompactBufferAllocation(),
            s_tir.transform.UnifyThreadBinding(),
            s_tir.transform.LowerMatchBuffer(),
            s_tir.transform.StmtSimplify(),
            s_tir.transform.LowerOpaqueBlock(),
            tirx.transform.Apply(with_pointers),
            tirx.transform.FlattenBuffer(),
            tirx.transform.NarrowDataType(32),
            tirx.transform.VectorizeLoop(True),
            tirx.transform.UnrollLoop(),
            tirx.transform.StmtSimplify(),
            tirx.transform.RemoveNoOp(),
            tirx.transform.CommonSubexprElim(),
            tirx.transform.AnnotateEntryFunc(),
            tirx.transform.SplitHostDevice(),
        ]
    )


def _calls(host: Any) -> list[Any]:
    """The launches in the part that stays with the processor."""
    import tvm_ffi
    from tvm import ir

    found: list[Any] = []

    def visit(node: Any) -> None:
        if str(getattr(node.op, "name", "")).endswith("call_ffi_kernel"):
            found.append(node)

    tvm_ffi.structural_walk(host.body, [(ir.Call, visit)], order="post")
    return found


def _launch(module: Any, host: Any, call: Any, where: str) -> Launch:
    name, *given = call.args
    axes = list(call.attrs.launch_params)
    arrays, extents = given[: len(given) - len(axes)], given[len(given) - len(axes) :]
    if any(getattr(a.op, "name", "") != "tirx.buffer_data" for a in _with_op(arrays, where)):
        raise UnsupportedError(f"{where}: TVM's kernel for it is given more than arrays")
    sizes = {axis: int(extent.value) for axis, extent in zip(axes, extents, strict=True)}
    source = _source(module, str(name.value), where)
    types = tuple(kind for kind, _ in _PARAMETER.findall(source[: source.index("{")]))
    if len(types) != len(arrays):
        raise UnsupportedError(f"{where}: what TVM writes for it has other arrays than it is given")
    kernel = GenericKernel(source, types, _size(sizes, "blockIdx"), _size(sizes, "threadIdx"))
    return Launch(kernel, tuple(_number(host, a.args[0], where) for a in arrays))


def _with_op(values: list[Any], where: str) -> list[Any]:
    if not all(hasattr(v, "op") for v in values):
        raise UnsupportedError(f"{where}: TVM's kernel for it is given more than arrays")
    return values


def _size(sizes: dict[str, int], kind: str) -> Size:
    return sizes.get(f"{kind}.x", 1), sizes.get(f"{kind}.y", 1), sizes.get(f"{kind}.z", 1)


def _number(host: Any, buffer: Any, where: str) -> int:
    """Which parameter of the function a buffer is."""
    import tvm_ffi
    from tvm import tirx

    found: list[Any] = []

    def visit(node: Any) -> None:
        if node.buffer.same_as(buffer):
            found.append(node.data)

    tvm_ffi.structural_walk(host.body, [(tirx.DeclBuffer, visit)], order="post")
    for index, parameter in enumerate(host.params):
        if found and found[0].same_as(parameter):
            return index
    raise UnsupportedError(f"{where}: TVM's kernel for it is given an array of its own")


def _source(module: Any, name: str, where: str) -> str:
    """The text of one device function, as a function that is no kernel."""
    import tvm
    from tvm import IRModule, tirx, transform

    device = IRModule({name: module[name]})
    finish = [
        tirx.transform.LowerWarpMemory(),
        tirx.transform.StmtSimplify(),
        tirx.transform.LowerIntrin(),
    ]
    device = transform.Sequential(finish)(device)
    text = tvm.get_global_func("target.build.opencl")(device, _target()).inspect_source()
    if "__local" in text or "#pragma OPENCL EXTENSION" in text:
        raise UnsupportedError(
            f"{where}: TVM's kernel for it wants more of a device than every one has"
        )
    body = text[text.rindex("__kernel void") :]
    return body.replace(f"__kernel void {name}", f"INLINE void {_PLACEHOLDER}").strip() + "\n"
