"""qat: a rounded network learns through its rounding, and what comes out is what was simulated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import graph_from
from torch.nn import functional

from graphopt.errors import UnsupportedError, UsageError
from graphopt.frontends.onnx_file import load
from graphopt.fx import tap, to_fx
from graphopt.ir.graph import Constant, Graph
from graphopt.passes.distill.recovery import freed
from graphopt.passes.quantize.insert_fake_quant import InsertFakeQuant
from graphopt.passes.quantize.learn import (
    LearnedGrid,
    ObservedGrid,
    Timing,
    grids_of,
    learn_grids,
    write_back,
)
from graphopt.passes.quantize.learn.units import units_of
from graphopt.passes.quantize.pairs import pairs
from graphopt.passes.quantize.qat import Qat
from graphopt.passes.quantize.quantize_constants import QuantizeConstants
from graphopt.pipeline import Outcome, Pipeline
from graphopt.registry import default_passes, parse_passes
from graphopt.runtime.run import open_graph
from graphopt.training import Moment, Recipe, Task, Trainer

Array = np.ndarray[Any, Any]

NETWORK = """(float[1,3,8,8] x) => (float[1,6] y)
    <float[16,3,3,3] w1, float[16] b1, float[16,16,3,3] w2, float[16] b2,
     float[16,16,3,3] w3, float[16] b3, float[6,16] f, float[6] b4>
    { c1 = Conv <pads = [1,1,1,1]> (x, w1, b1)  r1 = Relu (c1)
      p1 = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r1)
      c2 = Conv <pads = [1,1,1,1]> (p1, w2, b2)  a = Add (c2, p1)  r2 = Relu (a)
      c3 = Conv <pads = [1,1,1,1]> (r2, w3, b3)  s3 = Sigmoid (c3)
      p = GlobalAveragePool (s3)  q = Flatten (p)  y = Gemm <transB = 1> (q, f, b4) }"""
SAMPLES = np.random.default_rng(0).standard_normal((64, 3, 8, 8)).astype(np.float32)
RECIPE = "batch=16 workers=0 augment=none"


def network() -> Graph:
    graph = graph_from(NETWORK, opset=21)
    for tensor in graph.tensors().values():
        if isinstance(tensor, Constant) and tensor.name in ("w1", "w2", "w3", "f"):
            tensor.values = 3 * tensor.values
    return graph


def rounded(graph: Graph | None = None, **options: Any) -> Graph:
    """The network with every product on 4-bit weights and 8-bit activations, if nothing else is asked for."""
    settings = {"data": [s[None] for s in SAMPLES[:16]], "floor": 0, "cache": False}
    settings |= {"weight": "int4", "first": True, "last": True, **options}
    each = InsertFakeQuant(**settings)
    return Pipeline([each]).run(graph or network(), strict=True).graph


def trained(graph: Graph, *more: Any, **options: Any) -> Outcome:
    settings = {"data": [SAMPLES], "epochs": 8, "recipe": RECIPE, "device": "cpu", **options}
    return Pipeline([Qat(**settings), *more]).run(graph, strict=True)


def outputs(graph: Graph, samples: Array = SAMPLES) -> Array:
    runner = open_graph(graph, threads=1)
    return np.concatenate([runner.run({"x": s[None]})["y"] for s in samples])


def gap(graph: Graph, teacher: Graph) -> float:
    expected = outputs(teacher)
    return float(np.square(outputs(graph) - expected).mean() / expected.var())


def constants(graph: Graph) -> dict[str, Array]:
    return {t.name: t.values for t in graph.tensors().values() if isinstance(t, Constant)}


def stirred(graph: Graph, *, lr: float = 0.02, steps: int = 12, **options: Any) -> Any:
    """A view after some steps towards other outputs, large enough to move everything."""
    torch.manual_seed(0)
    view = to_fx(graph)
    x, wanted = torch.from_numpy(SAMPLES[:1]), torch.randn(1, 6)
    learn_grids(view, graph, x, **options)
    optimizer = torch.optim.Adam(view.train().parameters(), lr=lr)
    for k in range(steps):
        optimizer.zero_grad()
        (view(torch.from_numpy(SAMPLES[k : k + 1])) - wanted).square().mean().backward()
        optimizer.step()
    return view.eval()


def grow(view: Any, factor: float) -> None:
    """Every weight and bias times a factor."""
    with torch.no_grad():
        for name, parameter in view.named_parameters():
            if name.endswith("share"):
                parameter.mul_(factor)


def lowest(graph: Graph) -> int:
    """The smallest integer any weight is rounded to."""
    found = []
    for pair in pairs(graph):
        if pair.is_weight:
            scale = pair.grid.scale.reshape(-1, *[1] * (pair.source.values.ndim - 1))
            found.append(int(np.rint(pair.source.values / scale).min()))
    return min(found)


def run(view: Any, samples: Array = SAMPLES) -> Array:
    with torch.no_grad():
        return np.concatenate([view(torch.from_numpy(s[None])).numpy() for s in samples])


# --- what comes out is what was simulated -----------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target": "a57", "slower": "keep"},
        {"target": "tensorrt", "weight": "int8"},
        {"power_of_two": True},
        {"activation": "uint16", "weight": "int16"},
    ],
    ids=str,
)
def test_the_graph_computes_what_the_view_does(options: dict[str, Any]) -> None:
    graph = rounded(**options)
    by_whole_powers = "power_of_two" in options
    view = stirred(graph, offsets=True, lr=0.1 if by_whole_powers else 0.02)
    changed = write_back(view, graph)
    scales = {p.quantize.inputs[1].name for p in pairs(graph)}
    assert {"w1", "b1", "w2", "b2", "w3", "b3", "f", "b4"} <= set(changed)
    assert scales & set(changed) if by_whole_powers else scales <= set(changed)
    step = min(float(p.grid.scale) for p in pairs(graph) if p.result.name == "y")
    apart = np.abs(run(view) - outputs(graph)) / step
    # Sums in another order that meet a half are a step off, and few are.
    assert apart.max() < 1.01
    assert (apart > 1e-3).mean() < 0.02
    assert (outputs(graph) != outputs(rounded(**options))).any()


def test_the_integers_are_those_of_the_view() -> None:
    graph = rounded()
    view = stirred(graph, lr=0.05)
    write_back(view, graph)
    names = {p.source.name: p.quantize.outputs[0].name for p in pairs(graph) if p.is_weight}
    with torch.no_grad():
        _, steps = tap(view, list(names.values()))(torch.from_numpy(SAMPLES[:1]))
    stored = constants(Pipeline([QuantizeConstants()]).run(graph, strict=True).graph)
    assert sorted(names) == ["f", "w1", "w2", "w3"]
    for weight, name in names.items():
        found = stored[f"{weight}_int"].astype(np.int64)
        np.testing.assert_array_equal(found, steps[name].numpy().astype(np.int64))
        assert found.min() >= -7  # narrow
    first = constants(Pipeline([QuantizeConstants()]).run(rounded(), strict=True).graph)
    assert (first["w2_int"] != stored["w2_int"]).mean() > 0.1


def test_weights_that_outgrow_their_grid_stay_narrow() -> None:
    graph = rounded()
    view = to_fx(graph)
    learn_grids(view, graph, torch.from_numpy(SAMPLES[:1]))
    grow(view, 1.7)
    write_back(view, graph)
    assert lowest(graph) == -7
    np.testing.assert_allclose(run(view), outputs(graph), atol=1e-5)


@pytest.mark.parametrize("scales", ["learned", "observed", "fixed"])
def test_what_nobody_trained_comes_back_bit_for_bit(scales: str) -> None:
    graph = rounded()
    before = constants(graph)
    view = to_fx(graph)
    plain = run(view)
    learn_grids(view, graph, torch.from_numpy(SAMPLES[:2]), scales=scales, offsets=True, gated=True)
    np.testing.assert_array_equal(run(view), plain)
    assert write_back(view, graph) == []
    assert all(constants(graph)[n] is v for n, v in before.items())


# --- scales -----------------------------------------------------------------------------------


def test_a_step_on_a_scale_is_that_of_learned_step_sizes() -> None:
    """ds = -lr g (s q)^2 dL/ds with g = 1 / sqrt(N q): LSQ where ranges are 1."""
    graph = rounded(weight="int8")
    plain = to_fx(graph, trainable=["*_scale"])
    x = torch.from_numpy(SAMPLES[:4])
    plain(x).square().mean().backward()
    view = to_fx(graph)
    learn_grids(view, graph, x)
    view(x).square().mean().backward()
    sizes = {"w2": 16 * 9, "r2": 16 * 16, "x": 3 * 64}
    grids = grids_of(view)
    before = {n: g.scale.detach().clone() for n, g in grids.items()}
    torch.optim.SGD(view.parameters(), lr=1e-7).step()
    compared = [p for p in pairs(graph) if p.source.name in sizes]
    assert len(compared) == len(sizes)
    for pair in compared:
        name, source = pair.quantize.inputs[1].name, pair.source.name
        s, q = before[name].double(), pair.grid.high
        moved = (grids[name].exponent.detach().double() * np.log(2)) * s
        gradient = dict(plain.named_parameters())[name].grad.double()
        expected = -1e-7 * gradient * (s * q) ** 2 / np.sqrt(sizes[source] * q)
        torch.testing.assert_close(moved, expected, rtol=1e-3, atol=0)


def test_scales_that_are_shared_stay_shared() -> None:
    graph = rounded()
    on = lambda g: [p.quantize.inputs[1] for p in pairs(g)]  # noqa: E731
    before = on(graph)
    assert len({t.name for t in before}) < len(before)  # the pooling passes its grid on
    write_back(stirred(graph), graph)
    assert [t.name for t in on(graph)] == [t.name for t in before]
    assert len({id(t) for t in on(graph)}) == len({t.name for t in before})


def test_powers_of_two_stay_powers_of_two() -> None:
    graph = rounded(power_of_two=True)
    before = constants(graph)
    write_back(stirred(graph, lr=0.3, steps=4), graph)
    scales = [constants(graph)[p.quantize.inputs[1].name] for p in pairs(graph)]
    assert all((np.frexp(s)[0] == 0.5).all() for s in scales)
    names = {p.quantize.inputs[1].name for p in pairs(graph)}
    assert any((constants(graph)[n] != before[n]).any() for n in names)


def test_zero_points_learn_where_the_target_has_any() -> None:
    graph = rounded()
    before = constants(graph)
    write_back(stirred(graph, offsets=True, lr=0.05), graph)
    zeros = {p.quantize.inputs[2].name for p in pairs(graph) if not p.is_weight}
    assert any((constants(graph)[n] != before[n]).any() for n in zeros)
    assert all(constants(graph)[n].dtype == np.uint8 for n in zeros)  # whole: 0 stays exact
    symmetric = rounded(target="tensorrt", weight="int8")
    write_back(stirred(symmetric, offsets=True, lr=0.05), symmetric)
    zeros = {p.quantize.inputs[2].name for p in pairs(symmetric)}
    assert not any(constants(symmetric)[n].any() for n in zeros)


def test_the_gradient_of_an_offset_is_that_of_the_zero_point_in_ranges() -> None:
    graph = rounded()
    view = to_fx(graph)
    x = torch.from_numpy(SAMPLES[:2])
    learn_grids(view, graph, x, offsets=True)
    name = next(p for p in pairs(graph) if p.source.name == "x").quantize.inputs[1].name
    grid = grids_of(view)[name]
    assert isinstance(grid, LearnedGrid)
    _, zero = grid()
    zero.backward(torch.tensor(2.0))
    assert float(grid.offset.grad) == pytest.approx(2 * 255 / np.sqrt(3 * 64 * 255))
    grid.offset.grad = None
    with torch.no_grad():
        grid.offset.fill_(-2.0)
    _, zero = grid()
    assert float(zero.detach()) == 0
    zero.backward(torch.tensor(2.0))  # which would lead further down
    assert float(grid.offset.grad) == 0


def test_observed_ranges_are_moving_averages_until_they_freeze() -> None:
    graph = rounded(weight="int8")
    view = to_fx(graph)
    x = torch.from_numpy(3 * SAMPLES[:8])
    learn_grids(view, graph, x, scales="observed")
    timing = Timing(view, graph, freeze=0.5, momentum=0.25)
    name = next(p for p in pairs(graph) if p.source.name == "x").quantize.inputs[1].name
    grid = grids_of(view)[name]
    assert isinstance(grid, ObservedGrid)
    low, high = float(grid.low), float(grid.high)
    view.train()
    timing.before_step(view, Moment(0, 2, 2, 0.0))
    view(x)
    timing.after_step(view, Moment(0, 2, 2, 0.0))
    low, high = (0.75 * a + 0.25 * float(b) for a, b in ((low, x.min()), (high, x.max())))
    assert float(grid.scale) == pytest.approx((high - low) / 255, rel=1e-5)
    assert float(grid.zero) == round(-low / float(grid.scale))
    scale = grid.scale.clone()
    timing.before_step(view, Moment(1, 2, 2, 0.0))
    view(10 * x)
    timing.after_step(view, Moment(1, 2, 2, 0.0))
    assert float(grid.scale) == float(scale)


def test_observed_scales_cover_weights_as_they_grow() -> None:
    graph = rounded(weight="int8")
    view = to_fx(graph)
    learn_grids(view, graph, torch.from_numpy(SAMPLES[:1]), scales="observed")
    timing = Timing(view, graph, freeze=0.5)
    for step in range(2):  # the second is behind the freeze
        grow(view, 1.5 if step == 0 else 1.2)
        timing.after_step(view, Moment(step, 2, 2, 0.0))
    grow(view, 1 / 1.2)
    write_back(view, graph)
    pair = next(p for p in pairs(graph) if p.source.name == "w2")
    top = np.abs(pair.source.values).max(axis=(1, 2, 3))
    np.testing.assert_allclose(pair.grid.scale * 127, top, rtol=1e-5)


# --- when -------------------------------------------------------------------------------------


def test_activations_are_rounded_after_the_delay_and_always_outside_of_training() -> None:
    graph = rounded(weight="int16", activation="uint4")
    view = to_fx(graph)
    x = torch.from_numpy(SAMPLES[:1])
    learn_grids(view, graph, x, gated=True)
    timing = Timing(view, graph, delay=0.5)
    expected, exact = torch.from_numpy(outputs(graph, SAMPLES[:1])), network()
    timing.before_step(view, Moment(0, 4, 4, 0.0))
    found = view.train()(x).detach().numpy()
    np.testing.assert_allclose(found, outputs(exact, SAMPLES[:1]), atol=2e-3)  # 16-bit weights
    torch.testing.assert_close(view.eval()(x), expected)
    timing.before_step(view, Moment(2, 4, 4, 0.0))
    torch.testing.assert_close(view.train()(x), expected)
    assert np.abs(found - expected.numpy()).max() > 0.02


def test_frozen_scales_stay() -> None:
    graph = rounded()
    outcome = trained(graph, freeze=0.0, epochs=1)
    names = {p.quantize.inputs[1].name for p in pairs(graph)}
    before, after = constants(graph), constants(outcome.graph)
    assert all(after[n].tobytes() == before[n].tobytes() for n in names)
    assert outcome.results[0].facts["training"]["rows"][-1]["scales moved"] == 0
    moved = constants(trained(graph, epochs=1).graph)
    assert all(moved[n].tobytes() != before[n].tobytes() for n in names)


# --- the pass ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"offsets": "learned"},
        {"scales": "observed"},
        {"scales": "fixed", "delay": 0.2},
        {"recipe": f"{RECIPE} optimizer=sgd lr=0.003"},
        {"recipe": f"{RECIPE} ema=0.9"},
    ],
    ids=str,
)
def test_wins_back_what_rounding_lost(options: dict[str, Any]) -> None:
    graph = network()
    before = rounded(graph)
    outcome = trained(before, QuantizeConstants(), teacher=graph, epochs=24, **options)
    assert gap(outcome.graph, graph) < gap(before, graph) / 2
    assert outcome.graph.inputs[0].shape[0] == 1  # trained in batches, still fixed to one image
    assert "trained 96 steps on" in outcome.results[0].rewrites[0].what
    assert {n.op for n in outcome.graph.nodes} >= {"QuantizeLinear", "DequantizeLinear"}


def test_a_run_rounds_when_it_is_told_to_and_leaves_weights_narrow() -> None:
    options = {"epochs": 2, "recipe": f"{RECIPE} lr=0.05"}
    always, never = (
        trained(rounded(), **options).graph,
        trained(rounded(), delay=1.0, **options).graph,
    )
    assert (outputs(always) != outputs(never)).any()
    assert lowest(always) == lowest(never) == -7


def test_the_teacher_is_the_network_before_it_was_rounded() -> None:
    graph = network()
    settings = {"data": [s[None] for s in SAMPLES[:16]], "floor": 0, "cache": False}
    first = InsertFakeQuant(**settings, weight="int4", first=True, last=True)
    second = Qat(data=[SAMPLES], recipe=RECIPE, device="cpu", epochs=2)
    together = Pipeline([first, second]).run(graph, strict=True).graph
    alone = trained(rounded(graph), epochs=2).graph  # which takes the rounding out for its teacher
    named = trained(rounded(graph), epochs=2, teacher=graph).graph
    for other in (alone, named):
        np.testing.assert_array_equal(outputs(together), outputs(other))


def test_repeats_itself_and_goes_on_in_its_folder(tmp_path: Path) -> None:
    seen: list[float] = []

    def evaluate(graph: Graph) -> dict[str, float]:
        seen.append(gap(graph, network()))
        if len(seen) == 2:
            raise KeyboardInterrupt
        return {"gap": seen[-1]}

    options = {"epochs": 3, "offsets": "learned", "recipe": f"{RECIPE} save-every=1"}
    whole = trained(rounded(), **options).graph
    with pytest.raises(KeyboardInterrupt):
        trained(rounded(), folder=str(tmp_path), evaluate=evaluate, **options)
    resumed = trained(rounded(), folder=str(tmp_path), **options).graph
    for name, values in constants(whole).items():
        assert constants(resumed)[name].tobytes() == values.tobytes()
    assert seen[0] > 0


def test_an_observed_run_goes_on_as_well(tmp_path: Path) -> None:
    def stop(_: Graph) -> dict[str, float]:
        raise KeyboardInterrupt

    options = {"epochs": 2, "scales": "observed", "freeze": 0.9, "delay": 0.3}
    options |= {"recipe": f"{RECIPE} save-every=1"}
    whole = trained(rounded(), **options).graph
    with pytest.raises(KeyboardInterrupt):
        trained(rounded(), folder=str(tmp_path), evaluate=stop, **options)
    resumed = trained(rounded(), folder=str(tmp_path), **options).graph
    for name, values in constants(whole).items():
        assert constants(resumed)[name].tobytes() == values.tobytes()


def test_a_loss_of_ones_own() -> None:
    graph = rounded()
    labels = (SAMPLES.mean((1, 2, 3)) > 0).astype(np.int64)

    class Labelled:
        def __len__(self) -> int:
            return len(SAMPLES)

        def __getitem__(self, index: int, /) -> dict[str, Any]:
            return {"x": SAMPLES[index], "label": labels[index]}

    student = freed(graph)
    view = to_fx(student)
    learn_grids(view, student, torch.from_numpy(SAMPLES[:2]))
    recipe = Recipe(epochs=10, batch=16, optimizer="adamw", workers=0, augment="none", lr=2e-3)
    task, names = Task(functional.cross_entropy), ["x", "label"]
    timing = Timing(view, student, freeze=0.8)
    Trainer(view, task, Labelled(), names, recipe, hooks=[timing], device="cpu").run()
    before = (outputs(graph).argmax(1) == labels).mean()
    write_back(view, graph)
    assert (outputs(graph).argmax(1) == labels).mean() > before + 0.1


def test_units_are_powers_of_two_that_cover_a_channel() -> None:
    values = torch.tensor([[0.3, -0.5], [3.0, 1e-3], [0.0, 0.0], [1e-9, 0.0]])
    units = units_of(values, 0)
    assert units.tolist() == [[0.5], [4.0], [2.0**-14], [2.0**-14]]
    assert units_of(values, None).tolist() == [[4.0]]
    assert units_of(torch.zeros(3), None).tolist() == [1.0]


# --- what cannot be ---------------------------------------------------------------------------


def test_what_is_missing_is_said() -> None:
    graph = rounded()
    with pytest.raises(UsageError, match="qat trains on images: give data=FOLDER"):
        Pipeline([Qat()]).run(graph)
    for options, message in (
        ({"scales": "learnt"}, "no way of qat's scales is called 'learnt'; did you mean learned"),
        ({"offsets": "observed"}, "no way of qat's offsets is called 'observed'"),
        ({"delay": 2.0}, "qat: delay=2.0 is not between 0 and 1"),
        ({"scales": "observed", "recipe": "ema=0.9"}, "ema would average observed ranges"),
    ):
        with pytest.raises(UsageError, match=message):
            trained(graph, **options)
    with pytest.raises(UsageError, match="nothing is rounded in this graph"):
        learn_grids(to_fx(network()), network(), torch.zeros(1, 3, 8, 8))


def test_a_graph_without_weights_to_train_is_left_alone() -> None:
    stored = Pipeline([QuantizeConstants()]).run(rounded(), strict=True).graph
    for graph, reason in (
        (network(), "nothing is rounded"),
        (stored, "stored as integers already"),
    ):
        outcome = Pipeline([Qat(data=[SAMPLES], recipe=RECIPE)]).run(graph, strict=True)
        assert outcome.results[0].status == "unchanged"
        assert reason in outcome.results[0].refusals[0].what


def test_a_network_without_derivatives_is_refused_by_name() -> None:
    text = "m = MatMul (x, w)  n = RandomNormalLike (m)  y = Add (m, n)"
    graph = graph_from(f"(float[1,4] x) => (float[1,4] y) <float[4,4] w> {{ {text} }}")
    data = np.ones((8, 4), np.float32)
    insert = InsertFakeQuant(
        data=[d[None] for d in data], first=True, last=True, floor=0, cache=False
    )
    graph = Pipeline([insert]).run(graph, strict=True).graph
    with pytest.raises(UnsupportedError, match="RandomNormalLike"):
        Pipeline([Qat(data=[data], recipe="batch=2 workers=0")]).run(graph, strict=True)


def test_order() -> None:
    with pytest.raises(UsageError, match="qat must run before quantize-constants"):
        Pipeline(parse_passes("quantize-constants, qat"))
    with pytest.raises(UsageError, match="qat must run after insert-fake-quant"):
        Pipeline(parse_passes("qat, insert-fake-quant"))


# --- a real network ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_real_network_on_4_bits_comes_back(assets: Path) -> None:
    """ResNet-8 of MLPerf Tiny: 75 % in float, 61 % with 4-bit weights, 75 % after one epoch without labels."""
    held = np.load(assets / "data/cifar10/cifar10_jpeg_subset.npz")
    order = np.random.default_rng(0).permutation(len(held["x_train"]))[:4096]
    images = held["x_train"][order].transpose(0, 3, 1, 2).astype(np.float32)
    tested = held["x_test"].transpose(0, 3, 1, 2).astype(np.float32)

    def top1(graph: Graph) -> float:
        runner, name = open_graph(graph, optimized=True), graph.inputs[0].name
        parts = [runner.run({name: tested[i : i + 500]}) for i in range(0, len(tested), 500)]
        found = np.concatenate([next(iter(p.values())) for p in parts]).argmax(1)
        return 100 * float((found == held["y_test"]).mean())

    graph = load(assets / "models" / "mlperf_tiny_resnet8_bn.onnx")
    graph.opset = 21
    exact = Pipeline(default_passes()).run(graph, strict=True).graph
    insert = InsertFakeQuant(data=[images[:128]], weight="int4", floor=0)
    learn = Qat(data=[images], epochs=1, recipe="workers=0", device="cpu")
    before = Pipeline([insert, QuantizeConstants()]).run(exact, strict=True).graph
    after = Pipeline([insert, learn, QuantizeConstants()]).run(exact, strict=True).graph
    assert top1(before) < top1(exact) - 8
    assert top1(after) > top1(exact) - 1
