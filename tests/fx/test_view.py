"""The FX view as a whole: names, parameters, training mode, taps, what it refuses."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from conftest import graph_from
from fx.checking import departure_of
from torch import nn

from graphopt.errors import GraphError, UnsupportedError, UsageError
from graphopt.frontends.normal_form import normalize
from graphopt.frontends.torch_module import to_onnx
from graphopt.fx import matching, tap, tensors, to_fx, write_back
from graphopt.ir.graph import Constant, Graph
from graphopt.zoo import build

SMALL = """(float[N,3,8,8] x) => (float[N,4] y, float[N,6,8,8] r)
    <float[6,3,3,3] w, float[6] g, float[6] b, float[6] m, float[6] var, float[4,6] f>
    { c = Conv <pads = [1,1,1,1]> (x, w)  n = BatchNormalization (c, g, b, m, var)  r = Relu (n)
      p = GlobalAveragePool (r)  q = Flatten (p)  y = Gemm <transB = 1> (q, f) }"""


def constants(graph: Graph) -> dict[str, np.ndarray]:
    return {t.name: t.values for t in graph.tensors().values() if isinstance(t, Constant)}


def exported(module: nn.Module, *shape: int) -> Graph:
    return normalize(to_onnx(module, torch.randn(2, *shape)))


def test_computes_the_same() -> None:
    assert departure_of(graph_from(SMALL)) <= 1


def test_parameters_carry_the_names_of_the_constants() -> None:
    view = to_fx(graph_from(SMALL))
    names = {n.rpartition(".")[2] for n, _ in view.named_parameters()}
    assert names == {"w", "f", "weight", "bias"}
    assert view.meta["graphopt"].path("var").endswith(".running_var")


def test_state_dict_fits_the_module_the_graph_came_from() -> None:
    module = build("mobilenetv2").eval()
    view = to_fx(exported(module, 3, 64, 64))
    missing, unexpected = build("mobilenetv2").load_state_dict(view.state_dict(), strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    assert {n for n, _ in view.named_parameters()} == {n for n, _ in module.named_parameters()}


def test_torch_compile_takes_it() -> None:
    """Outputs, gradients and what is written back are those of the view as it is."""
    plain, compiled = to_fx(graph_from(SMALL)), to_fx(graph_from(SMALL))
    torch._dynamo.reset()
    fast = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for view in (plain, fast):
        view.train()
        sum(t.square().mean() for t in view(x)).backward()
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad, other.grad)
    with torch.no_grad():
        next(iter(compiled.parameters())).add_(1)
    graph = graph_from(SMALL)
    assert write_back(fast, graph)


def test_round_trip_changes_no_bit() -> None:
    graph = graph_from(SMALL)
    before = constants(graph)
    assert write_back(to_fx(graph), graph) == []
    after = constants(graph)
    assert all(after[name] is before[name] for name in before)


def test_what_was_learnt_is_written_back_by_name() -> None:
    graph = graph_from(SMALL)
    view = to_fx(graph)
    with torch.no_grad():
        view.w.mul_(2)
    other = graph.copy()
    assert write_back(view, other) == ["w"]
    np.testing.assert_array_equal(constants(other)["w"], 2 * constants(graph)["w"])


def test_writing_back_into_another_graph_is_refused_and_leaves_it() -> None:
    view = to_fx(graph_from(SMALL))
    other = graph_from(
        SMALL.replace("float[4,6] f", "float[4,6] other").replace("(q, f)", "(q, other)")
    )
    with pytest.raises(GraphError, match="no constant 'f'"):
        write_back(view, other)
    wider = graph_from(
        SMALL.replace("float[4,6] f", "float[5,6] f").replace("float[N,4] y", "float[N,5] y")
    )
    before = constants(wider)
    with torch.no_grad():
        view.w.mul_(2)
    with pytest.raises(GraphError, match=r"'f' is \[5, 6\] in the graph and \[4, 6\] in the view"):
        write_back(view, wider)
    assert all(constants(wider)[name] is before[name] for name in before)


def test_batch_norm_uses_the_batch_in_training_and_learns_statistics() -> None:
    graph = graph_from(SMALL)
    view = to_fx(graph)
    x = torch.randn(16, 3, 8, 8) * 3 + 1
    frozen = view(x)[1]
    view.train()
    trained = view(x)[1]
    assert not torch.allclose(frozen, trained)
    conv = nn.functional.conv2d(x, view.w, padding=1)
    mean, var = constants(graph)["m"], constants(graph)["var"]
    # ONNX's momentum 0.9 keeps nine tenths of the old statistics
    expected_mean = 0.9 * mean + 0.1 * conv.mean((0, 2, 3)).detach().numpy()
    expected_var = 0.9 * var + 0.1 * conv.var((0, 2, 3)).detach().numpy()
    assert sorted(write_back(view, graph)) == ["m", "var"]
    np.testing.assert_allclose(constants(graph)["m"], expected_mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(constants(graph)["var"], expected_var, rtol=1e-4)
    assert departure_of(graph) <= 1


def test_shared_statistics_that_come_apart_get_constants_of_their_own() -> None:
    graph = graph_from(
        """(float[N,4] x) => (float[N,4] y) <float[4] g, float[4] b, float[4] m, float[4] var>
        { n1 = BatchNormalization (x, g, b, m, var)  s = Sigmoid (n1)
          y = BatchNormalization (s, g, b, m, var) }"""
    )
    view = to_fx(graph).train()
    view(torch.randn(8, 4) + 2)
    first, second = (m for m in view.modules() if isinstance(m, nn.BatchNorm1d))
    assert first.weight is second.weight
    assert not torch.equal(first.running_mean, second.running_mean)
    write_back(view, graph)
    one, other = (n for n in graph.nodes if n.op == "BatchNormalization")
    assert one.inputs[1] is other.inputs[1]
    np.testing.assert_array_equal(one.inputs[3].values, first.running_mean.numpy())
    np.testing.assert_array_equal(other.inputs[3].values, second.running_mean.numpy())
    assert departure_of(graph) <= 1


def test_gradients_reach_every_parameter() -> None:
    view = to_fx(exported(build("wrn-16-2").eval(), 3, 32, 32)).train()
    view(torch.randn(4, 3, 32, 32)).square().sum().backward()
    without = [
        n for n, p in view.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0
    ]
    assert without == []


def test_trains_like_the_module_itself() -> None:
    torch.manual_seed(0)
    module = build("wrn-16-2").eval()
    view = to_fx(exported(module, 3, 32, 32)).train()
    module.train()
    x, labels = torch.randn(8, 3, 32, 32), torch.randint(0, 10, (8,))
    for each in (module, view):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.05, momentum=0.9)
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(each(x), labels).backward()
            optimizer.step()
    learnt = dict(module.named_parameters())
    for name, parameter in view.named_parameters():
        torch.testing.assert_close(parameter, learnt[name], rtol=1e-3, atol=1e-5)


def test_shared_weights_are_one_parameter() -> None:
    graph = graph_from(
        "(float[N,4] x) => (float[N,4] y) <float[4,4] w> { a = MatMul (x, w)  r = Relu (a)  y = MatMul (r, w) }"
    )
    view = to_fx(graph)
    assert [n for n, _ in view.named_parameters()] == ["w"]


TOKENS = """(float[N,3,4] x) => (float[N,4,5] y)
    <float[3] mean = {0.485, 0.456, 0.406}, int64[2] shape = {3, 1}, float[4,4] w, float[4] bias,
     float[1,1,4] cls, float[1,4,4] position, float scale = {0.5}, float[4,5] head,
     float[5] stride = {8.5, 8.5, 16.5, 16.5, 32.5}, float[1,4,4] mask>
    { m = Reshape (mean, shape)  c = Sub (x, m)  p = MatMul (c, w)  b = Add (p, bias)
      t = Concat <axis = 1> (cls1, b)  q = Add (t, position)  h = Mul (q, scale)  k = Add (h, mask)
      o = MatMul (k, head)  y = Mul (o, stride) }"""


def test_what_is_trained() -> None:
    text = TOKENS.replace("float[N,3,4] x", "float[1,3,4] x").replace(
        "float[N,4,5]", "float[1,4,5]"
    )
    graph = graph_from(text.replace("cls1", "cls"))
    for tensor in graph.tensors().values():
        if tensor.name == "mask":
            tensor.values = np.round(tensor.values) * -100
    names = [n for n, _ in to_fx(graph).named_parameters()]
    assert sorted(names) == ["bias", "cls", "head", "position", "w"]
    more = to_fx(graph, trainable=["str*"], frozen=["cls", "w"])
    trained = sorted(n for n, p in more.named_parameters() if p.requires_grad)
    assert trained == ["bias", "head", "position", "stride"]
    with pytest.raises(UsageError, match="'nothing\\*'"):
        to_fx(graph, frozen=["nothing*"])


def test_awkward_names() -> None:
    graph = graph_from(SMALL)
    for tensor, name in zip(
        [t for t in graph.tensors().values() if isinstance(t, Constant)],
        ("a.b", "a", "a.b.c", "onnx::Conv_1", "forward", "..", "class", "x"),
        strict=False,
    ):
        tensor.name = name
    graph.forget_names()
    view = to_fx(graph)
    assert departure_of(graph) <= 1
    with torch.no_grad():
        for parameter in view.parameters():
            parameter.add_(1)
    changed = write_back(view, graph)
    assert len(changed) == len(list(view.parameters()))
    assert departure_of(graph) <= 1


def test_tensors_are_addressed_by_name_and_glob() -> None:
    view = to_fx(graph_from(SMALL))
    assert {"x", "c", "n", "r", "y"} <= set(tensors(view))
    assert matching(view, ["[cr]", "y"]) == ["c", "r", "y"]
    with pytest.raises(UsageError, match="no tensor is called 'relu'"):
        matching(view, ["relu"])


def test_taps_give_values_gradients_and_share_parameters() -> None:
    view = to_fx(graph_from(SMALL))
    tapped = tap(view, ["c", "p"])
    x = torch.randn(2, 3, 8, 8)
    (y, r), values = tapped(x)
    torch.testing.assert_close((y, r), view(x))
    torch.testing.assert_close(values["c"], nn.functional.conv2d(x, view.w, padding=1))
    torch.testing.assert_close(values["p"], r.mean((2, 3), keepdim=True))
    values["p"].sum().backward()
    assert view.w.grad is not None


def test_any_batch_size_and_dynamic_shapes() -> None:
    class Folded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            n, c, h, w = y.shape
            return y.view(n, 2, c // 2, h * w).permute(0, 2, 1, 3).reshape(n, c, h, w) * h

    module = Folded().eval()
    view = to_fx(exported(module, 3, 8, 8))
    for batch in (1, 3):
        x = torch.randn(batch, 3, 8, 8)
        torch.testing.assert_close(view(x), module(x))


def test_copies_and_types() -> None:
    view = to_fx(graph_from(SMALL))
    twin = copy.deepcopy(view)
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(twin(x), view(x))
    assert twin.meta["graphopt"].path("w") == "w"
    assert view.double()(x.double())[0].dtype == torch.float64


def test_autocast() -> None:
    view = to_fx(graph_from(SMALL)).train()
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = view(torch.randn(4, 3, 8, 8))
    y.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in view.parameters())


def test_unsupported_nodes_are_named_before_anything_runs() -> None:
    graph = graph_from("(float[4] x) => (float[4] y) { r = Relu (x)  y = RandomNormalLike (r) }")
    with pytest.raises(UnsupportedError, match=r"RandomNormalLike '.*' has no row"):
        to_fx(graph)
    computed = graph_from(
        """(float[N,4] x, float[4] m) => (float[N,4] y) <float[4] g, float[4] b, float[4] var>
        { y = BatchNormalization (x, g, b, m, var) }"""
    )
    with pytest.raises(UnsupportedError, match="computes its statistics"):
        to_fx(computed)


def test_a_module_of_ones_own_is_no_view() -> None:
    with pytest.raises(UnsupportedError, match="make one with to_fx"):
        write_back(nn.Linear(2, 2), graph_from(SMALL))
