"""A network's outputs as losses want them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from graphopt.errors import UsageError

Outputs: TypeAlias = "Tensor | Sequence[Tensor]"


def as_list(outputs: Outputs) -> list[Tensor]:
    """The outputs in float32 if they are narrower: sums over a map are lost in half precision."""
    several = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    return [o.to(torch.promote_types(o.dtype, torch.float32)) for o in several]


def maps_of(outputs: Outputs, count: int) -> list[Tensor]:
    """`count` maps (images, channels, height, width), finest first; of equals in their order.

    Raises:
        UsageError: as many maps there are not.
    """
    found = as_list(outputs)
    if len(found) != count or any(o.dim() != 4 for o in found):
        shapes = ", ".join(str(tuple(o.shape)) for o in found)
        raise UsageError(
            f"the loss needs {count} maps (images, channels, height, width); the outputs are {shapes}"
        )
    return sorted(found, key=lambda m: -m.shape[2] * m.shape[3])
