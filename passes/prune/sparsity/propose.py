"""How strong the pressure has to be for a run of a given length."""

from __future__ import annotations

from graphopt.errors import UsageError
from graphopt.training import Moment, Recipe

KAPPA = 0.3


def propose(
    lr: float,
    momentum: float,
    steps: float,
    *,
    accumulate: int = 1,
    kappa: float = KAPPA,
    size: float = 1.0,
) -> float:
    """The s with which pressure alone carries a gamma from `size` to 0 in kappa * steps steps of SGD.

        s = size (1 - m) / (lr accumulate steps kappa)

    A constant gradient s moves a parameter by lr s / (1 - m) per step once momentum m has built up,
    after some 1 / (1 - m) steps. kappa < 1 leaves room for the loss, which pulls the other way: 0.2 to
    0.5 agrees with published runs. (System 1, lr 0.002324, m 0.97, s 0.001 added for 2 batches per
    step: 6454 steps, 54 of its epochs; its accuracy bottoms near epoch 50.)

    Args:
        lr: the mean learning rate of these steps.
        momentum: of SGD.
        steps: optimizer steps in which channels have to become small; half of the run, say.
        accumulate: how often s is added per optimizer step. The hooks here add it once however many
            batches make a step; loops that add it after every backward pass add it for each.
        kappa: the share of the steps after which the pressure alone would have done it.
        size: the gamma to begin with.

    Raises:
        UsageError: a number that makes no sense.
    """
    given = {"lr": lr, "steps": steps, "accumulate": accumulate, "kappa": kappa, "size": size}
    for name, value in given.items():
        if not 0 < value < float("inf"):
            raise UsageError(f"propose: {name}={value!r} is not a finite number above 0")
    if not 0 <= momentum < 1:
        raise UsageError(f"propose: momentum={momentum!r} is not from 0 to below 1")
    return size * (1 - momentum) / (lr * accumulate * steps * kappa)


def must_be_sgd(recipe: Recipe) -> None:
    """Refuses optimizers that rescale gradients: s has another meaning with every network there."""
    if recipe.optimizer != "sgd":
        raise UsageError(
            f"s can be proposed for sgd only: {recipe.optimizer} rescales every gradient; give s="
        )


def proposed_for(recipe: Recipe, at: Moment, *, until: float, size: float) -> float:
    """`propose` for a run: with the mean of its learning rates up to the share `until` of it."""
    must_be_sgd(recipe)
    steps = max(round(until * at.steps), 1)
    rates = [recipe.learning_rate(k, at.steps, at.steps_per_epoch) for k in range(steps)]
    return propose(sum(rates) / steps, recipe.momentum, steps, size=size)
