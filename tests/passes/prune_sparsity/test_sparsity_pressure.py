"""What is added to gradients: on which channels, how much, and that precision does not change it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import graph_from
from sparsity_networks import PLAIN, RESIDUAL, gradient, images, pressure, train
from torch import Tensor, nn

from graphopt.channels.groups import Channels
from graphopt.errors import UsageError
from graphopt.frontends import from_torch
from graphopt.fx import to_fx
from graphopt.fx.build import origin
from graphopt.passes.prune.sparsity import GammaSparsity, GroupLasso
from graphopt.training import Hook, Moment


def norms(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    found = nn.Sequential(*(nn.BatchNorm2d(w) for w in widths))
    for norm in found:
        nn.init.normal_(norm.weight)
    return found


# --- lone gammas ------------------------------------------------------------------------------


def test_a_lone_gamma_feels_the_sign() -> None:
    module = norms(4)
    gamma = module[0].weight
    with torch.no_grad():
        gamma.copy_(torch.tensor([0.5, -2.0, 0.0, 1e-12]))
    sparsity = GammaSparsity.for_module(module, s=0.25)
    torch.testing.assert_close(pressure(sparsity)[0], torch.tensor([0.25, -0.25, 0.0, 0.25]))


def test_it_is_added_to_what_is_there() -> None:
    module = norms(3)
    gamma = module[0].weight
    gamma.grad = torch.tensor([1.0, 2.0, 3.0])
    GammaSparsity.for_module(module, s=0.5).add(0.0)
    torch.testing.assert_close(gamma.grad, torch.tensor([1.0, 2.0, 3.0]) + 0.5 * gamma.sign())


def test_channels_are_ranked_over_all_layers_and_anew_in_every_step() -> None:
    module = norms(2, 2)
    sparsity = GammaSparsity.for_module(module, s=1.0, schedule="local-decay{top=0.25}")
    for largest in (1, 2, 0):
        sizes = torch.full((4,), 0.5)
        sizes[largest] = 0.6
        with torch.no_grad():
            module[0].weight.copy_(sizes[:2])
            module[1].weight.copy_(sizes[2:])
        expected = [0.01 if k == largest else 1.0 for k in range(4)]
        assert torch.cat(pressure(sparsity, 0.8)).tolist() == pytest.approx(expected)


def test_names_choose_layers_and_shared_gammas_count_once() -> None:
    module = norms(2, 3, 2)
    module[2].weight = module[0].weight
    assert GammaSparsity.for_module(module, s=1.0).units.count == 5
    assert GammaSparsity.for_module(module, s=1.0, names=["1"]).units.count == 3
    with pytest.raises(UsageError, match="no BatchNorm is called 'head"):
        GammaSparsity.for_module(module, s=1.0, names=["head.*"])
    with pytest.raises(UsageError, match="no BatchNorm is called 'head"):
        GammaSparsity.for_module(module, s=1.0, names=["*", "head.*"])


def test_wrappers_are_looked_through_and_a_users_own_module_is_none() -> None:
    inner = norms(2)
    wrapped = nn.DataParallel(inner)
    assert GammaSparsity.for_module(wrapped, s=1.0, names=["0"]).units.count == 2
    model = nn.Module()
    model.module, model.neck = inner, nn.BatchNorm2d(3)
    assert GammaSparsity.for_module(model, s=1.0).units.count == 5
    assert GammaSparsity.for_module(model, s=1.0, names=["module.*"]).units.count == 2


def test_without_a_gamma_it_says_what_to_do() -> None:
    for module in (nn.Conv2d(3, 4, 1), nn.BatchNorm2d(3, affine=False)):
        with pytest.raises(UsageError, match="insert-batchnorm"):
            GammaSparsity.for_module(module, s=1.0)
    for s in (-1.0, float("nan")):
        with pytest.raises(UsageError, match="not a finite number of at least 0"):
            GammaSparsity.for_module(norms(2), s=s)


# --- graphs -------------------------------------------------------------------------------------


def gammas(view: nn.Module) -> list[nn.Parameter]:
    """g0 to g3."""
    paths = [origin(view).path(f"g{k}") or "" for k in range(4)]
    return [view.get_parameter(path) for path in paths]


def test_coupled_gammas_share_their_pressure_and_others_stay_free() -> None:
    graph = graph_from(RESIDUAL)
    view = to_fx(graph)
    sparsity = GammaSparsity.for_graph(graph, view, s=0.3)
    assert sparsity.units.count == 6 + 4
    sparsity.add(0.0)
    first, second, lone, head = gammas(view)

    def lasso() -> Tensor:
        return 0.3 * 2**0.5 * (first.square() + second.square()).sqrt().sum()

    torch.testing.assert_close(first.grad, gradient(lasso, first))
    torch.testing.assert_close(second.grad, gradient(lasso, second))
    torch.testing.assert_close(lone.grad, 0.3 * lone.detach().sign())
    assert head.grad is None  # its channels are an output: nobody can remove them


def test_of_one_normalization_only_what_can_be_removed_is_pressed() -> None:
    graph = graph_from(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y, float[N,2,8,8] z)
        <float[8,3,1,1] w0, float[8] g0, float[8] b0, float[8] m0, float[8] var0, float[2,4,1,1] w1>
        { a = Conv (x, w0)  n = BatchNormalization (a, g0, b0, m0, var0)
          y, r = Split <axis = 1, num_outputs = 2> (n)  z = Conv (r, w1) }"""
    )
    sparsity = GammaSparsity.for_graph(graph, to_fx(graph), s=0.5)
    assert sparsity.units.count == 4
    signs = sparsity.units.slices[0].parameter.detach().sign()
    expected = torch.cat([torch.zeros(4), 0.5 * signs[4:]])
    torch.testing.assert_close(pressure(sparsity)[0], expected)


def test_a_graph_whose_shapes_are_computed_has_to_be_simplified_first() -> None:
    graph = graph_from(
        """(float[N,3,8,8] x) => (float[N,4,8,8] y)
        <float[8,3,1,1] w0, float[8] g0, float[8] b0, float[8] m0, float[8] var0, float[4,8,1,1] w1>
        { a = Conv (x, w0)  n = BatchNormalization (a, g0, b0, m0, var0)
          s = Shape (n)  f = ConstantOfShape (s)  r = Add (n, f)  y = Conv (r, w1) }"""
    )
    with pytest.raises(UsageError, match=r"Shape tells the size .* run the passes fold-shapes"):
        GammaSparsity.for_graph(graph, to_fx(graph), s=1.0)


def test_coupled_gammas_of_one_size_shrink_as_fast_as_lone_ones() -> None:
    graph = graph_from(RESIDUAL)
    view = to_fx(graph)
    for gamma in gammas(view):
        nn.init.constant_(gamma, -0.7)
    sparsity = GammaSparsity.for_graph(graph, view, s=0.3)
    for push in pressure(sparsity):
        torch.testing.assert_close(push, torch.full_like(push, -0.3))


def test_coupled_gammas_are_ranked_by_their_mean() -> None:
    graph = graph_from(RESIDUAL)
    view = to_fx(graph)
    first, second, lone, _ = gammas(view)
    with torch.no_grad():
        first.fill_(0.1)
        second.fill_(0.1)
        lone.fill_(0.4)
        first[2], second[2] = 0.9, 0.1  # mean 0.5: the largest of all, whatever the second says
        first[3], second[3] = 0.5, 0.2  # mean 0.35: not
    sparsity = GammaSparsity.for_graph(graph, view, s=1.0, schedule="local-decay{top=0.1}")
    torch.testing.assert_close(sparsity.units.sizes().max(), torch.tensor(0.5))
    sparsity.add(0.9)
    released = [g.grad.abs() < 0.02 for g in (first, second, lone)]
    assert [r.nonzero().flatten().tolist() for r in released] == [[2], [2], []]


def test_frozen_gammas_and_names() -> None:
    graph = graph_from(RESIDUAL)
    assert GammaSparsity.for_graph(graph, to_fx(graph), s=1.0, names=["g2"]).units.count == 4
    assert GammaSparsity.for_graph(graph, to_fx(graph, frozen=["g2"]), s=1.0).units.count == 6
    with pytest.raises(UsageError, match="no scale of removable channels is called 'g9'"):
        GammaSparsity.for_graph(graph, to_fx(graph), s=1.0, names=["g9"])
    plain = graph_from(PLAIN)
    with pytest.raises(UsageError, match="press the filters instead"):
        GammaSparsity.for_graph(plain, to_fx(plain), s=1.0)


# --- filters ------------------------------------------------------------------------------------


def test_group_lasso_is_the_gradient_of_its_norm() -> None:
    graph = graph_from(PLAIN)
    view = to_fx(graph)
    sparsity = GroupLasso.for_graph(graph, view, s=0.3)
    assert sparsity.units.count == 6 + 4
    sparsity.add(0.0)
    w0, w1, w2 = (view.get_parameter(n) for n in ("w0", "w1", "w2"))

    def coupled() -> Tensor:
        both = w0.square().sum((1, 2, 3)) + w1.square().sum((1, 2, 3))
        return 0.3 * 2**0.5 * both.sqrt().sum()

    torch.testing.assert_close(w0.grad, gradient(coupled, w0))
    torch.testing.assert_close(w1.grad, gradient(coupled, w1))
    alone = gradient(lambda: 0.3 * w2.square().sum((1, 2, 3)).sqrt().sum(), w2)
    torch.testing.assert_close(w2.grad, alone)
    assert view.get_parameter("w3").grad is None
    assert view.get_parameter("c0").grad is None


def test_group_lasso_finds_weights_that_are_turned() -> None:
    graph = graph_from(
        """(float[N,8] x) => (float[N,5] y) <float[6,8] w0, float[6,5] w1>
        { t = Transpose (w0)  a = MatMul (x, t)  r = Relu (a)  y = MatMul (r, w1) }"""
    )
    view = to_fx(graph, trainable=["w0", "w1"])
    GroupLasso.for_graph(graph, view, s=1.0).add(0.0)
    w0 = view.get_parameter("w0")
    torch.testing.assert_close(w0.grad, (w0 / w0.norm(dim=1, keepdim=True)).detach())


def test_group_lasso_zeroes_whole_filters() -> None:
    graph = graph_from(PLAIN)
    view, teacher = to_fx(graph), to_fx(graph)
    sparsity = GroupLasso.for_graph(graph, view, s=0.2)
    optimizer = torch.optim.SGD(view.parameters(), lr=0.02)
    x = torch.from_numpy(images())
    steps = 500
    for k in range(steps):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - k / steps)  # ever smaller swings around zero
        optimizer.zero_grad()
        (10 * (view(x) - teacher(x)).square().mean()).backward()
        sparsity.add(k / steps)
        optimizer.step()
    filters = [view.get_parameter(n).detach().flatten(1).norm(dim=1) for n in ("w0", "w1", "w2")]
    gone = [f < 0.01 for f in filters]
    assert 0 < sum(int(g.sum()) for g in gone) < 16  # whole filters, and not all
    assert all((f[~g] > 0.05).all() for f, g in zip(filters, gone, strict=True))
    assert torch.equal(gone[0], gone[1])  # what is coupled goes together


# --- modules ------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.n1, self.n2 = nn.BatchNorm2d(6), nn.BatchNorm2d(6)
        self.last, self.n3 = nn.Conv2d(6, 2, 1), nn.BatchNorm2d(2)

    def forward(self, x: Tensor) -> Tensor:
        first = torch.relu(self.n1(self.one(x)))
        found: Tensor = self.n3(self.last(first + self.n2(self.two(first))))
        return found


def test_a_module_with_the_analysis_of_its_graph_is_coupled() -> None:
    module = Block().eval()
    channels = Channels(from_torch(module, (torch.from_numpy(images(2)),)))
    assert GammaSparsity.for_module(module, s=1.0).units.count == 14
    sparsity = GammaSparsity.for_module(module, s=1.0, channels=channels)
    assert sparsity.units.count == 6
    sparsity.add(0.0)
    assert module.n1.weight.grad is not None
    assert module.n2.weight.grad is not None
    assert module.n3.weight.grad is None
    assert GroupLasso.for_module(module, channels, s=1.0).units.count == 6


def test_a_loop_of_ones_own() -> None:
    torch.manual_seed(0)
    model = Block()
    x = torch.from_numpy(images())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    sparsity = GammaSparsity.for_module(model, s=0.5, schedule="global-decay")
    rows = []
    for epoch in range(4):
        for k in range(8):
            optimizer.zero_grad()
            model(x).square().mean().backward()
            sparsity.add((epoch + k / 8) / 4)
            optimizer.step()
        rows.append(sparsity.end_epoch(epoch + 1))
    assert [set(r) for r in rows] == [{"|gamma|", "|gamma|<0.01"}] * 4
    assert rows[0]["|gamma|"] > rows[1]["|gamma|"]
    facts = sparsity.facts()
    assert facts["at"] == [0, 1, 2, 3, 4]
    assert [sum(counts) for counts in facts["epochs"]] == [14] * 5
    assert len(facts["edges"]) == len(facts["epochs"][0]) + 1
    assert facts["mean"][0] == 1.0


# --- precision and processes --------------------------------------------------------------------


class Around(Hook):
    """What another hook adds to a gradient."""

    def __init__(self, inner: GammaSparsity) -> None:
        self.inner, self.found = inner, []

    def after_backward(self, model: nn.Module, at: Moment) -> None:
        gamma = self.inner.units.slices[0].parameter
        before = gamma.grad.clone()
        self.inner.after_backward(model, at)
        self.found.append(((gamma.grad - before).clone(), 0.5 * gamma.detach().sign()))


@pytest.mark.parametrize("more", [{}, {"precision": "bf16"}, {"accumulate": 2}])
def test_the_pressure_is_the_same_in_any_precision_and_once_per_step(more: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = Block()
    around = Around(GammaSparsity.for_module(model, s=0.5))
    history = train(model, [around], **more)
    assert len(around.found) == history.steps == 8 // more.get("accumulate", 1)
    for added, expected in around.found:
        torch.testing.assert_close(added, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("unscaled", [True, False])
def test_scaled_gradients_have_to_be_unscaled_first(unscaled: bool) -> None:
    torch.manual_seed(0)
    model, x = Block(), torch.from_numpy(images())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sparsity = GammaSparsity.for_module(model, s=0.5)
    before = model.n1.weight.detach().clone()
    model.eval()(x).square().mean().backward()
    plain = model.n1.weight.grad.clone()
    optimizer.zero_grad()
    scaler.scale(model(x).square().mean()).backward()
    if unscaled:
        scaler.unscale_(optimizer)
    sparsity.add(0.0)
    scaler.step(optimizer)
    expected = before - plain - 0.5 * before.sign()
    same = torch.allclose(model.n1.weight.detach(), expected, rtol=1e-4)
    assert same == unscaled  # else s is divided by the scale
