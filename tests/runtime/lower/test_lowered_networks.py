"""A lowered network computes what ONNX Runtime computes, on chosen graphs and on drawn ones."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import graph_from
from generate import models
from hypothesis import HealthCheck, given, settings

from graphopt.errors import RunError, UnsupportedError, UsageError
from graphopt.frontends.normal_form import normalize
from graphopt.ir.graph import Graph
from graphopt.pipeline import Pipeline
from graphopt.registry import LOWERING, default_passes, pass_class
from graphopt.runtime.kernels.between import Interpolate
from graphopt.runtime.kernels.channel_softmax import ChannelSoftmax
from graphopt.runtime.kernels.channels_last import BlockPixels
from graphopt.runtime.kernels.conv import DepthwiseConv, DirectConv
from graphopt.runtime.kernels.movement import CopyChannels, Enlarge
from graphopt.runtime.kernels.pointwise import Pointwise
from graphopt.runtime.kernels.pool import ImagePool, WindowPool
from graphopt.runtime.kernels.rows_product import RowsProduct
from graphopt.runtime.kernels.rows_softmax import RowsSoftmax
from graphopt.runtime.kernels.winograd import WinogradOutput
from graphopt.runtime.lower.arena import plan
from graphopt.runtime.lower.program import Program
from graphopt.runtime.lower.sizes import fix_sizes
from graphopt.runtime.run import open_graph, open_proto
from tests.runtime.kernels.harness import MACHINES
from tests.runtime.lower.interpreter import Interpreter, lowered, overlaps

# A long run: GRAPHOPT_EXAMPLES=2000 pytest tests/runtime/lower -k drawn
EXAMPLES = int(os.environ.get("GRAPHOPT_EXAMPLES", "0"))
C8 = "float[8,8,3,3] w, float[8] b"

# name -> (graph, how many kernels of each kind it takes)
NETWORKS = {
    "residual": (
        f"""(float[N,8,9,10] x) => (float[N,8,9,10] y) <{C8}, float[8,8,3,3] v>
        {{ c = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu (c)  d = Conv <pads = [1,1,1,1]> (r, v)
           a = Add (d, x)  y = Relu (a) }}""",
        {WinogradOutput: 2, Pointwise: 0},
    ),
    "shortcut_after": (
        """(float[1,8,8,8] x) => (float[1,16,4,4] y) <float[16,8,3,3] w, float[16,8,1,1] v>
        { c = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w)  d = Conv <strides = [2,2]> (x, v)
          a = Add (c, d)  y = Relu (a) }""",
        {DirectConv: 2, Pointwise: 0},
    ),
    "silu": (
        f"""(float[1,8,6,6] x) => (float[1,8,6,6] y) <{C8}>
        {{ c = Conv <pads = [1,1,1,1]> (x, w, b)  s = Sigmoid (c)  y = Mul (c, s) }}""",
        {Pointwise: 0},
    ),
    "squeeze_and_excite": (
        """(float[1,8,6,7] x) => (float[1,8,6,7] y) <float[8,8,1,1] w, float[4,8,1,1] d, float[8,4,1,1] u>
        { c = Conv (x, w)  g = GlobalAveragePool (c)  s = Conv (g, d)  r = Relu (s)  e = Conv (r, u)
          h = HardSigmoid (e)  y = Mul (c, h) }""",
        {ImagePool: 1, DirectConv: 3, Pointwise: 1},
    ),
    "concat_lies_in_the_result": (
        """(float[1,8,6,6] x) => (float[1,8,6,6] y) <float[8,8,1,1] w, float[16,8,1,1] v, float[8,24,3,3] u>
        { a = Conv (x, w)  b = Conv (x, v)  c = Concat <axis = 1> (a, b)  y = Conv <pads = [1,1,1,1]> (c, u) }""",
        {CopyChannels: 0, Enlarge: 0},
    ),
    "concat_of_uneven_pieces": (
        """(float[1,8,6,6] x) => (float[1,8,6,6] y) <float[5,8,1,1] w, float[3,8,1,1] v, float[8,8,3,3] u>
        { a = Conv (x, w)  b = Conv (x, v)  c = Concat <axis = 1> (a, b)  y = Conv <pads = [1,1,1,1]> (c, u) }""",
        {CopyChannels: 2},
    ),
    "one_tensor_in_two_concats": (
        """(float[1,8,6,6] x) => (float[1,16,6,6] y, float[1,16,6,6] z) <float[8,8,1,1] w, float[8,8,1,1] v>
        { a = Conv (x, w)  b = Conv (x, v)  c = Concat <axis = 1> (a, b)  d = Concat <axis = 1> (b, a)
          y = Relu (c)  z = Neg (d) }""",
        {Enlarge: 2},
    ),
    "a_tensor_twice_in_one_concat": (
        """(float[1,8,6,6] x) => (float[1,16,6,6] y) <float[8,8,1,1] w>
        { a = Conv (x, w)  c = Concat <axis = 1> (a, a)  y = Relu (c) }""",
        {Enlarge: 1},
    ),
    "split_is_free": (
        """(float[1,8,6,6] x) => (float[1,8,6,6] y) <float[16,8,1,1] w, int64[2] s = {8, 8}, float[8,8,3,3] u>
        { a = Conv (x, w)  p, q = Split <axis = 1> (a, s)  c = Conv <pads = [1,1,1,1]> (q, u)  y = Add (p, c) }""",
        {Enlarge: 0, CopyChannels: 0},
    ),
    "upsample_and_concat": (
        """(float[1,8,4,5] x, float[1,8,8,10] z) => (float[1,8,8,10] y)
        <float[8,8,1,1] w, float[8,8,1,1] v, float[4] k = {1., 1., 2., 2.}, float[8,16,3,3] u>
        { a = Conv (x, w)  e = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (a, , k)
          b = Conv (z, v)  c = Concat <axis = 1> (e, b)  y = Conv <pads = [1,1,1,1]> (c, u) }""",
        {Enlarge: 1, CopyChannels: 0},
    ),
    "depthwise_with_a_multiplier_of_one": (
        """(float[1,10,9,9] x) => (float[1,10,5,5] y) <float[10,1,5,5] w, float[10] b>
        { c = Conv <group = 10, pads = [2,2,2,2], strides = [2,2]> (x, w, b)  y = HardSwish (c) }""",
        {DepthwiseConv: 1},
    ),
    "spatial_pyramid": (
        """(float[1,8,7,7] x) => (float[1,32,7,7] y) <float[8,8,1,1] w>
        { c = Conv (x, w)  a = MaxPool <kernel_shape = [5,5], pads = [2,2,2,2]> (c)
          b = MaxPool <kernel_shape = [5,5], pads = [2,2,2,2]> (a)  d = MaxPool <kernel_shape = [13,13], pads = [6,6,6,6]> (c)
          y = Concat <axis = 1> (c, a, b, d) }""",
        {WindowPool: 3},
    ),
    "classifier": (
        """(float[1,3,8,8] x) => (float[1,10] y) <float[20,3,3,3] w, float[20] b, float[10,20] u, float[10] v>
        { c = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w, b)  r = LeakyRelu <alpha = 0.1> (c)  g = GlobalAveragePool (r)
          f = Flatten (g)  d = Gemm <transB = 1> (f, u, v)  y = Softmax (d) }""",
        {DirectConv: 2, ImagePool: 1},
    ),
    "decoded_head": (
        """(float[1,8,4,4] x) => (float[1,48,5] y) <float[15,8,1,1] w, float[15] b, int64[5] t = {1, 3, 5, 4, 4}, int64[3] f = {1, 48, 5}, int64[3] s = {2, 2, 1}, float[1,3,1,1,2] k>
        { c = Conv (x, w, b)  r = Reshape (c, t)  p = Transpose <perm = [0, 1, 3, 4, 2]> (r)  a, e, o = Split <axis = 4> (p, s)
          g = Sigmoid (a)  h = Exp (e)  i = Mul (h, k)  j = Sigmoid (o)  m = Concat <axis = 4> (g, i, j)  y = Reshape (m, f) }""",
        {DirectConv: 1},
    ),
    "known_outputs": (
        """(float[2,3] x) => (float[2,3] y, int64[2] shape, float[2] priors)
        { y = Relu (x)  shape = Constant <value_ints = [2, 3]> ()  priors = Constant <value_floats = [0.5, 2.0]> () }""",
        {},
    ),
    "one_number": ("(float[8] x, float[8] z) => (float y) { y = MatMul (x, z) }", {}),
    "an_input_is_an_output": ("(float[2,3] x) => (float[2,3] x) { }", {}),
    "grouped": (
        """(float[1,32,5,5] x) => (float[1,32,5,5] y) <float[32,16,3,3] w>
        { y = Conv <group = 2, pads = [1,1,1,1]> (x, w) }""",
        {DirectConv: 1},
    ),
    "means_that_count_their_padding": (
        """(float[1,10,9,8] x) => (float[1,10,5,4] y) <float[10,10,1,1] w>
        { c = Conv (x, w)  y = AveragePool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,0], count_include_pad = 1> (c) }""",
        {WindowPool: 1},
    ),
    "means_of_what_is_there": (
        """(float[1,10,9,9] x) => (float[1,10,5,5] y) <float[10,10,1,1] w>
        { c = Conv (x, w)  a = AveragePool <kernel_shape = [3,4], strides = [2,2], pads = [1,2,1,1]> (c)  y = Relu (a) }""",
        {WindowPool: 1},
    ),
    "interpolated": (
        """(float[1,10,4,5] x, float[1,10,8,10] z) => (float[1,10,8,10] y, float[1,10,9,13] corners, float[1,10,6,8] smaller)
        <float[10,10,1,1] w, float[4] twice = {1., 1., 2., 2.}, int64[4] odd = {1, 10, 9, 13}, float[4] s = {1., 1., 1.5, 1.6}>
        { c = Conv (x, w)  e = Resize <mode = "linear"> (c, , twice)  a = Add (e, z)  y = Relu (a)
          corners = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (c, , , odd)
          smaller = Resize <mode = "linear", coordinate_transformation_mode = "asymmetric"> (c, , s) }""",
        {Interpolate: 3},
    ),
    "classes_of_pixels": (
        """(float[1,6,5,4] x) => (float[1,21,5,4] y, float[1,8,5,4] z, float[1,2,5,4] a)
        <float[21,6,1,1] w, float[8,6,1,1] v, float[2,6,1,1] u, float[21,21,1,1] t>
        { c = Conv (x, w)  s = Softmax <axis = 1> (c)  y = Conv (s, t)
          d = Conv (x, v)  z = Softmax <axis = 1> (d)  e = Conv (x, u)  a = Softmax <axis = -3> (e) }""",
        {ChannelSoftmax: 3},
    ),
    "groups_beside_vectors": (
        """(float[1,12,5,5] x) => (float[1,18,3,3] y) <float[18,2,3,3] w, float[18] b>
        { c = Conv <group = 6, pads = [1,1,1,1], strides = [2,2]> (x, w, b)  y = Relu (c) }""",
        {DirectConv: 1},
    ),
    "depthwise_with_a_multiplier": (
        """(float[1,8,6,6] x) => (float[1,16,3,3] y) <float[8,8,1,1] u, float[16,1,3,3] w>
        { c = Conv (x, u)  y = Conv <group = 8, pads = [1,1,1,1], strides = [2,2]> (c, w) }""",
        {DirectConv: 2},
    ),
    "groups_that_never_fill_vectors": (
        """(float[1,9,6,6] x) => (float[1,15,6,6] y) <float[9,9,1,1] u, float[15,3,3,3] w>
        { c = Conv (x, u)  y = Conv <group = 3, pads = [1,1,1,1]> (c, w) }""",
        {DirectConv: 1},
    ),
    "attention": (
        """(float[1,11,24] x) => (float[1,11,24] y) <float[24,24] q, float[24,24] k, float[24,24] v, float[24,24] o, float[24] b>
        { l = MatMul (x, q)  m = MatMul (x, k)  n = MatMul (x, v)  t = Transpose <perm = [0,2,1]> (m)
          s = MatMul (l, t)  p = Softmax (s)  a = MatMul (p, n)  c = MatMul (a, o)  d = Add (c, b)  y = Add (x, d) }""",
        {DirectConv: 4, RowsProduct: 2, RowsSoftmax: 1, BlockPixels: 2},
    ),
}


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("case", NETWORKS)
def test_chosen(case: str, machine: str, tmp_path: Path) -> None:
    text, kernels = NETWORKS[case]
    program = _equal(graph_from(text), machine, tmp_path)
    if machine == "avx2":
        for kind, count in kernels.items():
            made = {(s.what, s.places) for s in program.steps if isinstance(s.kernel, kind)}
            assert len(made) == count, (kind, made)


@given(model=models(max_nodes=8))
@settings(
    max_examples=EXAMPLES or 12,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=not EXAMPLES,
    print_blob=True,
)
def test_drawn(model: onnx.ModelProto) -> None:
    """As they are drawn, after the passes that simplify, and after those that lower."""
    try:
        open_proto(model, {})
    except RunError:
        return  # ONNX Runtime cannot run it either
    passes = [*default_passes(), *(pass_class(n)() for n in LOWERING)]
    graph = Pipeline(passes).run(normalize(model)).graph
    with tempfile.TemporaryDirectory() as folder:
        try:
            _equal(graph, "avx2", Path(folder))
        except UnsupportedError:
            return  # TVM's importer, with a reason


def _equal(graph: Graph, machine: str, folder: Path) -> Program:
    fixed = graph.copy()
    fix_sizes(fixed)
    program = lowered(graph, machine)
    assert not overlaps(program, plan(program))
    rng = np.random.default_rng(0)
    feeds = {p.name: rng.standard_normal(p.shape).astype(p.dtype) for p in program.inputs}
    runner = Interpreter(program, folder)
    made, wanted = runner.run(feeds), open_graph(fixed).run(feeds)
    for name, right in wanted.items():
        assert made[name].shape == right.shape
        assert made[name].dtype == right.dtype
        scale = np.abs(right[np.isfinite(right)]).max(initial=1.0) if right.dtype.kind == "f" else 1
        assert np.allclose(made[name], right, rtol=1e-4, atol=1e-4 * scale, equal_nan=True), name
    again = runner.run(feeds)
    assert all(np.array_equal(made[n], again[n], equal_nan=True) for n in made)
    return program


def test_an_index_from_outside_reads_nothing_from_outside(tmp_path: Path) -> None:
    """ONNX Runtime refuses it; here there is nobody to refuse, and the nearest row is taken."""
    table = np.arange(15, dtype=np.float32).reshape(5, 3)
    graph = graph_from(
        """(int64[4] rows, float[5,3] x) => (float[4,3] y) { y = Gather <axis = 0> (x, rows) }"""
    )
    rows = np.array([10**12, -(10**12), -1, 2])
    made = Interpreter(lowered(graph), tmp_path).run({"rows": rows, "x": table})
    assert np.array_equal(made["y"], table[[4, 0, 4, 2]])


def test_told_indices_of_other_operators_are_refused() -> None:
    graph = graph_from(
        """(int64[5,3] i, float[5,3] x) => (float[5,3] y) { y = GatherElements <axis = 0> (x, i) }"""
    )
    with pytest.raises(UnsupportedError, match="indices are computed at run time"):
        lowered(graph)


def test_a_free_size_is_refused_by_name() -> None:
    graph = graph_from("(float[1,3,H,8] x) => (float[1,3,H,8] y) { y = Relu (x) }")
    with pytest.raises(UsageError, match="dimension 2 \\(H\\) of input 'x'"):
        lowered(graph)
