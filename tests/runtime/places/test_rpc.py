"""Libraries for TVM's runtime: in this process, and over RPC with TVM's own server.

The server runs on this machine and, where the ARM test bed is set up (a Python for ARM with TVM), in an
emulated ARM process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from graphopt.errors import RunError
from graphopt.runtime.compile import compile_graph
from graphopt.runtime.deploy.bundle import drawn_inputs
from graphopt.runtime.deploy.tvm_library import make_tvm_library
from graphopt.runtime.places.rpc import times_over_rpc
from graphopt.runtime.run import Feeds, Outputs, open_graph
from graphopt.runtime.targets import target
from graphopt.runtime.toolchain.find import toolchain_for
from tests.runtime.cross import need
from tests.runtime.deploy.bundles import assert_equal, small

SERVER = Path(__file__).with_name("rpc_server.py")
BED = Path(os.environ.get("ARMBED_HOME", Path.home() / ".cache" / "armbed"))


def library(board: str, path: Path) -> tuple[Feeds, Outputs]:
    """Writes the small network's library; (inputs, what ONNX Runtime makes of them)."""
    graph = small()
    compiled = compile_graph(graph, target(board))
    make_tvm_library(compiled, path, name="small", tools=toolchain_for(target(board)))
    feeds = drawn_inputs(compiled.program)
    return feeds, open_graph(graph).run(feeds)


@contextmanager
def serving(*command: str | Path) -> Iterator[str]:
    """A server's address."""
    server = subprocess.Popen(
        [*command, SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        yield f"127.0.0.1:{int(server.stdout.readline())}"
    finally:
        server.kill()
        server.wait()


def test_in_this_process(tmp_path: Path) -> None:
    import tvm

    need("cc")
    feeds, expected = library("host", tmp_path / "small.so")
    module = tvm.runtime.load_module(str(tmp_path / "small.so"))
    known = json.loads(module["describe"]())
    assert [p["name"] for p in known["inputs"]] == list(feeds)
    inputs = [tvm.runtime.tensor(feeds[p["name"]]) for p in known["inputs"]]
    outputs = [tvm.runtime.tensor(np.zeros(p["shape"], p["dtype"])) for p in known["outputs"]]

    def found() -> Outputs:
        return {p["name"]: v.numpy() for p, v in zip(known["outputs"], outputs, strict=True)}

    module["main"](*inputs, *outputs)
    assert_equal(found(), expected)
    first = found()
    module["set_threads"](1)
    times = tvm.runtime.tensor(np.zeros(len(known["layers"])))
    module["profile"](*inputs, *outputs, times)
    for name, values in found().items():
        np.testing.assert_array_equal(values, first[name])
    assert (times.numpy() > 0).all()
    _refuses(module, inputs, outputs)


def _refuses(module, inputs, outputs) -> None:
    import tvm

    x, rows = (v.numpy() for v in inputs)
    cases = [
        (TypeError, "5 arguments are wanted .2 inputs, 3 outputs., not 2", "main", inputs),
        (TypeError, "a tensor of times., not 5", "profile", [*inputs, *outputs]),
        (TypeError, "input rows is no tensor", "main", [inputs[0], 3, *outputs]),
        (ValueError, "another type, shape or layout", "main", [*inputs[::-1], *outputs]),
        (
            ValueError,
            "input rows has another type",
            "main",
            [inputs[0], tvm.runtime.tensor(rows.astype(np.int32)), *outputs],
        ),
        (
            ValueError,
            "has another type",
            "main",
            [tvm.runtime.tensor(x[..., :19].copy()), inputs[1], *outputs],
        ),
        (ValueError, "argument ms has", "profile", [*inputs, *outputs, outputs[0]]),
        (ValueError, "one number from 0 to 256", "set_threads", [257]),
        (ValueError, "one number from 0 to 256", "set_threads", []),
    ]
    for kind, told, name, arguments in cases:
        with pytest.raises(kind, match=told):
            module[name](*arguments)
    module["main"](*inputs, *outputs)  # and goes on


def test_over_rpc(tmp_path: Path) -> None:
    need("cc")
    feeds, expected = library("host", tmp_path / "small.so")
    with serving(sys.executable) as address:
        found, times = times_over_rpc(tmp_path / "small.so", address, feeds, iters=4, threads=1)
        assert_equal(found, expected)
        assert (times.runs, times.threads) == (4, 1)
        assert 0 < times.least <= times.median
        assert {"Conv_a", "Conv_b"} <= {v.name for v in times.layers if v.ms > 0}
        (tmp_path / "no.so").write_bytes(b"no library")
        with pytest.raises(RunError, match=address):
            times_over_rpc(tmp_path / "no.so", address, feeds, iters=1)


def test_over_rpc_to_an_emulated_board(tmp_path: Path) -> None:
    python = BED / "root" / "usr" / "bin" / "python3.11"
    if not python.exists() or shutil.which("qemu-aarch64") is None:
        pytest.skip(
            "no Python for ARM with TVM: tools/armbed/setup.sh makes one in ~/.cache/armbed"
        )
    need("zig")
    feeds, expected = library("tx2", tmp_path / "small.so")
    qemu = ["qemu-aarch64", "-cpu", "cortex-a57", "-L", BED / "root-a57"]
    with serving(*qemu, "-E", f"PYTHONPATH={BED / 'site'}", python) as address:
        found, times = times_over_rpc(tmp_path / "small.so", address, feeds, iters=2)
    assert_equal(found, expected)
    assert times.threads == 4


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="127.0.0.1:9: "):
        times_over_rpc(tmp_path / "small.so", "127.0.0.1:9", {}, iters=1)
