"""One normal form for every ONNX model, so that passes meet one dialect.

Functions are inlined, the standard opset is at least `OPSET`, Constant nodes and Identity nodes are
gone, inputs that have a default value are constants, every node has a unique name, shapes are known
where onnx can infer them. Symbolic dimensions stay symbolic. Subgraphs keep their meaning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx
import onnx.inliner
import onnx.shape_inference
import onnx.version_converter

from graphopt.errors import LoadError
from graphopt.ir.graph import Graph, bypass, is_input, is_output, nodes_of, sweep
from graphopt.ir.proto import Arrays, from_proto, hollow_out
from graphopt.ir.shapes import infer_proto, infer_shapes

# Mish (18), GELU (20), LayerNormalization (17) and HardSwish (14) are standard operators from here on.
OPSET = 20
OLDEST_OPSET = 7
_IR_VERSION = 9

_CONVERTER_ERRORS = (
    RuntimeError,
    ValueError,
    onnx.version_converter.ConvertError,
    onnx.shape_inference.InferenceError,
)
_UNSUPPORTED_ATTRIBUTES = {
    onnx.AttributeProto.TENSORS: "a list of tensors",
    onnx.AttributeProto.GRAPHS: "a list of graphs",
    onnx.AttributeProto.SPARSE_TENSOR: "a sparse tensor",
    onnx.AttributeProto.SPARSE_TENSORS: "sparse tensors",
    onnx.AttributeProto.TYPE_PROTO: "a type",
    onnx.AttributeProto.TYPE_PROTOS: "types",
}


def normalize(model: onnx.ModelProto, arrays: Arrays | None = None) -> Graph:
    """The graph of `model` in normal form. `model` is consumed.

    Args:
        model: any ONNX model with opset 7 or later.
        arrays: values of initializers whose data is not in `model`, by name.

    Raises:
        LoadError: the model has a construct graphopt cannot keep correct; the message names it.
    """
    held = {**(arrays or {}), **hollow_out(model)}
    _check_supported(model)
    model = _inline_functions(model)
    model = _raise_opset(model)
    for graph in _graphs(model.graph):
        _constants_to_initializers(graph)
    _make_branch_results_inside(model.graph)
    _lift_initializers(model.graph)
    _defaults_to_constants(model)
    _forget_impossible_sizes(model)
    _name_nodes(model)
    # Stale value_info would be trusted by inference; what is right comes back by itself.
    graph = from_proto(infer_proto(model), held)
    _remove_identities(graph)
    sweep(graph)
    infer_shapes(graph)
    return graph


def standard_opset(model: onnx.ModelProto) -> int:
    """The version of the standard operator set the model imports (1 when it imports none)."""
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    return max(versions, default=1)


def _check_supported(model: onnx.ModelProto) -> None:
    if not model.graph.output:
        raise LoadError("the graph has no outputs; export the model again with its outputs named")
    if model.graph.sparse_initializer:
        raise LoadError("sparse initializers are not supported; store the weights dense")
    for node in _nodes(model.graph):
        for attr in node.attribute:
            if attr.type in _UNSUPPORTED_ATTRIBUTES:
                kind = _UNSUPPORTED_ATTRIBUTES[attr.type]
                where = f"node {node.name or node.output[0]!r} ({node.op_type})"
                raise LoadError(f"attribute {attr.name!r} of {where} holds {kind}, unsupported")


def _inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.inliner.inline_local_functions(model) if model.functions else model


def _raise_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    version = standard_opset(model)
    if version >= OPSET:
        return model
    if version < OLDEST_OPSET:
        raise LoadError(
            f"opset {version} is older than {OLDEST_OPSET}, the oldest onnx can convert faithfully; "
            "export the model again with a newer opset"
        )
    props = [(p.key, p.value) for p in model.metadata_props]
    model.ir_version = max(model.ir_version, 4)  # before 4, initializers must be inputs as well
    try:
        raised = onnx.version_converter.convert_version(model, OPSET)
    except _CONVERTER_ERRORS as error:
        reason = str(error).strip().splitlines()[-1]
        raise LoadError(f"onnx cannot convert opset {version} to {OPSET}: {reason}") from error
    raised.ir_version = max(raised.ir_version, _IR_VERSION)
    if not raised.metadata_props:
        onnx.helper.set_model_props(raised, dict(props))
    return raised


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attr in node.attribute:
            if attr.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attr.g)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for each in _graphs(graph):
        yield from each.node


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    # graphsurgeon 0.6.1 reads `value_floats` as float64, so no Constant node may reach it.
    kept: list[onnx.NodeProto] = []
    outputs = {o.name for o in graph.output}
    for node in graph.node:
        tensor = _constant_value(node)
        if tensor is None or node.output[0] in outputs:
            kept.append(node)
            continue
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    del graph.node[:]
    graph.node.extend(kept)


def _lift_initializers(main: onnx.GraphProto) -> None:
    """Moves the initializers of subgraphs into the main graph, where every pass sees them."""
    taken = {name for graph in _graphs(main) for name in _names_in(graph)}
    for graph in list(_graphs(main))[1:]:
        outputs = {o.name for o in graph.output}
        renamed: dict[str, str] = {}
        kept = [t for t in graph.initializer if t.name in outputs]
        for tensor in (t for t in graph.initializer if t.name not in outputs):
            lifted = main.initializer.add()
            lifted.CopyFrom(tensor)
            lifted.name = renamed[tensor.name] = _unused(f"{tensor.name}_lifted", taken)
        _rename_inputs(graph, renamed)
        del graph.initializer[:]
        # The result of a branch has to be made inside the branch.
        makers = [onnx.helper.make_node("Constant", [], [t.name], value=t) for t in kept]
        for maker in reversed(makers):
            graph.node.insert(0, maker)


def _make_branch_results_inside(main: onnx.GraphProto) -> None:
    """An Identity for every result of a subgraph that is a tensor from outside of it."""
    taken = {name for graph in _graphs(main) for name in _names_in(graph)}
    for graph in list(_graphs(main))[1:]:
        inside = set(_names_in(graph))
        for result in (o for o in graph.output if o.name not in inside):
            outer, result.name = result.name, _unused(f"{result.name}_inside", taken)
            graph.node.append(onnx.helper.make_node("Identity", [outer], [result.name]))


def _names_in(graph: onnx.GraphProto) -> Iterator[str]:
    yield from (t.name for t in graph.initializer)
    yield from (i.name for i in graph.input)
    for node in graph.node:
        yield from node.output


def _unused(base: str, taken: set[str]) -> str:
    name, k = base, 0
    while name in taken:
        k += 1
        name = f"{base}_{k}"
    taken.add(name)
    return name


def _rename_inputs(graph: onnx.GraphProto, names: dict[str, str]) -> None:
    if not names:
        return
    for node in _nodes(graph):
        for i, name in enumerate(node.input):
            if name in names:
                node.input[i] = names[name]


def _constant_value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    (attr,) = node.attribute
    make = onnx.helper.make_tensor
    kinds: dict[str, Any] = {
        "value_float": (onnx.TensorProto.FLOAT, [], lambda a: [a.f]),
        "value_floats": (onnx.TensorProto.FLOAT, None, lambda a: list(a.floats)),
        "value_int": (onnx.TensorProto.INT64, [], lambda a: [a.i]),
        "value_ints": (onnx.TensorProto.INT64, None, lambda a: list(a.ints)),
        "value_string": (onnx.TensorProto.STRING, [], lambda a: [a.s]),
        "value_strings": (onnx.TensorProto.STRING, None, lambda a: list(a.strings)),
    }
    if attr.name == "value":
        copy = onnx.TensorProto()
        copy.CopyFrom(attr.t)
        return copy
    if attr.name not in kinds:
        return None
    dtype, dims, read = kinds[attr.name]
    values = read(attr)
    return make("", dtype, [len(values)] if dims is None else dims, values)


def _defaults_to_constants(model: onnx.ModelProto) -> None:
    # Before IR version 4 every initializer had to be listed as an input too.
    names = {t.name for t in model.graph.initializer}
    kept = [i for i in model.graph.input if i.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)


def _forget_impossible_sizes(model: onnx.ModelProto) -> None:
    # Some exporters write -1 or 0 where the size is free.
    for info in [*model.graph.input, *model.graph.output]:
        for dim in info.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value <= 0:
                dim.ClearField("dim_value")


def _name_nodes(model: onnx.ModelProto) -> None:
    taken: set[str] = set()
    for node in _nodes(model.graph):
        base = node.name or f"{node.op_type}_{next((o for o in node.output if o), '')}"
        node.name = _unused(base, taken)


def _remove_identities(graph: Graph) -> None:
    for node in nodes_of(graph, "Identity"):
        source, out = node.inputs[0], node.outputs[0]
        if is_output(graph, out) and (not source.inputs or is_output(graph, source)):
            continue  # an input, a constant or another output cannot take over this output's name
        if is_input(graph, source) and is_output(graph, out):
            continue
        bypass(graph, node)
