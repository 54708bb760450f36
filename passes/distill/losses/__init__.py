"""How far a student's tensor is from its teacher's, one measure per file.

loss = parse_loss("kl{temperature=4}")
loss(student, teacher).backward()
"""

from __future__ import annotations

from graphopt.passes.distill.losses.base import Given, Loss
from graphopt.passes.distill.losses.channels import ChannelStd, KeptChannels, selected_by_std
from graphopt.passes.distill.losses.embedding import Norm
from graphopt.passes.distill.losses.registry import LOSSES, parse_loss, register

__all__ = [
    "LOSSES",
    "ChannelStd",
    "Given",
    "KeptChannels",
    "Loss",
    "Norm",
    "parse_loss",
    "register",
    "selected_by_std",
]
