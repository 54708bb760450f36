"""What every distillation loss promises, whatever it measures, and how losses are written."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from graphopt.errors import UsageError
from graphopt.passes.distill.losses import (
    LOSSES,
    Given,
    KeptChannels,
    Loss,
    Norm,
    parse_loss,
    register,
)

MAPS = (2, 3, 4, 5)
Draw = Callable[..., Tensor]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def norm(channels: int, seed: int, dtype: torch.dtype = torch.float64) -> Norm:
    mean, var, weight, bias = drawn(4, channels, seed=seed, dtype=dtype)
    return Norm(mean, var.abs() + 0.5, weight, bias)


def narrow(given: Given, dtype: torch.dtype) -> Given:
    if given.student_norm is None:
        return given
    return dataclasses.replace(
        given, student_norm=norm(3, 5, dtype), teacher_norm=norm(3, 6, dtype)
    )


# Loss as text, the shape of both tensors, what is given.
CASES: list[tuple[str, tuple[int, ...], Given]] = [
    ("kl", (3, 5), Given()),
    ("kl{temperature=3 reduce=batch anchors=2 part=scores}", (2, 16, 2, 3), Given()),
    ("mse", (3, 5), Given()),
    ("mse{reduce=sum anchors=2 part=boxes}", (2, 16, 2, 3), Given()),
    ("objectness-scaled{anchors=2}", (2, 16, 2, 3), Given()),
    ("objectness-rows", (2, 6, 8), Given()),
    ("objectness-rows{units=cells}", (2, 6, 8), Given()),
    ("dist", (4, 5), Given()),
    ("dist{anchors=2 part=classes inter=2 sigmoid=true temperature=2}", (2, 16, 2, 3), Given()),
    ("teacher-bounded", (6, 4), Given(target=drawn(6, 4, seed=9))),
    (
        "teacher-bounded{margin=0.5 reduce=sum}",
        (2, 3, 4),
        Given(target=drawn(2, 3, 4, seed=9), mask=torch.tensor([[1, 0, 1], [1, 1, 0]])),
    ),
    ("hint", MAPS, Given()),
    ("hint{reduce=batch}", MAPS, Given()),
    ("masked-feature", MAPS, Given(mask=drawn(2, 4, 5, seed=8) > 0)),
    ("masked-feature{form=mean}", MAPS, Given(mask=drawn(2, 1, 4, 5, seed=8).sigmoid())),
    ("spatial-attention", MAPS, Given()),
    ("spatial-attention{power=3 form=mean}", MAPS, Given(mask=drawn(2, 4, 5, seed=8) > 0)),
    ("hybrid-attention", MAPS, Given()),
    ("hybrid-attention", MAPS, Given(student_norm=norm(3, 5), teacher_norm=norm(3, 6))),
    ("channel-distillation", MAPS, Given()),
    ("pkd", MAPS, Given()),
    ("cwd{temperature=2}", MAPS, Given()),
    ("gram", MAPS, Given()),
    ("gram{centred=true}", MAPS, Given()),
]
every = pytest.mark.parametrize(("text", "shape", "given"), CASES, ids=[c[0] for c in CASES])


def test_every_loss_has_a_case() -> None:
    assert {parse_loss(text).name for text, _, _ in CASES} == set(LOSSES)


@every
def test_gradient(text: str, shape: tuple[int, ...], given: Given) -> None:
    loss, teacher = parse_loss(text), drawn(*shape, seed=1)
    student = drawn(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, given), (student,))


@every
def test_the_teacher_gets_no_gradient(text: str, shape: tuple[int, ...], given: Given) -> None:
    student, teacher = drawn(*shape).requires_grad_(), drawn(*shape, seed=1).requires_grad_()
    parse_loss(text)(student, teacher, given).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().max() > 0


@every
def test_a_number_that_is_zero_at_equality(text: str, shape: tuple[int, ...], given: Given) -> None:
    loss = parse_loss(text)
    apart = loss(drawn(*shape), drawn(*shape, seed=1), given)
    assert apart.shape == ()
    assert apart > 1e-3
    # The teacher-bounded aims at the target, the norms of the two networks differ.
    target = None if given.target is None else drawn(*shape)
    same = dataclasses.replace(given, target=target, teacher_norm=given.student_norm)
    student = drawn(*shape).requires_grad_()
    equal = loss(student, drawn(*shape), same)
    equal.backward()
    assert equal.item() == pytest.approx(0, abs=1e-12)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-12


@every
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(
    text: str, shape: tuple[int, ...], given: Given, dtype: torch.dtype
) -> None:
    loss, given = parse_loss(text), narrow(given, dtype)
    # Squares of these are infinite in float16.
    half = (drawn(*shape) * 300).to(dtype).requires_grad_()
    teacher = (drawn(*shape, seed=1) * 300).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(half, teacher, given)
    expected = loss(half.detach().float(), teacher.float(), given)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    found.backward()
    assert half.grad is not None
    assert half.grad.dtype == dtype
    assert half.grad.isfinite().all()


@every
def test_another_batch_is_refused(text: str, shape: tuple[int, ...], given: Given) -> None:
    other = (shape[0] + 1, *shape[1:])
    with pytest.raises(UsageError, match="needs") as caught:
        parse_loss(text)(drawn(*shape), drawn(*other), given)
    assert str(shape) in str(caught.value)
    assert str(other) in str(caught.value)


@every
def test_widths(text: str, shape: tuple[int, ...], given: Given) -> None:
    loss = parse_loss(text)
    wider = (shape[0], 2 * shape[1], *shape[2:])
    if loss.adapts:
        loss.check(shape, wider)
        assert loss(drawn(*shape), drawn(*wider), given).isfinite()
        return
    with pytest.raises(UsageError, match="needs equal") as caught:
        loss.check(shape, wider)
    assert str(shape) in str(caught.value)
    assert str(wider) in str(caught.value)
    with pytest.raises(UsageError, match="needs equal"):
        loss(drawn(*shape), drawn(*wider), given)


@every
def test_kept_channels_pair_exactly(text: str, shape: tuple[int, ...], given: Given) -> None:
    loss, channels = parse_loss(text), KeptChannels((4, 0, 3))
    chosen = dataclasses.replace(given, channels=channels)
    if "channels" not in loss.takes:
        with pytest.raises(UsageError, match="has no use for channels"):
            loss(drawn(*shape), drawn(*shape), chosen)
        return
    wide_norm = None
    if given.teacher_norm is not None:
        wide_norm = norm(5, 7)
        given = dataclasses.replace(given, teacher_norm=wide_norm.select(channels))
    teacher = drawn(shape[0], 5, *shape[2:], seed=1)
    loss.check(shape, channels.shape(tuple(teacher.shape)))
    found = loss(drawn(*shape), teacher, dataclasses.replace(chosen, teacher_norm=wide_norm))
    assert found == loss(drawn(*shape), teacher[:, [4, 0, 3]], given)


@every
def test_nothing_to_compare_is_refused(text: str, shape: tuple[int, ...], given: Given) -> None:
    del given
    loss = parse_loss(text)
    empty = (0, *shape[1:])
    if loss.name == "teacher-bounded":
        nothing = Given(target=drawn(*empty))
        assert loss(drawn(*empty), drawn(*empty), nothing) == 0
        return
    with pytest.raises(UsageError, match="at least one value|nothing is left"):
        loss.check(empty, empty)


@every
def test_written_as_it_is_read(text: str, shape: tuple[int, ...], given: Given) -> None:
    del shape, given
    loss = parse_loss(text)
    assert parse_loss(str(loss)) == loss
    assert hash(loss) == hash(parse_loss(text))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_is_called_the_same_everywhere(name: str) -> None:
    kind = LOSSES.find(name)
    assert kind.name == name
    assert kind.__module__.rsplit(".", 1)[-1] == name.replace("-", "_")
    assert kind.__name__ == "".join(w.capitalize() for w in name.split("-"))
    assert "L = " in (kind.__doc__ or "")
    module = importlib.import_module(kind.__module__)
    assert len((module.__doc__ or "").split()) > 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kl", {"temperature": 4.0, "anchors": None}),
        (" kl{temperature=3, anchors=2} ", {"temperature": 3.0, "anchors": 2}),
        ("dist{sigmoid=yes inter=0}", {"sigmoid": True, "inter": 0.0}),
        ("gram{centred=false}", {"centred": False}),
    ],
)
def test_options(text: str, expected: dict[str, Any]) -> None:
    loss = parse_loss(text)
    found = {key: getattr(loss, key) for key in expected}
    assert found == expected
    assert [type(v) for v in found.values()] == [type(v) for v in expected.values()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kll", "no loss is called 'kll'; did you mean kl"),
        ("kl{temperature}", "cannot read option 'temperature' of 'kl'"),
        ("kl{temperature=hot}", "kl{temperature}: 'hot' is not a float"),
        ("kl{temperature=0}", "temperature=0.0 is not a finite number above 0"),
        ("kl{temperature=inf}", "temperature=inf is not a finite number"),
        ("kl{warmth=1}", "loss 'kl' has no option 'warmth'; its options: "),
        ("kl+mse", "cannot read loss 'kl+mse'"),
        ("kl{reduce=median}", "reduce='median' is none of mean, batch, sum"),
        ("kl{anchors=0}", "anchors=0 is not at least 1"),
        ("kl{part=heads}", "part='heads' is none of all, boxes, scores, classes"),
        ("dist{inter=0 intra=0}", "leave nothing"),
        ("dist{intra=-1}", "intra=-1.0 is not a finite number at least 0"),
        ("hybrid-attention{channel=0 spatial=0}", "leave nothing"),
        ("spatial-attention{power=0.5}", "power=0.5 is not at least 1"),
        ("spatial-attention{form=max}", "form='max' is none of sum, mean"),
    ],
)
def test_what_cannot_be_meant(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_loss(text)
    assert message in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Own(Loss):
    """L = (mean F_s - mean F_t)^2."""

    name = "own"

    def check(self, student: Any, teacher: Any) -> None:
        """Anything goes."""

    def distance(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
        """The loss."""
        return (student.mean() - teacher.mean()).square()


def test_a_loss_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(LOSSES, "own", raising=False)  # and again afterwards
    assert register(Own) is register(Own)
    assert parse_loss("own")(torch.ones(2), torch.zeros(2)) == 1

    class Kl(Own):
        name = "kl"

    with pytest.raises(UsageError, match="'kl' is registered already"):
        register(Kl)


def test_what_is_missing_is_named() -> None:
    maps = drawn(*MAPS)
    with pytest.raises(UsageError, match="'masked-feature' needs a mask: give Given\\(mask"):
        parse_loss("masked-feature")(maps, maps)
    with pytest.raises(UsageError, match="'teacher-bounded' needs a target"):
        parse_loss("teacher-bounded")(maps, maps)
