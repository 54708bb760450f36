"""blocks: pieces with one way in and one way out, the largest that hold no more than asked for."""

from __future__ import annotations

import pytest
from conftest import graph_from

from graphopt.ir.graph import Graph, nodes_of
from graphopt.passes.quantize.blocks import blocks
from graphopt.passes.quantize.placement import PRODUCTS

WEIGHTS = "<float[4,4,1,1] w, float[4,4,1,1] v, float[4,8,1,1] u, float[4,4,1,1] t, float[4,4,1,1] s, float k = {2}>"


def network(nodes: str, outputs: str = "float[N,4,6,6] y") -> Graph:
    return graph_from(f"(float[N,4,6,6] x) => ({outputs}) {WEIGHTS} {{ {nodes} }}")


def found(graph: Graph, most: int = 12, without: str = "") -> list[tuple[str, str, str]]:
    """Entry, exit and the results of the products of every block."""
    products = [n for n in nodes_of(graph, *PRODUCTS) if n.outputs[0].name != without]
    made = blocks(graph, products, most)
    return [
        (b.entry.name, b.exit.name, "".join(n.outputs[0].name for n in b.products)) for b in made
    ]


RESIDUAL = "a = Conv (x, w)  r = Relu (a)  b = Conv (r, v)  d = Add (b, x)  y = Relu (d)"
CSP = """a = Conv (x, w)  b = Conv (x, v)  p = Sigmoid (b)  q = Mul (b, p)
    c = Concat <axis = 1> (a, q)  d = Conv (c, u)  i = Sigmoid (d)  y = Mul (d, i)"""
NESTED = """a = Conv (x, w)  b = Conv (a, v)  c = Conv (b, t)  d = Add (c, a)
    e = Conv (x, s)  f = Concat <axis = 1> (d, e)  y = Conv (f, u)"""


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (RESIDUAL, [("x", "y", "ab")]),
        # A chain has no block of several.
        ("a = Conv (x, w)  r = Relu (a)  y = Conv (r, v)", [("x", "r", "a"), ("r", "y", "y")]),
        # What mixes a join, and the gate behind it.
        (CSP, [("x", "y", "abd")]),
        (NESTED, [("x", "y", "abcey")]),
        # Two in a row, the second with a single product.
        (
            f"{RESIDUAL.replace('y = ', 'e = ')}  f = Conv (e, t)  y = Add (f, e)",
            [("x", "e", "ab"), ("e", "y", "f")],
        ),
        # A way past the Add: what x leads to does not all go through it.
        (
            """a = Conv (x, w)  b = Conv (a, v)  d = Add (b, a)  e = Conv (d, t)  g = Conv (b, s)
            y = Add (e, g)""",
            [("x", "a", "a"), ("a", "y", "beg")],
        ),
        # What is computed from constants alone stands in nobody's way.
        (
            """o = Exp (k)  a = Conv (x, w)  b = Conv (x, v)  c = Mul (a, o)
            y = Add (b, c)""",
            [("x", "y", "ab")],
        ),
    ],
)
def test_what_a_block_is(nodes: str, expected: list[tuple[str, str, str]]) -> None:
    assert found(network(nodes)) == expected


def test_an_output_inside_is_a_way_out() -> None:
    graph = network(RESIDUAL, "float[N,4,6,6] y, float[N,4,6,6] r")
    assert found(graph) == [("x", "r", "a"), ("r", "b", "b")]


def test_a_second_input_is_a_way_in() -> None:
    graph = graph_from(
        f"(float[N,4,6,6] x, float[N,4,6,6] z) => (float[N,4,6,6] y) {WEIGHTS}"
        " { a = Conv (x, w)  c = Add (a, z)  b = Conv (c, v)  d = Add (b, x)  y = Relu (d) }"
    )
    assert found(graph) == [("x", "a", "a"), ("c", "b", "b")]


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (5, [("x", "y", "abcey")]),
        # No room for the product that mixes.
        (4, [("x", "f", "abce"), ("f", "y", "y")]),
        (3, [("x", "a", "a"), ("a", "d", "bc"), ("x", "e", "e"), ("f", "y", "y")]),
        (
            1,
            [("x", "a", "a"), ("a", "b", "b"), ("b", "c", "c"), ("x", "e", "e"), ("f", "y", "y")],
        ),
    ],
)
def test_the_largest_that_are_small_enough(most: int, expected: list[tuple[str, str, str]]) -> None:
    assert found(network(NESTED), most) == expected


def test_only_products_that_are_asked_for() -> None:
    assert found(network(RESIDUAL), without="a") == [("x", "y", "b")]
    assert found(network("y = Conv (x, w)"), without="y") == []
