"""Between a graph and an ONNX ModelProto.

A *hollow* proto holds the structure and the small constants only; the large ones stand in it as
references to external data, and their arrays travel beside it. Checking, shape inference and running
work on hollow protos, so that weights are never copied and models over protobuf's 2 GB fit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter, dtype_to_onnx
from onnx_graphsurgeon.logger.logger import G_LOGGER, LoggerSuppress

from graphopt.ir.graph import Constant, Graph, Variable, subgraphs

Arrays = Mapping[str, "np.ndarray[Any, Any]"]

# Larger constants stay outside a hollow proto. Smaller ones (shapes, axes, scalars, sizes) may be
# needed by shape inference and constant folding.
HOLLOW_BYTES = 4096
_HOLLOW_LOCATION = "held-in-memory"
# Sub-byte types are packed and strings have no fixed size: they are always written inline.
_HOLLOW_KINDS = "fiu"
# Types whose bytes in memory are their bytes in a file.
_PLAIN = frozenset(
    map(np.dtype, ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"))
)
_MAKER = "graphopt.constants"  # no operator: what stands for constants where only names matter
_SILENT = G_LOGGER.CRITICAL + 1
_KINDS = onnx.AttributeProto
_HEADER = ("doc_string", "domain", "model_version")


def to_proto(graph: Graph, *, hollow: bool = False) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The graph as a ModelProto, and the arrays left out of it (none unless `hollow`)."""
    arrays: dict[str, Any] = {}
    model = _header(graph)
    _write_graph(graph, model.graph, arrays if hollow else None)
    onnx.helper.set_model_props(model, dict(sorted(graph.metadata.items())))
    return model, arrays


def from_proto(model: onnx.ModelProto, arrays: Arrays | None = None) -> Graph:
    """The graph of a proto in normal form; `arrays` holds the values a hollow proto left out."""
    with LoggerSuppress(G_LOGGER, _SILENT):  # it prints on stdout, where JSON may be expected
        graph: Graph = gs.import_onnx(model)
    graph.__class__ = Graph
    graph.metadata = {p.key: p.value for p in model.metadata_props}
    graph.producer_name, graph.producer_version = model.producer_name, model.producer_version
    graph.ir_version = model.ir_version
    graph.header = {key: getattr(model, key) for key in _HEADER if getattr(model, key)}
    _read_types(graph)
    graph.forget_names()
    _load_constants(graph, arrays or {})
    return graph


def _read_types(graph: Graph) -> None:
    # graphsurgeon leaves types that numpy has not (bfloat16, float8, ...) as numbers.
    for tensor in graph.tensors().values():
        if isinstance(tensor, Variable) and isinstance(tensor.dtype, int):
            tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.dtype)


def is_hollow(array: np.ndarray[Any, Any]) -> bool:
    """Whether a hollow proto leaves this constant out."""
    return array.nbytes > HOLLOW_BYTES and array.dtype.kind in _HOLLOW_KINDS


def hollow_tensor(name: str, array: np.ndarray[Any, Any]) -> onnx.TensorProto:
    """A TensorProto that has the type and shape of `array` and none of its bytes."""
    tensor = onnx.TensorProto(name=name, dims=array.shape, data_type=_type_number(array.dtype))
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", _HOLLOW_LOCATION), ("length", str(array.nbytes))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def hollow_out(model: onnx.ModelProto) -> dict[str, Any]:
    """Takes the large constants of the main graph out of `model`; returns their arrays."""
    arrays: dict[str, Any] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.ByteSize() <= HOLLOW_BYTES:
            continue
        array = onnx.numpy_helper.to_array(tensor)
        if is_hollow(array):
            arrays[tensor.name] = array
            tensor.CopyFrom(hollow_tensor(tensor.name, array))
    return arrays


def to_structure(graph: Graph) -> onnx.ModelProto:
    """What onnx's checker needs of a graph: nodes and names; one node stands for all constants."""
    model = _header(graph)
    constants = _constants_read(graph)
    if constants:
        model.opset_import.add(domain=_MAKER, version=1)
        model.graph.node.add(op_type=_MAKER, domain=_MAKER, output=constants)
    _write_nodes(graph, model.graph)
    return model


def stream(model: onnx.ModelProto, arrays: Arrays) -> Iterator[bytes | memoryview]:
    """The bytes of a hollow proto with its arrays put back, piece by piece.

    Protobuf merges repeated fields that arrive in several pieces, so the large initializers are
    appended to the serialized graph one at a time and never exist twice in memory.
    """
    shell = onnx.ModelProto()
    shell.CopyFrom(model)
    kept = [t for t in shell.graph.initializer if t.name not in arrays]
    large = [t.name for t in shell.graph.initializer if t.name in arrays]
    graph = shell.graph
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph_bytes = graph.SerializeToString(deterministic=True)
    heads = {name: _tensor_head(name, arrays[name]) for name in large}
    size = len(graph_bytes) + sum(len(heads[n]) + arrays[n].nbytes for n in large)
    shell.ClearField("graph")
    yield shell.SerializeToString(deterministic=True)
    yield _tag(onnx.ModelProto.GRAPH_FIELD_NUMBER) + _varint(size)
    yield graph_bytes
    for name in large:
        yield heads[name]
        yield raw_bytes(arrays[name])


def raw_bytes(array: np.ndarray[Any, Any]) -> memoryview:
    """The array's bytes in row order, without a copy where it is contiguous."""
    flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return memoryview(flat)


def _tensor_head(name: str, array: np.ndarray[Any, Any]) -> bytes:
    tensor = onnx.TensorProto(name=name, dims=array.shape)
    tensor.data_type = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    head = tensor.SerializeToString(deterministic=True)
    head += _tag(onnx.TensorProto.RAW_DATA_FIELD_NUMBER) + _varint(array.nbytes)
    whole = len(head) + array.nbytes
    return _tag(onnx.GraphProto.INITIALIZER_FIELD_NUMBER) + _varint(whole) + head


def _tag(field: int) -> bytes:
    return _varint(field << 3 | 2)  # wire type 2: length-delimited


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _header(graph: Graph) -> onnx.ModelProto:
    return onnx.ModelProto(
        opset_import=_opset_imports(graph),
        producer_name=graph.producer_name,
        producer_version=graph.producer_version,
        ir_version=graph.ir_version or 10,
        **graph.header,
    )


def _write_graph(graph: Graph, proto: onnx.GraphProto, arrays: dict[str, Any] | None) -> None:
    boundary = {t.name for t in [*graph.inputs, *graph.outputs]}
    _write_nodes(graph, proto)
    proto.initializer.extend(_initializer(t, arrays) for t in _constants_read(graph).values())
    made = (t for n in graph.nodes for t in n.outputs if t.name and t.name not in boundary)
    for tensor in made:
        if tensor.dtype is not None:
            _write_value_info(proto.value_info, tensor)


def _write_nodes(graph: Graph, proto: onnx.GraphProto) -> None:
    proto.name = graph.name
    if graph.doc_string:
        proto.doc_string = graph.doc_string
    for node in graph.nodes:
        _write_node(node, proto.node.add())
    for tensors, infos in ((graph.inputs, proto.input), (graph.outputs, proto.output)):
        for tensor in tensors:
            _write_value_info(infos, tensor)


def _constants_read(graph: Graph) -> dict[str, Any]:
    # Subgraphs read constants of the main graph; graphsurgeon would write each of them again there.
    return {t.name: t for t in _input_constants(graph)}


def _input_constants(graph: gs.Graph) -> Iterator[Any]:
    for tensor in graph.outputs:
        if isinstance(tensor, Constant):
            yield tensor
    for node in graph.nodes:
        yield from (t for t in node.inputs if isinstance(t, Constant))
        for sub in subgraphs(node):
            yield from _input_constants(sub)


def _write_node(node: Any, proto: onnx.NodeProto) -> None:
    """As graphsurgeon writes it; plain numbers without its long way round."""
    proto.op_type = node.op
    proto.input.extend([t.name for t in node.inputs])
    proto.output.extend([t.name for t in node.outputs])
    if node.name:
        proto.name = node.name
    if node.domain is not None:
        proto.domain = node.domain
    for name, value in node.attrs.items():
        _write_attribute(proto.attribute, name, value)
    if subgraphs(node):
        _drop_initializers(proto)


def _write_attribute(attributes: Any, name: str, value: Any) -> None:
    """Made in its place: what is made elsewhere is copied when it is put in."""
    if type(value) is int:
        attributes.add(name=name, i=value, type=_KINDS.INT)
    elif type(value) is float:
        attributes.add(name=name, f=value, type=_KINDS.FLOAT)
    elif type(value) is list and not value and name == "value_floats":
        attributes.add(name=name, type=_KINDS.FLOATS)  # nothing in it says of what it is a list
    elif type(value) is list and all(type(v) is int for v in value):
        attributes.add(name=name, ints=value, type=_KINDS.INTS)
    else:
        attributes.extend(OnnxExporter.export_attributes({name: value}))


def _drop_initializers(node: onnx.NodeProto) -> None:
    for attr in node.attribute:
        if attr.type == onnx.AttributeProto.GRAPH:
            del attr.g.initializer[:]
            for inner in attr.g.node:
                _drop_initializers(inner)


def _write_value_info(infos: Any, tensor: Any) -> None:
    """As graphsurgeon writes it; plain tensors without its long way round."""
    if tensor.dtype is None or (isinstance(tensor, Variable) and tensor.type != "tensor_type"):
        infos.append(OnnxExporter.export_value_info_proto(tensor, False))
        return
    kind = infos.add(name=tensor.name).type.tensor_type
    _write_type(kind, _type_number(tensor.dtype), tensor.shape)


def _write_type(kind: onnx.TypeProto.Tensor, number: int, dims: Any) -> None:
    kind.elem_type = number
    if dims is None:
        return
    kind.shape.SetInParent()  # a scalar has a shape without dimensions
    for dim in dims:
        written = kind.shape.dim.add()
        if isinstance(dim, int):
            written.dim_value = dim
        elif dim is not None:
            written.dim_param = dim


@cache
def _type_number(dtype: Any) -> int:
    return int(dtype_to_onnx(dtype))


def _initializer(tensor: Any, arrays: dict[str, Any] | None) -> onnx.TensorProto:
    name, values = tensor.name, tensor.values
    if arrays is not None and is_hollow(values):
        arrays[name] = values
        return hollow_tensor(name, values)
    if values.dtype not in _PLAIN or sys.byteorder != "little":
        return onnx.numpy_helper.from_array(values, name)
    number = _type_number(values.dtype)
    return onnx.TensorProto(
        name=name, dims=values.shape, data_type=number, raw_data=values.tobytes()
    )


def _opset_imports(graph: Graph) -> list[onnx.OperatorSetIdProto]:
    versions = {o.domain: o.version for o in graph.import_domains or []}
    versions[""] = graph.opset
    versions.pop("ai.onnx", None)
    used = {n.domain or "" for n in _nodes_everywhere(graph)} | {""}
    used = {"" if d == "ai.onnx" else d for d in used}
    return [onnx.helper.make_opsetid(d, versions.get(d, 1)) for d in sorted(used)]


def _nodes_everywhere(graph: gs.Graph) -> Iterator[Any]:
    for node in graph.nodes:
        yield node
        for sub in subgraphs(node):
            yield from _nodes_everywhere(sub)


def _load_constants(graph: Graph, arrays: Arrays) -> None:
    # graphsurgeon loads lazily from the proto, which would keep all of it in memory.
    for tensor in _constants_everywhere(graph):
        lazy = tensor._values
        if isinstance(lazy, np.ndarray):
            continue
        known = arrays.get(tensor.name)
        tensor._values = onnx.numpy_helper.to_array(lazy.tensor) if known is None else known
        tensor.data_location = None


def _constants_everywhere(graph: gs.Graph) -> Iterator[Any]:
    yield from (t for t in graph.tensors().values() if isinstance(t, Constant))
    for node in graph.nodes:
        yield from (v for v in node.attrs.values() if isinstance(v, Constant))
        for sub in subgraphs(node):
            yield from _constants_everywhere(sub)
