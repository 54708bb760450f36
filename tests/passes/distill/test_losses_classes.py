"""Losses on classes and boxes, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from graphopt.errors import UsageError
from graphopt.passes.distill.losses import Given, parse_loss
from graphopt.passes.distill.losses.dist import Dist
from graphopt.passes.distill.losses.kl import Kl
from graphopt.passes.distill.losses.rows import yolo_rows
from graphopt.passes.distill.losses.teacher_bounded import TeacherBounded

LN3 = math.log(3)
# p_t = (3/4, 1/4), p_s = (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2 = 0.304099 - 0.173287
KL = 0.1308120359


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def value(text: str, student: Tensor, teacher: Tensor, given: Given | None = None) -> float:
    return parse_loss(text)(student, teacher, given).item()


# --- KL -----------------------------------------------------------------------------------------


def test_kl_values() -> None:
    student = torch.zeros(2, 2, dtype=torch.float64)
    teacher = torch.tensor([[LN3, 0.0], [0.0, 0.0]], dtype=torch.float64)
    # The second row agrees: half of the mean, all of the sum.
    assert value("kl{temperature=1}", student, teacher) == pytest.approx(KL / 2, rel=1e-9)
    assert value("kl{temperature=1 reduce=sum}", student, teacher) == pytest.approx(KL, rel=1e-9)
    # Twice the logits at T = 2 are the same distributions; T^2 = 4.
    assert value("kl{temperature=2}", student, 2 * teacher) == pytest.approx(2 * KL, rel=1e-9)


def test_kl_of_a_batch_counts_every_row_of_an_image() -> None:
    student, teacher = torch.zeros(1, 3, 2), torch.tensor([LN3, 0.0]).expand(1, 3, 2)
    assert value("kl{temperature=1 reduce=batch}", student, teacher) == pytest.approx(3 * KL)
    assert value("kl{temperature=1}", student, teacher) == pytest.approx(KL)


def test_kl_gradient_is_t_times_the_difference_of_probabilities() -> None:
    student = torch.zeros(1, 2).requires_grad_()
    Kl(2.0)(student, torch.tensor([[2 * LN3, 0.0]])).backward()
    assert student.grad is not None
    # 2 * (1/2 - 3/4), 2 * (1/2 - 1/4)
    assert student.grad[0].tolist() == pytest.approx([-0.5, 0.5])


def test_kl_ignores_an_offset_of_a_row() -> None:
    student, teacher = drawn(4, 5), drawn(4, 5, seed=1)
    moved = value("kl", student + drawn(4, 1, seed=2), teacher - drawn(4, 1, seed=3))
    assert moved == pytest.approx(value("kl", student, teacher))


def test_kl_at_high_temperature_is_a_mean_square_of_centred_logits() -> None:
    student, teacher = drawn(4, 5), drawn(4, 5, seed=1)
    apart = student - teacher
    centred = apart - apart.mean(1, keepdim=True)
    limit = centred.square().mean().item() / 2  # sum_c d^2 / (2 K)
    assert value("kl{temperature=1e4}", student, teacher) == pytest.approx(limit, rel=1e-3)


def test_kl_of_impossible_classes_is_finite() -> None:
    student = torch.tensor([[-300.0, 300.0]]).requires_grad_()
    loss = Kl(1.0)(student, torch.tensor([[300.0, -300.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(600)
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_kl_of_one_class_is_refused() -> None:
    with pytest.raises(UsageError, match="softmax over one class is always 1; use part=scores"):
        value("kl", drawn(4, 1), drawn(4, 1))


# --- mean square --------------------------------------------------------------------------------


def test_mse_values() -> None:
    student, teacher = (
        torch.tensor([[1.0, 2.0], [0.0, 1.0]]),
        torch.tensor([[0.0, 0.0], [0.0, 4.0]]),
    )
    # 1 + 4 + 0 + 9 = 14, of 4 values, of 2 images
    assert value("mse", student, teacher) == 3.5
    assert value("mse{reduce=batch}", student, teacher) == 7
    assert value("mse{reduce=sum}", student, teacher) == 14


def test_mse_of_boxes_sees_nothing_else() -> None:
    student, teacher = torch.zeros(1, 12, 1, 1), torch.zeros(1, 12, 1, 1)
    teacher[0, [4, 5, 10, 11]] = 100.0  # objectness and class of two anchors
    assert value("mse{anchors=2 part=boxes reduce=sum}", student, teacher) == 0
    teacher[0, 9] = 3.0  # the height of the second anchor
    assert value("mse{anchors=2 part=boxes reduce=sum}", student, teacher) == 9


# --- DIST ---------------------------------------------------------------------------------------

# Rows and columns are all orders of 2, 3, 5. Centred and times 3, say (2, 3, 5) -> (-4, -1, 5) and
# (3, 2, 5) -> (-1, -4, 5): rho = (4 + 4 + 25) / (16 + 1 + 25) = 33/42, 1 - rho = 3/14 everywhere.
S = torch.tensor([[2, 3, 5], [3, 5, 2], [5, 2, 3]], dtype=torch.float64) / 10
T = torch.tensor([[3, 2, 5], [2, 5, 3], [5, 3, 2]], dtype=torch.float64) / 10
# Rows are multiples of (1, 2, 3): inter 0. Columns (1, 1, 2) and (1, 2, 1): rho = -3/6, intra 3/2.
S2 = torch.tensor([[1, 2, 3], [1, 2, 3], [2, 4, 6]], dtype=torch.float64) / 10
T2 = torch.tensor([[1, 2, 3], [2, 4, 6], [1, 2, 3]], dtype=torch.float64) / 10


@pytest.mark.parametrize(
    ("options", "expected"),
    [("", 6 / 14), ("inter=0", 3 / 14), ("intra=0", 3 / 14), ("inter=2 intra=3", 15 / 14)],
)
def test_dist_values(options: str, expected: float) -> None:
    assert value(f"dist{{{options}}}", S.log(), T.log()) == pytest.approx(expected)
    # At T = 2 twice the logits are the same probabilities; T^2 = 4.
    warm = value(f"dist{{temperature=2 {options}}}", 2 * S.log(), 2 * T.log())
    assert warm == pytest.approx(4 * expected)


@pytest.mark.parametrize(("options", "expected"), [("inter=0", 1.5), ("intra=0", 0), ("", 1.5)])
def test_dist_tells_rows_from_columns(options: str, expected: float) -> None:
    found = value(f"dist{{sigmoid=true {options}}}", S2.logit(), T2.logit())
    assert found == pytest.approx(expected, abs=1e-12)


def test_dist_ignores_scale_and_offset() -> None:
    student, teacher = drawn(6, 4).sigmoid(), drawn(6, 4, seed=1).sigmoid()
    for options, size in (("intra=0", (6, 1)), ("inter=0", (1, 4))):
        scale, offset = (drawn(*size, seed=s).sigmoid() / 2 for s in (2, 3))
        text = f"dist{{sigmoid=true {options}}}"
        plain = value(text, student.logit(), teacher.logit())
        assert plain > 0.1
        moved = value(text, (scale * student + offset).logit(), teacher.logit())
        assert moved == pytest.approx(plain)
        across = value(text, (scale.mT[:1, :1] * student).logit(), (student + 1).log())
        assert across != pytest.approx(plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dist_of_constant_rows_and_classes_has_no_gradient_there(dtype: torch.dtype) -> None:
    # 0.1 has no exact float, its mean over the row is off by rounding.
    student = torch.tensor([[0.1, 0.1, 0.1], [1.0, 2.0, 0.0]], dtype=dtype).requires_grad_()
    teacher = torch.tensor([[0.3, 0.3, 0.3], [0.0, 1.0, 2.0]], dtype=dtype)
    loss = Dist(intra=0)(student, teacher)
    loss.backward()
    assert student.grad is not None
    assert (student.grad[0] == 0).all()
    assert student.grad[1].abs().max() > 0
    # Constant in both counts 0, so one row of two is apart.
    one = Dist(intra=0)(student[1:].detach(), teacher[1:])
    assert loss.item() == pytest.approx(one.item() / 2, rel=1e-6)
    # Constant in one counts 1/2.
    half = Dist(intra=0)(student[:1].detach(), teacher[1:])
    assert half.item() == pytest.approx(0.5, rel=1e-6)


def test_dist_of_many_equal_probabilities_has_no_gradient() -> None:
    # Softmax of equal logits is equal up to rounding only, which must not be standardized.
    student = torch.full((50, 1000), 0.7).requires_grad_()
    loss = Dist()(student, torch.randn(50, 1000, generator=torch.Generator().manual_seed(0)))
    loss.backward()
    assert student.grad is not None
    assert student.grad.abs().max() == 0
    assert loss.item() == pytest.approx(1, rel=1e-4)  # 1/2 and 1/2


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        (
            "dist",
            (4, 1),
            r"over 1 that is undefined; use inter=0 \(intra only\), on \[objectness, class\]",
        ),
        ("dist", (4, 2), "over 2 that is 1 or -1, without a gradient; use inter=0"),
        ("dist{anchors=2 part=classes sigmoid=true}", (2, 12, 3, 3), "over 1 that is undefined"),
        ("dist{inter=0}", (4, 1), "softmax over one class is always 1; use sigmoid=true"),
        ("dist", (1, 5), "intra correlates the rows of a class and needs two"),
    ],
)
def test_dist_refuses_what_is_undefined(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        value(text, drawn(*shape), drawn(*shape))
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("part", ["classes", "scores"])
def test_dist_of_one_class_works_within_it(part: str) -> None:
    student = drawn(2, 12, 3, 3).requires_grad_()
    loss = Dist(inter=0, sigmoid=True, anchors=2, part=part)(student, drawn(2, 12, 3, 3, seed=1))
    loss.backward()
    assert 0.1 < loss.item() < 2
    assert student.grad is not None
    touched = student.grad.unflatten(1, (2, 6)).abs().amax((0, 1, 3, 4)) > 0
    assert touched.tolist() == [False] * 4 + [part == "scores", True]


# --- rows ---------------------------------------------------------------------------------------


def test_yolo_rows_are_in_their_places() -> None:
    head = drawn(2, 3 * 8, 4, 5)
    everything = yolo_rows(head, 3, part="all")
    assert everything.shape == (2, 60, 8)
    anchor, y, x = 2, 3, 1
    row = everything[1, anchor * 20 + y * 5 + x]
    assert torch.equal(row, head[1, anchor * 8 : anchor * 8 + 8, y, x])
    for part, columns in {"boxes": slice(4), "scores": slice(4, 8), "classes": slice(5, 8)}.items():
        assert torch.equal(yolo_rows(head, 3, part=part), everything[..., columns])
    assert torch.equal(yolo_rows(head, 3, sigmoid=True), everything[..., 5:].sigmoid())


def test_a_head_is_the_same_in_any_layout() -> None:
    student, teacher = drawn(2, 24, 4, 5), drawn(2, 24, 4, 5, seed=1)
    of_maps = value("kl{anchors=3 part=scores}", student, teacher)
    for pick in (
        lambda h: yolo_rows(h, 3, part="scores"),
        lambda h: yolo_rows(h, 3, part="scores").flatten(0, 1),
        lambda h: h.unflatten(1, (3, 8)).movedim(2, -1)[..., 4:],
    ):
        assert value("kl", pick(student), pick(teacher)) == pytest.approx(of_maps)


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("kl", (2, 3, 4, 4), "give anchors= .* 1 for a plain map of classes"),
        ("kl{anchors=3}", (2, 16, 4, 4), "no map .images, 3 . values, height, width"),
        ("kl{anchors=3}", (2, 15), "no map"),
        ("mse{anchors=3 part=classes}", (2, 15, 4, 4), "nothing is left for part=classes"),
        ("mse{anchors=3 part=scores}", (2, 9, 4, 4), "nothing is left for part=scores"),
    ],
)
def test_rows_that_are_not_there(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        value(text, drawn(*shape), drawn(*shape))
    assert str(shape) in str(caught.value)


def test_a_plain_map_of_classes_is_a_row_per_position() -> None:
    student, teacher = drawn(2, 3, 4, 5), drawn(2, 3, 4, 5, seed=1)
    rows = [z.permute(0, 2, 3, 1).flatten(0, 2) for z in (student, teacher)]
    expected = F.kl_div(*(z.log_softmax(1) for z in rows), reduction="batchmean", log_target=True)
    found = value("kl{anchors=1 temperature=1}", student, teacher)
    assert found == pytest.approx(expected.item())


# --- teacher-bounded ----------------------------------------------------------------------------

TARGET = torch.ones(4, 2)
# Squared distances to the target: 4, 1, 2, 0 and 1, 4, 2, 9.
STUDENT = TARGET + torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
TEACHER = TARGET + torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, -1.0], [3.0, 0.0]])


@pytest.mark.parametrize(
    ("options", "mask", "expected"),
    [
        ("", None, 4 / 4),  # only the first is worse than the teacher
        ("reduce=sum", None, 4),
        ("margin=0.5", None, 6 / 4),  # a tie is not good enough
        ("margin=3.5 reduce=sum", None, 7),  # nor is being better by 3
        ("", [True, True, False, False], 4 / 2),
        ("", [False, True, True, True], 0),
        ("", [False] * 4, 0),
    ],
)
def test_teacher_bounded_values(options: str, mask: list[bool] | None, expected: float) -> None:
    given = Given(target=TARGET, mask=None if mask is None else torch.tensor(mask))
    assert value(f"teacher-bounded{{{options}}}", STUDENT, TEACHER, given) == expected


def test_teacher_bounded_pushes_to_the_target_where_the_student_is_worse() -> None:
    loss, student, given = TeacherBounded(), STUDENT.clone().requires_grad_(), Given(target=TARGET)
    loss(student, TEACHER, given).backward()
    assert student.grad is not None
    # 2 * (3 - 1) / 4 rows, in the first row's first coordinate
    assert student.grad.tolist() == [[1.0, 0.0], [0, 0], [0, 0], [0, 0]]
    assert loss.worse(STUDENT, TEACHER, given).tolist() == [True, False, False, False]
    narrow = Given(target=300 * TARGET)
    assert loss.worse(300 * STUDENT.half(), 300 * TEACHER.half(), narrow).tolist()[0]


def test_teacher_bounded_without_rows_has_a_gradient_of_nothing() -> None:
    student = torch.zeros(0, 4, requires_grad=True)
    loss = TeacherBounded()(student, torch.zeros(0, 4), Given(target=torch.zeros(0, 4)))
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None


def test_teacher_bounded_wants_a_target_per_row() -> None:
    with pytest.raises(UsageError, match=r"target \(3, 2\), student \(4, 2\): needs one target"):
        value("teacher-bounded", STUDENT, TEACHER, Given(target=TARGET[:3]))
    with pytest.raises(
        UsageError, match=r"mask \(4, 2\), student \(4, 2\): needs one value per row"
    ):
        value("teacher-bounded", STUDENT, TEACHER, Given(target=TARGET, mask=TARGET))
