"""What is pressed: slices of parameters, and which of them live and die together.

A unit owns one or several slices w_1 ... w_n: the gammas of a channel in every normalization it runs
through, or the filters that make it. The pressure on a unit is the gradient of

    s sqrt(n) ||w||_2,     w = (w_1, ..., w_n)          so that  d/dw_i = s sqrt(n) w_i / ||w||_2

(group lasso; Yuan and Lin 2006). For a lone gamma this is s sign(gamma), the L1 term of Network Slimming;
with sqrt(n), coupled gammas of one size shrink as fast as lone ones, and all reach zero together. A
separate L1 on each would leave channels that are small in one layer and large in another, which can
not be removed. At w = 0 the gradient is 0, as that of |x| in torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from graphopt.channels.labels import Vector

# Slices below are zero: the squares of smaller numbers vanish in single precision.
_ZERO = 1e-18


@dataclass(frozen=True, eq=False)
class Slices:
    """A parameter whose slices along an axis belong to units.

    Attributes:
        parameter: gets the gradient.
        axis: of the slices.
        units: the unit of every slice; the number of units (one too high) for what is left alone.
    """

    parameter: nn.Parameter
    axis: int
    units: Vector

    def norms(self) -> Tensor:
        """||w_i|| of every slice, in single precision; shape (length of the axis,)."""
        values = self.parameter.detach().float()
        if values.dim() == 1:
            return values.abs()
        rows = values.movedim(self.axis, 0).flatten(1)
        return torch.linalg.vector_norm(rows, dim=1)

    def scaled(self, factors: Tensor) -> Tensor:
        """The parameter, every slice times its factor."""
        shape = [1] * self.parameter.dim()
        shape[self.axis] = -1
        return self.parameter.detach() * factors.view(shape).to(self.parameter.dtype)


class Units:
    """All units that are pressed, with their slices."""

    def __init__(self, slices: Sequence[Slices], layer_of_unit: Vector) -> None:
        """`layer_of_unit` is the layer (or group of coupled layers) of every unit, from 0."""
        self.slices = list(slices)
        self.count = len(layer_of_unit)
        self._lengths = [len(s.units) for s in self.slices]
        self._layers = torch.from_numpy(np.asarray(layer_of_unit, np.int64))
        every = np.concatenate([np.zeros(0, np.int64), *(s.units for s in self.slices)])
        self._unit_of_slice = torch.from_numpy(every)
        self._owned, self._slices_of_unit = _tables(every, self.count)

    def sizes(self) -> Tensor:
        """How large units are: the mean norm of their slices, which `bn-gamma` scores them by; (units,)."""
        return self._sums(self._norms()) / self._owned

    def add(self, strengths: Tensor) -> None:
        """Adds the pressure to the gradients.

        Args:
            strengths: s of every unit; shape (units,).
        """
        norms = self._norms()
        total = self._sums(norms.square()).sqrt()
        factors = strengths * self._owned.sqrt() / total.clamp_min(_ZERO)
        factors = torch.where(total > _ZERO, factors, torch.zeros_like(factors))
        for each, part in zip(self.slices, self.of_slices(factors, other=0.0), strict=True):
            push = each.scaled(part)
            parameter = each.parameter
            if parameter.grad is None:  # not in this loss, yet under pressure
                parameter.grad = push
            else:
                parameter.grad.add_(push.to(parameter.grad.dtype))

    def layer_means(self, sizes: Tensor) -> Tensor:
        """For every unit, the mean of `sizes` in its layer; shape (units,)."""
        # On the CPU, where the order of summation is fixed.
        sums = torch.zeros(self.count).index_add_(0, self._layers, sizes.cpu())
        counts = torch.bincount(self._layers, minlength=self.count).clamp_min(1)
        return (sums / counts)[self._layers].to(sizes.device)

    def of_slices(self, values: Tensor, *, other: float) -> list[Tensor]:
        """Values of units as one vector per parameter, with `other` for what is left alone."""
        padded = torch.cat([values, values.new_full((1,), other)])
        return list(padded[self._unit_of_slice.to(values.device)].split(self._lengths))

    def _norms(self) -> Tensor:
        norms = torch.cat([s.norms() for s in self.slices])
        if self._owned.device != norms.device:  # the run has moved the parameters
            self._owned = self._owned.to(norms.device)
            self._slices_of_unit = self._slices_of_unit.to(norms.device)
            self._unit_of_slice = self._unit_of_slice.to(norms.device)
        return norms

    def _sums(self, values: Tensor) -> Tensor:
        # Gathered and summed row by row: adding at indices has no fixed order on a GPU, and
        # processes that train together, or a run that is repeated, would drift apart.
        padded = torch.cat([values, values.new_zeros(1)])
        return padded[self._slices_of_unit].sum(1)


def _tables(unit_of_slice: Vector, count: int) -> tuple[Tensor, Tensor]:
    """How many slices every unit has, and which: (units, most), padded with the number of slices."""
    owned = np.bincount(unit_of_slice, minlength=count + 1)
    order = np.argsort(unit_of_slice, kind="stable")[: owned[:count].sum()]
    units = unit_of_slice[order]
    place = np.arange(len(order)) - (np.cumsum(owned) - owned)[units]
    table = np.full((count, max(owned[:count], default=0)), len(unit_of_slice), np.int64)
    table[units, place] = order
    return torch.from_numpy(owned[:count]).float(), torch.from_numpy(table)
