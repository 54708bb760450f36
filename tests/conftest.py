"""What every test may ask for: graphs written as text, golden files, and a pass run under the oracle."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from graphopt.frontends.normal_form import normalize
from graphopt.ir.graph import Graph
from graphopt.ir.text import to_text
from graphopt.oracle import Oracle
from graphopt.pipeline import PassResult, Pipeline
from graphopt.registry import pass_class

# As the command line does: threads that spin are slow beside other processes, such as other tests.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

GOLDEN = Path(__file__).parent / "golden"
ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write golden files anew")


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real models, which only the project's own machines have."""
    if not ASSETS.is_dir():
        pytest.skip(f"no real models here: {ASSETS} is absent")
    return ASSETS


def graph_from(text: str, *, opset: int = 20, seed: int = 0) -> Graph:
    """The normal form of a graph in ONNX's textual syntax, missing weights drawn at random.

    `text` is "(inputs) => (outputs) <weights> { nodes }". A weight declared without values, such as
    `float[8,3,3,3] w`, is standard normal, scaled down by its fan-in; one whose name starts with
    `var` is positive, as a variance has to be.
    """
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}]> g {text}')
    _draw_weights(model.graph, np.random.default_rng(seed))
    return normalize(model)


def _draw_weights(graph: onnx.GraphProto, rng: np.random.Generator) -> None:
    made = {o for n in graph.node for o in n.output} | {t.name for t in graph.initializer}
    read = set(_read(graph)) - made - {i.name for i in graph.input}
    for info in [v for v in graph.value_info if v.name in read]:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        values = rng.standard_normal(shape) / max(1.0, float(np.prod(shape[1:])) ** 0.5)
        values = np.abs(values) + 0.5 if info.name.startswith("var") else values
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        array = np.asarray(values).astype(dtype)
        graph.initializer.append(onnx.numpy_helper.from_array(array, info.name))


def _read(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield from node.input
        for attr in node.attribute:
            yield from _read(attr.g)


@dataclass(frozen=True)
class Ran:
    """A graph after one pass, and the pass's row of the report."""

    graph: Graph
    result: PassResult

    @property
    def text(self) -> str:
        return to_text(self.graph)

    @property
    def ops(self) -> list[str]:
        return [n.op for n in self.graph.nodes]

    @property
    def reasons(self) -> list[str]:
        return [note.what for note in self.result.refusals]


def run_pass(name: str, graph: Graph | str, *, opset: int = 20, **options: Any) -> Ran:
    """Runs one pass under the oracle; a broken contract raises."""
    graph = graph_from(graph, opset=opset) if isinstance(graph, str) else graph
    each = pass_class(name).with_options(options)
    outcome = Pipeline([each]).run(graph, oracle=Oracle(graph), strict=True)
    return Ran(outcome.graph, outcome.results[0])


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Compares a text with tests/golden/<test file>/<test id>.txt; a missing file fails."""

    def compare(text: str) -> None:
        case = re.sub(r"[^A-Za-z0-9_.-]+", "-", request.node.name).strip("-")
        path = GOLDEN / request.path.stem.removeprefix("test_") / f"{case}.txt"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), (
            f"{path} is missing; run pytest --update-golden and read what it wrote"
        )
        assert text == path.read_text(encoding="utf-8")

    return compare
