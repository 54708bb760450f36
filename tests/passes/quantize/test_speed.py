"""What stays in float because integers would be slower: the best mix by the compiler's own model."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from conftest import graph_from, run_pass
from hypothesis import given, settings
from hypothesis import strategies as st

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.passes.quantize.placement import Placement, place
from graphopt.passes.quantize.rules import rules_for
from graphopt.passes.quantize.speed import Names, Speed, _Search

# A 3x3 convolution of many channels, Winograd's in float; pointwise ones, which bytes suit; a depthwise one.
BLOCK = """(float[1,64,28,28] x) => (float[1,64,28,28] y)
    <float[64,64,3,3] w, float[128,64,1,1] v, float[64,128,1,1] u, float[64,1,3,3] d>
    { a = Conv <pads = [1,1,1,1]> (x, w)  r = Relu (a)  b = Conv (r, v)  s = Relu (b)
      c = Conv (s, u)  e = Add (c, r)  y = Conv <pads = [1,1,1,1], group = 64> (e, d) }"""


def placed(graph: Graph, target: str) -> Any:
    rules = rules_for(target)

    def at(left: Names) -> Placement:
        why = dict.fromkeys(left, "as the test wants")
        return place(graph, rules, first=True, last=True, slower=why)

    return at


def search(graph: Graph, target: str = "a57") -> _Search:
    return _Search(Speed(graph, rules_for(target).board), placed(graph, target))


def convolutions(found: Placement) -> list[str]:
    return [n.outputs[0].name for n in found.nodes if n.op == "Conv"]


def test_winograd_stays_and_pointwise_layers_are_integers() -> None:
    found = search(graph_from(BLOCK))
    best = found.at(found.best())
    assert "a" not in convolutions(best.placement)
    assert {"b", "c"} <= set(convolutions(best.placement))
    assert best.total < 0.95 * min(found.at(frozenset()).total, found.at(found.every).total)


def test_half_precision_beats_bytes_on_the_other_core() -> None:
    """The same layers on Cortex-A76, in float16 there: Winograd's products of half precision are fewer.

    Emulated, million cycles: 1.46 with both pointwise layers in integers, 1.59 with the last alone.
    """
    found = search(graph_from(BLOCK), "a76")
    assert convolutions(found.at(found.best()).placement) == ["b", "c"]


@pytest.mark.parametrize("target", ["a57", "a76"])
def test_no_mix_is_better(target: str) -> None:
    """Against every subset there is."""
    found = search(graph_from(BLOCK), target)
    every = [frozenset(c) for n in range(7) for c in combinations(sorted(found.every), n)]
    least = min(found.at(s).total for s in every)
    assert len(found.every) == 5
    assert len(every) == 32
    assert found.at(found.best()).total == least


LAYERS = st.lists(
    st.tuples(
        st.sampled_from([8, 16, 32, 96]),
        st.sampled_from([1, 3]),
        st.sampled_from(["", "Relu", "HardSwish", "Add", "MaxPool"]),
    ),
    min_size=2,
    max_size=6,
)


def drawn(layers: list[tuple[int, int, str]], size: int) -> Graph:
    """A chain of convolutions with what follows each; sums are with the last tensor of their shape."""
    depth, last, lines, weights = 8, "x", [], []
    shapes = {8: "x"}
    for i, (channels, kernel, after) in enumerate(layers):
        weights.append(f"float[{channels},{depth},{kernel},{kernel}] w{i}")
        lines.append(f"c{i} = Conv <pads = [{', '.join([str(kernel // 2)] * 4)}]> ({last}, w{i})")
        depth, last = channels, f"c{i}"
        if after == "Add" and depth in shapes:
            lines.append(f"t{i} = Add ({last}, {shapes[depth]})")
        elif after == "MaxPool":
            lines.append(f"t{i} = MaxPool <kernel_shape = [3, 3], pads = [1,1,1,1]> ({last})")
        elif after in ("Relu", "HardSwish"):
            lines.append(f"t{i} = {after} ({last})")
        last = f"t{i}" if lines[-1].startswith("t") else last
        shapes[depth] = last
    shape = f"{depth},{size},{size}"
    body = "  ".join([*lines, f"y = Identity ({last})"])
    return graph_from(
        f"(float[1,8,{size},{size}] x) => (float[1,{shape}] y) <{', '.join(weights)}> {{ {body} }}"
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(LAYERS, st.sampled_from([5, 14, 28]), st.sampled_from(["a57", "a76"]))
def test_never_worse_than_one_precision(
    layers: list[tuple[int, int, str]], size: int, target: str
) -> None:
    found = search(drawn(layers, size), target)
    best = found.best()
    assert found.at(best).total <= min(found.at(frozenset()).total, found.at(found.every).total)
    # No single step from there is better.
    turned = [best ^ s for s in found.steps(best)]
    assert all(found.at(s).total >= found.at(best).total for s in turned)


def test_a_mix_is_what_its_placement_says() -> None:
    """The names that come out are those of nodes that are left, and reasons tell both figures."""
    graph = graph_from(BLOCK)
    speed = Speed(graph, "tx2")
    reasons = speed.slower(placed(graph, "a57"))
    by_output = {n.outputs[0].name: n.name for n in graph.nodes}
    assert by_output["a"] in reasons
    assert by_output["b"] not in reasons
    assert reasons[by_output["a"]].startswith("integers are slower: 4.")
    assert reasons[by_output["a"]].endswith(" (tx2, predicted)")


def images(*shape: int) -> list[np.ndarray[Any, Any]]:
    return [np.random.default_rng(0).standard_normal((1, *shape)).astype(np.float32)]


def quantized(text: str = BLOCK, **options: Any) -> Any:
    wishes = {"data": images(64, 28, 28), "first": True, "last": True, "cache": False, "floor": 0}
    return run_pass("insert-fake-quant", text, **{**wishes, **options})


def test_the_report_says_what_stays_and_why() -> None:
    made = quantized(target="a57")
    slow = [n for n in made.result.refusals if n.what.startswith("integers are slower")]
    # Emulated, million cycles: 4.58 so, 4.81 with Conv_a alone in float.
    assert [n.where for n in slow] == ["Conv_a", "Conv_y", "Add_e"]
    assert made.result.facts["quantization"]["products"] == [2, 4]
    told = made.result.facts["quantization"]["predicted"]
    assert told["board"] == "tx2"
    assert told["chosen"] < min(told["integers"], told["float"])


def test_integers_everywhere_can_be_asked_for() -> None:
    made = quantized(target="a57", slower="keep")
    assert made.result.facts["quantization"]["products"] == [4, 4]
    assert not made.result.refusals
    with pytest.raises(UsageError, match="'kepe'; did you mean keep"):
        quantized(target="a57", slower="kepe")


def test_other_runtimes_know_nothing_of_it() -> None:
    assert quantized(target="onnxruntime").result.facts["quantization"]["products"] == [4, 4]


def test_free_sizes_are_not_judged() -> None:
    """Nobody knows what takes how long; integers are then wherever they can be."""
    free = BLOCK.replace("64,28,28] x", "64,H,28] x").replace("64,28,28] y", "64,H,28] y")
    made = quantized(free, target="a57")
    assert made.result.facts["quantization"]["products"] == [4, 4]
    assert "dimension 2 (H)" in made.result.facts["quantization"]["predicted"]["unknown"]
