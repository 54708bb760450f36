"""recover: a damaged network learns from what it was, without labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import graph_from

from graphopt.errors import TrainingError, UnsupportedError, UsageError
from graphopt.frontends.onnx_file import save
from graphopt.ir.graph import Graph, value_of
from graphopt.passes.distill.recover import Recover
from graphopt.pipeline import Outcome, Pipeline
from graphopt.registry import parse_passes, pass_class
from graphopt.runtime.run import open_graph

NETWORK = """(float[1,3,8,8] x) => (float[1,6] y)
    <float[16,3,3,3] w1, float[16] g1, float[16] b1, float[16] m1, float[16] var1,
     float[16,16,3,3] w2, float[16] g2, float[16] b2, float[16] m2, float[16] var2, float[6,16] f>
    { c1 = Conv <pads = [1,1,1,1]> (x, w1)  n1 = BatchNormalization (c1, g1, b1, m1, var1)  r1 = Relu (n1)
      c2 = Conv <pads = [1,1,1,1], strides = [2,2]> (r1, w2)
      n2 = BatchNormalization (c2, g2, b2, m2, var2)  r2 = Relu (n2)
      p = GlobalAveragePool (r2)  q = Flatten (p)  y = Gemm <transB = 1> (q, f) }"""
SAMPLES = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
RECIPE = "batch=16 lr=0.05 workers=0 augment=none"


def outputs(graph: Graph) -> np.ndarray:
    runner = open_graph(graph)
    return np.concatenate([runner.run({"x": s[None]})["y"] for s in SAMPLES])


def gap(graph: Graph, teacher: Graph) -> float:
    expected = outputs(teacher)
    return float(np.square(outputs(graph) - expected).mean() / expected.var())


def shrunk(graph: Graph, **options: object) -> Outcome:
    prune = pass_class("prune").with_options(
        {"channels": "0.5", "multiple": 1, "compensation": "none"}
    )
    settings = {"data": [SAMPLES], "epochs": 12, "recipe": RECIPE, "device": "cpu", **options}
    return Pipeline([prune, Recover(**settings)]).run(graph, strict=True)


def test_recovers_what_pruning_lost() -> None:
    graph = graph_from(NETWORK)
    before = gap(shrunk(graph, epochs=0).graph, graph)
    outcome = shrunk(graph)
    after = gap(outcome.graph, graph)
    assert after < before / 2
    assert outcome.graph.inputs[0].shape[0] == 1  # trained in batches, still fixed to one image
    result = outcome.results[-1]
    assert result.status == "unverified"
    assert "trained 48 steps on 3 terms" in result.rewrites[0].what
    rows = result.facts["training"]["rows"]
    assert rows[-1]["kl y"] < rows[0]["kl y"]


def test_heads_alone_and_losses_by_name() -> None:
    outcome = shrunk(graph_from(NETWORK), feature="none", head="mse", epochs=1)
    assert "on 1 terms: mse y" in outcome.results[-1].rewrites[0].what


def test_repeats_itself() -> None:
    one, other = (shrunk(graph_from(NETWORK), epochs=2).graph for _ in range(2))
    for name, tensor in one.tensors().items():
        values, same = value_of(tensor), value_of(other.tensors()[name])
        assert (values is None) == (same is None)
        assert values is None or values.tobytes() == same.tobytes()


def test_a_teacher_of_ones_own(tmp_path: Path) -> None:
    teacher, student = graph_from(NETWORK), graph_from(NETWORK, seed=5)
    save(teacher, tmp_path / "teacher.onnx")
    settings = {"data": [SAMPLES], "epochs": 20, "recipe": RECIPE, "device": "cpu"}
    each = Recover(teacher=tmp_path / "teacher.onnx", **settings)
    outcome = Pipeline([each]).run(student, strict=True)
    assert gap(outcome.graph, teacher) < gap(student, teacher) / 2


def test_goes_on_in_its_folder(tmp_path: Path) -> None:
    first = shrunk(graph_from(NETWORK), epochs=2, folder=str(tmp_path)).graph
    assert (tmp_path / "checkpoint.pt").exists()
    again = shrunk(graph_from(NETWORK), epochs=2, folder=str(tmp_path)).graph
    np.testing.assert_array_equal(outputs(first), outputs(again))


def test_what_is_missing_is_said() -> None:
    graph = graph_from(NETWORK)
    with pytest.raises(UsageError, match="data=FOLDER"):
        Pipeline([Recover()]).run(graph)
    with pytest.raises(UsageError, match="no option of a recipe is called 'learning'"):
        shrunk(graph, recipe="learning=1")
    other = graph_from("(float[1,3,8,8] x) => (float[1,3,8,8] z) { z = Relu (x) }")
    with pytest.raises(UsageError, match="share no tensor name at their heads"):
        Pipeline([Recover(data=[SAMPLES], teacher=other)]).run(graph)


def test_a_network_without_derivatives_is_refused_by_name() -> None:
    graph = graph_from(
        "(float[1,4] x) => (float[1,4] y) <float[4,4] w> { m = MatMul (x, w)  n = RandomNormalLike (m)  y = Add (m, n) }"
    )
    with pytest.raises(UnsupportedError, match="RandomNormalLike"):
        Pipeline([Recover(data=[np.zeros((8, 4), np.float32)], recipe="batch=2 workers=0")]).run(
            graph
        )


def test_a_run_that_diverges_is_stopped_by_name() -> None:
    with pytest.raises(TrainingError, match=r"not finite in step \d+"):
        shrunk(graph_from(NETWORK), recipe="batch=16 lr=1e30 workers=0 warmup=0", head="mse")


def test_order() -> None:
    with pytest.raises(UsageError, match="recover must run before fuse-conv-bn"):
        Pipeline(parse_passes("fuse-conv-bn, recover"))
