"""One term of a distillation: which tensors are compared, how, and how much it counts when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphopt.errors import UsageError
from graphopt.passes.distill.losses import KeptChannels, Loss, parse_loss

SCHEDULES = ("constant", "fade", "cosine", "rise")


@dataclass(frozen=True)
class Term:
    """weight * factor(done) * loss(student tensor, teacher tensor).

    Attributes:
        loss: a loss, or its text such as "kl{temperature=4}".
        weight: in front of the loss.
        schedule: the factor over the run: "constant" 1, "fade" 1 - done, "cosine"
            (1 + cos(pi done)) / 2, "rise" done.
        channels: the teacher's channel for every channel of the student.
        normalized: divides by the mean square of the teacher's tensor, so that one weight suits
            tensors of any size.
        masked: counts only the places of labelled objects, for a loss that can.
    """

    loss: Loss | str
    weight: float = 1.0
    schedule: str = "constant"
    channels: KeptChannels | None = None
    normalized: bool = False
    masked: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise UsageError(f"schedule {self.schedule!r} is none of {', '.join(SCHEDULES)}")
        if not math.isfinite(self.weight) or self.weight < 0:
            raise UsageError(f"weight={self.weight!r} is not a finite number of at least 0")
        if isinstance(self.loss, str):
            object.__setattr__(self, "loss", parse_loss(self.loss))

    def factor(self, done: float) -> float:
        """What the schedule makes of the weight when a share `done` of the run is over."""
        if self.schedule == "fade":
            return 1 - done
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        return done if self.schedule == "rise" else 1.0


Pair = tuple[str, str]
Terms = Mapping[Pair, "Term | str | Loss | Sequence[Term | str | Loss]"]


def terms_of(given: Terms) -> list[tuple[Pair, Term]]:
    """The terms of `{(student tensor, teacher tensor): loss}`; a value may be several losses."""
    found = []
    for pair, value in given.items():
        several = [value] if isinstance(value, Term | Loss | str) else value
        found += [(pair, each if isinstance(each, Term) else Term(each)) for each in several]
    return found
