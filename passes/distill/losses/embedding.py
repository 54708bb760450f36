"""Channel attention: one number per channel of a feature map, seen as the next block sees it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F  # noqa: N812 (what everyone calls it)
from torch import Tensor

from graphopt.errors import UsageError
from graphopt.passes.distill.losses.precision import wide

if TYPE_CHECKING:
    from graphopt.passes.distill.losses.channels import KeptChannels


@dataclass(frozen=True, eq=False)
class Norm:
    """BatchNorm with its running statistics: y = (x - mean) / sqrt(var + eps) * weight + bias.

    A function of its numbers rather than the module: calling the module would move the running
    statistics whenever it is in training mode - the teacher's would drift, the student's would be
    updated twice per step - and would normalize by the batch.

    Attributes:
        mean, var, weight, bias: (channels,) each. Gradients reach a student's weight and bias.
        eps: added to the variance.
    """

    mean: Tensor
    var: Tensor
    weight: Tensor
    bias: Tensor
    eps: float = 1e-5

    @classmethod
    def of(cls, module: Any) -> Norm:
        """That of a torch BatchNorm module, in whatever mode; it follows the module's updates.

        Raises:
            UsageError: the module keeps no running statistics.
        """
        mean, var = getattr(module, "running_mean", None), getattr(module, "running_var", None)
        if mean is None or var is None:
            raise UsageError(
                f"{type(module).__name__} has no running statistics; leave the norm out"
            )
        weight = torch.ones_like(mean) if module.weight is None else module.weight
        bias = torch.zeros_like(mean) if module.bias is None else module.bias
        return cls(mean, var, weight, bias, module.eps)

    def select(self, channels: KeptChannels) -> Norm:
        """That of the kept channels."""
        names = ("mean", "var", "weight", "bias")
        kept = {n: channels.of(getattr(self, n)[None])[0] for n in names}
        return dataclasses.replace(self, **kept)

    def __call__(self, features: Tensor) -> Tensor:
        """The normalized features (images, channels, positions...).

        Raises:
            UsageError: the features have another number of channels.
        """
        if len(self.mean) != features.shape[1]:
            raise UsageError(
                f"the norm has {len(self.mean)} channels, the features {tuple(features.shape)} "
                f"have {features.shape[1]}: give the BatchNorm that reads this tensor"
            )
        scale = wide(self.weight) * (wide(self.var).detach() + self.eps).rsqrt()
        # A copy, because autograd keeps it and the next training step writes into the original.
        shift = wide(self.bias) - wide(self.mean).detach().clone() * scale
        axes = (1, -1) + (1,) * (features.ndim - 2)
        return features * scale.view(axes) + shift.view(axes)


def channel_embedding(features: Tensor, norm: Norm | None = None) -> Tensor:
    """e = v / ||v||_2,   v_c = mean over positions of ReLU(norm(F_c)); zero where v is.

    Args:
        features: (images, channels, positions...), before the next block's BatchNorm.
        norm: that BatchNorm; none for features that come after it.

    Returns:
        (images, channels), every row of length 1.
    """
    features = wide(features)
    seen = features if norm is None else norm(features)
    return F.normalize(F.relu(seen).flatten(2).mean(2), dim=1, eps=1e-12)
