"""A run under pressure: how strong, what it remembers, what its gammas do over the epochs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sparsity_networks import Pulled, Returned, train
from torch import Tensor, nn

from graphopt.errors import TrainingError, UsageError
from graphopt.passes.prune.sparsity import GammaSparsity, propose
from graphopt.passes.prune.sparsity.propose import proposed_for
from graphopt.training import Hook, Moment, Recipe

# --- how strong ---------------------------------------------------------------------------------


def sgd(s: float, rates: list[float], momentum: float, gamma: float = 1.0) -> list[float]:
    """gamma after every step of SGD when nothing but the pressure acts."""
    parameter = nn.Parameter(torch.tensor([gamma]))
    optimizer = torch.optim.SGD([parameter], lr=1.0, momentum=momentum)
    found = []
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        parameter.grad = s * parameter.detach().sign()
        optimizer.step()
        found.append(float(parameter.detach()))
    return found


@pytest.mark.parametrize(("momentum", "size"), [(0.0, 1.0), (0.9, 1.0), (0.97, 0.4)])
def test_the_pressure_alone_carries_a_gamma_to_zero_in_time(momentum: float, size: float) -> None:
    steps, kappa, lr = 4000, 0.3, 0.01
    s = propose(lr, momentum, steps, kappa=kappa, size=size)
    path = sgd(s, [lr] * steps, momentum, size)
    arrived = next(k for k, gamma in enumerate(path, 1) if gamma <= 0.01 * size)
    assert arrived == pytest.approx(kappa * steps, rel=0.04)
    assert min(path[: int(0.9 * kappa * steps)]) > 0.05 * size
    assert abs(path[-1]) < 0.01


def test_the_published_numbers() -> None:
    s = propose(0.002324, 0.97, 6454, accumulate=2, kappa=1.0)
    assert s == pytest.approx(0.001, rel=1e-3)


def test_the_proposal_for_a_recipe_knows_its_learning_rates() -> None:
    recipe = Recipe(lr=0.02, momentum=0.9, warmup=2.0, schedule="cosine")
    at = Moment(0, 2000, 100, 0.0)
    s = proposed_for(recipe, at, until=0.5, size=1.0)
    rates = [recipe.learning_rate(k, 2000, 100) for k in range(1000)]
    path = sgd(s, rates, 0.9)
    travelled = sum(rates[: next(k for k, gamma in enumerate(path, 1) if gamma <= 0.01)])
    assert travelled / sum(rates) == pytest.approx(0.3, rel=0.1)


@pytest.mark.parametrize(
    "bad",
    [{"lr": 0.0}, {"steps": -1}, {"kappa": 0}, {"momentum": 1.0}, {"lr": float("nan")}],
)
def test_nonsense_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"propose: {next(iter(bad))}="):
        propose(**{"lr": 0.1, "momentum": 0.9, "steps": 100, **bad})


def test_nothing_is_proposed_for_adamw_or_outside_a_trainer() -> None:
    module = nn.BatchNorm2d(3)
    with pytest.raises(UsageError, match="adamw rescales every gradient; give s="):
        GammaSparsity.for_module(module, s=Recipe(optimizer="adamw"))
    with pytest.raises(UsageError, match="s is not known"):
        GammaSparsity.for_module(module, s=Recipe()).add(0.0)


# --- what it remembers --------------------------------------------------------------------------


class Stop(Hook):
    """Ends a run as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, model: nn.Module, at: Moment) -> None:
        if at.step == self.step:
            raise KeyboardInterrupt


def pulled() -> Pulled:
    return Pulled(torch.linspace(0.02, 1.6, 40))


def run(
    schedule: str,
    *,
    s: float | Recipe = 0.7,
    folder: Path | None = None,
    stop: int = -1,
    epochs: float = 6,
) -> tuple[Pulled, GammaSparsity]:
    model = pulled()
    sparsity = GammaSparsity.for_module(model, s=s, schedule=schedule)
    hooks = [sparsity, Stop(stop)]
    more = {"epochs": epochs, "batch": 2, "save_every": 1, "schedule": "constant", "warmup": 0.0}
    train(model, hooks, objective=Returned(), folder=folder, lr=0.05, momentum=0.5, **more)
    return model, sparsity


@pytest.mark.parametrize("schedule", ["local-decay", "cosine"])
@pytest.mark.parametrize("s", [0.7, Recipe(lr=0.05, momentum=0.5)])
def test_a_resumed_run_ends_with_the_same_bits(
    schedule: str, s: float | Recipe, tmp_path: Path
) -> None:
    whole, undisturbed = run(schedule, s=s)
    with pytest.raises(KeyboardInterrupt):
        run(schedule, s=s, folder=tmp_path, stop=27)
    resumed, sparsity = run(schedule, s=s, folder=tmp_path)
    assert resumed.norm.weight.detach().numpy().tobytes() == (
        whole.norm.weight.detach().numpy().tobytes()
    )
    assert sparsity.facts() == undisturbed.facts()
    assert len(sparsity.facts()["epochs"]) == 7


def test_a_run_does_not_go_on_with_another_pressure(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run("linear", folder=tmp_path, stop=9)
    for other in ({"schedule": "constant"}, {"schedule": "linear", "s": 0.1}):
        with pytest.raises(TrainingError, match=r"had s=0.7 and schedule linear, not"):
            run(folder=tmp_path, **other)


# --- what gammas do -----------------------------------------------------------------------------


def path_of(schedule: str, s: float = 0.7, epochs: int = 10) -> list[Tensor]:
    """|gamma| after every epoch; a loss pulls each to a target of its own, from 0.02 to 1.6."""
    found: list[Tensor] = []

    class Keep(Hook):
        def after_epoch(self, model: nn.Module, at: Moment) -> dict[str, float]:
            found.append(model.norm.weight.detach().abs().clone())
            return {}

    model = pulled()
    sparsity = GammaSparsity.for_module(model, s=s, schedule=schedule)
    more = {"epochs": epochs, "batch": 1, "schedule": "constant", "warmup": 0.0}
    train(model, [sparsity, Keep()], objective=Returned(), lr=0.05, momentum=0.5, **more)
    return found


TARGETS = torch.linspace(0.02, 1.6, 40)
PRESSED = (TARGETS - 0.7).clamp_min(0)  # where pull and pressure balance
WIDE = 0.12  # gammas under pressure swing around zero by this much


def close(found: Tensor, expected: Tensor) -> bool:
    return bool((found - expected).abs().max() < WIDE)


def test_constant_pressure_keeps_everything_small() -> None:
    path = path_of("constant")
    assert close(path[4], PRESSED)
    assert close(path[-1], PRESSED)


def test_global_decay_lets_everything_recover() -> None:
    path = path_of("global-decay")
    assert close(path[4], PRESSED)
    assert close(path[-1], TARGETS)


@pytest.mark.parametrize(
    ("schedule", "before", "after", "top"), [("local-decay", 4, 5, 6), ("dynamic", 3, 4, 14)]
)
def test_the_largest_recover_and_the_rest_stays_small(
    schedule: str, before: int, after: int, top: int
) -> None:
    path = path_of(schedule)
    assert close(path[before], PRESSED)
    assert path[after][-1] > path[before][-1] + 0.3  # at once when the share is done
    assert close(path[-1][-top:], TARGETS[-top:])
    assert close(path[-1][:-top], PRESSED[:-top])
    ordered = path[-1].sort().values
    gaps = ordered.diff()
    assert gaps.max() > 0.5  # two heaps with nothing between
    assert int(gaps.argmax()) + 1 == 40 - top


@pytest.mark.parametrize(("schedule", "last"), [("linear", 0.1), ("cosine{mask-every=0}", 0.2)])
def test_fading_pressure_lets_gammas_rise_slowly(schedule: str, last: float) -> None:
    path = path_of(schedule)
    means = [float(p[-20:].mean()) for p in path]
    assert all(b > a - 0.01 for a, b in pairwise(means[1:]))
    assert means[-1] > means[1] + 0.3
    assert close(path[-1], (TARGETS - 0.7 * last).clamp_min(0))


def test_the_soft_mask_shrinks_the_whole_normalization() -> None:
    module = nn.Sequential(nn.BatchNorm2d(3))
    norm = module[0]
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -0.1, 0.5]))
        for value in (norm.bias, norm.running_mean, norm.running_var):
            value.fill_(2.0)
    sparsity = GammaSparsity.for_module(module, s=1.0, schedule="cosine")
    held = norm.weight, norm.bias, norm.running_mean, norm.running_var
    before = [v.detach().clone() for v in held]
    sparsity.end_epoch(1)
    sparsity.end_epoch(2.5)
    sparsity.end_epoch(4, last=True)
    assert all(torch.equal(v, b) for v, b in zip(held, before, strict=True))
    sparsity.end_epoch(2)
    factors = torch.tensor([1.0, 0.1, 1.0])
    for value, old in zip(held, before, strict=True):
        torch.testing.assert_close(value.detach(), old * factors)


def test_the_distribution_is_told_while_it_moves() -> None:
    _, sparsity = run("constant", s=0.9)
    facts = sparsity.facts()
    assert np.mean(facts["mean"][:1]) > facts["mean"][-1]
    centre = [np.average(facts["edges"][:-1], weights=counts) for counts in facts["epochs"]]
    assert centre[0] > 2 * centre[-1]
    assert sparsity.status().startswith("|gamma| █")
    assert sparsity.status().endswith("< 0.01")
    larger = torch.full((5,), 1e6)
    assert sparsity.history.counts(larger)[-1] == 5
