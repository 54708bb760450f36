"""When in a run activations are rounded, and until when scales move.

    rounded     weights always; activations from the share `delay` of the run on
    scales      move until the share `freeze`: learned ones by gradients, observed ones by what is seen

Jacob et al., CVPR 2018, round activations only after a delay, when their ranges have settled; ranges that
go on moving while weights settle keep both from it (section 3.1 there; Krishnamoorthi, 2018).
"""

from __future__ import annotations

import torch
from torch import fx, nn

from graphopt.fx.address import held_at
from graphopt.fx.build import origin
from graphopt.ir.graph import Graph
from graphopt.passes.quantize.learn.grids import Gate, LearnedGrid, ObservedGrid
from graphopt.passes.quantize.learn.rewiring import shared_grids
from graphopt.passes.quantize.learn.view import grids_of
from graphopt.training import Hook, Moment


class Timing(Hook):
    """Opens gates, moves observed scales and stops all scales in the end.

    Args:
        view: after `learn_grids`.
        graph: the one it was made of.
        delay: the share of the run in which activations are not rounded yet.
        freeze: the share of the run after which scales stay.
        momentum: how much a new batch counts for the range of an activation.
    """

    def __init__(
        self,
        view: fx.GraphModule,
        graph: Graph,
        *,
        delay: float = 0.0,
        freeze: float = 1.0,
        momentum: float = 0.1,
    ) -> None:
        self.delay, self.freeze, self.momentum = delay, freeze, momentum
        self._grids = list(grids_of(view).values())
        self._gates = [m for m in view.modules() if isinstance(m, Gate)]
        self._learned = [
            p for g in self._grids if isinstance(g, LearnedGrid) for p in g.parameters()
        ]
        self._observed = _observed(view, graph)

    def before_step(self, model: nn.Module, at: Moment) -> None:  # noqa: ARG002
        """Opens the gates in time."""
        for gate in self._gates:
            gate.open = at.done >= self.delay
        for each in self._observed:
            each.watch(moving=at.done < self.freeze)

    def after_backward(self, model: nn.Module, at: Moment) -> None:  # noqa: ARG002
        """Frozen scales have no gradients."""
        if at.done >= self.freeze:
            for parameter in self._learned:
                parameter.grad = None

    def after_step(self, model: nn.Module, at: Moment) -> None:  # noqa: ARG002
        """Ranges that were seen count from the next step on."""
        if at.done < self.freeze:
            with torch.no_grad():
                for each in self._observed:
                    each.move(self.momentum)

    def after_epoch(self, model: nn.Module, at: Moment) -> dict[str, float]:  # noqa: ARG002
        """By which power of two scales have moved since the start, in the mean over grids."""
        if not self._grids:
            return {}
        return {"scales moved": sum(g.moved() for g in self._grids) / len(self._grids)}


class _Observed:
    """An observed grid, with the weight it is for if it is for one."""

    def __init__(self, grid: ObservedGrid, view: fx.GraphModule, path: str | None) -> None:
        self.grid, self.view, self.path = grid, view, path
        self.least = torch.zeros_like(grid.start)
        if path is not None:
            # Where the scale is coarser than the weight needs, there is a reason: the bias has to fit.
            grid.fit(held_at(view, path), self.least)
            self.least = torch.where(grid.start > grid.scale * 1.001, grid.start, self.least)
            grid.scale.copy_(grid.start)

    def watch(self, *, moving: bool) -> None:
        """Looks on, or not."""
        for each in self.grid.seen:
            each.watching = moving

    def move(self, momentum: float) -> None:
        """Covers what has been seen, or the weight as it stands."""
        if self.path is not None:
            self.grid.fit(held_at(self.view, self.path), self.least.to(self.grid.start))
        found = [extremes for each in self.grid.seen if (extremes := each.taken()) is not None]
        if found:
            low = torch.stack([low for low, _ in found]).min()
            high = torch.stack([high for _, high in found]).max()
            self.grid.see(low, high, momentum)


def _observed(view: fx.GraphModule, graph: Graph) -> list[_Observed]:
    grids, known = grids_of(view), origin(view)
    found = []
    for each in shared_grids(graph):
        grid = grids.get(each.scale.name)
        if isinstance(grid, ObservedGrid):
            path = known.path(each.rounded[0].name) if each.is_weight else None
            found.append(_Observed(grid, view, path))
    return found
