"""Sparsity training: pressure on channels between the backward pass and the step, in any loop.

    sparsity = GammaSparsity.for_module(model, s=1e-3, schedule="local-decay")
    for epoch in range(epochs):
        for k, (images, labels) in enumerate(loader):
            optimizer.zero_grad()
            criterion(model(images), labels).backward()
            # with a GradScaler, scaler.unscale_(optimizer) goes here
            sparsity.add((epoch + k / len(loader)) / epochs)
            optimizer.step()
        print(sparsity.end_epoch(epoch + 1), sparsity.status())

With `graphopt.training.Trainer` it is a hook: `Trainer(..., hooks=[sparsity])`. Everything here imports
torch.
"""

from __future__ import annotations

from graphopt.passes.prune.sparsity.gamma import GammaSparsity
from graphopt.passes.prune.sparsity.lasso import GroupLasso
from graphopt.passes.prune.sparsity.propose import propose
from graphopt.passes.prune.sparsity.schedules import (
    SCHEDULES,
    Schedule,
    parse_schedule,
    register,
)
from graphopt.passes.prune.sparsity.sparsity import Sparsity

__all__ = [
    "SCHEDULES",
    "GammaSparsity",
    "GroupLasso",
    "Schedule",
    "Sparsity",
    "parse_schedule",
    "propose",
    "register",
]
