"""Pressure on the filters of channels, for networks without normalizations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from graphopt.channels.groups import Channels
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.passes.prune.sparsity.found import coupled, of_module, of_view
from graphopt.passes.prune.sparsity.schedules import Schedule
from graphopt.passes.prune.sparsity.sparsity import Sparsity
from graphopt.passes.prune.sparsity.units import Units
from graphopt.training import Recipe


class GroupLasso(Sparsity):
    """d/dW_k  +=  s_k sqrt(n) W_k / ||W_k||_2, W_k being the n filters that make channel k.

    Wen et al., Structured Sparsity Learning, NeurIPS 2016; with one filter this is the gradient of
    s ||W_k||_2, which shrinks filters of any fan-in at one speed. Whole filters go to zero, coupled
    ones together; their biases are left alone, since pruning makes up for constants. Behind a
    normalization the norm of a filter means nothing: press its gamma there. The soft mask of `cosine`
    shrinks filters alone.
    """

    symbol: ClassVar[str] = "||w||"

    def __init__(
        self, units: Units, *, s: float | Recipe, schedule: str | Schedule = "constant"
    ) -> None:
        """See Sparsity.

        Raises:
            UsageError: there is no filter.
        """
        if not units.count:
            raise UsageError("no trained weight makes a channel that can be removed")
        super().__init__(units, s=s, schedule=schedule)

    @classmethod
    def for_graph(
        cls,
        graph: Graph,
        view: nn.Module,
        *,
        s: float | Recipe,
        schedule: str | Schedule = "constant",
        names: Sequence[str] = ("*",),
        channels: Channels | None = None,
    ) -> GroupLasso:
        """For a view made by `graphopt.fx.to_fx`; see `GammaSparsity.for_graph`."""
        units = coupled(channels or Channels(graph), "output", of_view(view), names)
        return cls(units, s=s, schedule=schedule)

    @classmethod
    def for_module(
        cls,
        module: nn.Module,
        channels: Channels,
        *,
        s: float | Recipe,
        schedule: str | Schedule = "constant",
        names: Sequence[str] = ("*",),
    ) -> GroupLasso:
        """For any module, with the analysis of its exported graph; see `GammaSparsity.for_module`."""
        units = coupled(channels, "output", of_module(module), names)
        return cls(units, s=s, schedule=schedule)
