"""A small vector language over TVM's TIR: what every kernel is written in.

A kernel is a plain C function over ranges of parts:

    void name(T *array_0, ..., T *array_n, int32_t begin, int32_t end)

It computes parts begin .. end - 1 of its work, whoever calls it; nothing of a runtime is needed, and
a result does not depend on how parts are shared among threads. Loops that are unrolled are loops of
Python; loops of the machine are written with `loop`. Values held in registers are small arrays with
constant indices, which LLVM turns into registers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

Value: TypeAlias = Any  # an expression of TIR
Index: TypeAlias = Any  # an int or an expression of TIR


@dataclass(frozen=True)
class Machine:
    """What kernels have to know of a processor.

    Attributes:
        lanes: values in one vector register.
        registers: vector registers.
        lane_products: whether a product may take one lane of a vector for its other operand (NEON's
            `fmla v, v, v.s[lane]`); otherwise single values are loaded and repeated.
        products: vector multiply-accumulates per cycle.
        loads: vector loads per cycle.
        latency: cycles until the result of a multiply-accumulate can be added to.
        cache: bytes of the second-level cache of one core.
        bytes_per_cycle: what one core gets from memory.
        dtype: of images and weights: float32, or float16.
        integers: how bytes are multiplied (`conv_int8.py`).
        fused: whether a product is added before it is rounded, in one instruction.
    """

    lanes: int
    registers: int
    lane_products: bool
    products: int
    loads: int
    latency: int
    cache: int
    bytes_per_cycle: float
    dtype: str = "float32"
    integers: Literal["sdot", "smlal", "vnni", "wide"] = "wide"
    fused: bool = True

    @property
    def width(self) -> int:
        """Bytes of one value."""
        return 2 if self.dtype == "float16" else 4


class Array:
    """Memory a kernel reads or writes. Indices count elements and may be negative."""

    def __init__(self, buffer: Any, dtype: str) -> None:
        self._buffer, self.dtype = buffer, dtype

    def vector(self, index: Index, lanes: int) -> Value:
        """`lanes` neighbours from `index` on."""
        from tvm import tirx

        return self._buffer[tirx.Ramp(index, 1, lanes)]

    def scalar(self, index: Index) -> Value:
        """The element at `index`."""
        return self._buffer[index]

    def put(self, index: Index, value: Value, lanes: int) -> None:
        """Stores `lanes` neighbours."""
        from tvm import tirx
        from tvm.script.ir_builder import tirx as build

        build.buffer_store(self._buffer, value, [tirx.Ramp(index, 1, lanes)])

    def put_scalar(self, index: Index, value: Value) -> None:
        """Stores one element."""
        from tvm.script.ir_builder import tirx as build

        build.buffer_store(self._buffer, value, [index])


class Registers:
    """Vectors that change: accumulators."""

    def __init__(self, count: int, lanes: int, dtype: str) -> None:
        from tvm.script.ir_builder import tirx as build

        # One array each: an array above 1 KiB would be taken from a heap.
        self._arrays = [
            Array(build.alloc_buffer((lanes,), dtype, scope="global"), dtype) for _ in range(count)
        ]
        self._lanes = lanes

    def __getitem__(self, index: int) -> Value:
        return self._arrays[index].vector(0, self._lanes)

    def __setitem__(self, index: int, value: Value) -> None:
        self._arrays[index].put(0, value, self._lanes)

    def __len__(self) -> int:
        return len(self._arrays)


@contextmanager
def loop(begin: Index, end: Index) -> Iterator[Value]:
    """A loop of the machine; one turn is written without a loop."""
    from tvm.script.ir_builder import tirx as build

    if isinstance(begin, int) and isinstance(end, int) and end == begin + 1:
        yield begin
        return
    with build.serial(begin, end) as index:
        yield index


@contextmanager
def when(condition: Value) -> Iterator[None]:
    """What is inside happens where `condition` holds; True and False of Python are decided here."""
    from tvm.script.ir_builder import tirx as build

    if condition is True:
        yield
        return
    with build.If(condition), build.Then():
        yield


def let(value: Value) -> Value:
    """Computes `value` once, here."""
    from tvm.script.ir_builder import tirx as build

    return value if isinstance(value, int) else build.Bind(value)


def constant(value: float, dtype: str, lanes: int) -> Value:
    """The same number in every lane."""
    from tvm import tirx

    return repeat(tirx.const(value, dtype), lanes)


def repeat(scalar: Value, lanes: int) -> Value:
    """A single value in every lane."""
    from tvm import tirx

    return scalar if lanes == 1 else tirx.Broadcast(scalar, lanes)


def cast(value: Value, dtype: str, lanes: int) -> Value:
    """The values as another type."""
    from tvm import tirx

    return tirx.Cast(dtype if lanes == 1 else f"{dtype}x{lanes}", value)


def lane(vector: Value, index: int) -> Value:
    """One lane of a vector."""
    from tvm import tirx

    return tirx.Shuffle([vector], [index])


def interleaved(a: Value, b: Value, lanes: int) -> tuple[Value, Value]:
    """a0 b0 a1 b1 ..., in two vectors: the lower halves, and the upper ones."""
    from tvm import tirx

    half = lanes // 2
    low = [i for k in range(half) for i in (k, lanes + k)]
    return tirx.Shuffle([a, b], low), tirx.Shuffle([a, b], [i + half for i in low])


def piece(vector: Value, first: int, lanes: int) -> Value:
    """Neighbouring lanes of a vector."""
    from tvm import tirx

    return tirx.Shuffle([vector], list(range(first, first + lanes)))


def joined(vectors: Sequence[Value], first: int, lanes: int) -> Value:
    """`lanes` lanes from `first` on of vectors of equal length, one behind the other."""
    from tvm import tirx

    width = vectors[0].ty.dtype.lanes
    begin, inside = divmod(first, width)
    if lanes == width and not inside:
        return vectors[begin]
    taken = list(vectors[begin : begin + max(1, lanes // width)])
    return tirx.Shuffle(taken, list(range(inside, inside + lanes)))


def bits(value: Value, dtype: str, lanes: int) -> Value:
    """The same bits as another type."""
    from tvm import tirx

    return tirx.reinterpret(dtype if lanes == 1 else f"{dtype}x{lanes}", value)


def intrinsic(name: str, dtype: str, lanes: int, *values: Value) -> Value:
    """An instruction by LLVM's name of it."""
    from tvm import tirx

    return tirx.call_llvm_pure_intrin(f"{dtype}x{lanes}", name, *values)


def divide(value: Index, by: int) -> tuple[Index, Index]:
    """(quotient, remainder) of a number that is not negative."""
    from tvm import tirx

    if by == 1:
        return value, 0
    if isinstance(value, int):
        return divmod(value, by)
    return let(tirx.truncdiv(value, by)), let(tirx.truncmod(value, by))


def kernel(
    name: str,
    arrays: Sequence[str],
    body: Callable[[Sequence[Array], Value], None],
) -> Any:
    """A TIR function over ranges of parts.

    Args:
        name: its symbol.
        arrays: the element type of each array it is given.
        body: writes the work of one part: body(arrays, part).
    """
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as build

    with IRBuilder() as builder, build.prim_func(s_tir=True):
        build.func_name(name)
        build.func_attr({"global_symbol": name, "tirx.noalias": True})
        pointers = [build.arg(f"a{i}", build.handle(t)) for i, t in enumerate(arrays)]
        begin, end = build.arg("begin", build.int32()), build.arg("end", build.int32())
        given = [
            # The length is never looked at: indices are right by construction and tested.
            Array(build.decl_buffer((1,), dtype, data=pointer), dtype)
            for pointer, dtype in zip(pointers, arrays, strict=True)
        ]
        with build.serial(begin, end) as part:
            body(given, part)
    return builder.get()
