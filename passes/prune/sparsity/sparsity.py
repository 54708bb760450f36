"""What pressure on gammas and pressure on filters have in common."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from graphopt.errors import TrainingError, UsageError
from graphopt.passes.prune.sparsity.history import SMALL, History
from graphopt.passes.prune.sparsity.propose import must_be_sgd, proposed_for
from graphopt.passes.prune.sparsity.schedules import Schedule, parse_schedule
from graphopt.passes.prune.sparsity.units import Units
from graphopt.training import Hook, Moment, Recipe

_LOOKED_EVERY = 10  # steps between looks at the distribution: it waits for the device


class Sparsity(Hook):
    """Adds s_k d/dw sqrt(n_k) ||w_k||_2 to the gradients of every unit k (see `units`).

    The gradients have to be unscaled and summed over processes, which the Trainer sees to. The
    pressure is the same on every process, and the same however many batches make a step.
    """

    symbol: ClassVar[str] = "|w|"

    def __init__(
        self, units: Units, *, s: float | Recipe, schedule: str | Schedule = "constant"
    ) -> None:
        """Prepares; `for_graph` and `for_module` find the units.

        Args:
            units: what is pressed.
            s: the strength; or the recipe of the run, from which it is proposed in its first step.
            schedule: see `graphopt.passes.prune.sparsity.schedules`.

        Raises:
            UsageError: an s that cannot be, or none can be proposed for.
        """
        if isinstance(s, Recipe):
            must_be_sgd(s)
        elif not (math.isfinite(s) and s >= 0):
            raise UsageError(f"s={s!r} is not a finite number of at least 0")
        self.units = units
        self.schedule = parse_schedule(schedule) if isinstance(schedule, str) else schedule
        self.recipe = s if isinstance(s, Recipe) else None
        self.s = None if isinstance(s, Recipe) else float(s)
        sizes = units.sizes()
        self.history = History.of(sizes)
        self._typical = float(sizes.median()) if len(sizes) else 1.0
        self._status = ""
        self._steps = 0

    # --- acting ---------------------------------------------------------------------------------

    def add(self, done: float) -> None:
        """Adds the pressure to the gradients, once between backward pass and step.

        Args:
            done: the share of the run that is done, 0 to 1.

        Raises:
            UsageError: s is to be proposed, and this is no run of a Trainer.
        """
        if self.s is None:
            raise UsageError("s is not known: give a number, see `propose`")
        sizes = self.units.sizes()
        self.units.add(self.s * self.schedule.factors(done, sizes))
        if self._steps % _LOOKED_EVERY == 0:
            self._look(sizes)
        self._steps += 1

    def end_epoch(self, epoch: float, *, last: bool = False) -> dict[str, float]:
        """Keeps the distribution of sizes.

        Args:
            epoch: epochs done.
            last: whether the run is over.

        Returns:
            The mean size and the share below 0.01, by name.
        """
        if not last and epoch == int(epoch):
            self._shrink_weak(int(epoch))
        sizes = self.units.sizes()
        self.history.add(epoch, sizes)
        self._look(sizes)
        return {
            self.symbol: self.history.mean[-1],
            f"{self.symbol}<{SMALL:g}": self.history.small[-1],
        }

    def after_backward(self, model: nn.Module, at: Moment) -> None:  # noqa: ARG002
        """See Hook."""
        if self.s is None:
            assert self.recipe is not None
            until = self.schedule.until
            self.s = proposed_for(self.recipe, at, until=until, size=self._typical)
        self.add(at.done)

    def after_epoch(self, model: nn.Module, at: Moment) -> dict[str, float]:  # noqa: ARG002
        """See Hook."""
        return self.end_epoch(at.epoch, last=at.step >= at.steps)

    def _shrink_weak(self, epoch: int) -> None:
        sizes = self.units.sizes()
        weak = self.schedule.weak(epoch, sizes, self.units.layer_means(sizes))
        if weak is not None:
            self.shrink(torch.where(weak, self.schedule.shrink, 1.0))

    def shrink(self, factors: Tensor) -> None:
        """Multiplies every unit with its factor; shape (units,)."""
        parts = self.units.of_slices(factors, other=1.0)
        with torch.no_grad():
            for each, part in zip(self.units.slices, parts, strict=True):
                each.parameter.copy_(each.scaled(part))

    # --- telling --------------------------------------------------------------------------------

    def status(self) -> str:
        """The distribution now, zero on the left, and the share below 0.01."""
        return self._status

    def facts(self) -> dict[str, Any]:
        """What a report plots: the settings, and the distribution before and after every epoch."""
        settings = {"what": self.symbol, "s": self.s, "schedule": str(self.schedule)}
        return {**settings, "small_below": SMALL, **self.history.state()}

    def _look(self, sizes: Tensor) -> None:
        small = float((sizes < SMALL).float().mean())
        self._status = f"{self.symbol} {self.history.bars(sizes)} {small:.0%} < {SMALL:g}"

    # --- going on -------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """See Hook. The pressure itself depends on parameters and progress alone."""
        return {"s": self.s, "schedule": str(self.schedule), **self.history.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See Hook.

        Raises:
            TrainingError: the state is of a run with another s or schedule.
        """
        history = dict(state)
        s, schedule = history.pop("s"), history.pop("schedule")
        if schedule != str(self.schedule) or (self.recipe is None and s != self.s):
            raise TrainingError(
                f"the run that is to go on had s={s:g} and schedule {schedule}, not s={self.s} and "
                f"{self.schedule}: take another folder, or delete that one"
            )
        self.s = s
        self.history = History(**history)
