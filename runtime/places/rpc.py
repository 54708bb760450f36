"""Runs a network on a board through TVM's RPC server (`python -m tvm.exec.rpc_server` there).

What is sent is the library of `deploy/tvm_library.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import RunError
from graphopt.runtime.native import Layer
from graphopt.runtime.places.figures import Times
from graphopt.runtime.run import Feeds, Outputs

_TIMEOUT = 600  # seconds without an answer


def times_over_rpc(
    library: Path, address: str, feeds: Feeds, *, iters: int, threads: int | None = None
) -> tuple[Outputs, Times]:
    """Runs the library on the board: (outputs, times).

    Args:
        library: made by `make_tvm_library` for the board.
        address: ADDRESS:PORT of the server.
        feeds: the inputs by name.
        iters: timed runs, after two that are not.
        threads: how many compute; the board's own choice if not given.

    Raises:
        RunError: the server cannot be reached, or something fails there.
    """
    with _told(address):
        import tvm
        from tvm import rpc

        host, _, port = address.rpartition(":")
        session = rpc.connect(host, int(port), session_timeout=_TIMEOUT)
        session.upload(str(library))
        module = session.load_module(library.name)
        known = json.loads(module["describe"]())
        module["set_threads"](threads or 0)
        device = session.cpu(0)

        def there(values: Any) -> Any:
            return tvm.runtime.tensor(np.ascontiguousarray(values), device)

        inputs = [there(feeds[p["name"]]) for p in known["inputs"]]
        outputs = [there(np.zeros(p["shape"], p["dtype"])) for p in known["outputs"]]
        for _ in range(2):
            module["main"](*inputs, *outputs)
        timed = module.time_evaluator("main", device, number=1, repeat=iters)(*inputs, *outputs)
        layers = _profile(module, [*inputs, *outputs], known["layers"], there)
        found = {p["name"]: v.numpy() for p, v in zip(known["outputs"], outputs, strict=True)}
        return found, _times([1e3 * s for s in timed.results], threads or known["threads"], layers)


def _profile(module: Any, tensors: list[Any], layers: list[Any], there: Any) -> list[Layer]:
    times = there(np.zeros(len(layers)))
    module["profile"](*tensors, times)
    return [
        Layer(known["name"], float(ms), int(known["macs"]))
        for known, ms in zip(layers, times.numpy(), strict=True)
    ]


def _times(milliseconds: list[float], threads: int, layers: list[Layer]) -> Times:
    return Times(
        float(np.median(milliseconds)), min(milliseconds), len(milliseconds), threads, layers
    )


@contextmanager
def _told(address: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # TVM raises whatever the server does, and its own
        lines = [v.strip() for v in str(error).strip().splitlines() if v.strip()]
        raise RunError(
            f"{address}: {lines[-1][:300] if lines else type(error).__name__}"
        ) from error
