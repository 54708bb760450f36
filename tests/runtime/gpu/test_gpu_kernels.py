"""Every kind of kernel computes what ONNX Runtime computes, on an OpenCL device, in both precisions."""

from __future__ import annotations

from pathlib import Path

import pytest
from devices import assert_close, compiled_text, expected, on_opencl

from graphopt.errors import UnsupportedError, UsageError
from graphopt.runtime.gpu import choose
from graphopt.runtime.gpu.compile import compile_for_gpu
from graphopt.runtime.gpu.dense import Dense
from graphopt.runtime.gpu.generic import GenericKernel
from graphopt.runtime.gpu.products import Conv, DepthwiseConv, Tile, TransposedConv
from graphopt.runtime.gpu.resize import Interpolate
from graphopt.runtime.gpu.simple import CopyChannels, Enlarge, ImagePool, Pointwise, WindowPool
from graphopt.runtime.targets import target

# The quick tests of half precision are those of test_cuda.py, which compute in half.
PRECISIONS = ["float32", pytest.param("float16", marks=pytest.mark.slow)]
RTOL = {"float32": 2e-5, "float16": 5e-3}

# name -> (graph, kernels it must take); every output of a graph is one case.
GRAPHS = {
    # Windows of every kind, borders on every side, channels that fill no block, groups.
    "convolutions": (
        """(float[1,12,11,13] x, float[1,3,9,10] rgb) => (float[1,7,11,13] same, float[1,8,6,7] strided,
            float[1,9,7,9] dilated, float[1,24,11,13] grouped, float[1,5,11,13] point, float[1,6,10,10] uneven,
            float[1,8,5,5] rgbs, float[1,20,9,11] valid)
        <float[7,12,3,3] w0, float[7] b0, float[8,12,3,3] w1, float[9,12,3,3] w2, float[24,4,3,3] w3,
         float[24] b3, float[5,12,1,1] w4, float[5] b4, float[6,12,2,4] w5, float[8,3,3,3] w6,
         float[20,12,3,3] w7>
        { same = Conv <pads = [1,1,1,1]> (x, w0, b0)
          strided = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w1)
          dilated = Conv <dilations = [2,2]> (x, w2)
          grouped = Conv <pads = [1,1,1,1], group = 3> (x, w3, b3)
          point = Conv (x, w4, b4)
          uneven = Conv <pads = [0,0,0,0], strides = [1,1]> (x, w5)
          rgbs = Conv <pads = [1,1,1,1], strides = [2,2]> (rgb, w6)
          valid = Conv (x, w7) }""",
        {Conv: 8},
    ),
    "depthwise_and_pools": (
        """(float[1,10,9,11] x) => (float[1,10,9,11] same, float[1,10,5,6] strided, float[1,10,5,6] most,
            float[1,10,8,10] average, float[1,10,1,1] mean, float[1,10,1,1] largest, float[1,10,18,22] twice,
            float[1,10,9,11] behind, float[1,10,5,6] there, float[1,10,5,6] counted)
        <float[10,1,3,3] w0, float[10] b0, float[10,1,5,5] w1, float[10,10,1,1] w2>
        { c = Conv (x, w2)
          same = Conv <pads = [1,1,1,1], group = 10> (c, w0, b0)
          strided = Conv <pads = [2,2,2,2], strides = [2,2], group = 10> (c, w1)
          most = MaxPool <kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2]> (c)
          average = AveragePool <kernel_shape = [2,2]> (c)
          mean = GlobalAveragePool (c)
          largest = GlobalMaxPool (c)
          sizes = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> ()
          twice = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (c, , sizes)
          behind = MaxPool <kernel_shape = [5,5], pads = [2,2,2,2]> (c)
          there = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2]> (c)
          counted = AveragePool <kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2], count_include_pad = 1> (c) }""",
        {Conv: 1, DepthwiseConv: 2, WindowPool: 5, ImagePool: 2, Enlarge: 1},
    ),
    # Residuals, gates, activations: all of it in what a kernel ends in, or in a kernel of its own.
    "endings": (
        """(float[1,8,6,7] given) => (float[1,8,6,7] residual, float[1,8,6,7] gated, float[1,8,6,7] silu,
            float[1,8,6,7] mish, float[1,8,6,7] many, float[1,8,6,7] alone, float[1,8,6,7] wide, float[1,6,6,7] odd)
        <float[8,8,3,3] w0, float[8] b0, float[4,8,1,1] w1, float[8,4,1,1] w2, float[8,8,1,1] w3,
         float[1,8,1,1] scale, float[8,8,1,1] w4, float[8,1,1] slope, float[8,8,1,1] w5, float[6,8,1,1] w6, float[8,8,1,1] w7>
        { x = Conv (given, w7)  c = Conv <pads = [1,1,1,1]> (x, w0, b0)
          a = Add (c, x)  residual = Relu (a)
          g = GlobalAveragePool (residual)  s = Conv (g, w1)  r = Relu (s)  e = Conv (r, w2)
          h = HardSigmoid (e)  gated = Mul (residual, h)
          d = Conv (x, w3)  q = Sigmoid (d)  silu = Mul (d, q)
          m = Conv (x, w4)  mish = Mish (m)
          t = Mul (silu, scale)  u = Tanh (t)  v = PRelu (u, slope)  v1 = HardSwish (v)  many = Softplus (v1)
          n = Sub (silu, mish)  alone = Exp (n)
          o = Conv (x, w5)  o1 = LeakyRelu (o)  o2 = Elu (o1)  o3 = Erf (o2)  wide = Gelu (o3)
          p = Conv (x, w6)  p1 = Clip (p)  p2 = Neg (p1)  odd = Selu (p2) }""",
        {Conv: 8, ImagePool: 1, Pointwise: 3},
    ),
    "pieces": (
        """(float[1,8,6,5] x) => (float[1,24,6,5] whole, float[1,11,6,5] uneven, float[1,3,6,5] behind, float[1,8,6,5] twice,
            float[1,8,6,5] first, float[1,16,6,5] rest)
        <float[16,8,1,1] w0, float[7,8,1,1] w1, float[4,8,1,1] w2, float[4,8,1,1] w3, float[24,24,1,1] w4,
         float[3,11,1,1] w5>
        { a = Conv (x, w0)  b = Relu (x)  whole = Concat <axis = 1> (a, b)
          c = Conv (x, w1)  d = Conv (x, w2)  uneven = Concat <axis = 1> (c, d)
          behind = Conv (uneven, w5)
          e = Conv (x, w3)  twice = Concat <axis = 1> (e, e)
          f = Conv (whole, w4)  parts = Constant <value = int64[2] {8, 16}> ()
          g, rest = Split <axis = 1> (f, parts)  first = Relu (g) }""",
        {CopyChannels: 3},
    ),
    # Strides, dilations, groups, paddings, outputs larger than the image asks for; all ways to interpolate.
    "enlarged": (
        """(float[1,8,5,6] x) => (float[1,6,10,12] twice, float[1,8,11,13] uneven, float[1,8,9,10] grouped,
            float[1,5,9,12] dilated, float[1,8,10,12] half, float[1,8,10,12] torch, float[1,8,9,13] corners,
            float[1,8,7,9] asymmetric)
        <float[8,6,2,2] w0, float[6] b0, float[8,8,3,3] w1, float[8,4,3,3] w2, float[8,5,3,4] w3, float[8,8,1,1] w4>
        { c = Conv (x, w4)
          t = ConvTranspose <strides = [2,2]> (x, w0, b0)  twice = Relu (t)
          uneven = ConvTranspose <strides = [2,2], pads = [1,1,0,0], output_padding = [1,1]> (x, w1)
          grouped = ConvTranspose <strides = [2,2], pads = [1,2,1,1], group = 2> (c, w2)
          dilated = ConvTranspose <dilations = [2,2]> (c, w3)
          sizes = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> ()
          half = Resize <mode = "linear"> (c, , sizes)
          torch = Resize <mode = "linear", coordinate_transformation_mode = "pytorch_half_pixel"> (c, , sizes)
          odd = Constant <value = int64[4] {1, 8, 9, 13}> ()
          corners = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (c, , , odd)
          scales = Constant <value = float[4] {1.0, 1.0, 1.5, 1.6}> ()
          asymmetric = Resize <mode = "linear", coordinate_transformation_mode = "asymmetric"> (c, , scales) }""",
        {TransposedConv: 4, Interpolate: 4, GenericKernel: 0},
    ),
    "dense": (
        """(float[1,37] x) => (float[1,10] y, float[1,3] z, float[1,5] m)
        <float[10,37] w0, float[10] b0, float[37,3] w1, float[37,5] w2, float[3] b1>
        { a = Gemm <transB = 1> (x, w0, b0)  y = Softmax (a)
          z = Gemm <alpha = 0.5, beta = 3.0> (x, w1, b1)  m = MatMul (x, w2) }""",
        {Dense: 3},
    ),
    # What TVM writes: several kernels of a node, integers, constants, memory between its functions.
    "others": (
        """(float[1,6,5,4] x, int64[2] rows) => (float[1,6,8,6] cubic, float[1,5,4,6] turned,
            int64[1,5,4] most, float[2,3] told, float[1,6,7,4] wide, float[1,6] total, float[1,30,4] flat,
            float[1,6,5,4] norm, float[1,6,5,4] power, float[1,12,5,4] lonely)
        <float[12,1,1,1] w, float[12] b, float[5,3] table, float[4] scale>
        { sizes = Constant <value = float[4] {1.0, 1.0, 1.6, 1.5}> ()
          cubic = Resize <mode = "cubic"> (x, , sizes)
          lonely = Conv <group = 6> (x, w, b)
          turned = Transpose <perm = [0,2,3,1]> (x)
          most = ArgMax <axis = 1, keepdims = 0> (x)
          told = Gather <axis = 0> (table, rows)
          pads = Constant <value = int64[8] {0,0,1,0,0,0,1,0}> ()
          wide = Pad (x, pads)
          axes = Constant <value = int64[2] {2, 3}> ()
          total = ReduceSum <keepdims = 0> (x, axes)
          shape = Constant <value = int64[3] {1, 30, 4}> ()
          flat = Reshape (x, shape)
          norm = LayerNormalization (x, scale)
          abs = Abs (x)
          three = Constant <value = float {3.0}> ()
          power = Pow (abs, three) }""",
        {GenericKernel: 9, Conv: 0},
    ),
}


def _kinds(compiled: object) -> list[type]:
    return [type(s.kernel) for s in compiled.program.steps]  # type: ignore[attr-defined]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", GRAPHS)
def test_kernels_compute_what_onnx_runtime_does(name: str, precision: str, tmp_path: Path) -> None:
    text, wanted = GRAPHS[name]
    graph, compiled = compiled_text(text, precision)
    for kind, count in wanted.items():
        least = kind is GenericKernel and count > 0
        found = _kinds(compiled).count(kind)
        assert found >= count if least else found == count, f"{kind.__name__}: {found}"
    first, again = on_opencl(compiled, tmp_path)
    assert_close(first, expected(graph, compiled), RTOL[precision])
    assert all(first[k].tobytes() == again[k].tobytes() for k in first)


TILES = [
    Tile(1, 1, 64, 1),
    Tile(8, 1, 16, 4),
    Tile(2, 4, 32, 2),
    Tile(4, 2, 16, 4, 4),
    Tile(2, 1, 16, 8, 4),
    Tile(8, 2, 16, 16, 4),
    Tile(4, 1, 32, 8, 4),
    Tile(1, 4, 16, 4, 4),
]
# `first` is smaller and computed before the others, so it lies behind them: where the last, whose tiles
# reach beyond it, must not write.
TILED = """(float[1,20,9,11] x) => (float[1,5,9,11] first, float[1,28,9,11] a0, float[1,28,9,11] a1, float[1,28,9,11] a2,
    float[1,28,9,11] a3, float[1,28,9,11] a4, float[1,28,9,11] a5, float[1,28,9,11] a6, float[1,28,9,11] a7)
    <float[28,20,3,3] w0, float[28,20,3,3] w1, float[28,20,3,3] w2, float[28,20,3,3] w3, float[28,20,3,3] w4,
     float[28,20,3,3] w5, float[28,20,3,3] w6, float[28,20,3,3] w7,
     float[5,20,1,1] v>
    { first = Conv (x, v)  a0 = Conv <pads = [1,1,1,1]> (x, w0)  a1 = Conv <pads = [1,1,1,1]> (x, w1)
      a2 = Conv <pads = [1,1,1,1]> (x, w2)  a3 = Conv <pads = [1,1,1,1]> (x, w3)
      a4 = Conv <pads = [1,1,1,1]> (x, w4)  a5 = Conv <pads = [1,1,1,1]> (x, w5)
      a6 = Conv <pads = [1,1,1,1]> (x, w6)  a7 = Conv <pads = [1,1,1,1]> (x, w7) }"""
GROUPED = (
    TILED.replace("float[1,20,", "float[1,24,")
    .replace("[28,20,3,3]", "[40,12,3,3]")
    .replace("[5,20,1,1]", "[5,24,1,1]")
    .replace("float[1,28,", "float[1,40,")
    .replace("pads = ", "group = 2, pads = ")
)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(TILED, id="one group"),
        pytest.param(GROUPED, id="two groups", marks=pytest.mark.slow),
    ],
)
def test_every_tile_computes_the_same(
    text: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In and out of local memory; pixels, blocks and depths that no tile divides."""
    tiles = iter([Tile(1, 1, 64, 1), *TILES])
    monkeypatch.setattr(choose, "tile", lambda *_: next(tiles))
    graph, compiled = compiled_text(text, precision)
    found = [s.kernel.tile for s in compiled.program.steps if isinstance(s.kernel, Conv)]
    assert found[1:] == TILES
    first, _ = on_opencl(compiled, tmp_path)
    assert_close(first, expected(graph, compiled), RTOL[precision])


def test_a_quantized_network_is_refused_with_the_reason() -> None:
    text = """(float[1,4,5,5] x) => (float[1,4,5,5] y) <float s = {0.1}, uint8 z = {0}>
        { q = QuantizeLinear (x, s, z)  y = DequantizeLinear (q, s, z) }"""
    with pytest.raises(
        UsageError, match="tx2-gpu cannot run a quantized network: sm_62 has no dp4a"
    ):
        compiled_text(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "(float[4,3] x, int64[2,3] i, float[2,3] u) => (float[4,3] y) { y = ScatterElements (x, i, u) }",
            "ScatterElements .*its indices are computed at run time",
        ),
        (
            "(float[1,8] x) => (float[1,8] y) { y = LpNormalization <axis = 1, p = 1> (x) }",
            "LpNormalization .*TVM cannot import it",
        ),
    ],
    ids=["told indices", "no importer"],
)
def test_what_no_kernel_computes_is_refused_by_name(text: str, told: str) -> None:
    with pytest.raises(UnsupportedError, match=told):
        compiled_text(text)


def test_int8_is_refused() -> None:
    from conftest import graph_from

    graph = graph_from("(float[1,3] x) => (float[1,3] y) { y = Relu (x) }")
    with pytest.raises(UsageError, match="kirin990-gpu cannot do int8: .* use float16"):
        compile_for_gpu(graph, target("kirin990-gpu"), precision="int8")
