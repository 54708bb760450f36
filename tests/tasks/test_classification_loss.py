"""Cross-entropy with smoothed labels."""

from __future__ import annotations

import math

import pytest
import torch

from graphopt.errors import UsageError
from graphopt.tasks.classification import ClassificationLoss, ClassificationOptions

LOGITS = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
KINDS = torch.tensor([0, 2])


def log_softmax(row: list[float], k: int) -> float:
    return row[k] - math.log(sum(math.exp(v) for v in row))


def test_by_hand() -> None:
    found = ClassificationLoss(3)(LOGITS, KINDS)
    wanted = -(log_softmax([1, 0, 0], 0) + log_softmax([0, 2, 0], 2)) / 2
    assert float(found["class"]) == pytest.approx(wanted)
    options = ClassificationOptions.parse("smoothing=0.3 class=2")
    smooth = float(ClassificationLoss(3, options)(LOGITS[:1], KINDS[:1])["class"])
    parts = [log_softmax([1, 0, 0], k) for k in range(3)]
    assert smooth == pytest.approx(2 * -(0.7 * parts[0] + 0.1 * sum(parts)))


def test_probabilities_and_axes_of_one() -> None:
    wanted = ClassificationLoss(3)(LOGITS, KINDS)["class"]
    chances = LOGITS.softmax(1)[:, :, None, None].requires_grad_()
    found = ClassificationLoss(3, probabilities=True)((chances,), KINDS)["class"]
    torch.testing.assert_close(found, wanted)
    sure = torch.tensor([[1.0, 0.0, 0.0]], requires_grad=True)
    ClassificationLoss(3, probabilities=True)(sure, torch.tensor([1]))["class"].backward()
    assert sure.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype) -> None:
    logits = (LOGITS * 100).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = ClassificationLoss(3)(logits, KINDS)["class"]
    found.backward()
    assert found.dtype == torch.float32
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (torch.tensor([0, 3]), "an image is labelled with class 3; the model has 3"),
        (torch.tensor([0, -1]), "labelled with class -1"),
        (torch.tensor([0]), r"outputs \(2, 3\) and targets \(1,\)"),
        (torch.zeros(2, 4, 5), "the loss needs"),
    ],
)
def test_refused(kinds: torch.Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ClassificationLoss(3)(LOGITS, kinds)
    with pytest.raises(UsageError, match="no option of the classification loss is called 'box'"):
        ClassificationOptions.parse("box=1")
