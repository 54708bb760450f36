"""Choosing what goes so that a budget is met: one clock, floors, round numbers, and a last fitting.

Moving the clock to t removes every unit whose time has come, and then gives back the best of what
was removed until every layer keeps its minimum and a round number of channels. A bisection finds
the first t that meets the budget; what it overshoots by is given back in single steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.channels.axes import UnitAxis
from graphopt.channels.cut import Mask
from graphopt.channels.groups import KEPT_UNIT, Channels
from graphopt.channels.labels import Floats, Vector
from graphopt.errors import BudgetError
from graphopt.passes.prune.account import Account, Totals
from graphopt.passes.prune.allocation import Times
from graphopt.passes.prune.budget import Budget, in_words

_GIVE_BACK_TRIES = 400
_CLOSE = 0.002  # of the budget: nothing more is given back


@dataclass(frozen=True)
class Limits:
    """What every layer keeps: at least `floor` of its channels, a multiple of `multiple`."""

    floor: float = 0.1
    multiple: int = 8


@dataclass(frozen=True)
class Selection:
    """The units that stay, as a mask, and what the network costs with them."""

    alive: Mask
    totals: Totals


class Selector:
    """Chooses units by their times under limits."""

    def __init__(
        self, channels: Channels, account: Account, scores: Floats, times: Times, limits: Limits
    ) -> None:
        self._channels = channels
        self._account = account
        self._times = times
        self._layers = _layers(channels, scores, limits)
        self._whole = account.without()

    def at(self, time: float) -> Selection:
        """What is left when every unit whose time has come goes, within the limits."""
        return self._within_limits(self._times > time)

    def _within_limits(self, alive: Mask) -> Selection:
        """Revives units in `alive` until every layer has what it needs."""
        left = _Left(self._channels, alive)
        while sum(layer.give_back(left) for layer in self._layers):
            pass
        return Selection(alive, self._account.totals(alive))

    def meet(self, budgets: Sequence[Budget]) -> Selection:
        """The most that can stay within the budgets.

        Raises:
            BudgetError: not even removing everything that can go is enough.
        """
        moments = np.unique(self._times[np.isfinite(self._times)])
        least = self.at(float(moments[-1]) if len(moments) else 0.0)
        self._must_be_feasible(budgets, least)
        low, high = -1, len(moments) - 1  # at -1 nothing goes
        if self._meets(self.at(-np.inf), budgets):
            return self.at(-np.inf)
        best = least
        while high - low > 1:
            middle = (low + high) // 2
            found = self.at(float(moments[middle]))
            if self._meets(found, budgets):
                high, best = middle, found
            else:
                low = middle
        return self._give_back(best, budgets)

    def _give_back(self, found: Selection, budgets: Sequence[Budget]) -> Selection:
        """Single steps of single layers, best times first, while the budget allows them."""
        order = np.argsort(-self._times, kind="stable")
        order = order[np.isfinite(self._times[order]) & ~found.alive[order]]
        tries = 0
        for unit in order.tolist():
            if found.alive[unit]:
                continue
            if tries >= _GIVE_BACK_TRIES or self._room(found, budgets) < _CLOSE:
                break
            tries += 1
            alive = found.alive.copy()
            alive[unit] = True
            more = self._within_limits(alive)
            if self._meets(more, budgets):
                found = more
        return found

    @staticmethod
    def _meets(found: Selection, budgets: Sequence[Budget]) -> bool:
        return all(found.totals.of(b.metric) <= b.limit for b in budgets)

    @staticmethod
    def _room(found: Selection, budgets: Sequence[Budget]) -> float:
        return min(1 - found.totals.of(b.metric) / b.limit for b in budgets)

    def _must_be_feasible(self, budgets: Sequence[Budget], least: Selection) -> None:
        for each in budgets:
            reached = least.totals.of(each.metric)
            if reached > each.limit:
                whole = self._whole.of(each.metric)
                raise BudgetError(
                    f"{each.metric} cannot go below {in_words(reached)} "
                    f"({reached / whole:.1%} of {in_words(whole)}); "
                    f"asked for {in_words(each.limit)} ({each.limit / whole:.1%}). "
                    "A lower floor, a smaller multiple or fewer excluded layers leave more to remove"
                )


# --- limits of one layer ----------------------------------------------------------------------


class _Left:
    """The units that are left, and how many of every group."""

    def __init__(self, channels: Channels, alive: Mask) -> None:
        self.alive = alive
        self._group_of_unit = channels.group_of_unit
        self.of_group: list[int] = channels.axes.left(alive).astype(int).tolist()

    def revive(self, units: Vector) -> None:
        """Units that were gone are back."""
        self.alive[units] = True
        for group in self._group_of_unit[units].tolist():
            self.of_group[group] += 1


@dataclass(frozen=True)
class _Layer:
    """An axis that keeps at least `least` elements and a multiple of `step` (or all of them)."""

    axis: UnitAxis
    units: Vector  # best first
    elements: Vector  # how many elements each unit has on the axis
    least: int
    step: int

    def give_back(self, left: _Left) -> bool:
        """Revives the best units until the limits hold; whether any had to be."""
        kept = self.axis.fixed
        for group, times in self.axis.groups:
            kept += times * left.of_group[group]
        wanted = max(kept, self.least)
        wanted = min(-(-wanted // self.step) * self.step, len(self.axis.units))
        if kept >= wanted:
            return False
        dead = np.flatnonzero(~left.alive[self.units])
        count = int(self.elements[dead].cumsum().searchsorted(wanted - kept)) + 1
        left.revive(self.units[dead[:count]])
        return True


def _layers(channels: Channels, scores: Floats, limits: Limits) -> list[_Layer]:
    """The output axes of layers; and every other axis, which must not become empty."""
    outputs: dict[int, UnitAxis] = {}
    for site in channels.sweep.findings.sites:
        axis = channels.axis_of(site.labels)
        if axis is not None and site.role in ("output", "depthwise"):
            outputs[axis.index] = axis
    others = [a for a in channels.axes.axes if a.index not in outputs]
    loose = Limits(floor=0.0, multiple=1)
    return [_layer(a, scores, limits) for a in outputs.values()] + [
        _layer(a, scores, loose) for a in others
    ]


def _layer(axis: UnitAxis, scores: Floats, limits: Limits) -> _Layer:
    size = len(axis.units)
    distinct, elements = np.unique(axis.units[axis.units != KEPT_UNIT], return_counts=True)
    order = np.argsort(-scores[distinct], kind="stable")
    return _Layer(
        axis=axis,
        units=distinct[order],
        elements=elements[order],
        least=max(1, int(np.ceil(size * limits.floor))),
        step=_step(size, limits.multiple),
    )


def _step(size: int, multiple: int) -> int:
    """The multiple for an axis: a narrow one is cut in powers of two, at least into halves."""
    if size >= 2 * multiple:
        return multiple
    step = 1
    while step * 4 <= size:
        step *= 2
    return min(step, multiple)
