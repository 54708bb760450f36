"""Graphs are the same when structure, attributes and the arrays of constants are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import graph_from

from graphopt.ir.difference import differs
from graphopt.ir.graph import Graph, add_constant, add_node, set_input

NET = """(float[N,3,8,8] x, bool p) => (float[N,4,8,8] y) <float[4,3,1,1] w, float[4,1,1] s>
    { c = Conv <pads = [0, 0, 0, 0]> (x, w)  r = LeakyRelu <alpha = 0.5> (c)  m = Mul (r, s)
      y = If (p) < then_branch = yes () => (float[N,4,8,8] t) { t = Abs (m) },
                   else_branch = no () => (float[N,4,8,8] e) { e = Neg (m) }> }"""


def _attribute(op: str, name: str, value: object) -> Callable[[Graph], None]:
    def edit(graph: Graph) -> None:
        next(n for n in graph.nodes if n.op == op).attrs[name] = value

    return edit


def _rename(graph: Graph) -> None:
    graph.nodes[1].outputs[0].name = "other"


def _new_array(graph: Graph) -> None:
    weight = graph.nodes[0].inputs[1]
    weight.values = weight.values.copy()


def _swap(graph: Graph) -> None:
    mul = graph.nodes[2]
    one, other = mul.inputs
    set_input(mul, 0, other)
    set_input(mul, 1, one)


def _inside(graph: Graph) -> None:
    graph.nodes[3].attrs["then_branch"].nodes[0].op = "Exp"


def _longer(graph: Graph) -> None:
    made = graph.nodes[0].outputs[0]
    add_node(graph, "Abs", [made], like=made)


def _reshape_input(graph: Graph) -> None:
    graph.inputs[0].shape = ["N", 3, 16, 8]


EDITS: dict[str, Callable[[Graph], None]] = {
    "another operator": lambda g: setattr(g.nodes[1], "op", "Elu"),
    "another domain": lambda g: setattr(g.nodes[1], "domain", "custom"),
    "another node name": lambda g: setattr(g.nodes[1], "name", "other"),
    "another opset": lambda g: setattr(g, "opset", 11),
    "another number": _attribute("LeakyRelu", "alpha", 0.25),
    "an integer for a number": _attribute("LeakyRelu", "alpha", 1),
    "a longer list": _attribute("Conv", "pads", [0, 0, 0, 0, 0]),
    "a list of other numbers": _attribute("Conv", "pads", [1, 0, 0, 0]),
    "a list of another type": _attribute("Conv", "pads", [0.0, 0, 0, 0]),
    "one attribute more": _attribute("Conv", "group", 1),
    "one attribute for another": lambda g: (
        g.nodes[1].attrs.pop("alpha"),
        _attribute("LeakyRelu", "beta", 0.5)(g),
    )[1],
    "another tensor name": _rename,
    "another array of the same numbers": _new_array,
    "inputs swapped": _swap,
    "another node in a subgraph": _inside,
    "one node more": _longer,
    "another input shape": _reshape_input,
    "another constant of the same name": lambda g: set_input(
        g.nodes[0], 1, add_constant(g, "w", np.ones((4, 3, 1, 1), np.float32))
    ),
}


def test_a_copy_is_the_same() -> None:
    graph = graph_from(NET)
    assert not differs(graph, graph.copy())
    assert not differs(graph.copy(), graph)


@pytest.mark.parametrize("edit", EDITS.values(), ids=list(EDITS))
def test_every_edit_is_seen(edit: Callable[[Graph], None]) -> None:
    graph = graph_from(NET)
    _attribute("LeakyRelu", "alpha", 1.0 if edit is EDITS["an integer for a number"] else 0.5)(
        graph
    )
    twin = graph.copy()
    edit(twin)
    assert differs(twin, graph)
    assert differs(graph, twin)


def test_a_number_that_is_none_is_itself() -> None:
    graph = graph_from(NET)
    _attribute("LeakyRelu", "alpha", float("nan"))(graph)
    twin = graph.copy()
    _attribute("LeakyRelu", "alpha", float("nan"))(twin)
    assert not differs(graph, twin)


def test_a_copys_lists_are_its_own() -> None:
    graph = graph_from(NET)
    twin = graph.copy()
    twin.nodes[0].attrs["pads"][0] = 1
    assert graph.nodes[0].attrs["pads"] == [0, 0, 0, 0]
    assert differs(graph, twin)
