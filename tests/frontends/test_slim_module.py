"""Torch modules pruned in place: they compute what the pruned graph computes, and go on training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphopt
from graphopt.channels.plan import Plan
from graphopt.errors import PlanError


def trained(module: nn.Module, seed: int = 0) -> nn.Module:
    """A module whose parameters and statistics are not the ones of a fresh one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.is_floating_point():
                drawn = torch.rand(tensor.shape, generator=generator)
                tensor.copy_(
                    drawn + 0.5
                    if "var" in name or ("weight" in name and tensor.ndim == 1)
                    else (drawn - 0.5) * 0.5
                )
    return module.eval()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.wide = nn.Conv2d(16, 32, 1)
        self.depth = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.prelu = nn.PReLU(32)
        self.narrow = nn.Conv2d(32, 16, 1)
        self.group = nn.GroupNorm(4, 16)
        self.up = nn.ConvTranspose2d(16, 16, 2, stride=2)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.narrow(self.prelu(self.depth(self.wide(x))))
        return self.head(torch.relu(self.up(self.group(x))).mean((2, 3)))


class Shortcut(nn.Module):
    """A ResNet's option A: the channels to pad are written in forward()."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.inner = nn.Conv2d(16, 32, 3, padding=1)
        self.last = nn.Conv2d(32, 32, 3, padding=1)
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        grown = nn.functional.pad(x, (0, 0, 0, 0, 8, 8))
        x = torch.relu(grown + self.last(torch.relu(self.inner(x))))
        return self.head(x.mean((2, 3)))


class Tokens(nn.Module):
    """Linear layers over tokens: their weights are transposed in the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.up = nn.Linear(16, 64)
        self.down = nn.Linear(64, 16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return self.head(x.mean(1))


EXAMPLE = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", [Residual, Shortcut, Tokens])
def test_prunes_in_place_and_agrees_with_the_graph(kind: type[nn.Module]) -> None:
    module = trained(kind())
    before = sum(p.numel() for p in module.parameters())
    found = graphopt.prune_module(module, EXAMPLE, parameters=0.7, multiple=1)
    after = sum(p.numel() for p in module.parameters())
    assert after <= 0.71 * before
    assert found.plan.after["parameters"] <= 0.7 * found.plan.before["parameters"]


def test_layers_know_their_new_sizes() -> None:
    module: Any = trained(Residual())
    graphopt.prune_module(module, EXAMPLE, parameters=0.5, multiple=1)
    assert module.stem.out_channels == module.norm.num_features == module.stem.weight.shape[0]
    assert module.depth.groups == module.depth.in_channels == module.depth.out_channels
    assert module.prelu.num_parameters == module.depth.out_channels
    assert module.group.num_channels == 4 * module.group.num_groups
    assert module.up.in_channels == module.group.num_channels
    assert module.head.in_features == module.up.out_channels


def test_an_optimizer_goes_on() -> None:
    module = trained(Residual())
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    kept_alive = module(EXAMPLE)
    kept_alive.square().mean().backward()
    optimizer.step()
    old = {n: optimizer.state[p]["exp_avg"].clone() for n, p in module.named_parameters()}
    plan = graphopt.prune_module(module, EXAMPLE, optimizer=optimizer, parameters=0.5).plan
    for name, parameter in module.named_parameters():
        torch.testing.assert_close(
            optimizer.state[parameter]["exp_avg"], plan.slice(name, old[name])
        )
    module(EXAMPLE).square().mean().backward()
    optimizer.step()
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {
        id(p) for p in module.parameters()
    }


def test_a_plan_slims_a_second_module_and_its_state_dict() -> None:
    first, second = trained(Residual()), trained(Residual())
    plan = graphopt.prune_module(first, EXAMPLE, parameters=0.5).plan
    state = plan.apply_to_state_dict(second.state_dict())
    graphopt.slim(second, Plan.from_json(plan.to_json()))
    torch.testing.assert_close(first(EXAMPLE), second(EXAMPLE))
    first.load_state_dict(state)
    with pytest.raises(PlanError, match="already"):
        graphopt.slim(second, plan)


class Stubborn(nn.Module):
    """Fails whenever its layer is not as wide as it was."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 1)
        self.norm = nn.BatchNorm2d(16)
        self.second = nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.first(x))
        if self.first.out_channels != 16:
            raise RuntimeError("only 16 channels will do")
        return self.second(y)


def test_a_module_that_cannot_be_slimmed_is_left_as_it_was() -> None:
    module = trained(Stubborn())
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module(EXAMPLE).mean().backward()
    optimizer.step()
    module.eval()
    expected, parameters = module(EXAMPLE), [id(p) for p in module.parameters()]
    state = {id(k): dict(v) for k, v in optimizer.state.items()}
    with pytest.raises(PlanError, match="only 16 channels will do"):
        graphopt.prune_module(module, EXAMPLE, optimizer=optimizer, parameters=0.7)
    assert [id(p) for p in module.parameters()] == parameters
    torch.testing.assert_close(module(EXAMPLE), expected)
    assert {id(k): dict(v) for k, v in optimizer.state.items()} == state
    assert module.first.out_channels == 16
