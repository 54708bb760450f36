"""Optimizers with weight decay where it belongs."""

from __future__ import annotations

import torch
from torch import nn

from graphopt.training.recipe import Recipe


def optimizer_for(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimizer of a recipe over a module's trained parameters.

    Weights of two and more dimensions decay; scales and shifts of normalizations and biases do not:
    pulling gamma to zero is the business of sparsity training.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.rate, betas=(recipe.momentum, 0.999))
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(groups, lr=recipe.rate, momentum=recipe.momentum, nesterov=nesterov)


def take_values(into: nn.Module, of: nn.Module) -> None:
    """Parameters and buffers by name: a copied view's state dict has keys the view's own has not."""
    found = {**dict(of.named_parameters()), **dict(of.named_buffers())}
    with torch.no_grad():
        for name, value in [*into.named_parameters(), *into.named_buffers()]:
            value.copy_(found[name])
