"""Reads and writes ONNX files, trusting neither the file nor the disk.

Reading never unpickles, never leaves the model's folder, and maps external data instead of copying
it. Writing happens in a hidden folder beside the target; the result is checked by onnx and loaded by
ONNX Runtime there, and only then renamed into place, so a failed run leaves nothing half-written.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx_graphsurgeon.util.exception import OnnxGraphSurgeonException

from graphopt.errors import LoadError, RunError, SaveError
from graphopt.frontends.normal_form import normalize
from graphopt.ir.graph import Graph
from graphopt.ir.proto import raw_bytes, stream, to_proto

# Protobuf cannot hold 2 GB in one message; stay clear of it.
INLINE_LIMIT_BYTES = 1_900_000_000
_ALIGNMENT = 4096  # page size: what ONNX Runtime needs to map external data


def load(path: str | Path) -> Graph:
    """The graph of an ONNX file, in normal form.

    Raises:
        LoadError: one line that says what is wrong with the file, where, and what to do.
    """
    path = Path(path)
    model = _parse(path)
    try:
        return normalize(model, _external_arrays(model, path.resolve().parent))
    except LoadError as error:
        raise LoadError(f"{path}: {error}") from error
    except (ValueError, KeyError, TypeError, IndexError, OnnxGraphSurgeonException) as error:
        raise LoadError(f"{path}: the model is inconsistent: {_one_line(error)}") from error


def save(graph: Graph, path: str | Path, *, runnable: bool = True) -> None:
    """Writes the graph to `path`, atomically and with the same bytes for the same graph.

    Weights go inline, or into `<name>.data` beside the file when they exceed protobuf's limit.

    Args:
        graph: the graph to write.
        path: the target; an existing file is replaced only when everything succeeded.
        runnable: load the result in ONNX Runtime before it replaces anything.

    Raises:
        SaveError: the target cannot be written, or what would be written is no valid model.
    """
    path = Path(path)
    if path.is_dir():
        raise SaveError(f"{path} is a folder; name a file, for example {path / 'model.onnx'}")
    target = path.resolve()  # a link stays, and what it names is replaced
    if not target.parent.is_dir():
        raise SaveError(f"{path.parent} does not exist; create the folder first")
    if target.exists() and not target.is_file():
        raise SaveError(f"{path} is no regular file and cannot be replaced; name another one")
    model, arrays = to_proto(graph, hollow=True)
    with _written_beside(target) as draft:
        files = _write(model, arrays, draft)
        _check(draft, runnable=runnable)
        for each in files:
            os.replace(each, target.with_name(each.name))


# --- reading ----------------------------------------------------------------------------------


def _parse(path: Path) -> onnx.ModelProto:
    data = _read(path)
    if reason := _not_onnx(path, data):
        raise LoadError(f"{path}: {reason}")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise LoadError(
            f"{path}: not an ONNX model, or a truncated one ({len(data):,} bytes); "
            "copy or export the file again"
        ) from error
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise LoadError(f"{path}: holds no graph; it is not an ONNX model")
    return model


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise LoadError(f"{path}: is a folder; name the .onnx file in it")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise LoadError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror}") from error
    if not data:
        raise LoadError(f"{path}: is empty; copy or export the file again")
    return data


def _not_onnx(path: Path, data: bytes) -> str | None:
    advice = "export it with torch.onnx.export, or call graphopt.from_torch on the module"
    if zipfile.is_zipfile(path):
        return f"is a zip archive, as torch.save writes (never loaded: unsafe); {advice}"
    if data[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return f"is a pickle (never loaded: unsafe); {advice}"
    if data[:8].strip().startswith((b"{", b"<", b"#")):
        return "is a text file, not an ONNX model"
    return None


def _external_arrays(model: onnx.ModelProto, folder: Path) -> dict[str, Any]:
    """The external initializers of the main graph, mapped; what others are external comes inline."""
    for tensor in _tensors_in_nodes(n for g in (model.graph, *model.functions) for n in g.node):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            array = _map_tensor(tensor, folder)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    arrays: dict[str, Any] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            arrays[tensor.name] = _map_tensor(tensor, folder)
    return arrays


def _tensors_in_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """The tensors in the attributes of nodes, the initializers of their subgraphs included."""
    for attr in (a for node in nodes for a in node.attribute):
        if attr.type == onnx.AttributeProto.TENSOR:
            yield attr.t
        elif attr.type == onnx.AttributeProto.GRAPH:
            yield from attr.g.initializer
            yield from _tensors_in_nodes(attr.g.node)


def _map_tensor(tensor: onnx.TensorProto, folder: Path) -> Any:
    entry = {e.key: e.value for e in tensor.external_data}
    path = _inside(folder, entry.get("location", ""), tensor.name)
    offset, length = int(entry.get("offset", 0)), entry.get("length")
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    count = math.prod(tensor.dims)
    sub_byte = dtype.name in ("int4", "uint4", "float4_e2m1fn")
    size = (count + 1) // 2 if sub_byte else count * dtype.itemsize
    where = f"initializer {tensor.name!r} in {path.name}"
    if length is not None and int(length) != size:
        raise LoadError(f"{where}: {length} bytes are declared, its type and shape need {size}")
    if offset < 0 or offset + size > path.stat().st_size:
        raise LoadError(f"{where}: needs bytes {offset} to {offset + size}, past the file's end")
    if size == 0:
        return np.zeros(tuple(tensor.dims), dtype)
    if sub_byte:
        raw = np.fromfile(path, np.uint8, size, offset=offset).tobytes()
        inline = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims, raw_data=raw)
        return onnx.numpy_helper.to_array(inline)
    return np.memmap(path, dtype, "r", offset, tuple(tensor.dims)).view(np.ndarray)


def _inside(folder: Path, location: str, name: str) -> Path:
    path = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not path.is_relative_to(folder):
        raise LoadError(
            f"initializer {name!r} wants its data from {location!r}, outside the model's folder; "
            "refused: a model may only read files beside it"
        )
    if not path.is_file():
        raise LoadError(
            f"initializer {name!r} needs the data file {location!r}, which is not beside the model; "
            "copy it there"
        )
    return path


# --- writing ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _written_beside(path: Path) -> Iterator[Path]:
    """A path of the same name in a hidden folder beside `path`; the folder goes away in any case."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=".graphopt-", dir=path.parent))
    except OSError as error:
        raise SaveError(f"cannot write in {path.parent}: {error.strerror}") from error
    try:
        yield folder / path.name
    except OSError as error:
        raise SaveError(f"cannot write {path}: {error.strerror}; nothing was changed") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(model: onnx.ModelProto, arrays: dict[str, Any], path: Path) -> list[Path]:
    """Writes the model to `path`; returns the files in the order they must be moved."""
    total = sum(a.nbytes for a in arrays.values()) + model.ByteSize()
    if total <= INLINE_LIMIT_BYTES:
        with path.open("wb") as file:
            for piece in stream(model, arrays):
                file.write(piece)
            _to_disk(file)
        return [path]
    data = path.with_name(path.name + ".data")
    with data.open("wb") as file:
        for tensor in model.graph.initializer:
            if tensor.name in arrays:
                _write_external(tensor, arrays[tensor.name], file, data.name)
        _to_disk(file)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return [data, path]


def _write_external(tensor: onnx.TensorProto, array: Any, file: BinaryIO, location: str) -> None:
    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
    offset = file.tell()
    file.write(raw_bytes(array))
    del tensor.external_data[:]
    entries = {"location": location, "offset": str(offset), "length": str(array.nbytes)}
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


def _to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _check(path: Path, *, runnable: bool) -> None:
    from graphopt.runtime.run import open_file

    try:
        onnx.checker.check_model(str(path))
        if runnable:
            open_file(path)
    except onnx.checker.ValidationError as error:
        raise SaveError(f"the result is no valid ONNX model: {_one_line(error)}") from error
    except RunError as error:
        raise SaveError(f"the result does not load: {error}; nothing was written") from error


def _one_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
