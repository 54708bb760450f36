"""sparsify: trains in place without labels, tells what it did, and prune finds the gap."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import graph_from

from graphopt.errors import UsageError
from graphopt.fx import to_fx
from graphopt.ir.graph import Graph
from graphopt.ir.proto import to_proto
from graphopt.optimize import optimize_file
from graphopt.pipeline import Outcome, Pipeline
from graphopt.registry import parse_passes, pass_class
from graphopt.report.document import document, to_json
from graphopt.report.html import render
from graphopt.training import Watch

NETWORK = """(float[N,3,8,8] x) => (float[N,5] y)
    <float[8,3,3,3] w0, float[8] g0, float[8] b0, float[8] m0, float[8] var0,
     float[12,8,3,3] w1, float[12] g1, float[12] b1, float[12] m1, float[12] var1,
     float[5,12] w2>
    { a = Conv <pads = [1,1,1,1]> (x, w0)  n = BatchNormalization (a, g0, b0, m0, var0)
      r = Relu (n)
      b = Conv <pads = [1,1,1,1]> (r, w1)  t = BatchNormalization (b, g1, b1, m1, var1)
      e = Relu (t)  p = GlobalAveragePool (e)  f = Flatten (p)  y = Gemm <transB = 1> (f, w2) }"""
PLAIN = """(float[N,3,8,8] x) => (float[N,5] y) <float[8,3,3,3] w0, float[8] c0, float[5,8] w1>
    { a = Conv <pads = [1,1,1,1]> (x, w0, c0)  e = Relu (a)  p = GlobalAveragePool (e)
      f = Flatten (p)  y = Gemm <transB = 1> (f, w1) }"""
IMAGES = np.random.default_rng(0).standard_normal((32, 3, 8, 8)).astype(np.float32)
RECIPE = "batch=8 workers=0 augment=none"


def sparsified(graph: Graph | str, then: str = "", **options: Any) -> Outcome:
    graph = graph_from(graph) if isinstance(graph, str) else graph
    given = {"data": IMAGES, "epochs": 4, "recipe": RECIPE, "device": "cpu", **options}
    passes = [pass_class("sparsify").with_options(given), *(parse_passes(then) if then else [])]
    return Pipeline(passes).run(graph, strict=True)


def gammas(graph: Graph) -> np.ndarray[Any, Any]:
    return np.concatenate([np.abs(graph.tensors()[n].values) for n in ("g0", "g1")])


def test_trains_in_place_and_tells_the_distributions() -> None:
    graph = graph_from(NETWORK)
    before = gammas(graph).copy()
    outcome = sparsified(graph)
    assert np.array_equal(gammas(graph), before)  # a pass edits a copy
    after = gammas(outcome.graph)
    assert after.mean() < 0.5 * before.mean()
    facts = outcome.results[0].facts["gamma"]
    assert facts["mean"][0] == pytest.approx(before.mean(), rel=1e-5)
    assert facts["mean"][-1] == pytest.approx(after.mean(), rel=1e-5)
    assert [sum(counts) for counts in facts["epochs"]] == [20] * 5
    assert facts["s"] > 0
    assert facts["schedule"] == "local-decay"
    assert outcome.results[0].numerics == "changes (trains with sparsity)"
    done = outcome.results[0].rewrites[0].what
    assert re.match(r"trained 16 steps with s = [\d.e-]+: mean \|gamma\| ", done)
    assert len(outcome.results[0].facts["training"]["rows"]) == 4
    to_fx(outcome.graph)  # still a graph that can be trained


def test_the_same_run_gives_the_same_bits() -> None:
    one, again, other = (sparsified(NETWORK, s=s).graph for s in (0.3, 0.3, 0.4))
    assert gammas(one).tobytes() == gammas(again).tobytes() != gammas(other).tobytes()


def test_a_finished_run_in_a_folder_is_taken_up(tmp_path: Path) -> None:
    one = sparsified(NETWORK, folder=str(tmp_path))
    again = sparsified(NETWORK, folder=str(tmp_path))
    assert gammas(one.graph).tobytes() == gammas(again.graph).tobytes()
    assert one.results[0].facts["gamma"] == again.results[0].facts["gamma"]
    assert "|gamma|<0.01" in (tmp_path / "metrics.csv").read_text()


def test_prune_removes_what_it_made_small() -> None:
    options = {"epochs": 12, "schedule": "local-decay{top=0.4}", "s": 1.0}
    then = "prune{channels=0.5 importance=bn-gamma multiple=1}"
    outcome = sparsified(NETWORK, then, **options)
    sizes = np.sort(gammas(sparsified(NETWORK, **options).graph))
    kept = np.sort(gammas(outcome.graph))
    assert len(kept) == 10
    assert np.allclose(kept, sizes[10:])
    assert sizes[12] > 10 * sizes[11]  # the gap: the largest 40 % were released


def test_filters_are_pressed_where_there_are_no_normalizations() -> None:
    with pytest.raises(UsageError, match="run insert-batchnorm first, or press the filters"):
        sparsified(PLAIN)
    outcome = sparsified(PLAIN, method="group-lasso", schedule="constant")
    facts = outcome.results[0].facts["gamma"]
    assert facts["what"] == "||w||"
    assert facts["mean"][-1] < 0.5 * facts["mean"][0]


def test_behind_insert_batchnorm() -> None:
    passes = parse_passes("insert-batchnorm, sparsify")
    given = [{"data": IMAGES}, {"data": IMAGES, "epochs": 1, "recipe": RECIPE, "device": "cpu"}]
    ready = [type(p).with_options(o) for p, o in zip(passes, given, strict=True)]
    outcome = Pipeline(ready).run(graph_from(PLAIN), strict=True)
    assert outcome.results[1].facts["gamma"]["epochs"]
    with pytest.raises(UsageError, match="sparsify must run after insert-batchnorm"):
        Pipeline(ready[::-1])
    with pytest.raises(UsageError, match="sparsify must run before fuse-conv-bn"):
        Pipeline(parse_passes("fuse-conv-bn, sparsify"))


def test_a_model_with_a_fixed_batch_is_trained_in_batches() -> None:
    fixed = NETWORK.replace("[N,", "[1,")
    facts = sparsified(fixed, epochs=1).results[0].facts["gamma"]
    assert sum(facts["epochs"][0]) == 20


def test_only_what_is_named_is_pressed() -> None:
    facts = sparsified(NETWORK, names="g1", epochs=1).results[0].facts["gamma"]
    assert sum(facts["epochs"][0]) == 12


def test_progress_shows_the_distribution_moving() -> None:
    shown: list[str] = []

    class Listen(Watch):
        def step(self, at: Any, terms: Any, status: str) -> None:
            shown.append(status)

    sparsified(NETWORK, watch=Listen(), epochs=8)
    assert len(shown) == 32
    assert len(set(shown)) > 3
    assert all(re.fullmatch(r"\|gamma\| [ ▁▂▃▄▅▆▇█]{12} \d+% < 0.01", s) for s in shown)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": None}, "sparsify trains on images: give data=FOLDER"),
        ({"method": "gama"}, "no method of sparsify is called 'gama'; did you mean gamma"),
        ({"schedule": "fast"}, "no schedule is called 'fast'"),
        ({"names": "head.*"}, "no scale of removable channels is called"),
        ({"recipe": "optimizer=adamw batch=8"}, "give s="),
        ({"s": -1.0}, "not a finite number of at least 0"),
    ],
)
def test_what_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        sparsified(NETWORK, **options)


def test_no_epochs_change_nothing() -> None:
    assert sparsified(NETWORK, epochs=0).results[0].status == "unchanged"


def test_the_report_plots_every_epoch(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    onnx.save(to_proto(graph_from(NETWORK))[0], model)
    options = {"data": IMAGES, "epochs": 3, "recipe": RECIPE, "device": "cpu"}
    run = optimize_file(
        model,
        tmp_path / "out.onnx",
        passes=[pass_class("sparsify").with_options(options)],
        measure=False,
        strict=True,
    )
    content = document(run)
    assert len(content["sparsity"]) == 1
    to_json(content)  # plain numbers
    page = render(content)
    section = page[page.index('id="sparsity"') : page.index('id="passes"')]
    columns = re.findall(r"<title>epoch (\d): mean [\d.]+, [\d.]+.% below 0.01</title>", section)
    assert columns == ["0", "1", "2", "3"]
    cells = section.count("<path opacity=")
    assert cells == sum(1 for row in content["sparsity"][0]["epochs"] for n in row if n)
    assert "schedule local-decay" in section
    assert 'id="sparsity"' not in render({**content, "sparsity": []})
    del content["sparsity"]  # a report written before there was such a pass
    assert 'id="sparsity"' not in render(content)
