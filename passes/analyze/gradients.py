"""Gradients of a network without labels, for the importances that ask for them.

    classifiers     L = -log softmax(z)[argmax z]      the network's own answer stands for the label
    all others      L = 1/2 mean(z^2)                  so that dL/dw = J^T z: what a weight moves

z is what the last layers with weights put out. One gradient per sample, since Fisher information squares
before it sums. At its own optimum a classifier's gradient is small where it is sure and large where it is
not; on labelled data give `gradients=` of the training loss instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from graphopt.ir.graph import Constant, Graph

Array = np.ndarray[Any, Any]

# One backward pass each; scores are averages that more images hardly move.
_MOST_SAMPLES = 128


class OwnGradients:
    """The gradients of the first 128 samples, one by one; iterating again computes them again."""

    def __init__(self, graph: Graph, data: Iterable[dict[str, Array]]) -> None:
        """Prepares the differentiable view.

        Args:
            graph: left as it is.
            data: batches of inputs by name.

        Raises:
            UnsupportedError: nodes without a derivative, named.
        """
        from graphopt.fx import tap, to_fx
        from graphopt.passes.distill.recovery import is_classifier
        from graphopt.passes.distill.taps import head_tensors

        heads = head_tensors(graph) or [t.name for t in graph.outputs]
        floats = [t for t in graph.tensors().values() if isinstance(t, Constant)]
        # Importances may ask for any constant a channel stands on, trained by default or not.
        names = [t.name for t in floats if t.values.dtype.kind == "f" and t.values.ndim]
        view = to_fx(graph, trainable=names)
        self._origin = view.meta["graphopt"]
        self._view = tap(view, heads)
        self._inputs = [t.name for t in graph.inputs]
        self._classes = is_classifier(graph, heads)
        self._data = data

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return islice(self._each(), _MOST_SAMPLES)

    def _each(self) -> Iterator[dict[str, Array]]:
        import torch

        for feeds in self._data:
            count = len(next(iter(feeds.values())))
            for k in range(count):
                one = [torch.from_numpy(np.array(feeds[n][k : k + 1])) for n in self._inputs]
                yield self._of(one)

    def _of(self, inputs: list[Any]) -> dict[str, Array]:
        _, heads = self._view(*inputs)
        self._view.zero_grad(set_to_none=True)
        sum(self._loss(z) for z in heads.values()).backward()
        held = dict(self._view.named_parameters(remove_duplicate=False))
        found = {}
        for place in self._origin.places:
            value = held.get(place.path)
            if value is not None:
                empty = value.grad is None  # nothing reaches the heads through it
                found[place.constant] = (
                    np.zeros(tuple(value.shape), np.float32) if empty else value.grad.numpy()
                )
        return found

    def _loss(self, z: Any) -> Any:
        if self._classes:
            return -z.log_softmax(1).amax(1).sum()
        return z.square().mean() / 2
