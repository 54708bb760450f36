"""Distillation as data: what is compared, how much it counts, what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import graph_from
from torch import nn

from graphopt.errors import UsageError
from graphopt.fx import to_fx
from graphopt.passes.distill.distillation import Distillation
from graphopt.passes.distill.losses import KeptChannels
from graphopt.passes.distill.losses.hint import Hint
from graphopt.passes.distill.term import Term
from graphopt.training import Moment, Recipe, Trainer

NETWORK = """(float[N,3,8,8] x) => (float[N,4] y)
    <float[6,3,3,3] w, float[6] g, float[6] b, float[6] m, float[6] var, float[4,6] f>
    { c = Conv <pads = [1,1,1,1]> (x, w)  n = BatchNormalization (c, g, b, m, var)  r = Relu (n)
      p = GlobalAveragePool (r)  q = Flatten (p)  y = Gemm <transB = 1> (q, f) }"""


def views(**other: str) -> tuple[nn.Module, nn.Module]:
    text = NETWORK
    for old, new in other.items():
        text = text.replace(f"float[{old}", f"float[{new}")
    narrow = text.replace("[6", "[5").replace(",6]", ",5]") if other.get("narrow") else text
    return to_fx(graph_from(narrow, seed=1)), to_fx(graph_from(NETWORK, seed=2))


X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_terms_are_weighted_losses_of_the_pairs() -> None:
    student, teacher = views()
    distillation = Distillation(
        student,
        teacher,
        {
            ("y", "y"): Term("kl{temperature=2}", weight=3),
            ("r", "r"): ["hint", Term("pkd", weight=2)],
        },
        example=X,
    )
    outputs, terms = distillation.compare(X)
    torch.testing.assert_close(outputs, student(X))
    assert list(terms) == ["kl y", "hint r", "pkd r"]
    with torch.no_grad():
        log_s, log_t = ((v(X) / 2).log_softmax(1) for v in (student, teacher))
    expected = 3 * 4 * (log_t.exp() * (log_t - log_s)).sum(1).mean()
    torch.testing.assert_close(terms["kl y"].detach(), expected)


def test_a_student_that_is_the_teacher_loses_nothing() -> None:
    _, teacher = views()
    distillation = Distillation(teacher, teacher, {("y", "y"): "kl", ("r", "r"): "pkd"}, example=X)
    assert all(
        float(t.detach()) == pytest.approx(0, abs=1e-6) for t in distillation.compare(X)[1].values()
    )


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("constant", (1, 1, 1)),
        ("fade", (1, 0.75, 0)),
        ("rise", (0, 0.25, 1)),
        ("cosine", (1, (1 + math.cos(math.pi / 4)) / 2, 0)),
    ],
)
def test_schedules(schedule: str, factors: tuple[float, ...]) -> None:
    term = Term("mse", schedule=schedule)
    assert [term.factor(done) for done in (0, 0.25, 1)] == pytest.approx(factors)
    student, teacher = views()
    distillation = Distillation(student, teacher, {("y", "y"): term}, example=X)
    terms = [distillation.compare(X, at=Moment(k, 100, 10, 0.1))[1]["mse y"] for k in (0, 25)]
    whole = Distillation(student, teacher, {("y", "y"): "mse"}, example=X).compare(X)[1]["mse y"]
    weighted = [float(whole.detach()) * f for f in factors[:2]]
    assert [float(t.detach()) for t in terms] == pytest.approx(weighted)


def test_normalized_terms_have_no_unit() -> None:
    def value(scale: float) -> float:
        student, teacher = views()
        with torch.no_grad():
            student.f.mul_(scale)
            teacher.f.mul_(scale)
        pairs = {("y", "y"): Term("mse", normalized=True)}
        return float(
            Distillation(student, teacher, pairs, example=X).compare(X)[1]["mse y"].detach()
        )

    assert value(100.0) == pytest.approx(value(1.0), rel=1e-4)


def test_the_teacher_stays_as_it_is() -> None:
    student, teacher = views()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    distillation = Distillation(student, teacher, {("r", "r"): "pkd"}, example=X)
    student.train()
    teacher.train()  # somebody's loop calls train() on everything
    for _ in range(3):
        sum(distillation.compare(X)[1].values()).backward()
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert all(p.grad is None for p in teacher.parameters())
    assert student.w.grad is not None
    assert not any(
        p.data_ptr() == q.data_ptr()
        for p in distillation.parameters()
        for q in teacher.parameters()
    )


def test_kept_channels_pair_exactly() -> None:
    _, teacher = views()
    kept = [0, 2, 3, 5]
    graph = graph_from(NETWORK, seed=2)
    for name in ("w", "g", "b", "m", "var"):
        tensor = graph.tensors()[name]
        tensor.values = tensor.values[kept]
    graph.tensors()["f"].values = np.ascontiguousarray(graph.tensors()["f"].values[:, kept])
    student = to_fx(graph)
    term = Term("hint", channels=KeptChannels(tuple(kept)))
    distillation = Distillation(student, teacher, {("r", "r"): term}, example=X)
    assert float(distillation.compare(X)[1]["hint r"].detach()) == pytest.approx(0, abs=1e-10)
    assert not list(distillation.parameters())


def test_adapters_bridge_widths_and_are_trained_but_no_part_of_the_student() -> None:
    student, teacher = views(narrow="yes")
    pairs = {("r", "r"): "hint"}
    distillation = Distillation(student, teacher, pairs, example=X)
    assert [tuple(p.shape) for p in distillation.parameters()] == [(6, 5, 1, 1), (6,)]
    assert len(student.state_dict()) == len(teacher.state_dict())
    with pytest.raises(UsageError, match=r"pair \('r', 'r'\): loss 'hint'.*\(4, 5, 8, 8\)"):
        Distillation(student, teacher, pairs, example=X, adapters=False)


def test_mismatching_taps_are_named_before_training() -> None:
    student, teacher = views()
    with pytest.raises(UsageError, match="no tensor is called 'rr'; did you mean"):
        Distillation(student, teacher, {("rr", "r"): "pkd"}, example=X)
    with pytest.raises(UsageError, match=r"pair \('c', 'p'\)"):
        Distillation(student, teacher, {("c", "p"): "pkd"}, example=X)
    with pytest.raises(UsageError, match="no loss is called 'pdk'; did you mean pkd"):
        Distillation(student, teacher, {("c", "c"): "pdk"}, example=X)
    with pytest.raises(UsageError, match="at least one pair"):
        Distillation(student, teacher, {}, example=X)
    with pytest.raises(UsageError, match="weight=-1"):
        Term("mse", weight=-1)
    with pytest.raises(UsageError, match="schedule 'sometimes'"):
        Term("mse", schedule="sometimes")


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 4),
    )


def test_any_module_by_dotted_path() -> None:
    student, teacher = module(), module()
    with torch.no_grad():
        student[4].weight.add_(0.1)
    pairs = {("1", "1"): "spatial-attention", ("4", "4"): "mse"}
    distillation = Distillation(student, teacher, pairs, example=X)
    outputs, terms = distillation.compare(X)
    torch.testing.assert_close(outputs, student(X))
    assert float(terms["spatial-attention 1"]) == pytest.approx(0, abs=1e-9)
    expected = (student(X) - teacher(X)).square().mean()
    torch.testing.assert_close(terms["mse 4"], expected)
    with pytest.raises(UsageError, match="no submodule is called 'layer9'"):
        Distillation(student, teacher, {("layer9", "1"): "mse"}, example=X)


def test_a_view_learns_from_a_module() -> None:
    student, _ = views()
    teacher = module()
    distillation = Distillation(student, teacher, {("y", "4"): "kl"}, example=X)
    assert float(distillation.compare(X)[1]["kl y"]) > 0


def test_balance_holds_every_other_gradient_at_half_of_the_first() -> None:
    student, teacher = views()
    pairs = {("y", "y"): "mse", ("r", "r"): Term(Hint(), weight=1e6)}
    distillation = Distillation(student, teacher, pairs, example=X, balance=True)
    terms = distillation(distillation.student, (X,), Moment(0, 10, 10, 0.1))
    trained = [p for p in student.parameters() if p.requires_grad]
    norms = []
    for value in terms.values():
        found = torch.autograd.grad(value, trained, retain_graph=True, allow_unused=True)
        norms.append(float(sum(g.square().sum() for g in found if g is not None) ** 0.5))
    assert norms[1] == pytest.approx(norms[0] / 2, rel=1e-3)
    assert list(distillation.numbers()) == ["|grad mse y|", "|grad hint r|"]


def test_with_a_task_in_a_run() -> None:
    class Labelled:
        def __len__(self) -> int:
            return 32

        def __getitem__(self, index: int) -> dict[str, np.ndarray]:
            rng = np.random.default_rng(index)
            return {
                "x": rng.standard_normal((3, 8, 8)).astype(np.float32),
                "label": np.int64(index % 4),
            }

    student, teacher = views()
    distillation = Distillation(
        student,
        teacher,
        {("y", "y"): "kl"},
        example=X,
        task=nn.functional.cross_entropy,
        balance=True,
    )
    recipe = Recipe(epochs=3, batch=8, lr=0.05, workers=0)
    history = Trainer(
        distillation.student, distillation, Labelled(), ["x", "label"], recipe, device="cpu"
    ).run()
    assert history.rows[-1]["kl y"] < history.rows[0]["kl y"]
    assert {"task", "kl y", "|grad task|"} <= set(history.rows[0])
