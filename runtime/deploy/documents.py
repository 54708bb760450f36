"""What a bundle says about itself: manifest.json, the CMake snippet, README.md."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from graphopt.runtime.compile import Compiled
from graphopt.runtime.deploy.build import ARCHIVE, HEADER, LIBRARY, RUNNER, WEIGHTS, Built
from graphopt.runtime.deploy.digest import Digest
from graphopt.runtime.deploy.tables import scratch_of, size_of
from graphopt.runtime.gpu.compile import GpuCompiled
from graphopt.runtime.lower.program import Port
from graphopt.runtime.toolchain.toolchain import Toolchain

FORMAT = "graphopt-bundle"
SCHEMA = 1
Manifest = dict[str, Any]


def manifest(
    compiled: Compiled | GpuCompiled,
    built: Built,
    folder: Path,
    *,
    prefix: str,
    tools: Toolchain,
    model: Mapping[str, Any],
    digests: Mapping[str, Digest],
    tolerance: float,
) -> Manifest:
    """The facts of a bundle, as JSON has them."""
    program, arena, target = compiled.program, compiled.arena, compiled.target
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "prefix": prefix,
        "model": dict(model),
        "target": target.name,
        "board": target.description,
        "core": target.core,
        "features": list(target.features),
        "abi": tools.abi.name,
        "triple": tools.abi.triple,
        "libc": f"{tools.abi.libc} {tools.abi.version}".strip(),
        "precision": compiled.precision,
        **({"gpu": _gpu(compiled)} if isinstance(compiled, GpuCompiled) else {}),
        "versions": {
            "graphopt": version("graphopt"),
            "apache-tvm": version("apache-tvm"),
            "toolchain": tools.name,
        },
        "inputs": [_port(p) for p in program.inputs],
        "outputs": [_port(p) for p in program.outputs],
        "steps": len(program.steps),
        "kernels": len(compiled.symbols),
        "macs": sum(s.macs for s in program.steps),
        "threads": built.threads,
        "cores": list(built.cores),
        "memory": {
            "arena": arena.size,
            "arena_lower_bound": arena.bound,
            "lasting": arena.lasting,
            "scratch_per_thread": scratch_of(compiled),
            "weights": built.weights.size,
        },
        "check": {
            "tolerance": tolerance,
            "outputs": {name: asdict(digest) for name, digest in digests.items()},
        },
        "left_out": built.left_out,
        "files": {name: _file(folder / name) for name in sorted(built.files)},
    }


# What is opened at run time.
_DRIVERS = {"opencl": "libOpenCL.so", "cuda": "libcuda.so.1"}


def _gpu(compiled: GpuCompiled) -> dict[str, Any]:
    assert compiled.target.gpu is not None
    return {
        "driver": compiled.driver,
        "arch": compiled.target.gpu.arch,
        "kernels_sha256": hashlib.sha256(compiled.source.encode()).hexdigest(),
    }


def _port(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "dtype": port.dtype,
        "shape": list(port.shape),
        "bytes": size_of(port),
    }


def _file(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def cmake(found: Manifest) -> str:
    """graphopt-model.cmake."""
    name = found["prefix"]
    static = ARCHIVE in found["files"]
    kind, file = ("STATIC", ARCHIVE) if static else ("SHARED", LIBRARY)
    needed = "pthread;m;dl" if "gpu" in found else "pthread;m"
    libraries = f'\n    INTERFACE_LINK_LIBRARIES "{needed}"' if static else ""
    return f"""\
# The network {name}, compiled for {found["target"]} ({found["triple"]}):
#
#     include(path/to/this/folder/graphopt-model.cmake)
#     target_link_libraries(app PRIVATE graphopt::{name})
#
# and #include "model.h". The program opens {WEIGHTS} at run time; {name.upper()}_WEIGHTS is its path here.
if(NOT TARGET graphopt::{name})
  add_library(graphopt::{name} {kind} IMPORTED)
  set_target_properties(graphopt::{name} PROPERTIES
    IMPORTED_LOCATION "${{CMAKE_CURRENT_LIST_DIR}}/{file}"
    INTERFACE_INCLUDE_DIRECTORIES "${{CMAKE_CURRENT_LIST_DIR}}"{libraries})
  set({name.upper()}_WEIGHTS "${{CMAKE_CURRENT_LIST_DIR}}/{WEIGHTS}")
endif()
"""


def readme(found: Manifest) -> str:
    """README.md."""
    parts = [_head(found), _files(found)]
    if RUNNER in found["files"]:
        parts.append(_running(found))
    return "\n".join([*parts, _linking(found), _numbers(found)])


def _head(found: Manifest) -> str:
    return f"""\
# {found["prefix"]} for {found["target"]}

{found["model"]["name"]}, compiled by graphopt {found["versions"]["graphopt"]} for {found["board"]}: \
{found["triple"]}, {found["libc"]} or later.
It needs no runtime beside this folder: no Python, no TVM.{_driver(found)}
"""


def _driver(found: Manifest) -> str:
    if "gpu" not in found:
        return ""
    library = _DRIVERS[found["gpu"]["driver"]]
    return f"""
The kernels are in the library, and the driver's compiler makes code of them when a model is created. The
driver, {library}, comes with the board and is opened at run time."""


def _files(found: Manifest) -> str:
    what = {
        LIBRARY: "the library",
        ARCHIVE: "the same, to be linked into a program",
        HEADER: "its functions",
        WEIGHTS: "the constants of the network; opened at run time",
        RUNNER: "runs, times, profiles and checks the network",
    }
    rows = [
        f"| `{name}` | {each['bytes']:,} | {what[name]} |" for name, each in found["files"].items()
    ]
    left = [f"\nThere is no `{name}`: {reason}." for name, reason in found["left_out"].items()]
    head = ["| file | bytes | |", "| --- | ---: | --- |"]
    return "\n".join([*head, *rows, *left, ""])


def _running(found: Manifest) -> str:
    given = _files_of("--input", "x", found["inputs"])
    made = _files_of("--output", "y", found["outputs"])
    cores = ",".join(map(str, found["cores"]))
    bound = f" --cores {cores}" if cores else ""
    check = (
        "./run --check                                   # the outputs are those of ONNX Runtime\n"
        if found["check"]["outputs"]
        else ""
    )
    where = "" if "gpu" in found else f", {found['threads']} threads"
    threads = "" if "gpu" in found else f"./run --threads 2{bound}\n"
    return f"""\
## On the board

Copy `run` and `{WEIGHTS}` into one folder there (`scp run {WEIGHTS} board:`), then:

```sh
{check}./run --iters 100 --warmup 10                   # latency{where}
./run --iters 20 --profile                      # per layer
{threads}./run {given} {made}
```

Inputs that are not given are drawn, always the same. Exit codes: 0 done, 1 failed, 2 usage, 3 the check
failed.
"""


def _files_of(option: str, letter: str, ports: list[dict[str, Any]]) -> str:
    words = (shlex.quote(f"{p['name']}={letter}{k}.npy") for k, p in enumerate(ports))
    return " ".join(f"{option} {word}" for word in words)


def _linking(found: Manifest) -> str:
    prefix = found["prefix"]
    needed = " -lpthread -lm -ldl" if "gpu" in found else " -lpthread -lm"
    libraries = needed if ARCHIVE in found["files"] else ""
    file = ARCHIVE if ARCHIVE in found["files"] else LIBRARY
    given = "\n".join(
        f"{prefix}_set_input(model, {k}, x{k}, {p['bytes']}); /* {_what(p)} */"
        for k, p in enumerate(found["inputs"])
    )
    made = "\n".join(
        f"{prefix}_get_output(model, {k}, y{k}, {p['bytes']}); /* {_what(p)} */"
        for k, p in enumerate(found["outputs"])
    )
    return f"""\
## In a program

```c
char error[256];
{prefix}_model *model = {prefix}_create("{WEIGHTS}", NULL, error, sizeof error);
if (model == NULL) {{ fprintf(stderr, "%s\\n", error); return 1; }}
{given}
if ({prefix}_run(model) != 0) {{ fprintf(stderr, "%s\\n", {prefix}_error(model)); return 1; }}
{made}
{prefix}_destroy(model);
```

with `#include "model.h"`; `cc app.c {file}{libraries}`, or in CMake \
`include(graphopt-model.cmake)` and `target_link_libraries(app PRIVATE graphopt::{prefix})`.
"""


def _what(port: Mapping[str, Any]) -> str:
    name = str(port["name"]).replace("*/", "* /")
    return f"{name}: {port['dtype']} {'×'.join(map(str, port['shape'])) or 'scalar'}"


def _numbers(found: Manifest) -> str:
    memory = found["memory"]
    ports = [
        f"| {kind} `{p['name']}` | {p['dtype']} {'×'.join(map(str, p['shape'])) or 'scalar'} |"
        for kind, key in (("input", "inputs"), ("output", "outputs"))
        for p in found[key]
    ]
    arena = (
        f"| arena | {memory['arena']:,} bytes "
        f"(no plan needs less than {memory['arena_lower_bound']:,})"
    )
    rows = [f"| multiply-accumulates | {found['macs']:,} in {found['steps']} steps |"]
    if "gpu" in found:
        rows += [
            f"| weights | {memory['weights']:,} bytes, in the GPU's memory |",
            f"{arena}, in the GPU's memory |",
        ]
    else:
        threads = f"{found['threads']} threads"
        rows += [
            f"| weights | {memory['weights']:,} bytes, mapped |",
            f"{arena} |",
            f"| weights transformed when loaded | {memory['lasting']:,} bytes |",
            f"| scratch | {memory['scratch_per_thread']:,} bytes for each of {threads} |",
        ]
    checked = found.get("verified")
    if checked:
        rows.append(f"| equal to ONNX Runtime | {checked} |")
    return "\n".join(["## Figures\n", "| | |", "| --- | --- |", *ports, *rows, ""])
