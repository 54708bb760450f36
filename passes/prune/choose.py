"""From wishes to units: scores, who may go, times, and the selection that meets the budgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.channels.groups import Channels
from graphopt.channels.labels import Floats, Vector
from graphopt.errors import BudgetError, UsageError
from graphopt.named import is_named
from graphopt.passes.prune.account import Account, Totals
from graphopt.passes.prune.allocation import ALLOCATIONS, Times, layers_of
from graphopt.passes.prune.budget import Budget
from graphopt.passes.prune.selection import Limits, Selection, Selector
from graphopt.passes.prune.sensitivity import PARTS
from graphopt.runtime.targets import TARGETS, target


@dataclass(frozen=True)
class Choice:
    """What goes, and what the network costs before and after."""

    removed: Vector
    before: Totals
    after: Totals
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wishes:
    """What is wanted: budgets by metric, how they are spread, what has to stay."""

    budgets: Mapping[str, str | float | Budget]
    allocation: str = "global"
    limits: Limits = field(default_factory=Limits)
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    target: str | None = None  # what latency is estimated for


def choose(
    channels: Channels,
    scores: Floats,
    wishes: Wishes,
    times: Times | None = None,
    until: float | None = None,
) -> Choice:
    """The units to remove.

    Args:
        channels: the analysis.
        scores: (unit_count,), higher is more important.
        wishes: see there.
        times: from an allocation of the caller's own; else `wishes.allocation` makes them.
        until: the time at which to stop when there is no budget.

    Raises:
        UsageError: no budget, an unknown allocation, a selector that matches nothing, nothing left
            to remove.
        BudgetError: the budgets cannot be met.
    """
    if "latency" in wishes.budgets and wishes.target is None:
        raise UsageError(f"a latency budget needs a target: {', '.join(TARGETS)}")
    account = Account(channels, None if wishes.target is None else target(wishes.target))
    whole = account.without()
    budgets = [Budget.parse(metric, text, whole) for metric, text in wishes.budgets.items()]
    if not budgets and until is None:
        raise UsageError(
            f"pruning needs a budget: one or more of {', '.join(Totals.metrics())} (0.5 is a half)"
        )
    if times is None:
        allocate = ALLOCATIONS.get(wishes.allocation)
        if allocate is None:
            known = ", ".join([*ALLOCATIONS, *PARTS])
            raise UsageError(f"no allocation is called {wishes.allocation!r}; known: {known}")
        times = allocate(channels, scores)
    times = times.copy()
    times[~_may_go(channels, wishes)] = np.inf
    selector = Selector(channels, account, scores, times, wishes.limits)
    found = selector.meet(budgets) if budgets else selector.at(until or 0.0)
    notes = tuple(_notes(found, budgets)) if budgets else ()
    return Choice(np.flatnonzero(~found.alive), whole, found.totals, notes)


def _notes(found: Selection, budgets: Sequence[Budget]) -> list[str]:
    """Why a budget was not met within a percent."""
    rooms = {b.metric: 1 - found.totals.of(b.metric) / b.limit for b in budgets}
    metric, room = min(rooms.items(), key=lambda item: item[1])
    if room <= 0.01:
        return []
    told = (
        f"{metric} end {room:.1%} below the budget: giving back the smallest step of any layer "
        "would exceed it (a smaller multiple makes smaller steps)"
    )
    return [told]


def _may_go(channels: Channels, wishes: Wishes) -> Vector:
    """Which units the selectors leave to be removed."""
    if not channels.unit_count:
        reasons = list(dict.fromkeys(h.reason.what for h in channels.held()))[:3]
        told = "; ".join(reasons) or "it has no convolution or matrix product with weights"
        raise BudgetError(f"no channel of this model can be removed: {told}")
    allowed = np.ones(channels.unit_count, bool)
    if wishes.include or wishes.exclude:
        names = _names(channels)
        if wishes.include:
            allowed[:] = False
            for group in _matching(names, wishes.include):
                allowed[channels.groups[group].units] = True
        for group in _matching(names, wishes.exclude):
            allowed[channels.groups[group].units] = False
    if not allowed.any():
        raise UsageError("include and exclude leave nothing that could be removed")
    return allowed


def _names(channels: Channels) -> list[set[str]]:
    """For each group, the names it can be selected by: its layers' and its parameters'."""
    names = [set(layers) for layers in layers_of(channels)]
    for member in channels.members:
        units = member.units[member.units >= 0]
        for group in np.unique(channels.group_of_unit[units]).tolist():
            names[group].add(member.name)
    return names


def _matching(names: Sequence[set[str]], selectors: Sequence[str]) -> set[int]:
    found: set[int] = set()
    for selector in selectors:
        hits = {g for g, own in enumerate(names) if any(is_named(n, selector) for n in own)}
        if not hits:
            raise UsageError(_no_match(selector, names))
        found |= hits
    return found


def _no_match(selector: str, names: Sequence[set[str]]) -> str:
    import difflib

    known = sorted(set().union(*names))
    near = difflib.get_close_matches(selector, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else "`graphopt groups` lists them"
    return f"no layer or parameter that can lose channels is called {selector!r}; {hint}"
