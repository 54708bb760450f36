"""Which nodes can compute in a 16-bit float, and the Casts between them and those that cannot.

    y = f(x, w)   becomes   y' = f(x', w'),   x' = narrow(x),  w' = narrow(w)

for all nodes but those that are kept: by wish, because the standard has no such operator, because a
weight or (on calibration data) an activation is larger than the type's largest number, or because a
single narrow node between float32 ones would cost two Casts. What only looks at a tensor (Shape,
ArgMax, a comparison) reads it in whichever type it comes. Each tensor is cast once at most in each
direction; scales, sizes and statistics that the standard wants in float32 stay so. Subgraphs are left
alone, and tensors they read keep float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import onnx

from graphopt.ir.graph import (
    STANDARD_DOMAINS,
    Constant,
    Graph,
    Node,
    Tensor,
    input_value,
    is_op,
    producer,
    subgraphs,
)
from graphopt.passes.quantize.named import named_nodes
from graphopt.passes.quantize.pairs import QUANTIZED_OPS

Array: TypeAlias = "np.ndarray[Any, Any]"


@dataclass(frozen=True)
class Narrow:
    """A 16-bit floating point type."""

    name: str
    dtype: np.dtype[Any]
    largest: float
    smallest: float  # normal number

    @property
    def number(self) -> int:
        """The type's number in ONNX."""
        return int(onnx.helper.np_dtype_to_tensor_dtype(self.dtype))


FLOAT16 = Narrow("float16", np.dtype(np.float16), 65504.0, 2.0**-14)
BFLOAT16 = Narrow("bfloat16", np.dtype(ml_dtypes.bfloat16), 3.3895313892515355e38, 2.0**-126)


@dataclass
class Slots:
    """The inputs and outputs of a node that would become narrow; `follows` one that only looks."""

    node: Node
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def follows(self) -> bool:
        """Whether none of its results is a float, so that any type of its input will do."""
        return not self.outputs

    def tensors(self) -> Iterator[Tensor]:
        """The tensors in those places."""
        yield from (self.node.inputs[i] for i in self.inputs)
        yield from (self.node.outputs[k] for k in self.outputs)


@dataclass
class Placement:
    """The nodes that become narrow, by id, and why the others with float32 tensors do not."""

    narrow: dict[int, Slots] = field(default_factory=dict)
    kept: list[tuple[Node, str]] = field(default_factory=list)


def place(
    graph: Graph,
    kind: Narrow,
    *,
    keep: Iterable[str],
    peaks: Mapping[str, float],
    narrow_io: bool = False,
) -> Placement:
    """Decides which nodes become narrow.

    Args:
        graph: in normal form.
        kind: the type.
        keep: names, operators or globs of nodes that stay in float32.
        peaks: the largest magnitude seen of tensors, by name.
        narrow_io: whether the model's inputs and outputs will be narrow.

    Raises:
        UsageError: something in `keep` that matches nothing.
    """
    kept_by_wish = {id(n) for n in named_nodes(graph, keep)}
    found = Placement()
    for node in graph.nodes:
        if not any(is_wide(t) for t in (*node.inputs, *node.outputs)):
            continue
        slots = _slots(node, graph.opset, kind)
        if slots is None:
            continue
        if id(node) in kept_by_wish:
            found.kept.append((node, "it is kept in float32 as asked"))
        elif isinstance(slots, str):
            found.kept.append((node, slots))
        elif reason := _overflow(slots, kind, peaks):
            found.kept.append((node, reason))
        else:
            found.narrow[id(node)] = slots
    outside = [*graph.inputs, *graph.outputs] if narrow_io else []
    _drop_lone(graph, found, kind, {id(t) for t in outside})
    return found


def is_wide(tensor: Tensor) -> bool:
    """Whether a tensor is known to be float32."""
    return tensor.dtype is not None and np.dtype(tensor.dtype) == np.float32


# --- what the standard allows ---------------------------------------------------------------------


def _slots(node: Node, opset: int, kind: Narrow) -> Slots | str | None:
    """The places of a node that would become narrow, or why there are none; None for a Cast back."""
    if subgraphs(node):
        return f"{node.op} runs a subgraph, which is left alone"
    if node.domain not in STANDARD_DOMAINS:
        return f"{node.domain}::{node.op} is no standard operator"
    # Integers are what these compute with: their scales are no weights that could be narrower.
    if node.op in QUANTIZED_OPS:
        return f"{node.op} belongs to integer arithmetic"
    if is_op(node, "Cast") and is_wide(node.outputs[0]):
        source = node.inputs[0].dtype
        # Of integers narrow numbers may be made right away; a Cast of floats is there for a reason.
        is_whole = source is not None and np.dtype(source).kind in "iub"
        return Slots(node, (), (0,)) if is_whole else None
    schema = onnx.defs.get_schema(node.op, opset, "")
    narrow = {
        c.type_param_str
        for c in schema.type_constraints
        if f"tensor({kind.name})" in c.allowed_type_strs
    }
    inputs = {i: _formal(schema.inputs, i) for i, t in enumerate(node.inputs) if is_wide(t)}
    outputs = {k: _formal(schema.outputs, k) for k, t in enumerate(node.outputs) if is_wide(t)}
    # Other types a node has (statistics of a normalization, scales of a Resize) stay as they are.
    chosen = {v for v in (outputs or dict([*inputs.items()][:1])).values() if v in narrow}
    own = tuple(i for i, v in inputs.items() if v in chosen)
    made = tuple(k for k, v in outputs.items() if v in chosen)
    if not chosen or (outputs and not made):
        return f"{node.op} of opset {opset} does not compute in {kind.name}"
    if not own:
        return f"the type of what {node.op} makes is written in the node"
    return Slots(node, own, made)


def _formal(params: Any, index: int) -> str:
    return str(params[min(index, len(params) - 1)].type_str)


# --- what would overflow --------------------------------------------------------------------------


def _overflow(slots: Slots, kind: Narrow, peaks: Mapping[str, float]) -> str | None:
    for tensor in slots.tensors():
        peak = _peak(tensor, peaks)
        if peak is not None and not peak <= kind.largest:
            what = "weight" if isinstance(tensor, Constant) else "tensor"
            return f"{what} {tensor.name!r} reaches {peak:.3g}, and {kind.name} ends at {kind.largest:g}"
    return None


def _peak(tensor: Tensor, peaks: Mapping[str, float]) -> float | None:
    if not isinstance(tensor, Constant):
        return peaks.get(tensor.name)
    values = tensor.values
    # Infinities are infinities in every type.
    return float(np.abs(values).max(initial=0, where=np.isfinite(values)))


# --- what would not be worth its Casts --------------------------------------------------------------


def _drop_lone(graph: Graph, found: Placement, kind: Narrow, narrow: set[int]) -> None:
    """Leaves in float32 what has neighbours in float32 only; `narrow` tensors are such anyway."""
    for node in graph.nodes:
        slots = found.narrow.get(id(node))
        if slots is None or slots.follows or any(id(t) in narrow for t in slots.tensors()):
            continue
        near = [n for n in _neighbours(slots) if not _only_looks(found, n)]
        if near and not any(id(n) in found.narrow for n in near):
            del found.narrow[id(node)]
            reason = f"a single {kind.name} node between float32 ones would cost two Casts"
            found.kept.append((node, reason))
    for node in graph.nodes:
        slots = found.narrow.get(id(node))
        if slots is not None and slots.follows and not _reads_narrow(found, slots):
            del found.narrow[id(node)]


def _neighbours(slots: Slots) -> Iterator[Node]:
    for tensor in slots.tensors():
        if not isinstance(tensor, Constant):
            yield from (n for n in (*tensor.inputs, *tensor.outputs) if n is not slots.node)


def _only_looks(found: Placement, node: Node) -> bool:
    slots = found.narrow.get(id(node))
    return slots is not None and slots.follows


def _reads_narrow(found: Placement, slots: Slots) -> bool:
    tensors = (slots.node.inputs[i] for i in slots.inputs)
    first = next((t for t in tensors if not isinstance(t, Constant)), None)
    maker = producer(first)
    made = found.narrow.get(id(maker)) if maker is not None else None
    return made is not None and any(maker.outputs[k] is first for k in made.outputs)


def lost_weights(graph: Graph, found: Placement, kind: Narrow) -> tuple[int, int, int]:
    """How many weights there are that become narrow, and how many of them subnormal and zero."""
    total = subnormal = zero = 0
    seen: set[int] = set()
    for node in graph.nodes:
        slots = found.narrow.get(id(node))
        for index in () if slots is None else slots.inputs:
            values = input_value(node, index)
            if values is None or id(node.inputs[index]) in seen:
                continue
            seen.add(id(node.inputs[index]))
            size = np.abs(values[values != 0])
            gone = int(np.count_nonzero(size.astype(kind.dtype) == 0))
            total += values.size
            zero += gone
            subnormal += int(np.count_nonzero(size < kind.smallest)) - gone
    return total, subnormal, zero
