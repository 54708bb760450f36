"""The editing API: interfaces keep their names, readers are counted right, subgraphs are respected."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import graph_from

from graphopt.ir.graph import (
    Graph,
    Node,
    add_constant,
    add_node,
    bypass,
    drop_if_dead,
    replace_uses,
    set_input,
    sole_reader,
    sweep,
)
from graphopt.ir.text import to_text
from graphopt.ir.verify import verify
from graphopt.runtime.run import open_graph

CHAIN = "(float[4] x) => (float[4] y) { a = Relu (x)  b = Neg (a)  y = Abs (b) }"
BRANCH = """(float[4] x, bool p) => (float[4] y) <float[4] w = {1, 2, 3, 4}>
    { a = Relu (x)  n = Neg (a)  y = If (p) <
        then_branch = yes () => (float[4] t) { m = Mul (n, w)  t = Add (m, a) },
        else_branch = no () => (float[4] e) { e = Abs (x) }> }"""
X = np.array([-2, -1, 1, 2], np.float32)


def node(graph: Graph, op: str) -> Node:
    return next(n for n in graph.nodes if n.op == op)


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def test_replacing_uses_rewires_every_reader_and_drops_what_only_fed_it() -> None:
    graph = graph_from("(float[4] x) => (float[4] y) { a = Relu (x)  b = Neg (a)  y = Mul (b, b) }")
    mul = node(graph, "Mul")
    replace_uses(graph, mul.inputs[0], graph.inputs[0])
    assert [t.name for t in mul.inputs] == ["x", "x"]
    sweep(graph)
    assert ops(graph) == ["Mul"]
    verify(graph)


def test_a_replaced_output_keeps_its_name() -> None:
    graph = graph_from(CHAIN)
    bypass(graph, node(graph, "Abs"))
    sweep(graph)
    assert ops(graph) == ["Relu", "Neg"]
    assert [t.name for t in graph.outputs] == ["y"]
    assert node(graph, "Neg").outputs[0] is graph.outputs[0]
    verify(graph)


@pytest.mark.parametrize("new", ["an input", "a constant", "another output"])
def test_an_output_nobody_else_can_be_is_an_identity(new: str) -> None:
    graph = graph_from("(float[4] x) => (float[4] y, float[4] z) { y = Relu (x)  z = Abs (x) }")
    made = {
        "an input": graph.inputs[0],
        "a constant": add_constant(graph, "c", X),
        "another output": graph.outputs[1],
    }[new]
    replace_uses(graph, graph.outputs[0], made)
    sweep(graph)
    assert sorted(ops(graph)) == ["Abs", "Identity"]
    assert [t.name for t in graph.outputs] == ["y", "z"]
    verify(graph)
    expected = {"an input": X, "a constant": X, "another output": np.abs(X)}[new]
    np.testing.assert_array_equal(open_graph(graph).run({"x": X})["y"], expected)


def test_an_output_listed_twice_stays_listed_twice() -> None:
    graph = graph_from("(float[4] x) => (float[4] y, float[4] y) { a = Relu (x)  y = Abs (a) }")
    bypass(graph, node(graph, "Abs"))
    sweep(graph)
    assert [t.name for t in graph.outputs] == ["y", "y"]
    np.testing.assert_array_equal(open_graph(graph).run({"x": X})["y"], np.maximum(X, 0))


def test_dropping_goes_up_to_the_first_tensor_somebody_needs() -> None:
    graph = graph_from("(float[4] x) => (float[4] y) { y = Relu (x)  b = Neg (y)  c = Abs (b) }")
    # The normal form has no dead nodes, so they are made here.
    b = add_node(graph, "Neg", [graph.outputs[0]], like=graph.outputs[0])
    c = add_node(graph, "Abs", [b], like=b)
    drop_if_dead(graph, c.inputs[0])
    assert graph.outputs[0].outputs == []
    assert node(graph, "Relu").outputs == [graph.outputs[0]], "an output of the model was dropped"


def test_dropping_a_node_frees_what_its_subgraphs_read() -> None:
    graph = graph_from(BRANCH)
    branch = node(graph, "If")
    replace_uses(graph, graph.outputs[0], graph.inputs[0])
    assert branch.outputs == []
    sweep(graph)
    assert ops(graph) == ["Identity"]
    verify(graph)


def test_what_only_a_subgraph_reads_is_kept() -> None:
    graph = graph_from(BRANCH).copy()
    sweep(graph)
    assert ops(graph) == ["Relu", "Neg", "If"]
    drop_if_dead(graph, node(graph, "Neg"))
    assert node(graph, "Neg").outputs, "a branch reads it"
    for flag, expected in ((True, [0, 0, -2, -6]), (False, [2, 1, 1, 2])):
        found = open_graph(graph).run({"x": X, "p": np.array(flag)})["y"]
        np.testing.assert_array_equal(found, expected)


def test_uses_inside_a_subgraph_are_replaced_too() -> None:
    graph = graph_from(BRANCH)
    bypass(graph, node(graph, "Neg"))
    sweep(graph)
    assert ops(graph) == ["Relu", "If"]
    found = open_graph(graph).run({"x": X, "p": np.array(True)})["y"]
    np.testing.assert_array_equal(found, [0, 0, 4, 10])


def test_a_reader_in_a_subgraph_is_not_the_sole_reader() -> None:
    for graph in (graph_from(BRANCH), graph_from(BRANCH).copy()):
        negated = node(graph, "Neg").outputs[0]
        (inner,) = negated.outputs
        assert graph.is_inner(inner)
        assert not graph.is_inner(node(graph, "Neg"))
        assert sole_reader(graph, negated) is None


def test_the_sole_reader_reads_once_and_nothing_else_sees_the_tensor() -> None:
    graph = graph_from(
        "(float[4] x) => (float[4] y, float[4] b) { a = Relu (x)  b = Neg (a)  y = Mul (b, b) }"
    )
    assert sole_reader(graph, node(graph, "Relu").outputs[0]) is node(graph, "Neg")
    assert sole_reader(graph, node(graph, "Neg").outputs[0]) is None
    assert sole_reader(graph, graph.outputs[0]) is None


def test_nodes_added_last_are_sorted_to_where_they_are_read() -> None:
    graph = graph_from(CHAIN)
    negation = node(graph, "Neg")
    made = add_node(graph, "Sigmoid", [negation.inputs[0]], like=negation.inputs[0])
    set_input(negation, 0, made)
    assert ops(graph)[-1] == "Sigmoid"
    sweep(graph)
    assert ops(graph) == ["Relu", "Sigmoid", "Neg", "Abs"]
    verify(graph)


def test_a_chain_of_ten_thousand_nodes_is_no_problem() -> None:
    graph = graph_from("(float[4] x) => (float[4] y) { y = Relu (x) }")
    tensor = graph.inputs[0]
    for _ in range(10_000):
        tensor = add_node(graph, "Neg", [tensor], like=tensor, base="t")
    graph.nodes.reverse()
    replace_uses(graph, graph.outputs[0], tensor)
    sweep(graph)
    assert len(graph.nodes) == 10_000
    assert graph.nodes[0].inputs[0] is graph.inputs[0]
    bypass(graph, graph.nodes[-1])
    replace_uses(graph, graph.nodes[-2].outputs[0], graph.inputs[0])
    sweep(graph)
    assert ops(graph) == ["Identity"]


def test_fresh_names_are_taken_nowhere_in_the_model() -> None:
    graph = graph_from(BRANCH)
    assert [graph.fresh_name("new") for _ in range(3)] == ["new", "new_1", "new_2"]
    assert graph.fresh_name("m") == "m_1", "a tensor in a branch has this name"
    assert graph.fresh_name("x") == "x_1"
    assert graph.fresh_name("")
    twin = graph.copy()
    assert twin.fresh_name("new") == "new", "names promised in another graph are free here"


def test_a_copy_shares_arrays_and_nothing_else() -> None:
    graph = graph_from(BRANCH)
    graph.metadata["names"] = "cat"
    before, twin = to_text(graph), graph.copy()
    bypass(twin, node(twin, "Neg"))
    twin.metadata["names"] = "dog"
    twin.inputs[0].shape = [9]
    sweep(twin)
    assert to_text(graph) == before
    assert graph.metadata == {"names": "cat"}


def test_a_constant_that_subgraphs_read_too_stays_one_in_a_copy() -> None:
    text = BRANCH.replace("e = Abs (x)", "e = Mul (x, w)").replace("n = Neg (a)", "n = Mul (a, w)")
    for graph in (graph_from(text), graph_from(text).copy()):
        weight = node(graph, "Mul").inputs[1]
        assert [n.op for n in weight.outputs] == ["Mul", "Mul", "Mul"]
        weight.values = np.ones(4, np.float32)
        found = open_graph(graph).run({"x": X, "p": np.array(False)})["y"]
        np.testing.assert_array_equal(found, X)


def test_setting_a_later_input_leaves_the_ones_between_out() -> None:
    graph = graph_from("(float[4] x) => (float[4] y) { y = Clip (x) }")
    set_input(node(graph, "Clip"), 2, add_constant(graph, "high", np.array(1, np.float32)))
    verify(graph)
    np.testing.assert_array_equal(open_graph(graph).run({"x": X})["y"], [-2, -1, 1, 1])
