"""What a compiled graph says where one of its functions cannot be compiled."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import graph_from

from graphopt.errors import UnsupportedError
from graphopt.runtime.compile import compile_graph
from graphopt.runtime.targets import target


def test_what_llvm_cannot_compile_is_named(tmp_path: Path) -> None:
    """TVM writes a ScatterND that adds with offsets that nobody declares."""
    graph = graph_from("""(float[4,3] x, float[2,3] u) => (float[4,3] y, float[4,3] z)
        <int64[2,1] i = {2, 0}> { y = ScatterND <reduction = "add"> (x, i, u)  z = Relu (x) }""")
    with pytest.raises(UnsupportedError, match="ScatterND.*LLVM cannot compile"):
        compile_graph(graph, target("host")).write_object(tmp_path / "kernels.o")
    assert not list(tmp_path.iterdir())
