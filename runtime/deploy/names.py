"""What C calls things: numpy's types, and a model's prefix."""

from __future__ import annotations

import re

from graphopt.errors import UnsupportedError
from graphopt.runtime.lower.program import Port

TYPES = {
    "float32": "FLOAT32",
    "float64": "FLOAT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "bool": "BOOL",
}
_LONGEST = 40
# What C libraries have functions of: timer_create, pthread_create, ...
_TAKEN = {"pthread", "timer", "epoll", "thrd", "mtx", "cnd", "tss", "sem", "shm", "net"}


def prefix_of(name: str) -> str:
    """A model's name as the start of C's names: "YOLOv3-tiny 416" is yolov3_tiny_416."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    prefix = "_".join(words)[:_LONGEST].strip("_")
    if not prefix or prefix[0].isdigit() or prefix in _TAKEN:
        prefix = f"net_{prefix}".strip("_") if prefix != "net" else "net_model"
    return prefix if prefix not in _TAKEN else f"{prefix}_model"


def with_prefix(text: str, prefix: str) -> str:
    """C text with the model's prefix in the place of "nn"."""
    text = re.sub(r"\bnn_", f"{prefix}_", text)
    return re.sub(r"\bNN_", f"{prefix.upper()}_", text)


def type_of(port: Port) -> str:
    """What C calls the type of an input or output.

    Raises:
        UnsupportedError: the library has none for it.
    """
    if port.dtype not in TYPES:
        raise UnsupportedError(
            f"{port.name!r} has type {port.dtype}, which compiled networks cannot be given; "
            f"they take {', '.join(TYPES)}"
        )
    return TYPES[port.dtype]


def quoted(text: str) -> str:
    """Text as a string of C's; whatever is not plain ASCII as octal bytes."""
    made = []
    for byte in text.encode("utf-8", errors="replace"):
        char = chr(byte)
        plain = 32 <= byte < 127 and char not in '"\\?'
        made.append(char if plain else f"\\{byte:03o}")
    return f'"{"".join(made)}"'
