"""Pressure on the scales of normalizations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from graphopt.channels.groups import Channels
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.passes.prune.sparsity.found import Norm, coupled, of_module, of_view, separate
from graphopt.passes.prune.sparsity.schedules import Schedule
from graphopt.passes.prune.sparsity.sparsity import Sparsity
from graphopt.passes.prune.sparsity.units import Units
from graphopt.training import Recipe


class GammaSparsity(Sparsity):
    """d/dgamma_k  +=  s_k sign(gamma_k): the L1 term of Network Slimming, with a schedule.

    Liu et al., ICCV 2017. Channels that are coupled (a residual stream is normalized in several
    places) share their pressure, s_k sqrt(n) gamma / ||gamma||_2 over their n gammas, and are ranked by
    the mean of |gamma|, which is also how `bn-gamma` scores them for pruning. Weight decay has no
    business on gammas beside it; the Trainer's optimizers have none there.
    """

    symbol: ClassVar[str] = "|gamma|"

    def __init__(
        self,
        units: Units,
        norms: Sequence[nn.Module] = (),
        *,
        s: float | Recipe,
        schedule: str | Schedule = "constant",
    ) -> None:
        """See Sparsity.

        Args:
            units: what is pressed.
            norms: the BatchNorms these gammas may be of, for schedules with a soft mask.
            s: see Sparsity.
            schedule: likewise.

        Raises:
            UsageError: there is no gamma.
        """
        if not units.count:
            raise UsageError(
                "no normalization with a trained scale stands behind a channel that can be removed: "
                "export the model with its BatchNorms, run insert-batchnorm first, or press the "
                "filters instead (group lasso)"
            )
        super().__init__(units, s=s, schedule=schedule)
        own = {id(slices.parameter) for slices in units.slices}
        self._norms = [n for n in norms if isinstance(n, Norm) and id(n.weight) in own]

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
    ) -> GammaSparsity:
        """For a view made by `graphopt.fx.to_fx`: channels that can be removed, and no others.

        Args:
            graph: the one the view was made from, or a copy of it.
            view: is trained.
            s: the strength, or the run's recipe to have it proposed.
            schedule: see `graphopt.passes.prune.sparsity.schedules`.
            names: globs; only gammas (constants of the graph) that match one of them.
            channels: the analysis of `graph`, if there is one already.

        Raises:
            UsageError: no such gamma, or an option that cannot be.
        """
        units = coupled(channels or Channels(graph), "scale", of_view(view), names)
        return cls(units, list(view.modules()), s=s, schedule=schedule)

    @classmethod
    def for_module(
        cls,
        module: nn.Module,
        *,
        s: float | Recipe,
        schedule: str | Schedule = "constant",
        names: Sequence[str] = ("*",),
        channels: Channels | None = None,
    ) -> GammaSparsity:
        """For any module, also behind torch.compile or DistributedDataParallel.

        Args:
            module: is trained.
            s: the strength, or the run's recipe to have it proposed.
            schedule: see `graphopt.passes.prune.sparsity.schedules`.
            names: globs of BatchNorms, such as "backbone.*"; of their weights when there are `channels`.
            channels: the analysis of the module's exported graph, simplified so that parameters
                keep their names (`graphopt.prune.KEEPING_NAMES`): then only channels that can be
                removed are pressed, and coupled ones together. Else every channel of a BatchNorm
                stands for itself.

        Raises:
            UsageError: no such gamma, or an option that cannot be.
        """
        if channels is None:
            units = separate(module, names)
        else:
            units = coupled(channels, "scale", of_module(module), names)
        return cls(units, list(module.modules()), s=s, schedule=schedule)

    def shrink(self, factors: Tensor) -> None:
        """Multiplies gamma, beta, mean and variance of every unit with its factor."""
        super().shrink(factors)
        parts = self.units.of_slices(factors, other=1.0)
        of_gamma = {
            id(each.parameter): part for each, part in zip(self.units.slices, parts, strict=True)
        }
        done: set[int] = set()  # norms may share a gamma, a beta
        for norm in self._norms:
            for value in (norm.bias, norm.running_mean, norm.running_var):
                if value is not None and id(value) not in done:
                    done.add(id(value))
                    with torch.no_grad():
                        value.mul_(of_gamma[id(norm.weight)].to(value.dtype))
