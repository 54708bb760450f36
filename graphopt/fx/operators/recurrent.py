"""Recurrent cells, step by step in time.

The steps are written out because torch's own layers know neither peepholes, other activations,
clipping, nor a reset gate in ONNX's default place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

_Function = Callable[[Tensor], Tensor]
_State = tuple[Tensor, ...]
# One step: what the input adds to every gate, the state before, and the state behind; the first of
# the state is what the layer puts out.
_Step = Callable[[Tensor, _State], _State]

# What an activation computes, with its defaults for alpha and beta.
_ACTIVATIONS: dict[
    str, tuple[Callable[[Tensor, float, float], Tensor], float | None, float | None]
] = {
    "affine": (lambda x, a, b: a * x + b, 1.0, 0.0),
    "elu": (lambda x, a, _: functional.elu(x, a), 1.0, None),
    "hardsigmoid": (lambda x, a, b: (a * x + b).clamp(0, 1), 0.2, 0.5),
    "leakyrelu": (lambda x, a, _: functional.leaky_relu(x, a), 0.01, None),
    "relu": (lambda x, _, __: torch.relu(x), None, None),
    "scaledtanh": (lambda x, a, b: a * torch.tanh(b * x), 1.0, 1.0),
    "sigmoid": (lambda x, _, __: torch.sigmoid(x), None, None),
    "softplus": (lambda x, _, __: torch.logaddexp(x, torch.zeros_like(x)), None, None),
    "softsign": (lambda x, _, __: functional.softsign(x), None, None),
    "tanh": (lambda x, _, __: torch.tanh(x), None, None),
    "thresholdedrelu": (lambda x, a, _: torch.where(x > a, x, torch.zeros_like(x)), 1.0, None),
}


def lstm(
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    peepholes: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    activations: Sequence[str] = (),
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> Sequence[Tensor]:
    """i, o, f = f(x W + h R + p c), c' = f c + i g(x W + h R), h' = o h(c'); Y, the last h and c."""
    count = weight.shape[0]
    functions = _functions(
        activations or ("Sigmoid", "Tanh", "Tanh") * count, activation_alpha, activation_beta, clip
    )

    def step_of(d: int) -> _Step:
        gate, cell, out = functions[3 * d : 3 * d + 3]
        zero = torch.zeros((), dtype=x.dtype, device=x.device)
        p_i, p_o, p_f = peepholes[d].chunk(3) if peepholes is not None else (zero, zero, zero)
        to_gates = recurrence[d].mT
        shift = bias[d].chunk(2)[1] if bias is not None else zero

        def step(gates: Tensor, state: _State) -> _State:
            h, c = state
            i, o, f, g = (gates + h @ to_gates + shift).chunk(4, -1)
            i = gate(i + p_i * c)
            f = 1 - i if input_forget else gate(f + p_f * c)
            c = f * c + i * cell(g)
            return gate(o + p_o * c) * out(c), c

        return step

    initial = (initial_h, initial_c)
    return _layer(x, weight, bias, sequence_lens, initial, recurrence, step_of, direction, layout)


def gru(
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    activations: Sequence[str] = (),
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> Sequence[Tensor]:
    """z, r = f(x W + h R), n = g(x W + (r h) R), h' = (1 - z) n + z h; Y and the last h.

    With `linear_before_reset` the reset gate is applied behind the product: r (h R).
    """
    count = weight.shape[0]
    functions = _functions(
        activations or ("Sigmoid", "Tanh") * count, activation_alpha, activation_beta, clip
    )

    def step_of(d: int) -> _Step:
        gate, candidate = functions[2 * d : 2 * d + 2]
        size = recurrence.shape[-1]
        to_gates, to_candidate = recurrence[d].mT.split([2 * size, size], -1)
        shifts = torch.zeros_like(weight[d, :, 0]) if bias is None else bias[d].chunk(2)[1]
        shift, shift_candidate = shifts.split([2 * size, size])

        def step(gates: Tensor, state: _State) -> _State:
            (h,) = state
            both, n = gates.split([2 * size, size], -1)
            z, r = gate(both + h @ to_gates + shift).chunk(2, -1)
            if linear_before_reset:
                n = candidate(n + r * (h @ to_candidate + shift_candidate))
            else:
                n = candidate(n + (r * h) @ to_candidate + shift_candidate)
            return ((1 - z) * n + z * h,)

        return step

    initial = (initial_h,)
    return _layer(x, weight, bias, sequence_lens, initial, recurrence, step_of, direction, layout)


def rnn(
    x: Tensor,
    weight: Tensor,
    recurrence: Tensor,
    bias: Tensor | None = None,
    sequence_lens: Tensor | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    activations: Sequence[str] = (),
    clip: float = 0.0,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> Sequence[Tensor]:
    """h' = f(x W + h R + b); Y and the last h."""
    names = activations or ("Tanh",) * weight.shape[0]
    functions = _functions(names, activation_alpha, activation_beta, clip)

    def step_of(d: int) -> _Step:
        to_gates = recurrence[d].mT
        shift = bias[d].chunk(2)[1] if bias is not None else 0

        def step(gates: Tensor, state: _State) -> _State:
            return (functions[d](gates + state[0] @ to_gates + shift),)

        return step

    initial = (initial_h,)
    return _layer(x, weight, bias, sequence_lens, initial, recurrence, step_of, direction, layout)


def _layer(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    sequence_lens: Tensor | None,
    initial: Sequence[Tensor | None],
    recurrence: Tensor,
    step_of: Callable[[int], _Step],
    direction: str,
    layout: int,
) -> Sequence[Tensor]:
    """Runs every direction over time: (Y, last states...), time first inside."""
    if layout:  # (batch, time, ...) outside
        x = x.transpose(0, 1)
        initial = [None if s is None else s.transpose(0, 1) for s in initial]
    zeros = torch.zeros((x.shape[1], recurrence.shape[-1]), dtype=x.dtype, device=x.device)
    results: list[Tensor] = []
    lasts: list[_State] = []
    for d in range(weight.shape[0]):
        gates = functional.linear(x, weight[d], None if bias is None else bias[d].chunk(2)[0])
        state = tuple(zeros if s is None else s[d] for s in initial)
        backwards = direction == "reverse" or d == 1
        result, last = _over_time(gates, state, step_of(d), sequence_lens, backwards=backwards)
        results.append(result)
        lasts.append(last)
    y = torch.stack(results, 1)
    states = [torch.stack(each) for each in zip(*lasts, strict=True)]
    if layout:
        return y.permute(2, 0, 1, 3), *(s.transpose(0, 1) for s in states)
    return y, *states


def _over_time(
    gates: Tensor, state: _State, step: _Step, lengths: Tensor | None, *, backwards: bool
) -> tuple[Tensor, _State]:
    """The outputs in order of time, and the last state; sequences shorter than others stand still."""
    steps = list(range(gates.shape[0]))
    outputs: dict[int, Tensor] = {}
    for t in reversed(steps) if backwards else steps:
        following = step(gates[t], state)
        outputs[t] = following[0]
        if lengths is not None:
            runs = (lengths > t).unsqueeze(-1)
            outputs[t] = torch.where(runs, following[0], torch.zeros_like(following[0]))
            following = tuple(
                torch.where(runs, new, old) for new, old in zip(following, state, strict=True)
            )
        state = following
    return torch.stack([outputs[t] for t in steps]), state


def _functions(
    names: Sequence[str], alphas: Sequence[float], betas: Sequence[float], clip: float
) -> list[_Function]:
    """The activations by name; those with parameters take them from the lists in turn."""
    alpha, beta = iter(alphas), iter(betas)
    return [_function(name, alpha, beta, clip) for name in names]


def _function(name: str, alphas: Any, betas: Any, clip: float) -> _Function:
    compute, alpha, beta = _ACTIVATIONS[name.lower()]
    a = 0.0 if alpha is None else next(alphas, alpha)
    b = 0.0 if beta is None else next(betas, beta)

    def activation(x: Tensor) -> Tensor:
        return compute(x.clamp(-clip, clip) if clip else x, a, b)

    return activation


ROWS: dict[str, Any] = {"GRU": gru, "LSTM": lstm, "RNN": rnn}
