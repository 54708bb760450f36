"""Choosing what goes so that a budget is met: one clock, floors, round numbers, and a last fitting.

Moving the clock to t removes every unit whose time has come, and then gives back the best of what
was removed until every layer keeps its minimum and a round number of channels. A bisection finds
the first t that meets the budget; what it overshoots by is given back in single steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from graphopt.channels.axes import UnitAxis
from graphopt.channels.cut import Mask
from graphopt.channels.groups import Channels
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


class Selection:
    """The units that stay, and what the network costs with them."""

    def __init__(self, left: _Left, account: Account) -> None:
        self.left = left
        self._account = account

    @property
    def alive(self) -> Mask:
        """The units that stay, as a mask."""
        return self.left.alive

    @cached_property
    def totals(self) -> Totals:
        """Everything the network costs."""
        return self._account.totals_of(self._lengths)

    def cost(self, metric: str) -> float:
        """One of `totals`, which is less work than all."""
        return self._account.cost(metric, self._lengths)

    @cached_property
    def _lengths(self) -> Floats:
        return self._account.lengths_of(self.left.of_group)


class Selector:
    """Chooses units by their times under limits."""

    def __init__(
        self, channels: Channels, account: Account, scores: Floats, times: Times, limits: Limits
    ) -> None:
        self._channels = channels
        self._account = account
        self._times = times
        self._best = _BestFirst(channels, scores)
        self._layers = _layers(channels, self._best, limits)
        self._axis = np.array([layer.axis.index for layer in self._layers], np.int64)
        self._least = np.array([layer.least for layer in self._layers], np.int64)
        self._step = np.array([layer.step for layer in self._layers], np.int64)
        self._size = np.array([len(layer.axis.units) for layer in self._layers], np.int64)
        self._layers_on: list[list[int]] = [[] for _ in channels.groups]
        for number, layer in enumerate(self._layers):
            for group, _ in layer.axis.groups:
                self._layers_on[group].append(number)
        # A layer that has more than it had may need more to make a round number. One that counts
        # the units of a single group has what it needs after it was given something.
        self._beside = [
            sorted(
                {other for group, _ in layer.axis.groups for other in self._layers_on[group]}
                - ({number} if layer.counts_units else set())
            )
            for number, layer in enumerate(self._layers)
        ]

    def at(self, time: float) -> Selection:
        """What is left when every unit whose time has come goes, within the limits."""
        left = _Left.of(self._channels, self._times > time, self._best)
        return self._within_limits(left, self._short(left))

    def _short(self, left: _Left) -> list[bool]:
        """Which layers have less than they need."""
        kept = self._channels.axes.lengths_of(left.of_group)[self._axis]
        return _less_than_needed(kept, self._least, self._step, self._size).tolist()

    def _within_limits(self, left: _Left, short: list[bool]) -> Selection:
        """Revives units until every layer has what it needs; `short` are the layers to look at."""
        while any(short):
            for number, layer in enumerate(self._layers):
                if short[number]:
                    short[number] = False
                    if layer.give_back(left):
                        for other in self._beside[number]:
                            short[other] = True
        return Selection(left, self._account)

    def meet(self, budgets: Sequence[Budget]) -> Selection:
        """The most that can stay within the budgets.

        Raises:
            BudgetError: not even removing everything that can go is enough.
        """
        moments = np.unique(self._times[np.isfinite(self._times)])
        least = self.at(float(moments[-1]) if len(moments) else 0.0)
        self._must_be_feasible(budgets, least)
        low, high = -1, len(moments) - 1  # at -1 nothing goes
        everything = self.at(-np.inf)
        if self._meets(everything, budgets):
            return everything
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
        dead = np.flatnonzero(~found.alive & np.isfinite(self._times))
        order = dead[np.argsort(-self._times[dead], kind="stable")]
        tries = 0
        for unit in order.tolist():
            if found.alive[unit]:
                continue
            if tries >= _GIVE_BACK_TRIES or self._room(found, budgets) < _CLOSE:
                break
            tries += 1
            more = self._with(found, unit)
            if self._meets(more, budgets):
                found = more
        return found

    def _with(self, found: Selection, unit: int) -> Selection:
        """One more unit, and what the limits then ask for."""
        left = found.left.copy()
        group = self._channels.group_of_unit[[unit]]
        left.revive(np.array([unit]), group)
        short = [False] * len(self._layers)
        for number in self._layers_on[int(group[0])]:
            short[number] = True
        return self._within_limits(left, short)

    @staticmethod
    def _meets(found: Selection, budgets: Sequence[Budget]) -> bool:
        return all(found.cost(b.metric) <= b.limit for b in budgets)

    @staticmethod
    def _room(found: Selection, budgets: Sequence[Budget]) -> float:
        return min(1 - found.cost(b.metric) / b.limit for b in budgets)

    def _must_be_feasible(self, budgets: Sequence[Budget], least: Selection) -> None:
        for each in budgets:
            reached = least.cost(each.metric)
            if reached > each.limit:
                whole = self._account.without().of(each.metric)
                raise BudgetError(
                    f"{each.metric} cannot go below {in_words(reached)} "
                    f"({reached / whole:.1%} of {in_words(whole)}); "
                    f"asked for {in_words(each.limit)} ({each.limit / whole:.1%}). "
                    "A lower floor, a smaller multiple or fewer excluded layers leave more to remove"
                )


# --- limits of one layer ----------------------------------------------------------------------


class _BestFirst:
    """The units of groups by falling score; of equal ones the first comes first."""

    def __init__(self, channels: Channels, scores: Floats) -> None:
        self._channels = channels
        self._scores = scores
        self._found: dict[tuple[int, ...], Vector] = {}

    def __call__(self, *groups: int) -> Vector:
        if groups not in self._found:
            units = np.concatenate([self._channels.groups[g].units for g in groups])
            units.sort()
            order = np.argsort(-self._scores[units], kind="stable")
            self._found[groups] = units[order]
        return self._found[groups]


@dataclass
class _Left:
    """The units that are left, and how many of every group.

    Costs need the numbers only: which units of a group are revived is worked out when asked for.
    """

    of_group: list[int]
    _alive: Mask
    _owed: dict[int, int]  # by group, how many of the best are to be revived
    _best: _BestFirst

    @classmethod
    def of(cls, channels: Channels, alive: Mask, best: _BestFirst) -> _Left:
        """From the units that are left, a mask."""
        return cls(channels.axes.left(alive).astype(int).tolist(), alive, {}, best)

    @property
    def alive(self) -> Mask:
        """The units that are left, a mask."""
        for group, count in self._owed.items():
            units = self._best(group)
            self._alive[units[~self._alive[units]][:count]] = True
        self._owed.clear()
        return self._alive

    def copy(self) -> _Left:
        """The same, to be changed apart."""
        return _Left(self.of_group.copy(), self._alive.copy(), self._owed.copy(), self._best)

    def revive(self, units: Vector, groups: Vector) -> None:
        """Units that were gone are back; `groups` are theirs."""
        self.alive[units] = True
        for group in groups.tolist():
            self.of_group[group] += 1

    def revive_best(self, group: int, count: int) -> None:
        """The best units of a group that were gone are back."""
        self._owed[group] = self._owed.get(group, 0) + count
        self.of_group[group] += count


@dataclass(frozen=True)
class _Layer:
    """An axis that keeps at least `least` elements and a multiple of `step` (or all of them)."""

    axis: UnitAxis
    least: int
    step: int
    best: _BestFirst
    group_of_unit: Vector

    @property
    def counts_units(self) -> bool:
        """Whether every element is one unit of the same group, or stays."""
        return len(self.axis.groups) == 1 and self.axis.groups[0][1] == 1

    def give_back(self, left: _Left) -> bool:
        """Revives the best units until the limits hold; whether any had to be."""
        kept = self.axis.fixed
        for group, times in self.axis.groups:
            kept += times * left.of_group[group]
        wanted = max(kept, self.least)
        wanted = min(-(-wanted // self.step) * self.step, len(self.axis.units))
        if kept >= wanted:
            return False
        if len(self.axis.groups) == 1:
            ((group, times),) = self.axis.groups
            left.revive_best(group, -((kept - wanted) // times))
        else:
            self._give_back_mixed(left, wanted - kept)
        return True

    def _give_back_mixed(self, left: _Left, missing: int) -> None:
        units = self.best(*(group for group, _ in self.axis.groups))
        dead = units[~left.alive[units]]
        elements = self._times_of_group[self.group_of_unit[dead]]
        back = dead[: int(elements.cumsum().searchsorted(missing)) + 1]
        left.revive(back, self.group_of_unit[back])

    @cached_property
    def _times_of_group(self) -> Vector:
        """How many elements a unit of each group has here."""
        times = np.zeros(1 + max(group for group, _ in self.axis.groups), np.int64)
        for group, count in self.axis.groups:
            times[group] = count
        return times


def _less_than_needed(kept: Floats, least: Vector, step: Vector, size: Vector) -> Mask:
    wanted = np.minimum(-(-np.maximum(kept, least) // step) * step, size)
    return np.asarray(kept < wanted)


def _layers(channels: Channels, best: _BestFirst, limits: Limits) -> list[_Layer]:
    """The output axes of layers; and every other axis, which must not become empty."""
    outputs: dict[int, UnitAxis] = {}
    for site, axis in channels.sites:
        if axis is not None and site.role in ("output", "depthwise"):
            outputs[axis.index] = axis
    others = [a for a in channels.axes.axes if a.index not in outputs]
    loose = Limits(floor=0.0, multiple=1)

    def layer(axis: UnitAxis, limits: Limits) -> _Layer:
        size = len(axis.units)
        least = max(1, int(np.ceil(size * limits.floor)))
        return _Layer(axis, least, _step(size, limits.multiple), best, channels.group_of_unit)

    return [layer(a, limits) for a in outputs.values()] + [layer(a, loose) for a in others]


def _step(size: int, multiple: int) -> int:
    """The multiple for an axis: a narrow one is cut in powers of two, at least into halves."""
    if size >= 2 * multiple:
        return multiple
    step = 1
    while step * 4 <= size:
        step *= 2
    return min(step, multiple)
