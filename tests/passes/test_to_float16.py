"""to-float16: narrow where it fits, float32 where it has to be, and a Cast only where the two meet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import Ran, graph_from, run_pass
from generate import models
from hypothesis import HealthCheck, given, settings

from graphopt.data import load_data
from graphopt.errors import RunError, UsageError
from graphopt.frontends.normal_form import normalize
from graphopt.frontends.onnx_file import load
from graphopt.ir.graph import Graph
from graphopt.oracle import Oracle, errors_of
from graphopt.passes.quantize.probe import largest_magnitude, probed
from graphopt.passes.quantize.to_float16 import ToFloat16
from graphopt.pipeline import Pipeline
from graphopt.registry import default_passes
from graphopt.runtime.run import open_graph

X = "float[N,3,8,8] x"
W = "float[8,3,3,3] w, float[8] b, float[4,8,3,3] v"
CONVS = f"({X}) => (float[N,4,4,4] y) <{W}> {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, v) }}"

REWRITES = {
    "convolutions": CONVS,
    "clip_and_gemm": f"""({X}) => (float[N,5] y) <{W}, float zero = {{0}}, float six = {{6}}, float[288,5] u>
        {{ a = Conv (x, w, b)  r = Clip (a, zero, six)  f = Flatten (r)  y = Gemm (f, u) }}""",
    "scales_stay_float": f"""({X}) => (float[N,4,10,10] y) <{W}, float[4] k = {{1,1,2,2}}>
        {{ a = Conv (x, w, b)  t = Resize <mode = "nearest"> (a, , k)  y = Conv (t, v) }}""",
    "statistics_stay_float": f"""({X}) => (float[N,8,6,6] y)
        <{W}, float[8] g, float[8] h, float[8] m, float[8] var>
        {{ a = Conv (x, w, b)  y = BatchNormalization (a, g, h, m, var) }}""",
    "indices_and_shapes": f"""({X}) => (int64[N,6,6] k, int64[4] s) <{W}>
        {{ a = Conv (x, w, b)  r = Relu (a)  k = ArgMax <axis = 1, keepdims = 0> (r)  s = Shape (r) }}""",
    "boxes_stay_float": """(float[1,8,4] x) => (int64[M,3] y)
        <float[4,4] w, float[4,4] u, float[4,2] v, int64 n = {5}>
        { h = MatMul (x, w)  b = MatMul (h, u)  s = MatMul (h, v)  p = Sigmoid (s)
          t = Transpose <perm = [0,2,1]> (p)  y = NonMaxSuppression (b, t, n) }""",
    "output_that_is_read": f"""({X}) => (float[N,4,4,4] y, float[N,8,6,6] r) <{W}>
        {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, v) }}""",
    "output_that_a_kept_node_reads": f"""({X}) => (float[N,4,4,4] y, float[N,8,6,6] r, float[N,8,6,6] z) <{W}>
        {{ a = Conv (x, w, b)  r = Relu (a)  y = Conv (r, v)  kept = Sigmoid (r)  z = Tanh (kept) }}""",
    "integers_become_narrow": """(uint8[N,3,8,8] x) => (float[N,8,6,6] y) <float[8,3,3,3] w>
        { f = Cast <to = 1> (x)  a = Conv (f, w)  y = Relu (a) }""",
    "read_in_a_subgraph": """(float[1,3,8,8] x, bool k) => (float[1,8,8,8] y)
        <float[8,3,1,1] w, float[8,8,1,1] v>
        { a = Conv (x, w)  r = Relu (a)  c = Conv (r, v)
          z = If (k) <then_branch = t () => (float[1,8,8,8] p) { p = Neg (r) },
                      else_branch = e () => (float[1,8,8,8] q) { q = Abs (r) }>
          y = Add (c, z) }""",
    "a_weight_in_both_types": f"""({X}) => (float[N,8,6,6] y, float[N,8,6,6] z) <{W}>
        {{ a = Conv (x, w, b)  y = Relu (a)  kept = Conv (x, w, b)  z = Neg (kept) }}""",
}


def narrowed(graph: Graph | str, **options: object) -> Ran:
    return run_pass("to-float16", graph, **options)


def images(count: int = 6, largest: float = 1.0) -> np.ndarray:
    drawn = np.random.default_rng(0).standard_normal((count, 3, 8, 8)) * largest
    return drawn.astype(np.float32)


@pytest.mark.parametrize("case", REWRITES)
def test_narrows(case: str, golden) -> None:
    graph = graph_from(REWRITES[case])
    options = {"keep": "*_kept|Tanh_?"} if "Tanh" in REWRITES[case] else {}
    options = {"keep": "Conv_kept"} if "kept = Conv" in REWRITES[case] else options
    ran = narrowed(graph, **options)
    assert ran.result.status == "verified"
    for sample in Oracle(graph).samples[:1]:
        errors = errors_of(sample.expected, open_graph(ran.graph).run(sample.feeds))
        assert max(errors.values()) < 2e-2
    assert narrowed(ran.graph, **options).result.status == "unchanged"
    golden(ran.text)


def test_no_tensor_is_cast_twice_the_same_way() -> None:
    text = f"""({X}) => (float[N,8,6,6] y, float[N,8,6,6] z, float[N,8,6,6] q) <{W}>
        {{ a = Conv (x, w, b)  y = Sigmoid (a)  z = Tanh (a)  q = Relu (a) }}"""
    ran = narrowed(text, keep="Sigmoid|Tanh")
    casts = [(n.inputs[0].name, n.attrs["to"]) for n in ran.graph.nodes if n.op == "Cast"]
    assert len(casts) == len(set(casts)) == 3


# --- what stays -----------------------------------------------------------------------------------


def test_nodes_are_kept_by_name_operator_and_glob() -> None:
    for keep in ("Conv_a", "a", "*_a", "Conv_a|Conv_a"):
        ran = narrowed(CONVS, keep=keep)
        assert ran.reasons[0] == "it is kept in float32 as asked"
        assert next(n for n in ran.graph.nodes if n.op == "Conv").inputs[1].dtype == np.float32
        assert [n for n in ran.graph.nodes if n.op == "Conv"][1].inputs[1].dtype == np.float16
    assert narrowed(CONVS, keep="Conv").result.status == "unchanged"


def test_what_is_kept_has_to_exist() -> None:
    with pytest.raises(UsageError, match="'Conv_b'; did you mean Conv_y or Conv_a"):
        narrowed(CONVS, keep="Conv_b")


def test_a_weight_that_is_too_large_stays() -> None:
    graph = graph_from(CONVS)
    conv = graph.nodes[0]
    conv.inputs[1].values = conv.inputs[1].values * np.float32(1e6)
    ran = narrowed(graph)
    assert any("weight 'w' reaches" in r and "ends at 65504" in r for r in ran.reasons)
    assert (
        next(n for n in ran.graph.nodes if n.op == "Conv").inputs[1].values is conv.inputs[1].values
    )


def test_infinite_constants_fit() -> None:
    text = f"""({X}) => (float[N,3,8,8] y) <int64[8] p = {{0,0,1,1,0,0,1,1}}, float low = {{1}}>
        {{ r = Relu (x)  q = Pad (r, p, low)  y = MaxPool <kernel_shape = [3,3]> (q) }}"""
    graph = graph_from(text)
    graph.nodes[1].inputs[2].values = np.array(-np.inf, np.float32)
    ran = narrowed(graph)
    assert ran.ops == ["Cast", "Relu", "Pad", "MaxPool", "Cast"]


def test_an_activation_that_is_too_large_on_data_stays() -> None:
    large = images(largest=1e5)
    quiet = narrowed(CONVS, data=images())
    assert not quiet.reasons
    ran = narrowed(CONVS, data=large)
    assert ran.result.status == "unchanged"
    assert all("ends at 65504" in r for r in ran.reasons)
    scaled = CONVS.replace("a = Conv (x, w, b)", "s = Mul (x, m)  a = Conv (s, w, b)")
    graph = graph_from(scaled.replace(W, f"{W}, float m = {{1e-5}}"))
    ran = narrowed(graph, data=large)
    assert [n.where for n in ran.result.refusals] == ["Mul_s"]
    out = open_graph(ran.graph).run({"x": large})["y"]
    expected = open_graph(graph).run({"x": large})["y"]
    assert errors_of({"y": expected}, {"y": out})["y"] < 1e-2


def test_without_data_it_says_that_nothing_was_measured() -> None:
    assert narrowed(CONVS).reasons == [
        "activations were not checked for overflow: give data=FOLDER"
    ]


def test_largest_magnitudes_are_those_of_the_data() -> None:
    graph = graph_from("(float[N,3,8,8] x) => (float[N,3,8,8] y) { y = Neg (x) }")
    seen = [float(f[0]) for f in probed(graph, [("y", largest_magnitude)], [{"x": images()}])]
    assert seen == [np.abs(images()).max()]


def test_a_single_node_between_float32_ones_stays() -> None:
    text = f"({X}) => (float[N,3,8,8] y) {{ a = Sigmoid (x)  b = Relu (a)  y = Tanh (b) }}"
    ran = narrowed(text, keep="Sigmoid|Tanh")
    assert ran.result.status == "unchanged"
    assert any("would cost two Casts" in r for r in ran.reasons)


def test_lost_weights_are_counted() -> None:
    graph = graph_from(CONVS)
    values = graph.nodes[0].inputs[1].values.copy()
    values.reshape(-1)[:5] = [1e-9, -1e-9, 1e-6, 0.0, 1e-5]
    graph.nodes[0].inputs[1].values = values
    ran = narrowed(graph)
    weights = ran.result.facts["narrowed"]["weights"]
    assert weights == {"all": values.size + 8 + 4 * 8 * 9, "subnormal": 2, "zero": 2}
    assert "2 become 0 and 2 subnormal" in ran.result.rewrites[0].what


def test_a_float16_network_is_left_alone() -> None:
    text = "(float16[N,3,8,8] x) => (float16[N,8,6,6] y) <float16[8,3,3,3] w> { a = Conv (x, w)  y = Relu (a) }"
    ran = narrowed(text)
    assert ran.result.status == "unchanged"
    assert not ran.reasons


def test_quantized_parts_are_left_alone() -> None:
    text = f"""({X}) => (float[N,3,8,8] y) <float s = {{0.1}}, uint8 z = {{128}}>
        {{ q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  r = Relu (d)  y = Neg (r) }}"""
    ran = narrowed(text)
    assert ran.ops == ["QuantizeLinear", "DequantizeLinear", "Cast", "Relu", "Neg", "Cast"]
    assert sum("integer arithmetic" in r for r in ran.reasons) == 2


# --- inputs and outputs -----------------------------------------------------------------------------


def test_inputs_and_outputs_become_narrow_when_asked(golden) -> None:
    graph = graph_from(REWRITES["output_that_is_read"])
    # Without the oracle, whose inputs are those of the model before.
    outcome = Pipeline([ToFloat16(io="float16", keep="Relu")]).run(graph)
    ran = Ran(outcome.graph, outcome.results[0])
    found = open_graph(ran.graph).run({"x": images().astype(np.float16)})
    expected = open_graph(graph).run({"x": images()})
    assert all(v.dtype == np.float16 for v in found.values())
    wide = {k: v.astype(np.float32) for k, v in found.items()}
    assert max(errors_of(expected, wide).values()) < 1e-2
    golden(ran.text)


def test_a_type_for_inputs_is_one_of_two() -> None:
    with pytest.raises(UsageError, match="float32, float16"):
        narrowed(CONVS, io="half")


def test_arrays_of_the_graph_before_are_not_written_to() -> None:
    graph = graph_from(CONVS)
    before = {t.name: t.values.copy() for t in graph.tensors().values() if hasattr(t, "values")}
    narrowed(graph)
    for name, values in before.items():
        np.testing.assert_array_equal(graph.tensors()[name].values, values)
        assert graph.tensors()[name].dtype == np.float32


# --- generated and real -----------------------------------------------------------------------------


@given(model=models(max_nodes=10))
@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_generated_graphs_run_and_settle(model: onnx.ModelProto) -> None:
    graph = normalize(model)
    try:
        oracle = Oracle(graph)
    except RunError:
        return
    each = ToFloat16(data=[s.feeds for s in oracle.samples])
    once = Pipeline([each]).run(graph, oracle=oracle, strict=True)
    assert once.results[0].status in ("verified", "unchanged")
    again = Pipeline([each]).run(once.graph, strict=True)
    assert again.results[0].status == "unchanged", again.results[0].rewrites


@pytest.mark.parametrize(
    ("name", "preprocess"), [("fastestdet_352_bn", ""), ("yolox_nano", "scale=1, bgr")]
)
def test_real_models(name: str, preprocess: str, assets: Path) -> None:
    graph = Pipeline(default_passes()).run(load(assets / "models" / f"{name}.onnx")).graph
    folder = assets / "data" / "coco256"
    each = ToFloat16(data=folder, preprocess=preprocess, limit=4)
    outcome = Pipeline([each]).run(graph, oracle=Oracle(graph), strict=True)
    row = outcome.results[0]
    assert row.status == "verified"
    assert row.after.weight_bytes < row.before.weight_bytes * 0.55
    feeds = next(iter(load_data(folder, graph, preprocess=preprocess, limit=1)))
    old, new = open_graph(graph).run(feeds), open_graph(outcome.graph).run(feeds)
    for key, value in old.items():
        rms = np.sqrt(np.mean((value - new[key]) ** 2.0) / np.mean(value**2.0))
        assert rms < 0.02
