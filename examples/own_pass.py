"""A pass of your own, registered and run in a pipeline: the example of CONTRIBUTING.md.

python examples/own_pass.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx.parser

import graphopt
from graphopt.frontends.normal_form import normalize
from graphopt.ir.graph import (
    Graph,
    bypass,
    is_op,
    nodes_of,
    produced_by,
    sole_reader,
)


@graphopt.register
@dataclass(frozen=True)
class DropDoubleNeg(graphopt.Pass):
    """-(-x) == x."""

    name: ClassVar[str] = "drop-double-neg"
    numerics: ClassVar[graphopt.Exact] = graphopt.Exact()

    def run(self, graph: Graph, context: graphopt.Context) -> None:
        for outer in nodes_of(graph, "Neg"):
            inner = produced_by(outer.inputs[0], "Neg")
            if inner is None:
                continue
            if not is_op(sole_reader(graph, inner.outputs[0]), "Neg"):
                context.refused(outer, "the inner result is read elsewhere, so nothing is saved")
                continue
            bypass(graph, inner)
            bypass(graph, outer)
            context.rewrote(outer, f"cancelled with {inner.name}")


MODEL = """<ir_version: 10, opset_import: ["": 20]>
g (float[N,4] x) => (float[N,4] y) { a = Neg (x)  b = Neg (a)  y = Relu (b) }"""


def main() -> None:
    """Runs the pass on a tiny graph, with the oracle watching."""
    graph = normalize(onnx.parser.parse_model(MODEL))
    pipeline = graphopt.Pipeline(graphopt.parse_passes("drop-double-neg"))
    outcome = pipeline.run(graph, oracle=graphopt.Oracle(graph), strict=True)
    print(graphopt.to_text(graph))
    print(graphopt.to_text(outcome.graph))
    print(outcome.results[0].status, outcome.results[0].detail)


if __name__ == "__main__":
    main()
