"""reconstruct: weights of a block are rounded so that their errors cancel behind it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import graph_from
from rounding import cifar, kept

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph, nodes_of
from graphopt.passes.quantize import block_fit
from graphopt.passes.quantize.block_fit import Chosen, importances
from graphopt.passes.quantize.pairs import pairs
from graphopt.pipeline import Outcome, Pipeline
from graphopt.quantize import quantizing
from graphopt.registry import parse_passes, pass_class
from graphopt.runtime.run import open_graph

ALL = {"first": True, "last": True, "floor": 0.0, "cache": False, "weight": "int4"}
FEW = {"iterations": 120, "positions": 256}
RESIDUAL = """(float[N,4,7,7] x) => (float[N,4,7,7] y)
    <float[4,4,3,3] w, float[4] b, float[4,4,3,3] v, float[4,4,1,1] u>
    { a = Conv <pads = [1,1,1,1]> (x, w, b)  r = Relu (a)
      c = Conv <pads = [1,1,1,1]> (r, v)  d = Add (c, x)  e = Relu (d)  y = Conv (e, u) }"""
Batches = list[np.ndarray]


def images(graph: Graph, count: int = 9, seed: int = 0) -> Batches:
    rng = np.random.default_rng(seed)
    shape = [8 if not isinstance(d, int) else d for d in graph.inputs[0].shape]
    return [rng.random(shape).astype(np.float32) for _ in range(count)]


def rounding(data: Any, name: str = "reconstruct", **options: Any) -> list:
    few = FEW if name == "reconstruct" else {"iterations": 200}
    return [
        pass_class("insert-fake-quant").with_options({"data": data, **ALL}),
        pass_class(name).with_options({"data": data, **few, **options}),
    ]


def mended(graph: Graph, data: Any = None, **options: Any) -> Outcome:
    given = images(graph) if data is None else data
    return Pipeline(rounding(given, **options)).run(graph, strict=True)


def nearest(graph: Graph, data: Any = None) -> Graph:
    given = images(graph) if data is None else data
    return Pipeline(rounding(given)[:1]).run(graph, strict=True).graph


def network(text: str = RESIDUAL) -> Graph:
    return graph_from(text, opset=21)


def decibels(graph: Graph, exact: Graph, seed: int = 1) -> float:
    return kept(graph, exact, [{"x": b} for b in images(exact, seed=seed)])


def weights(graph: Graph) -> list[bytes]:
    return [p.source.values.tobytes() for p in pairs(graph) if p.is_weight]


def scales(graph: Graph) -> dict[str, float]:
    return {p.source.name: float(p.grid.scale) for p in pairs(graph) if not p.is_weight}


# --- what it does -----------------------------------------------------------------------------


def test_outputs_keep_more_than_with_the_nearest_on_other_images() -> None:
    graph = network()
    outcome = mended(graph)
    assert decibels(outcome.graph, graph) > decibels(nearest(graph), graph) + 3
    result = outcome.results[-1]
    assert result.detail.startswith("rounded outputs keep")
    notes = {n.where: n.what for n in result.rewrites}
    assert "of the error gone" in notes["Conv_a .. Conv_c"]


def test_errors_of_two_layers_cancel_in_one_block() -> None:
    """y = 1.4 + 1.45 steps: 1 and 1 or 2 and 2 if each layer is on its own, 1 and 2 together."""
    graph = network(
        """(float[N,2] x) => (float[N,1] y) <float[1,2] w, float[1,2] v>
        { a = Gemm <transB = 1> (x, w)  b = Gemm <transB = 1> (x, v)  y = Add (a, b) }"""
    )
    first, second = nodes_of(graph, "Gemm")
    first.inputs[1].values = np.array([[1.40, 7]], np.float32)
    second.inputs[1].values = np.array([[1.45, 7]], np.float32)
    # Where the other input is 1, any rounding is exact; it keeps ranges from cutting 2 off.
    data = [np.tile(np.eye(2, dtype=np.float32), (4, 1))] * 3
    for largest, expected in ((12, [1, 2]), (1, [1, 1])):
        made = mended(graph, data, largest=largest, lr_scales=0).graph
        found = [p.grid.quantize(p.source.values) for p in pairs(made) if p.is_weight]
        assert sorted(int(i[0, 0]) for i in found) == expected


@pytest.mark.parametrize("fisher", [True, False])
def test_integers_are_up_or_down_on_the_grid_that_was_there(fisher: bool) -> None:
    graph = network()
    outcome = mended(graph, fisher=fisher)
    before = [p for p in pairs(nearest(graph)) if p.is_weight][:2]
    after = [p for p in pairs(outcome.graph) if p.is_weight][:2]
    changed = 0
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old.grid.scale, new.grid.scale)
        np.testing.assert_array_equal(new.grid.rounded(new.source.values), new.source.values)
        steps = old.source.values / old.grid.scale.reshape(-1, 1, 1, 1)
        integers = new.grid.quantize(new.source.values).astype(int)
        assert np.abs(steps - integers).max() < 1 + 1e-4
        changed += np.count_nonzero(integers != old.grid.quantize(old.source.values).astype(int))
    assert changed


def test_steps_of_activations_move_and_zero_points_stay() -> None:
    graph = network()
    before, after = nearest(graph), mended(graph).graph
    one, other = scales(before), scales(after)
    moved = {name for name in one if one[name] != other[name]}
    assert {"r", "e"} <= moved
    for name in moved:
        assert 0.5 < other[name] / one[name] < 2
    assert {p.source.name: int(p.grid.zero) for p in pairs(before) if not p.is_weight} == {
        p.source.name: int(p.grid.zero) for p in pairs(after) if not p.is_weight
    }
    assert scales(mended(graph, lr_scales=0).graph) == one


def test_a_grid_somebody_outside_has_part_in_stays() -> None:
    """The pooled tensor has the grid of the block's result, which the block itself would move."""
    text = RESIDUAL.replace(
        "y = Conv (e, u)", "p = MaxPool <kernel_shape = [1,1]> (e) y = Conv (p, u)"
    )
    graph = network(text)
    one, other = scales(nearest(graph)), scales(mended(graph).graph)
    assert one["e"] == other["e"] == other["p"]
    assert one["r"] != other["r"]


def test_a_step_between_two_blocks_is_trained_by_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []
    fit = block_fit.fit_block

    def watched(piece: Graph, found: Any, names: Any, *rest: Any) -> Chosen:
        seen.append({n.removesuffix("_scale") for n in names})
        return fit(piece, found, names, *rest)

    monkeypatch.setattr(block_fit, "fit_block", watched)
    mended(network(), iterations=1)
    first, second = seen
    assert {"x", "r", "e"} <= first
    assert second
    assert not first & second


def test_an_input_two_blocks_read_keeps_its_grid() -> None:
    text = """(float[N,4,5,5] x) => (float[N,4,5,5] y, float[N,4,5,5] z)
        <float[4,4,1,1] w, float[4,4,1,1] v> { y = Conv (x, w)  z = Conv (x, v) }"""
    graph = network(text)
    assert scales(nearest(graph))["x"] == scales(mended(graph).graph)["x"]


# --- what it promises -------------------------------------------------------------------------


def test_repeats_itself_and_draws_from_the_seed() -> None:
    graph = network()
    one, other, third = (mended(graph, seed=s, iterations=40).graph for s in (1, 1, 2))
    assert weights(one) == weights(other) != weights(third)
    assert scales(one) == scales(other) != scales(third)


def test_a_second_run_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that was left is tried again, with the same steps to train although others are done."""
    tried: list[set[str]] = []
    fit = block_fit.fit_block

    def spoilt(piece: Graph, found: Any, names: Any, *rest: Any) -> Chosen:
        chosen = fit(piece, found, names, *rest)
        if len(found) > 1:
            return chosen
        tried.append(set(names))
        return Chosen({n: np.zeros_like(i) for n, i in chosen.integers.items()}, {})

    monkeypatch.setattr(block_fit, "fit_block", spoilt)
    graph = network()
    insert, mend = rounding(images(graph))
    result = Pipeline([insert, mend, mend]).run(graph, strict=True).results[-1]
    assert result.status == "unchanged"
    refused = {n.where: n.what for n in result.refusals}
    assert refused["Conv_a"] == refused["Conv_c"] == "its weight is on its grid already"
    assert "no integers found are better" in refused["Conv_y"]
    once, again = tried
    assert once == again


def test_a_block_that_got_worse_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The residual block is given nonsense; the others are trained as ever."""
    fit = block_fit.fit_block

    def spoilt(piece: Graph, found: Any, *rest: Any) -> Chosen:
        chosen = fit(piece, found, *rest)
        if len(found) < 2:
            return chosen
        return Chosen(
            {n: np.zeros_like(i) for n, i in chosen.integers.items()},
            {n: np.asarray(s * 4) for n, s in chosen.scales.items()},
        )

    graph = network()
    monkeypatch.setattr(block_fit, "fit_block", spoilt)
    outcome = mended(graph)
    (note,) = outcome.results[-1].refusals
    assert " .. " in note.where
    assert "no integers found are better than the nearest on other images" in note.what
    assert len(outcome.results[-1].rewrites) == 1
    before = {p.source.name: p for p in pairs(nearest(graph))}
    after = {p.source.name: p for p in pairs(outcome.graph)}
    for name in ("w", "v", "r", "e"):
        np.testing.assert_array_equal(before[name].grid.scale, after[name].grid.scale)
        if before[name].is_weight:
            np.testing.assert_array_equal(before[name].source.values, after[name].source.values)


def test_the_error_is_that_of_images_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every eighth batch; one of the last where there are fewer, and all of one."""
    seen: list[list[float]] = []
    fit = block_fit.fit_block

    def watched(piece: Graph, found: Any, names: Any, batches: Any, *rest: Any) -> Chosen:
        seen.append(sorted({float(b.wanted.max()) for b in batches}))
        return fit(piece, found, names, batches, *rest)

    monkeypatch.setattr(block_fit, "fit_block", watched)
    graph = network(
        "(float[N,2,3,3] x) => (float[N,1,3,3] y) <float[1,2,1,1] w> { y = Conv (x, w) }"
    )
    graph.nodes[0].inputs[1].values = np.array([[[[0.35]], [[0.65]]]], np.float32)
    for count, shown in ((17, 15), (8, 7), (2, 1), (1, 1)):
        data = [np.full((2, 2, 3, 3), k + 1, np.float32) for k in range(count)]
        mended(graph, data, iterations=1)
        assert len(seen[-1]) == shown
        if count == 17:
            assert not {8.0, 16.0} & {round(v) for v in seen[-1]}


def test_dead_channels_constant_images_and_one_image() -> None:
    graph = network()
    first = next(nodes_of(graph, "Conv"))
    weight = first.inputs[1].values.copy()
    weight[2] = 0
    first.inputs[1].values = weight
    zeros = [np.zeros((2, 4, 7, 7), np.float32)]
    for data in (zeros, images(graph)[:1], [images(graph)[0][:1]]):
        outcome = mended(graph, data, iterations=20)
        for pair in pairs(outcome.graph):
            assert np.isfinite(pair.grid.scale).all()
            assert not pair.is_weight or np.isfinite(pair.source.values).all()


def test_a_fixed_batch_is_taken_as_a_whole() -> None:
    graph = network(RESIDUAL.replace("float[N,4,7,7]", "float[3,4,7,7]"))
    outcome = mended(graph)
    assert decibels(outcome.graph, graph) > decibels(nearest(graph), graph) + 2


def test_batches_of_different_sizes_and_images() -> None:
    graph = network(RESIDUAL.replace("float[N,4,7,7]", "float[N,4,H,W]"))
    rng = np.random.default_rng(0)
    data = [rng.random((2, 4, 5 + k % 3, 6)).astype(np.float32) for k in range(9)]
    outcome = mended(graph, data)
    assert outcome.results[-1].rewrites[0].where == "Conv_a .. Conv_c"


# --- what is left -----------------------------------------------------------------------------


def test_a_weight_two_blocks_share_is_left() -> None:
    text = """(float[N,4,5,5] x) => (float[N,4,5,5] y) <float[4,4,1,1] w, float[4] b, float[4,4,1,1] v>
        { a = Conv (x, w, b)  r = Relu (a)  c = Conv (r, v)  s = Relu (c)  y = Conv (s, w) }"""
    result = mended(network(text)).results[-1]
    assert [n.what for n in result.refusals] == ["several blocks share its weight"] * 2
    assert len(result.rewrites) == 1


def test_a_weight_a_block_reads_twice_is_fitted_to_both() -> None:
    text = """(float[N,4,5,5] x) => (float[N,4,5,5] y) <float[4,4,1,1] w, float[4] b>
        { a = Conv (x, w, b)  r = Relu (a)  c = Conv (r, w)  y = Add (c, x) }"""
    outcome = mended(network(text))
    first, second = nodes_of(outcome.graph, "Conv")
    assert first.inputs[1] is second.inputs[1]
    assert len(outcome.results[-1].rewrites) == 1


def test_who_else_reads_the_weight_keeps_it() -> None:
    graph = network(
        "(float[N,16] x) => (float[N,4] y, float[16,4] z) <float[16,4] w> { y = Gemm (x, w)  z = Neg (w) }"
    )
    outcome = mended(graph)
    assert outcome.results[-1].rewrites
    (neg,) = nodes_of(outcome.graph, "Neg")
    np.testing.assert_array_equal(neg.inputs[0].values, graph.nodes[0].inputs[1].values)


def test_what_has_no_gradients_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from graphopt.errors import UnsupportedError

    def refuse(graph: Graph) -> None:
        raise UnsupportedError(f"no differentiable view of {len(graph.nodes)} nodes")

    monkeypatch.setattr(block_fit, "to_fx", refuse)
    result = mended(network()).results[-1]
    assert not result.rewrites
    assert len(result.refusals) == 2
    assert all("no differentiable view" in n.what for n in result.refusals)


def test_what_is_missing_is_said() -> None:
    graph = network()
    with pytest.raises(UsageError, match="data=FOLDER"):
        Pipeline([rounding(images(graph))[0], pass_class("reconstruct")()]).run(graph)
    with pytest.raises(UsageError, match="reconstruct must run before quantize-constants"):
        Pipeline(parse_passes("quantize-constants, reconstruct"))


def test_a_float_network_is_no_candidate() -> None:
    mend = pass_class("reconstruct").with_options({"data": images(network())})
    assert Pipeline([mend]).run(network(), strict=True).results[0].status == "unchanged"


def test_as_one_of_several_repairs() -> None:
    graph = network()
    passes = quantizing(images(graph), repair="equalize,reconstruct,bias", images=7, **ALL)
    names = [p.name for p in passes]
    assert names == [
        *("equalize", "insert-fake-quant", "reconstruct", "correct-bias", "quantize-constants"),
    ]
    assert getattr(passes[2], "images", None) == 7
    passes[2] = dataclasses.replace(passes[2], **FEW)
    outcome = Pipeline(passes).run(graph, strict=True)
    assert outcome.results[2].rewrites
    assert decibels(outcome.graph, graph) > decibels(nearest(graph), graph) + 3


# --- what of an output counts -----------------------------------------------------------------


def test_importance_is_the_mean_squared_gradient_of_the_outputs() -> None:
    """y = 3 t_0 + 0 t_1 + t_2: of its square the gradients are 9, 0 and 1, in units of their mean."""
    graph = network(
        "(float[N,3] x) => (float[N,1] y) <float[3,3] w, float[3,1] v>"
        " { t = MatMul (x, w)  y = MatMul (t, v) }"
    )
    graph.nodes[1].inputs[1].values = np.array([[3], [0], [1]], np.float32)
    found = importances(graph, {"t": 1}, [{"x": b} for b in (np.ones((2, 3), np.float32),) * 3], 0)
    np.testing.assert_allclose(found["t"], [[2.7, 0.0, 0.3]], rtol=1e-5)


def test_what_the_outputs_do_not_see_is_not_learnt() -> None:
    """Two channels of the first block's result; what follows reads only one of them."""
    text = """(float[N,2,4,4] x) => (float[N,1,4,4] y)
        <float[2,2,1,1] w, float[1,2,1,1] v> { a = Conv (x, w)  r = Relu (a)  y = Conv (r, v) }"""
    graph = network(text)
    list(nodes_of(graph, "Conv"))[1].inputs[1].values = np.array([[[[1]], [[0]]]], np.float32)
    found = importances(graph, {"r": 1}, [{"x": b} for b in images(graph)], 0)["r"]
    assert not found[:, 1].any()
    assert found[:, 0].mean() == pytest.approx(2)
    assert open_graph(graph).run({"x": images(graph)[0]})["y"].any()


def test_channels_that_have_become_positions_may_differ_in_number() -> None:
    text = """(float[N,2,L] x) => (float[N,L,2] y) <float[2,2] w>
        { t = Transpose <perm = [0,2,1]> (x)  a = MatMul (t, w)  y = Relu (a) }"""
    batches = [{"x": np.ones((1, 2, size), np.float32)} for size in (3, 5)]
    found = importances(network(text), {"a": 1}, batches, 0)
    assert found["a"].shape == (1, 3, 1)


def given_importance(monkeypatch: pytest.MonkeyPatch, **options: Any) -> Any:
    """The shape of what counts of the residual block's result when it is trained."""
    seen: list[Any] = []
    fit = block_fit.fit_block

    def watched(*arguments: Any) -> Chosen:
        seen.append(arguments[4])
        return fit(*arguments)

    monkeypatch.setattr(block_fit, "fit_block", watched)
    mended(network(), iterations=1, **options)
    return None if seen[0] is None else seen[0].shape


def test_importance_is_used_where_it_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert given_importance(monkeypatch) is None
    assert given_importance(monkeypatch, fisher=True) == (1, 4, 1, 1)
    for shape in ((1, 3, 1, 1), (1, 4), (1, 4, 6, 1)):
        found = {"e": np.ones(shape, np.float32)}
        monkeypatch.setattr(block_fit, "importances", lambda *_, found=found: found)
        assert given_importance(monkeypatch, fisher=True) is None


@pytest.mark.parametrize("name", ["mlperf_tiny_resnet8_bn"])
def test_real_models(name: str, assets: Path) -> None:
    graph, calibration, others = cifar(name, assets)
    settings = {"data": calibration, "cache": False, "weight": "int4", "floor": 0}
    insert = pass_class("insert-fake-quant").with_options(settings)
    few = {"data": calibration, "iterations": 100, "positions": 512}
    mend = pass_class("reconstruct").with_options(few)
    before = Pipeline([insert]).run(graph, strict=True).graph
    after = Pipeline([insert, mend]).run(graph, strict=True).graph
    assert kept(after, graph, others) > kept(before, graph, others) + 5
