"""Which precision losses compute in, and how a tensor gets there."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(tensor: Tensor) -> Tensor:
    """The tensor in single precision if it is narrower, otherwise as it is.

    A float16 squares to infinity from 256 on, a sum of ones in it ends at 2048, and a bfloat16 has
    three digits: a mean of squares over a feature map is lost in either. The gradient arrives in
    the tensor's own type again.
    """
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
