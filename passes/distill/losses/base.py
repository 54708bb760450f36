"""What a loss is: one number for how far a student's tensor is from its teacher's.

    @dataclass(frozen=True)
    class Mean(Loss):
        '''L = (mean F_s - mean F_t)^2.'''

        name = "mean"
        adapts = True

        def check(self, student: Shape, teacher: Shape) -> None:
            check_maps(self.name, student, teacher, channels=False)

        def distance(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
            return (student.mean() - teacher.mean()).square()

Options are the dataclass fields. `register` (graphopt.passes.distill.losses.registry) makes it
known.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NoReturn

import torch
import torch.nn.functional as F  # noqa: N812 (what everyone calls it)
from torch import Tensor

from graphopt.errors import UsageError
from graphopt.passes.distill.losses.channels import KeptChannels
from graphopt.passes.distill.losses.embedding import Norm
from graphopt.passes.distill.losses.precision import wide

Shape = Sequence[int]
REDUCTIONS = ("mean", "batch", "sum")


@dataclass(frozen=True, eq=False)
class Given:
    """What a loss may take besides the two tensors of a pair.

    Attributes:
        target: what the labels say the tensor should be, in the student's shape.
        mask: which positions count, 0 to 1, see the loss for its shape.
        channels: the teacher's channel for every channel of the student.
        student_norm, teacher_norm: the BatchNorm that reads the tensor in either network. The
            teacher's has all of the teacher's channels; `channels` selects from it too.
    """

    target: Tensor | None = None
    mask: Tensor | None = None
    channels: KeptChannels | None = None
    student_norm: Norm | None = None
    teacher_norm: Norm | None = None

    def names(self) -> list[str]:
        """What is there."""
        fields = [f.name for f in dataclasses.fields(self)]
        return [name for name in fields if getattr(self, name) is not None]


@dataclass(frozen=True)
class Loss(abc.ABC):
    """Base of every loss. Computes in single precision at least and sends no gradient to the teacher.

    Attributes:
        name: what users call it.
        adapts: whether the two may differ in width (channels).
        needs: the fields of `Given` it cannot do without.
        takes: the fields of `Given` it can use besides.
        any_layout: whether feature maps may lie in memory as they like; others get them in the
            usual order, in which plain sums per channel are quick.
    """

    name: ClassVar[str]
    adapts: ClassVar[bool] = False
    needs: ClassVar[tuple[str, ...]] = ()
    takes: ClassVar[tuple[str, ...]] = ()
    any_layout: ClassVar[bool] = False

    def __call__(self, student: Tensor, teacher: Tensor, given: Given | None = None) -> Tensor:
        """The loss, a tensor without axes, differentiable in `student`.

        Raises:
            UsageError: shapes that do not fit (see `check`), or something in `given` is missing,
                not for this loss, or of the wrong shape.
        """
        given = self._selecting(given or Given())
        teacher = teacher.detach()
        if given.channels is not None:
            teacher = given.channels.of(teacher)
        self.check(tuple(student.shape), tuple(teacher.shape))
        # Autocast would take products back down to half precision in here.
        with torch.autocast(student.device.type, enabled=False):
            return self.distance(self._laid_out(student), self._laid_out(teacher), given)

    @abc.abstractmethod
    def check(self, student: Shape, teacher: Shape) -> None:
        """Refuses shapes the loss is not defined for.

        Args:
            student: the shape of the student's tensor.
            teacher: that of the teacher's, after channel selection (`KeptChannels.shape`).

        Raises:
            UsageError: naming both shapes and what to do.
        """

    @abc.abstractmethod
    def distance(self, student: Tensor, teacher: Tensor, given: Given) -> Tensor:
        """The loss of checked tensors, channels selected, no narrower than single precision."""

    def _laid_out(self, tensor: Tensor) -> Tensor:
        return wide(tensor if self.any_layout else tensor.contiguous())

    def _selecting(self, given: Given) -> Given:
        for name in self.needs:
            if getattr(given, name) is None:
                raise UsageError(f"loss {self.name!r} needs a {name}: give Given({name}=...)")
        for name in given.names():
            if name not in (*self.needs, *self.takes):
                raise UsageError(f"loss {self.name!r} has no use for {name}: leave it out")
        if given.channels is None or given.teacher_norm is None:
            return given
        return dataclasses.replace(given, teacher_norm=given.teacher_norm.select(given.channels))

    def __str__(self) -> str:
        """As `parse_loss` reads it."""
        values = [(f.name, getattr(self, f.name), f.default) for f in dataclasses.fields(self)]
        inner = " ".join(f"{n.replace('_', '-')}={v}" for n, v, default in values if v != default)
        return f"{self.name}{{{inner}}}" if inner else self.name


def reduced(values: Tensor, how: str) -> Tensor:
    """One number of many: their "mean", their "sum", or "batch", the sum over the images.

    The mean does not depend on how many positions there are; "batch" grows with them, which is how
    many published weights are meant.
    """
    if how == "mean":
        return values.mean()
    return values.sum() / (len(values) if how == "batch" else 1)


def reduced_squares(student: Tensor, teacher: Tensor, how: str) -> Tensor:
    """(x_s - x_t)^2 of all values, put together as in `reduced`, in one go over them."""
    if how == "batch":
        return F.mse_loss(student, teacher, reduction="sum") / len(student)
    return F.mse_loss(student, teacher, reduction=how)


def refuse(name: str, student: Shape, teacher: Shape, why: str) -> NoReturn:
    """Raises the UsageError of a shape contract."""
    raise UsageError(f"loss {name!r}: student {tuple(student)}, teacher {tuple(teacher)}: {why}")


def check_number(name: str, option: str, value: float, *, zero: bool = False) -> None:
    """Refuses an option that is not a finite number above zero (or zero, if allowed)."""
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        least = "at least 0" if zero else "above 0"
        raise UsageError(f"{name}: {option}={value!r} is not a finite number {least}")


def check_maps(
    name: str,
    student: Shape,
    teacher: Shape,
    *,
    channels: bool = True,
    positions: bool = True,
    least: int = 3,
) -> None:
    """Refuses what are not feature maps (images, channels, positions...) of the same images.

    Args:
        name: the loss.
        student: the student's shape.
        teacher: the teacher's.
        channels: whether channels must be as many.
        positions: whether the remaining axes must be equal.
        least: how many axes there must be.

    Raises:
        UsageError: naming both shapes and what to do.
    """
    if len(student) != len(teacher) or len(student) < least:
        axes = "(images, channels, positions...)" if least > 2 else "(images, channels, ...)"
        refuse(name, student, teacher, f"needs two feature maps {axes}")
    if student[0] != teacher[0]:
        refuse(name, student, teacher, "needs the same images; give both networks the same batch")
    if channels and student[1] != teacher[1]:
        why = (
            "needs equal channel counts; give channels= the teacher's kept indices, or put an "
            "adapter (a 1x1 convolution, dropped after training) behind the student"
        )
        refuse(name, student, teacher, why)
    if positions and tuple(student[2:]) != tuple(teacher[2:]):
        why = "needs equal heights and widths; take tensors of the same stride, or resize one"
        refuse(name, student, teacher, why)
    if 0 in student or 0 in teacher:
        refuse(name, student, teacher, "needs at least one value; skip empty batches")


def check_reduce(name: str, how: str) -> None:
    """Refuses a `reduce` that is none."""
    if how not in REDUCTIONS:
        raise UsageError(f"{name}: reduce={how!r} is none of {', '.join(REDUCTIONS)}")
