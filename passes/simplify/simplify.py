"""Constant folding, dead code, common subexpressions and no-ops, by onnxscript's optimizer.

Plain simplification is a commodity, and onnxscript's is well kept; this pass composes its folding
and rewrite rules and leaves out what later stages need intact: BatchNormalization is not folded
(pruning and training want it), weights are not deduplicated (a constant read twice couples two
layers). Folding reaches into the subgraphs of If, Loop and Scan.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import onnx

from graphopt.ir.contents import replace_contents
from graphopt.ir.graph import Constant, Graph, Node, Tensor, input_value, set_input, subgraphs
from graphopt.ir.proto import from_proto, hollow_tensor, is_hollow, to_proto
from graphopt.ir.text import outline
from graphopt.pass_base import Close, Context, Pass
from graphopt.passes.fuse.linear import LINEAR_OPS

_MAX_ROUNDS = 5
# Operators that onnxscript's folding or one of the rules below may do something about.
_CANDIDATES = frozenset(
    (
        *("Shape", "Size", "Dropout", "Expand", "CastLike", "ScatterND", "ConstantOfShape"),
        *("Constant", "Identity", "Range", "SequenceAt", "SequenceConstruct", "SplitToSequence"),
        "ConcatFromSequence",
    )
)
_SMALL = 64  # constants up to this many elements are shared: axes, sizes, indices, scalars

# onnxscript's rules by their public names. Left out: BatchNormalization folding; Flatten -> Reshape,
# which hides what the operator means; and what passes of our own do with reasons and symbolic sizes:
# casts, slices, reshapes, transposes, arithmetic with 0 and 1.
_RULES = (
    "cast_constant_of_shape_rule",
    "cast_constant_of_shape_without_value_rule",
    "dropout_inference_rule",
    "dropout_zero_rule",
    "no_op_dynamic_scatter_nd_rule",
    "no_op_expand_rule",
    "no_op_static_scatter_nd_rule",
    "one_reshape_matmul_reshape_rule",
    "remove_optional_bias_from_conv_rule",
    "remove_optional_bias_from_conv_transpose_rule",
    "remove_optional_bias_from_gemm_rule",
    "two_reshapes_matmul_reshape_rule",
)


@dataclass(frozen=True)
class Simplify(Pass):
    """Constants folded, dead code and repeated computation gone, Dropout and Expand by 1 removed."""

    name: ClassVar[str] = "simplify"
    numerics: ClassVar[Close] = Close(rtol=1e-5)  # onnx.reference folds with other kernels

    # Leave a transposed or cast parameter as it is, so that every parameter keeps its name.
    keep_parameters: bool = False

    def run(self, graph: Graph, context: Context) -> None:
        if not has_work(graph):
            return
        before, text = Counter(n.op for n in graph.nodes), outline(graph)
        _share_small_constants(graph)
        model, arrays = to_proto(graph, hollow=True)
        simplified, arrays = _optimized(model, arrays, self.keep_parameters)
        new = from_proto(simplified, arrays)
        if outline(new) == text:
            return
        replace_contents(graph, new)
        after = Counter(n.op for n in graph.nodes)
        context.rewrote("graph", _difference(before, after) or "the same operators, rewired")


def has_work(graph: Graph) -> bool:
    """Whether anything could fold, repeat or be removed: a look that costs far less than trying."""
    seen: dict[object, list[Node]] = {}  # by operator and inputs
    for node in graph.nodes:
        if node.op in _CANDIDATES or subgraphs(node):
            return True
        if node.inputs and all(isinstance(t, Constant) or t.is_empty() for t in node.inputs):
            return True
        if node.op in LINEAR_OPS and _adds_zeros(node):
            return True
        alike = seen.setdefault((node.op, node.domain, *map(_identity, node.inputs)), [])
        if any(repr(node.attrs) == repr(other.attrs) for other in alike):
            return True
        alike.append(node)
    return False


def _adds_zeros(linear: Node) -> bool:
    bias = input_value(linear, 2)
    return bias is not None and not bias.any()


def _optimized(
    model: onnx.ModelProto, arrays: dict[str, Any], keep_parameters: bool
) -> tuple[onnx.ModelProto, Any]:
    import onnx_ir as ir
    import onnx_ir.passes.common as passes
    from onnxscript.optimizer import fold_constants_ir
    from onnxscript.rewriter import RewritePass, RewriteRuleSet
    from onnxscript.rewriter.rules import common

    rules = RewriteRuleSet([getattr(common, name) for name in _RULES])
    twin = ir.from_proto(model)
    for name, value in twin.graph.initializers.items():
        if name in arrays:
            value.const_value = ir.Tensor(arrays[name], name=name)
    judge = _should_fold_keeping if keep_parameters else _should_fold
    for _ in range(_MAX_ROUNDS):
        fold_constants_ir(twin, onnx_shape_inference=True, should_fold=judge)
        rewritten = RewritePass(rules)(twin).modified
        passes.RemoveUnusedNodesPass()(twin)
        if not rewritten:
            break  # else another round folds what the rules opened
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(twin)
    passes.CommonSubexpressionEliminationPass()(twin)
    passes.OutputFixPass()(twin)
    passes.NameFixPass()(twin)
    return _hollow_again(twin)


def _should_fold(node: Any) -> bool | None:
    """Folds small ConstantOfShape nodes, which onnxscript leaves; None is its own judgement.

    torch's exporter builds the padding of F.pad from one, and nothing behind it would fold.
    """
    if node.op_type != "ConstantOfShape" or node.domain:
        return None
    shape = node.inputs[0].const_value
    return True if shape is not None and shape.numpy().prod() <= _SMALL else None


def _should_fold_keeping(node: Any) -> bool | None:
    """As `_should_fold`, but nothing that computes from a parameter of more than one element."""
    for value in node.inputs:
        tensor = None if value is None else value.const_value
        if tensor is not None and tensor.dtype.is_floating_point() and tensor.size > 1:
            return False
    return _should_fold(node)


def _hollow_again(twin: Any) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The proto of an onnx_ir model without its large constants, and their arrays."""
    import onnx_ir as ir

    arrays: dict[str, Any] = {}
    for name, value in twin.graph.initializers.items():
        array = value.const_value.numpy()
        if is_hollow(array):
            arrays[name] = array
            value.const_value = ir.from_proto(hollow_tensor(name, array))
    return ir.to_proto(twin), arrays


def _share_small_constants(graph: Graph) -> None:
    """Equal integer constants and equal scalars become one, so that equal nodes are seen as equal."""
    first: dict[object, Tensor] = {}
    for node in graph.nodes:
        for i, tensor in enumerate(node.inputs):
            same = first.setdefault(_identity(tensor), tensor)
            if same is not tensor:
                set_input(node, i, same)


def _identity(tensor: Tensor) -> object:
    """Equal for tensors that may be taken for one another: itself, or a small constant's value."""
    values = tensor.values if isinstance(tensor, Constant) else None
    if (
        values is None
        or values.size > _SMALL
        or (values.dtype.kind not in "iub" and values.size > 1)
    ):
        return id(tensor)
    return str(values.dtype), values.shape, values.tobytes()


def _difference(before: Counter[str], after: Counter[str]) -> str:
    gone = [f"-{n} {op}" for op, n in sorted((before - after).items())]
    come = [f"+{n} {op}" for op, n in sorted((after - before).items())]
    return ", ".join(gone + come)
