"""What mixed precision, transposed convolutions, shuffles, vectors and batches compute in an emulator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import graph_from

from graphopt.compile import compile_file
from graphopt.frontends.onnx_file import save
from graphopt.ir.graph import nodes_of
from graphopt.pipeline import Pipeline
from graphopt.quantize import quantizing
from graphopt.runtime.targets import target
from tests.runtime.cross import need

# A convolution that Winograd makes faster, pointwise ones that bytes do, a shuffle, a shortcut without
# weights, a transposed convolution, and a dense layer behind a pooled image.
TEXT = """(float[{n},3,24,24] x) => (float[{n},10] y, float[{n},8,24,24] z)
    <float[32,3,3,3] s, float[32,32,3,3] w, float[32] b, float[96,32,1,1] v, float[32,96,1,1] u, float[32,16,2,2] t, float[8,16,1,1] r,
     float[10,32] d, float[10] e, int64[5] two = {{{n},2,16,12,12}}, int64[4] back = {{{n},32,12,12}},
     int64[2] from = {{0,0}}, int64[2] to = {{99,99}}, int64[2] axes = {{2,3}}, int64[2] steps = {{2,2}}>
    {{ a = Conv <pads = [1,1,1,1]> (x, s)  f = Relu (a)  g = Conv <pads = [1,1,1,1]> (f, w, b)  h = Relu (g)
       i = Slice (h, from, to, axes, steps)  j = Reshape (i, two)  k = Transpose <perm = [0,2,1,3,4]> (j)  l = Reshape (k, back)
       m = Conv (l, v)  o = Relu (m)  p = Conv (o, u)  q = Add (p, i)
       c = ConvTranspose <strides = [2,2]> (q, t)  z = Conv (c, r)  aa = GlobalAveragePool (q)  bb = Flatten (aa)
       y = Gemm <transB = 1> (bb, d, e) }}"""


@pytest.mark.parametrize(
    ("board", "rules", "computed"),
    [("tx2", "a57", "int8 and float32"), ("kirin990", "a76", "int8 and float16")],
)
def test_a_mixed_network(board: str, rules: str, computed: str, tmp_path: Path) -> None:
    """Integers where they are faster, and everything else in what the board prefers."""
    need("zig", "qemu", "sysroot")
    graph = graph_from(TEXT.format(n=1))
    data = [np.random.default_rng(0).standard_normal((1, 3, 24, 24)).astype(np.float32)]
    passes = quantizing(data, target=rules, repair="none", first=True, last=True, cache=False)
    made = Pipeline(passes).run(graph, strict=True)
    (insert,) = (r for r in made.results if r.name == "insert-fake-quant")
    assert insert.refusals
    assert 1 <= insert.facts["quantization"]["products"][0] < 7
    path = tmp_path / "mixed.onnx"
    save(made.graph, path)
    compiled = compile_file(path, tmp_path / "made", target=target(board), abi="linux-gnu")
    assert not compiled.unverified
    assert compiled.manifest["precision"] == computed


@pytest.mark.parametrize("board", ["tx2", "kirin990"])
def test_everything_in_integers(board: str, tmp_path: Path) -> None:
    need("zig", "qemu", "sysroot")
    graph = graph_from(TEXT.format(n=1))
    data = [np.random.default_rng(0).standard_normal((1, 3, 24, 24)).astype(np.float32)]
    rules = {"tx2": "a57", "kirin990": "a76"}[board]
    options = {"repair": "none", "first": True, "last": True, "cache": False, "slower": "keep"}
    made = Pipeline(quantizing(data, target=rules, floor=0, **options)).run(graph, strict=True)
    assert len(list(nodes_of(made.graph, "DequantizeLinear"))) > 20
    path = tmp_path / "integers.onnx"
    save(made.graph, path)
    compiled = compile_file(path, tmp_path / "made", target=target(board), abi="linux-gnu")
    assert not compiled.unverified


@pytest.mark.parametrize("board", ["tx2", "kirin990"])
def test_a_batch_of_floats(board: str, tmp_path: Path) -> None:
    need("zig", "qemu", "sysroot")
    path = tmp_path / "two.onnx"
    save(graph_from(TEXT.format(n=2)), path)
    compiled = compile_file(path, tmp_path / "made", target=target(board), abi="linux-gnu")
    assert not compiled.unverified
    assert compiled.manifest["inputs"][0]["shape"] == [2, 3, 24, 24]
