"""Trains the rounding of a block: up or down for its weights together, and steps of its activations.

    min over V, e    E  m |block(x_r; s_w clip(floor(w / s_w) + h(V), low, high), 2^e s_x) - y|^2
                     + lambda sum(1 - |2 h - 1|^beta)

x_r is what the block reads in the rounded network, y what the float network has behind it, m the weights
of its elements. h and the pull on it are those of `rounding_variables.py`, e of `learn/grids.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from graphopt.fx import tap, tensors, to_fx
from graphopt.ir.graph import Graph
from graphopt.passes.quantize.learn import learn_scales
from graphopt.passes.quantize.pairs import Pair
from graphopt.passes.quantize.rounding_variables import RoundingVariables, pull

Array = np.ndarray[Any, Any]

_UNIT_BATCHES = 4  # on which nearest rounding is measured
_MOST_IMAGES = 64  # at a time
_ROOM = "integers"  # the submodule of the view that holds the variables


@dataclass(frozen=True)
class Samples:
    """A batch of what a block reads in the rounded network, and what it should give out."""

    given: Mapping[str, Array]
    wanted: Array


@dataclass(frozen=True)
class Steps:
    """How to train: see the options of `reconstruct`."""

    iterations: int
    positions: int
    lr: float
    lr_scales: float
    strength: float
    seed: int


@dataclass(frozen=True)
class Chosen:
    """What came of it: integers by the names of the rounded weights, and scales by their constants'."""

    integers: dict[str, Array]
    scales: dict[str, Array]


def fit_block(
    piece: Graph,
    weights: Sequence[Pair],
    scales: Collection[str],
    batches: Sequence[Samples],
    importance: Array | None,
    how: Steps,
) -> Chosen:
    """Chooses integers and steps.

    Args:
        piece: the block of the rounded network, with one output.
        weights: the pairs, of the piece, that round the weights to choose integers of.
        scales: names of the constants that hold the steps to train.
        batches: to train on.
        importance: of the elements of the output; broadcasts against them.
        how: options.

    Raises:
        UnsupportedError: the piece has no differentiable view.
    """
    pool = _Pool(piece, batches, how)
    view = to_fx(piece).requires_grad_(False)
    learned = learn_scales(view, piece, pool.tensors(batches[0])[:-1], scales)
    variables = _put_in(view, weights)
    weight = torch.ones(()) if importance is None else torch.from_numpy(importance)

    def error(sample: tuple[Tensor, ...]) -> Tensor:
        *given, wanted = sample
        return (weight * (view(*given) - wanted).square()).mean()

    unit = _unit(variables, error, [pool.tensors(b) for b in batches[:_UNIT_BATCHES]])
    if 0 < unit < math.inf:
        steps = [p for g in learned.values() for p in g.parameters()]
        _train(lambda: error(pool.draw()) / unit, variables, steps, how)
    with torch.no_grad():
        return Chosen(
            {p.source.name: v.integers().numpy() for p, v in zip(weights, variables, strict=True)},
            {name: grid.scale.numpy() for name, grid in learned.items()},
        )


def _train(
    error: Callable[[], Tensor],
    variables: Sequence[RoundingVariables],
    steps: Sequence[Tensor],
    how: Steps,
) -> None:
    rounding = torch.optim.Adam([v.variable for v in variables], lr=how.lr)
    scaling = torch.optim.Adam(steps, lr=how.lr_scales) if steps else None
    for step in range(how.iterations):
        done = step / how.iterations
        loss = error() + how.strength * pull(variables, done)
        torch.autograd.backward([loss])
        for optimizer in filter(None, (rounding, scaling)):
            optimizer.step()
            optimizer.zero_grad()
        for group in scaling.param_groups if scaling else ():
            # They come to rest; the variables' rate stays, as their pull grows.
            group["lr"] = how.lr_scales * 0.5 * (1 + math.cos(math.pi * done))


def _unit(
    variables: Sequence[RoundingVariables],
    error: Callable[[tuple[Tensor, ...]], Tensor],
    samples: Sequence[tuple[Tensor, ...]],
) -> float:
    """The error of nearest rounding, per weight: what the pull is compared with."""
    count = sum(v.variable.numel() for v in variables)
    with torch.no_grad():
        kept = [v.variable.clone() for v in variables]
        for v in variables:
            v.variable.copy_(torch.where(v.up() >= 0.5, 1e3, -1e3))
        whole = [float(error(s)) for s in samples]
        for v, old in zip(variables, kept, strict=True):
            v.variable.copy_(old)
    return sum(whole) / len(whole) / max(count, 1)


def _put_in(view: fx.GraphModule, weights: Sequence[Pair]) -> list[RoundingVariables]:
    """Variables in the place of rounded weights."""
    nodes = tensors(view)
    found = []
    for k, pair in enumerate(weights):
        grid, values = pair.grid, pair.source.values
        # On a symmetric grid 1 stands for a step: the scale of every weight.
        step = grid.dequantize(np.ones(values.shape, np.float32))
        made = RoundingVariables(
            torch.from_numpy(np.array(values)), torch.from_numpy(step), grid.low, grid.high
        )
        path = f"{_ROOM}.weight{k}"
        view.add_submodule(path, made)
        rounded = nodes[pair.result.name]
        with view.graph.inserting_before(rounded):
            called = view.graph.call_module(path)
        rounded.replace_all_uses_with(called)
        found.append(made)
    view.graph.eliminate_dead_code()
    view.recompile()
    return found


class _Pool:
    """What is trained on, so many images at a time that there are enough positions to look at."""

    def __init__(self, piece: Graph, batches: Sequence[Samples], how: Steps) -> None:
        self._names = [t.name for t in piece.inputs]
        self._batches = batches
        self._rng = np.random.default_rng(how.seed)
        each = math.prod(batches[0].wanted.shape[2:])  # positions of an image
        self._count = min(max(math.ceil(how.positions / max(each, 1)), 1), _MOST_IMAGES)
        self._rows = [(k, i) for k, b in enumerate(batches) for i in range(len(b.wanted))]
        self._whole = not _can_be_picked(piece, batches)

    def tensors(self, batch: Samples) -> tuple[Tensor, ...]:
        """A batch as it is: the inputs of the block and what it should give out."""
        return tuple(torch.from_numpy(a) for a in (*self._given(batch), batch.wanted))

    def draw(self) -> tuple[Tensor, ...]:
        """The same of some images of all batches; a whole batch where the block fixes its size."""
        if self._whole:
            return self.tensors(self._batches[int(self._rng.integers(len(self._batches)))])
        picked = self._rng.permutation(len(self._rows))[: self._count]
        rows = []
        for k, i in (self._rows[p] for p in picked):
            batch = self._batches[k]
            rows.append([a[i] for a in (*self._given(batch), batch.wanted)])
        return tuple(torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))

    def _given(self, batch: Samples) -> list[Array]:
        return [batch.given[name] for name in self._names]


def _can_be_picked(piece: Graph, batches: Sequence[Samples]) -> bool:
    """Whether rows of all arrays are images, of which the block takes any number."""
    if any(isinstance((t.shape or [1])[0], int) for t in (*piece.inputs, *piece.outputs)):
        return False
    shapes = [[a.shape for a in (*b.given.values(), b.wanted)] for b in batches]
    alike = {tuple(s[1:] for s in batch) for batch in shapes}
    return len(alike) == 1 and all(len({s[0] for s in batch}) == 1 for batch in shapes)


# --- what of a block's output counts ------------------------------------------------------------


def importances(
    graph: Graph, axes: Mapping[str, int], batches: Sequence[Mapping[str, Array]], seed: int
) -> dict[str, Array]:
    """The mean squared gradient of the outputs at tensors per channel, of mean 1 over channels.

        m = E_v (d(sum_o v_o . y_o / |y_o|) / dt)^2,     v random signs

    which is the diagonal of J^T J, the Hessian of sum_o |y_o - y_o'|^2 / 2 |y_o|^2 where y_o' = y_o.
    The mean over positions is known well from a few images; weights of single positions are noise that
    training follows.

    Args:
        graph: in float.
        axes: of the channels, by the names of its tensors.
        batches: feeds.
        seed: of the signs.

    Raises:
        UnsupportedError: the graph has no differentiable view.
    """
    view = to_fx(graph)
    names = list(axes)
    tapped = tap(view, names)
    signs = torch.Generator().manual_seed(seed)
    sums: dict[str, Tensor] = {}
    for feeds in batches:
        outputs, values = tapped(*(torch.from_numpy(feeds[t.name]) for t in graph.inputs))
        parts = []
        for y in outputs if isinstance(outputs, tuple) else (outputs,):
            if y.is_floating_point() and y.requires_grad:
                sign = torch.randint(0, 2, y.shape, generator=signs) * 2 - 1
                parts.append((sign * y).sum() / y.detach().norm().clamp_min(1e-12))
        reached = [n for n in names if values[n].requires_grad]
        if not parts or not reached:
            return {}
        found = torch.autograd.grad(
            torch.stack(parts).sum(), [values[n] for n in reached], allow_unused=True
        )
        for name, gradient in zip(reached, found, strict=True):
            if gradient is not None:
                over = [a for a in range(gradient.dim()) if a != axes[name]]
                squares = gradient.square().sum(over, keepdim=True)
                known = sums.get(name)
                # Where channels have become positions, their number may differ between images.
                if known is None or known.shape == squares.shape:
                    sums[name] = squares if known is None else known + squares
    return {n: (s / s.mean()).numpy() for n, s in sums.items() if 0 < float(s.mean()) < math.inf}
