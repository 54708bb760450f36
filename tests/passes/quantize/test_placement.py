"""Where integers are: by the rules of a target, and by what stands around."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import graph_from

from graphopt.errors import UnsupportedError, UsageError
from graphopt.ir.graph import label
from graphopt.passes.quantize.placement import Placement, head, place, stem
from graphopt.passes.quantize.rules import RULES, rules_for, with_kinds

# Three convolutions in a row, so that the middle one is neither first nor last.
CHAIN = """(float[N,3,8,8] x) => (float[N,4,8,8] y)
    <float[8,3,1,1] w, float[8,8,1,1] v, float[4,8,1,1] u>
    {{ a = Conv (x, w)  {before}  b = Conv ({read}, v)  {after}  y = Conv ({last}, u) }}"""


def chain(before: str = "", read: str = "a", after: str = "", last: str = "b") -> str:
    return CHAIN.format(before=before, read=read, after=after, last=last)


def placed(text: str, target: str = "onnxruntime", **options: object) -> Placement:
    options.setdefault("first", True)
    options.setdefault("last", True)
    return place(graph_from(text), rules_for(target), **options)  # type: ignore[arg-type]


def ops(found: Placement) -> list[str]:
    return [n.op for n in found.nodes]


def reasons(found: Placement) -> dict[str, str]:
    return {label(n): why for n, why in found.refused}


def test_products_are_quantized_with_what_they_read_and_make() -> None:
    found = placed(chain())
    assert ops(found) == ["Conv"] * 3
    assert list(found.carried) == ["x", "a", "b", "y"]
    assert len(found.groups()) == 4


def test_first_and_last_products_stay_in_float_by_default() -> None:
    found = placed(chain(), first=False, last=False)
    assert list(found.carried) == ["a", "b"]
    assert set(reasons(found).values()) == {"it is a first product", "it is a last product"}


def test_a_fused_activation_is_rounded_behind() -> None:
    found = placed(chain(before="r = Relu (a)", read="r"))
    assert "a" not in found.carried
    assert "r" in found.carried


@pytest.mark.parametrize(("target", "behind"), [("onnxruntime", False), ("a57", True)])
def test_silu_is_one_rounding_where_the_target_computes_it_with_the_product(
    target: str, behind: bool
) -> None:
    found = placed(chain(before="s = Sigmoid (a)  r = Mul (a, s)", read="r"), target)
    assert "r" in found.carried
    assert ("a" in found.carried, "s" in found.carried) == (not behind, not behind)


def test_an_activation_without_an_integer_kernel_stays_between_roundings() -> None:
    found = placed(chain(before="r = HardSwish (a)", read="r"))
    assert {"a", "r"} <= set(found.carried)
    assert ops(found) == ["Conv"] * 3


def test_a_clip_that_does_not_start_at_zero_is_not_fused_in_onnx_runtime() -> None:
    text = chain(before="lo = Constant <value_float = -1.0> ()  r = Clip (a, lo)", read="r")
    assert "a" in placed(text).carried
    text = chain(before="lo = Constant <value_float = 0.0> ()  r = Clip (a, lo)", read="r")
    assert "a" not in placed(text).carried


def test_what_passes_integers_on_shares_their_grid() -> None:
    text = chain(before="r = MaxPool <kernel_shape = [1, 1]> (a)", read="r")
    found = placed(text)
    assert found.carried["a"] == found.carried["r"]
    assert found.carried["a"] != found.carried["b"]


@pytest.mark.parametrize(("target", "one"), [("onnxruntime", False), ("a57", True)])
def test_a_concat_shares_one_grid_where_that_makes_it_free(target: str, one: bool) -> None:
    text = """(float[N,4,8,8] x) => (float[N,4,8,8] y)
        <float[4,4,1,1] w, float[4,4,1,1] v, float[4,8,1,1] u>
        { a = Conv (x, w)  b = Conv (x, v)  c = Concat <axis = 1> (a, b)  y = Conv (c, u) }"""
    carried = placed(text, target).carried
    assert (carried["a"] == carried["b"] == carried["c"]) is one


def test_what_no_integer_reader_follows_is_left_in_float() -> None:
    text = chain(after="d = Add (a, b)", last="d")
    found = placed(text, last=False)
    assert "Add" not in ops(found)
    assert "d" not in found.carried
    assert "Add" in ops(placed(text))


def test_a_sum_of_an_integer_and_a_float_rounds_the_float() -> None:
    text = """(float[N,4,8,8] x, float[N,4,8,8] z) => (float[N,4,8,8] y)
        <float[4,4,1,1] w, float[4,4,1,1] u>
        { a = Conv (x, w)  e = Erf (z)  c = Add (a, e)  y = Conv (c, u) }"""
    found = placed(text)
    assert ops(found) == ["Conv", "Add", "Conv"]
    assert "e" in found.carried
    assert "z" not in found.carried


def test_a_sum_of_floats_stays_in_float() -> None:
    text = """(float[N,4,8,8] x, float[N,4,8,8] z) => (float[N,4,8,8] y) <float[4,4,1,1] u>
        { e = Erf (z)  f = Erf (x)  c = Add (f, e)  y = Conv (c, u) }"""
    assert ops(placed(text)) == ["Conv"]


def test_decoding_behind_the_last_products_stays_in_float() -> None:
    text = """(float[1,4,8,8] x) => (float[1,64,8] y)
        <float[4,4,1,1] w, float[8,4,1,1] u, float[8,4,1,1] t>
        { a = Conv (x, w)  b = Conv (a, u)  c = Conv (a, t)
          p = Sigmoid (b)  d = Concat <axis = 1> (p, c)
          s = Constant <value_ints = [1, 64, -1]> ()  y = Reshape (d, s) }"""
    found = placed(text, first=True, last=True)
    assert ops(found) == ["Conv"] * 3
    graph = graph_from(text)
    assert [n.outputs[0].name for n in stem(graph)] == ["a"]
    assert {n.outputs[0].name for n in head(graph)} == {"b", "c", "p", "d", "y"}


def test_an_activation_behind_the_last_product_is_decoding_too() -> None:
    text = """(float[1,4,8,8] x) => (float[1,4,8,8] y) <float[4,4,1,1] w, float[4,4,1,1] v>
        { a = Conv (x, w)  b = Conv (a, v)  y = Sigmoid (b) }"""
    found = placed(text)
    assert "b" in found.carried
    assert "y" not in found.carried


def test_a_product_that_only_floats_read_ends_in_numbers() -> None:
    """Its sums are scaled and not rounded where the target's kernels can; an output is rounded still."""
    text = """(float[1,4,8,8] x) => (float[1,4,8,8] y, float[1,4,8,8] c)
        <float[4,4,1,1] w, float[4,4,1,1] v>
        { a = Conv (x, w)  b = Conv (a, v)  y = Erf (b)  c = Conv (a, v) }"""
    assert list(placed(text, "a57").carried) == ["x", "a", "c"]
    assert list(placed(text).carried) == ["x", "a", "b", "c"]
    assert ops(placed(text, "a57")) == ["Conv"] * 3


def test_what_integers_make_slower_stays_in_float_with_the_reason() -> None:
    graph = graph_from(chain())
    left = {graph.nodes[1].name: "integers are slower"}
    found = place(graph, rules_for("a57"), first=True, last=True, slower=left)
    assert list(found.carried) == ["x", "b", "y"]
    assert reasons(found)[label(graph.nodes[1])] == "integers are slower"


def test_nodes_are_kept_in_float_by_name_operator_or_glob() -> None:
    graph = graph_from(chain())
    name = graph.nodes[1].name
    for pattern in (name, "b", "*_" + name[-1]):
        found = place(graph, rules_for("onnxruntime"), keep=[pattern], first=True, last=True)
        assert len(found.nodes) == 2, pattern
    assert not placed(chain(), keep=["Conv"]).nodes
    with pytest.raises(UsageError, match="no node or operator is called 'Convv'; did you mean"):
        placed(chain(), keep=["Convv"])


def test_tensors_that_cannot_be_carried_take_their_nodes_along() -> None:
    found = placed(chain(), without=["a"])
    assert list(found.carried) == ["b", "y"]
    assert "cannot be carried" in " ".join(reasons(found).values())


@pytest.mark.parametrize(
    ("middle", "why"),
    [
        ("b = Conv (a, q)", "its weight is computed"),
        ("b = Conv (a, v, q1)", "its bias is computed"),
        ('b = Resize <mode = "linear"> (a, "", k)', "it interpolates"),
    ],
)
def test_refusals_say_why(middle: str, why: str) -> None:
    text = f"""(float[1,8,8,8] x, float[8,8,1,1] q, float[8] q1) => (float[1,4,8,8] y)
        <float[8,8,1,1] w, float[8,8,1,1] v, float[4,8,1,1] u, float[4] k = {{1, 1, 1, 1}}>
        {{ a = Conv (x, w)  {middle}  y = Conv (b, u) }}"""
    assert why in reasons(placed(text)).values()


def test_weights_that_are_no_numbers_are_refused() -> None:
    graph = graph_from(chain())
    weight = graph.nodes[1].inputs[1]
    weight.values = np.full(weight.shape, np.nan, np.float32)
    found = place(graph, rules_for("onnxruntime"), first=True, last=True)
    assert "NaN" in reasons(found)[label(graph.nodes[1])]


def test_a_quantized_model_is_refused() -> None:
    text = """(float[1,3,8,8] x) => (float[1,3,8,8] y) <float s = {0.1}, uint8 z = {0}>
        { q = QuantizeLinear (x, s, z)  y = DequantizeLinear (q, s, z) }"""
    with pytest.raises(UnsupportedError, match="quantized already"):
        placed(text)


def test_unknown_targets_and_types_are_named() -> None:
    with pytest.raises(UsageError, match="onnxruntime"):
        rules_for("onnxruntim")
    with pytest.raises(UsageError, match="did you mean"):
        with_kinds(rules_for("a57"), "int9", None)
    with pytest.raises(UsageError, match="weights are signed"):
        with_kinds(rules_for("a57"), None, "uint8")


@pytest.mark.parametrize("name", RULES)
def test_every_target_quantizes_a_residual_block(name: str) -> None:
    text = """(float[N,4,8,8] x) => (float[N,4,8,8] y)
        <float[4,4,3,3] w, float[4,4,3,3] v, float[4,4,1,1] u>
        { a = Conv <pads = [1,1,1,1]> (x, w)  r = Relu (a)
          b = Conv <pads = [1,1,1,1]> (r, v)  c = Add (b, x)  d = Relu (c)  y = Conv (d, u) }"""
    found = placed(text, name)
    assert ops(found) == ["Conv", "Conv", "Add", "Conv"]
    assert "c" not in found.carried
