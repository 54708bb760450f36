"""Whether a view computes what ONNX Runtime computes."""

from __future__ import annotations

import numpy as np
import torch

from graphopt.fx import to_fx
from graphopt.ir.graph import Graph
from graphopt.oracle import NOISE_FACTOR, Oracle, errors_of

TIGHT = 1e-5
HALF = 1e-3  # one unit in the last place of a 16-bit number


def run_view(view: torch.nn.Module, graph: Graph, feeds: dict, *, double: bool = False) -> dict:
    """The view's outputs by name."""
    inputs = [torch.from_numpy(np.asarray(feeds[t.name])) for t in graph.inputs]
    inputs = [v.double() if double and v.is_floating_point() else v for v in inputs]
    with torch.no_grad():
        found = view(*inputs)
    results = found if isinstance(found, tuple) else (found,)
    return {t.name: np.asarray(v) for t, v in zip(graph.outputs, results, strict=True)}


def departure_of(graph: Graph) -> float:
    """The worst error of the view against ONNX Runtime, in units of what is allowed.

    Allowed is 1e-5 relative or, where a network amplifies rounding, what the oracle allows (eight
    times the effect of the last digit of the inputs) or three times the error ONNX Runtime itself
    makes against the view in double precision.
    """
    view, exact = to_fx(graph), to_fx(graph).double()
    # Weights a graph makes itself, of a type it names, have no double precision.
    has_exact = not any(n.op == "ConstantOfShape" for n in graph.nodes)
    worst = 0.0
    for sample in Oracle(graph).samples:
        single = run_view(view, graph, sample.feeds)
        errors = errors_of(sample.expected, single)
        own = dict.fromkeys(errors, 0.0)
        if has_exact:
            double = run_view(exact, graph, sample.feeds, double=True)
            double = {k: v.astype(single[k].dtype) for k, v in double.items()}
            own = errors_of(double, sample.expected)
        for name, error in errors.items():
            is_narrow = single[name].dtype == np.float16
            noise = min(NOISE_FACTOR * sample.noise, sample.cap)
            worst = max(worst, error / max(HALF if is_narrow else TIGHT, noise, 3 * own[name]))
    return worst
