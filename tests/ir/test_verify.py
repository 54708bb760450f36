"""Every structural rule, broken once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from conftest import graph_from

from graphopt.errors import GraphError
from graphopt.ir.graph import Constant, Graph, Variable, add_node
from graphopt.ir.verify import RULES, verify

NET = """(float[1,4] x) => (float[1,4] y) <float[4] w = {1, 2, 3, 4}>
    { a = Relu (x)  b = Mul (a, w)  y = Neg (b) }"""


def _nobody_makes_the_output(graph: Graph) -> None:
    graph.outputs[0].inputs.clear()


def _the_output_has_no_type(graph: Graph) -> None:
    graph.outputs[0].dtype = None


def _computed_twice(graph: Graph) -> None:
    graph.nodes.append(gs.Node("Abs", "again", {}, [graph.inputs[0]], [graph.nodes[0].outputs[0]]))


def _an_input_is_computed(graph: Graph) -> None:
    graph.nodes.append(gs.Node("Abs", "again", {}, [graph.outputs[0]], [graph.inputs[0]]))


def _two_tensors_of_one_name(graph: Graph) -> None:
    graph.nodes[0].outputs[0].name = "w"


def _two_nodes_of_one_name(graph: Graph) -> None:
    graph.nodes[0].name = graph.nodes[1].name


def _wrong_order(graph: Graph) -> None:
    graph.nodes.reverse()


def _reads_what_nobody_makes(graph: Graph) -> None:
    graph.nodes[1].inputs[0] = Variable("ghost", np.float32, [1, 4])


def _a_constant_node(graph: Graph) -> None:
    made = Variable("k", np.float32, [4])
    value = Constant("v", np.ones(4, np.float32))
    graph.nodes.insert(0, gs.Node("Constant", "const", {"value": value}, [], [made]))
    graph.nodes[2].inputs[1] = made


def _an_unknown_attribute(graph: Graph) -> None:
    graph.nodes[0].attrs["colour"] = 3


def _an_unknown_operator(graph: Graph) -> None:
    graph.nodes[0].op = "NoSuchOp"


BREAKS: dict[str, tuple[str, Callable[[Graph], None], str]] = {
    "nobody_makes_the_output": (
        "outputs_are_made",
        _nobody_makes_the_output,
        "output 'y' is computed by no node",
    ),
    "output_without_type": ("outputs_are_made", _the_output_has_no_type, "output 'y' has no type"),
    "computed_twice": ("one_producer_each", _computed_twice, "tensor 'a' is computed by 2 nodes"),
    "computed_input": (
        "one_producer_each",
        _an_input_is_computed,
        "tensor 'x' is computed by 1 nodes",
    ),
    "tensor_names": ("names_are_unique", _two_tensors_of_one_name, "two tensors are named 'w'"),
    "node_names": ("names_are_unique", _two_nodes_of_one_name, "two nodes are named 'Mul_b'"),
    "order": (
        "order_is_topological",
        _wrong_order,
        "node 'Neg_y' reads 'b', which is not computed before it",
    ),
    "ghost": (
        "order_is_topological",
        _reads_what_nobody_makes,
        "node 'Mul_b' reads 'ghost', which is not computed",
    ),
    "constant_node": ("no_constant_nodes", _a_constant_node, "node 'const' is a Constant node"),
    "attribute": ("onnx_accepts_it", _an_unknown_attribute, "Unrecognized attribute: colour"),
    "operator": ("onnx_accepts_it", _an_unknown_operator, "No Op registered for NoSuchOp"),
}


@pytest.mark.parametrize("case", BREAKS)
def test_a_broken_rule_says_what_and_where(case: str) -> None:
    name, break_it, message = BREAKS[case]
    graph = graph_from(NET)
    verify(graph)
    break_it(graph)
    (rule,) = (r for r in RULES if r.__name__ == name)
    (problem, *_) = rule(graph)
    assert message in problem
    with pytest.raises(GraphError, match=name):
        verify(graph)


def test_every_rule_has_been_broken() -> None:
    assert {name for name, _, _ in BREAKS.values()} == {r.__name__ for r in RULES}


def test_more_than_three_problems_are_counted() -> None:
    graph = graph_from(NET)
    for _ in range(4):
        add_node(graph, "Abs", [Variable(f"ghost{len(graph.nodes)}")], like=graph.outputs[0])
    with pytest.raises(GraphError, match=r"ghost3.*; .*ghost4.*; .*ghost5.* \(and \d more\)$"):
        verify(graph)


@pytest.mark.parametrize(
    "text",
    [
        "(float[4] x) => (float[4] x) { }",
        "(float[4] x) => (float[4] y, float[4] w) <float[4] w = {1, 2, 3, 4}> { y = Mul (x, w) }",
        "(float[4] x) => (float[4] y, float[4] y) { y = Relu (x) }",
        "(float[4] x, float[4] unused) => (float[4] y) { y = Mul (x, x) }",
    ],
)
def test_odd_but_valid_interfaces_pass(text: str) -> None:
    verify(graph_from(text))
