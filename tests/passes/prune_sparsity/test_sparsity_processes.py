"""Several processes: the pressure is the same on each, and that of one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from sparsity_processes import run

HERE = Path(__file__).parent


def test_two_processes_do_what_one_does() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {
        **os.environ,
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    both = [
        subprocess.Popen(
            [sys.executable, "sparsity_processes.py", "2"],
            cwd=HERE,
            env={**together, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        lines = [each.communicate(timeout=100)[0].splitlines()[-1] for each in both]
    finally:
        for each in both:
            each.kill()
    assert lines[0] == lines[1]  # to the last bit
    alone = run(4)
    assert [float.fromhex(v) for v in lines[0].split()] == pytest.approx(alone, rel=1e-5)
    assert alone != pytest.approx([1.0, -0.8, 0.1], rel=0.1)
