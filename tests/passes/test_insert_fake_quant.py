"""insert-fake-quant: what is rounded, to which grid, and what is left."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Ran, graph_from, run_pass
from generate import models
from hypothesis import HealthCheck, given, settings

from graphopt.errors import BudgetError, GraphoptError, UnsupportedError, UsageError
from graphopt.ir.graph import Graph, nodes_of
from graphopt.passes.quantize import rounder
from graphopt.passes.quantize.pairs import pairs, rounded_input
from graphopt.passes.quantize.placement import place
from graphopt.runtime.run import open_graph

NETWORK = """(float[N,3,8,8] x) => (float[N,4,8,8] y)
    <float[8,3,3,3] w, float[8] b, float[8,1,3,3] v, float[8] c, float[4,8,1,1] u, float[4] d>
    { a = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu (a)
      e = Conv <pads = [1,1,1,1], group = 8> (r, v, c)  s = Relu (e)  y = Conv (s, u, d) }"""


def images(*shape: int, count: int = 3, scale: float = 1.0) -> list[np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return [(rng.standard_normal((2, *shape)) * scale).astype(np.float32) for _ in range(count)]


def rounded(graph: Graph | str = NETWORK, **options: Any) -> Ran:
    wishes = {"data": images(3, 8, 8), "first": True, "last": True, "cache": False, "floor": 0}
    wishes["slower"] = "keep"  # networks of tests are too small for integers to be faster
    return run_pass("insert-fake-quant", graph, **{**wishes, **options})


def test_golden(golden: Any) -> None:
    golden(rounded().text)


def test_every_operand_of_a_product_is_rounded() -> None:
    made = rounded()
    assert Counter(made.ops) == {"Conv": 3, "Relu": 2, "QuantizeLinear": 7, "DequantizeLinear": 7}
    for node in nodes_of(made.graph, "Conv"):
        weight, activation = rounded_input(node, 1), rounded_input(node, 0)
        assert weight is not None
        assert weight.is_weight
        assert weight.grid.axis == 0
        assert activation is not None
        assert activation.grid.axis is None
    assert [t.name for t in made.graph.outputs] == ["y"]
    assert made.result.detail.startswith("rounded outputs keep")
    assert made.result.facts["quantization"]["sqnr"]["y"] > 25


def test_weights_are_symmetric_narrow_and_per_channel() -> None:
    for pair in pairs(rounded().graph):
        if pair.is_weight:
            assert pair.grid.kind.name == "int8"
            assert not pair.grid.zero.any()
            assert pair.grid.scale.shape == (pair.source.values.shape[0],)
            assert pair.grid.quantize(pair.source.values).min() >= -127
        else:
            assert pair.grid.kind.name == "uint8"


def test_another_target_has_other_types() -> None:
    kinds = {p.grid.kind.name for p in pairs(rounded(target="tensorrt").graph)}
    assert kinds == {"int8"}
    assert not any(p.grid.zero.any() for p in pairs(rounded(target="tensorrt").graph))


@pytest.mark.parametrize(("activation", "weight"), [("int16", "int8"), ("uint8", "int4")])
def test_other_types_raise_the_opset(activation: str, weight: str) -> None:
    made = rounded(activation=activation, weight=weight)
    assert {p.grid.kind.name for p in pairs(made.graph)} == {activation, weight}
    assert made.graph.opset == 21


def test_an_opset_that_would_change_a_meaning_is_refused() -> None:
    text = """(float[N,4,8,8] x) => (float[N,4,8,8] y) <float[4,4,1,1] w, float[2] g, float[2] h>
        { a = Conv (x, w)  b = GroupNormalization <num_groups = 2> (a, g, h)  y = Conv (b, w) }"""
    with pytest.raises(UnsupportedError, match="int4 needs opset 21, in which GroupNormalization"):
        rounded(graph_from(text), weight="int4", data=images(4, 8, 8))


def test_more_bits_keep_more() -> None:
    keeps = {}
    for weight in ("int4", "int8", "int16"):
        made = rounded(weight=weight, activation="int16")
        keeps[weight] = made.result.facts["quantization"]["sqnr"]["y"]
    assert keeps["int4"] + 15 < keeps["int8"] < keeps["int16"] - 15


def test_power_of_two_scales() -> None:
    for pair in pairs(rounded(power_of_two=True).graph):
        assert np.array_equal(np.exp2(np.rint(np.log2(pair.grid.scale))), pair.grid.scale)


def test_a_weight_read_twice_is_rounded_once() -> None:
    text = """(float[N,4,8,8] x) => (float[N,4,8,8] y) <float[4,4,1,1] w>
        { a = Conv (x, w)  b = Relu (a)  y = Conv (b, w) }"""
    made = rounded(text, data=images(4, 8, 8))
    assert sum(p.is_weight for p in pairs(made.graph)) == 1


def test_a_tensor_made_in_float_stays_float_for_float_readers() -> None:
    text = """(float[N,4,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] z) <float[4,4,1,1] w>
        { a = Erf (x)  y = Conv (a, w)  z = Exp (a) }"""
    made = rounded(text, data=images(4, 8, 8))
    exp = next(nodes_of(made.graph, "Exp"))
    assert exp.inputs[0].name == "a"
    assert rounded_input(next(nodes_of(made.graph, "Conv")), 0) is not None


def test_an_output_that_is_read_again_is_rounded_for_everyone() -> None:
    text = """(float[N,4,8,8] x) => (float[N,4,8,8] a, float[N,4,8,8] y)
        <float[4,4,1,1] w, float[4,4,1,1] v> { a = Conv (x, w)  y = Conv (a, v) }"""
    made = rounded(text, data=images(4, 8, 8))
    assert [t.name for t in made.graph.outputs] == ["a", "y"]
    assert [t.inputs[0].op for t in made.graph.outputs] == ["DequantizeLinear"] * 2


def test_large_biases_get_a_grid_they_fit_on() -> None:
    graph = graph_from(NETWORK)
    graph.nodes[0].inputs[2].values = np.full(8, 1e9, np.float32)
    graph.nodes[0].inputs[1].values = graph.nodes[0].inputs[1].values * np.float32(1e-6)
    made = rounded(graph)
    conv = next(nodes_of(made.graph, "Conv"))
    steps = 1e9 / (rounded_input(conv, 0).grid.scale * rounded_input(conv, 1).grid.scale)  # type: ignore[union-attr]
    assert np.all(np.abs(steps) < 2**31)


# --- what stays in float --------------------------------------------------------------------------


def unequal() -> Graph:
    """One channel a thousand times as large as the others, which all the next layer looks at."""
    graph = graph_from(NETWORK)
    weight = graph.nodes[0].inputs[1].values.copy()
    weight[0] *= 3000
    graph.nodes[0].inputs[1].values = weight
    after = graph.nodes[2].inputs[1].values.copy()
    after[0] /= 3e6
    graph.nodes[2].inputs[1].values = after
    return graph


def test_what_a_rounding_alone_destroys_stays_in_float() -> None:
    graph = unequal()
    poor, good = rounded(graph), rounded(graph, floor=15)
    assert poor.result.facts["quantization"]["sqnr"]["y"] < 10
    assert good.result.facts["quantization"]["sqnr"]["y"] > 25
    assert any("tensor 'r' cannot" in r for r in good.reasons)
    effects = good.result.facts["quantization"]["effects"]
    assert effects[0]["tensor"] == "r"
    assert [e["sqnr"] for e in effects] == sorted(e["sqnr"] for e in effects)


def test_the_fewest_stay_in_float_to_keep_a_metric() -> None:
    """The metric here is the number of rounded tensors: five may be left."""
    asked: list[int] = []

    def drop(graph: Graph) -> float:
        asked.append(len(list(pairs(graph))))
        return asked[-1]

    made = rounded(max_drop=5.0, drop=drop)
    assert 0 < len(list(pairs(made.graph))) <= 5
    assert len(asked) <= 6


def test_a_drop_no_precision_can_undo_is_a_missed_budget() -> None:
    with pytest.raises(BudgetError, match=r"3\.00 points are lost with everything in float"):
        rounded(max_drop=0.5, drop=lambda _: 3.0)
    with pytest.raises(UsageError, match="needs drop="):
        rounded(max_drop=0.5)


# --- 16 bits instead of float ---------------------------------------------------------------------


def kinds(graph: Graph, *, weights: bool = False) -> Counter[str]:
    return Counter(p.grid.kind.name for p in pairs(graph) if p.is_weight is weights)


@pytest.mark.parametrize(("target", "wide"), [("a57", "int16"), ("a76", "int16")])
def test_what_a_rounding_alone_destroys_gets_16_bits(target: str, wide: str) -> None:
    made = rounded(unequal(), floor=15, target=target, fallback="int16")
    assert kinds(made.graph) == {"int8": 3, wide: 1}
    assert kinds(made.graph, weights=True) == {"int8": 3}
    found = made.result.facts["quantization"]
    assert found["grids"]["r"]["type"] == wide
    assert found["sqnr"]["y"] > 25
    assert found["products"] == [3, 3]
    assert [e["tensor"] for e in found["effects"] if e["wide"]] == ["r"]
    assert not any(e["float"] for e in found["effects"])
    assert not made.result.refusals
    assert made.graph.opset == 21
    notes = [n.what for n in made.result.rewrites]
    assert sorted(notes) == ["computes in integers", *["computes in integers, 'r' in 16 bits"] * 2]


def test_16_bits_of_an_unsigned_type_are_unsigned() -> None:
    options = {"floor": 15, "target": "a57", "activation": "uint8", "fallback": "int16"}
    assert kinds(rounded(unequal(), **options).graph) == {"uint8": 3, "uint16": 1}


def test_without_need_nothing_gets_16_bits() -> None:
    usual, made = (rounded(floor=15, target="a57", fallback=f) for f in ("float", "int16"))
    assert made.text == usual.text
    assert made.graph.opset == 20


def test_a_weight_that_costs_too_much_stays_in_float() -> None:
    """Its 4 bits do; 16 for what it reads would change nothing."""
    graph = graph_from(NETWORK)
    weight = graph.nodes[0].inputs[1].values.copy()
    weight[:, 0, 0, 0] = 50  # the same in every channel, and next to nothing of the rest is left
    graph.nodes[0].inputs[1].values = weight
    for node in nodes_of(graph, "Conv"):
        node.inputs[2].values = np.zeros_like(node.inputs[2].values)
    data = images(3, 8, 8)
    for batch in data:
        batch[:, 0] = 0
    options = {"floor": 10, "target": "a57", "fallback": "int16", "weight": "int4", "data": data}
    made = rounded(graph, **options)
    assert rounded_input(next(nodes_of(made.graph, "Conv")), 1) is None
    assert kinds(made.graph, weights=True) == {"int4": 2}
    assert set(kinds(made.graph)) == {"int8"}


def test_weights_that_cost_too_much_stay_in_float_beside_16_bits() -> None:
    """The result of the first product needs 16 bits, and no weight of 4 bits keeps 40 dB."""
    options = {"floor": 40, "target": "a57", "fallback": "int16", "weight": "int4"}
    assert not list(pairs(rounded(unequal(), **options).graph))


def test_what_a_table_reads_has_no_16_bits() -> None:
    text = """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[8,3,1,1] w, float[8,3,1,1] v, float[4,8,1,1] u>
        { a = Conv (x, w)  b = Conv (x, v)  s = Add (a, b)  t = Sigmoid (s)  m = Add (s, t)
          y = Conv (m, u) }"""
    made = rounded(text, floor=60, weight="int16", target="a57", fallback="int16")
    found = {e["tensor"]: e for e in made.result.facts["quantization"]["effects"]}
    assert found["x"]["wide"]
    assert found["s"]["float"]
    assert not found["s"]["wide"]


def test_the_fewest_get_16_bits_to_keep_a_metric() -> None:
    """The metric here is the number of tensors on 8 bits, weights apart: two may be left."""
    asked: list[int] = []

    def drop(graph: Graph) -> float:
        asked.append(kinds(graph)["int8"])
        return asked[-1]

    options = {"drop": drop, "target": "a57", "fallback": "int16"}
    made = rounded(max_drop=2.0, **options)
    assert kinds(made.graph) == {"int8": 2, "int16": 2}
    assert kinds(made.graph, weights=True) == {"int8": 3}
    worst = [e for e in made.result.facts["quantization"]["effects"] if not e["is_weight"]]
    assert [e["wide"] for e in worst] == [True, True, False, False]
    assert len(asked) <= 5
    assert kinds(rounded(max_drop=4.0, **options).graph) == {"int8": 4}


def test_float_is_for_what_16_bits_do_not_mend() -> None:
    """Here a rounded weight costs 10 points, a tensor on 8 bits one: of three weights one may be left."""

    def drop(graph: Graph) -> float:
        return 10.0 * sum(kinds(graph, weights=True).values()) + kinds(graph)["int8"]

    options = {"drop": drop, "target": "a57", "fallback": "int16"}
    made = rounded(max_drop=11.0, **options)
    assert kinds(made.graph, weights=True) == {"int8": 1}
    assert kinds(made.graph) == {"int8": 1}  # what it makes only floats read: numbers
    with pytest.raises(BudgetError, match=r"3\.00 points are lost with everything in float"):
        rounded(max_drop=0.5, **{**options, "drop": lambda _: 3.0})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fallback": "int16"}, r"onnxruntime has no kernels for uint16 .* fallback=float, .*a57"),
        ({"fallback": "int16", "target": "tensorrt"}, "tensorrt has no kernels for int16"),
        ({"fallback": "int16", "target": "a57", "activation": "int16"}, "are int16 already"),
        ({"fallback": "int61"}, "no fallback is called 'int61'; did you mean int16"),
    ],
)
def test_16_bits_that_nobody_has_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rounded(**options)


def test_the_placement_is_found_out_once_for_every_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        asked.append(1)
        return place(*arguments, **options)

    monkeypatch.setattr(rounder, "place", counted)
    rounded(floor=15)
    assert len(asked) == 1
    rounded(unequal(), floor=15)
    assert len(asked) == 3


def test_compress_stores_large_weights_of_float_products_too() -> None:
    made = rounded(first=False, last=False, compress=True)
    convs = list(nodes_of(made.graph, "Conv"))
    assert [rounded_input(c, 1) is not None for c in convs] == [True] * 3
    assert [rounded_input(c, 0) is not None for c in convs] == [False, True, True]


# --- what comes in --------------------------------------------------------------------------------


def test_no_images_is_an_error() -> None:
    with pytest.raises(UsageError, match="calibrates on images"):
        rounded(data=None)


def test_quantized_models_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="quantized already"):
        rounded(rounded().graph)


def test_nothing_to_quantize_changes_nothing() -> None:
    made = rounded("(float[N,4] x) => (float[N,4] y) { y = Exp (x) }", data=images(4))
    assert made.result.status == "unchanged"


@pytest.mark.parametrize("value", [0.0, 3.0, -3.0, 1e30])
def test_constant_images(value: float) -> None:
    made = rounded(data=[np.full((2, 3, 8, 8), value, np.float32)])
    found = open_graph(made.graph).run({"x": np.full((1, 3, 8, 8), value, np.float32)})["y"]
    assert np.isfinite(found).all()


def test_dead_channels_stay_dead() -> None:
    graph = graph_from(NETWORK)
    weight, bias = (graph.nodes[0].inputs[i].values.copy() for i in (1, 2))
    weight[3], bias[3] = 0, 0
    graph.nodes[0].inputs[1].values, graph.nodes[0].inputs[2].values = weight, bias
    made = rounded(graph)
    conv = next(nodes_of(made.graph, "Conv"))
    assert not rounded_input(conv, 1).grid.rounded(weight)[3].any()  # type: ignore[union-attr]


def test_one_image_and_batches_and_symbols() -> None:
    assert rounded(data=images(3, 8, 8, count=1), images=1).result.status == "verified"
    fixed = NETWORK.replace("float[N,3,8,8] x", "float[1,3,8,8] x")
    assert rounded(fixed, data=[images(3, 8, 8)[0][:1]]).result.status == "verified"


def test_tensors_that_hold_no_numbers_are_not_carried() -> None:
    text = """(float[N,4,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] b) <float[4,4,1,1] w, float[4,4,1,1] v>
        { a = Conv (x, w)  l = Log (a)  b = Conv (l, v)  y = Conv (x, w) }"""
    made = rounded(text, data=images(4, 8, 8))
    assert "tensor 'l' cannot be carried as integers" in made.reasons
    assert "l" not in made.result.facts["quantization"]["grids"]


def test_same_images_same_bytes() -> None:
    assert rounded().text == rounded().text


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(models())
def test_generated_graphs_are_rounded_or_refused(model: Any) -> None:
    from graphopt.frontends.normal_form import normalize
    from graphopt.samples import dim_choices, draw

    graph = normalize(model)
    sizes = next(dim_choices(graph))[0]
    rng = np.random.default_rng(0)
    try:
        made = rounded(graph, data=[dict(draw(graph, sizes, rng))])
    except GraphoptError as error:
        assert not isinstance(error, UsageError) or "calibration" in str(error), error
        return
    grids = {p.source.name: p.grid for p in pairs(made.graph)}
    assert all(np.isfinite(g.scale).all() and (g.scale > 0).all() for g in grids.values())


def test_real_detectors_keep_their_signal(assets: Path) -> None:
    from graphopt.frontends.onnx_file import load
    from graphopt.pipeline import Pipeline
    from graphopt.registry import default_passes

    graph = Pipeline(default_passes()).run(load(assets / "models/yolov5n_416_bn.onnx")).graph
    data = str(assets / "data/coco256/images/train2017")
    made = rounded(graph, data=data, images=8, first=False, last=False)
    assert min(made.result.facts["quantization"]["sqnr"].values()) > 25
