"""What importances judge by: parameter values, activations over calibration data, gradients.

Gradients come as arrays from whoever has them: one mapping {constant's name: d loss / d constant},
or a sequence of such mappings, one per sample or batch. An array with one more axis in front than
its constant holds one gradient per sample. Without them the network's own are computed on the data
(`gradients.py`). Nothing larger than one batch is held at a time.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from graphopt.channels.groups import KEPT_UNIT, Channels
from graphopt.data import Feeds
from graphopt.errors import UsageError
from graphopt.ir.graph import sweep
from graphopt.passes.analyze import places
from graphopt.passes.analyze.constants import (
    Array,
    is_known,
    moved_gradient,
    parameter_value,
    source_constant,
)
from graphopt.passes.analyze.places import Place
from graphopt.runtime.run import OrtRunner, open_graph

Gradient = Mapping[str, Array]


class Evidence:
    """Everything an importance may ask for."""

    def __init__(
        self,
        channels: Channels,
        data: Iterable[Feeds] | None = None,
        gradients: Gradient | Iterable[Gradient] | None = None,
        *,
        hessian: Gradient | None = None,
        seed: int = 0,
    ) -> None:
        """Collects what there is; nothing is computed yet.

        Args:
            channels: the analysis of the graph.
            data: batches of inputs (`graphopt.data.load_data`), for importances that look at
                activations.
            gradients: see the module's text. Of a sequence, mappings are used one by one.
            hessian: the diagonal of the loss's Hessian by constant, for `obd`.
            seed: for importances that draw.
        """
        self.channels = channels
        self.data = data
        self.hessian = hessian
        self.seed = seed
        self._gradients = gradients
        self._used_up = False

    # --- parameters -------------------------------------------------------------------------------

    def parameters(self, role: str) -> list[Place]:
        """The parameter axes of a role, of those whose values are known."""
        return [p for p in places.parameter_places(self.channels, role) if is_known(p.tensor)]

    def weights(self, sides: str) -> list[Place]:
        """Weights to judge units by: their "output" side, their "input" side, or "both".

        Units that have nothing on the side asked for are judged by the other one.
        """
        if sides == "both":
            return self.parameters("output") + self.parameters("input")
        other = "input" if sides == "output" else "output"
        first = self.parameters(sides)
        missing = self._not_in(first)
        return first + (places.only_units(self.parameters(other), missing) if missing.any() else [])

    def gates(self) -> list[Place]:
        """The weights behind a mask on what layers read (`places.gate_places`)."""
        return [p for p in places.gate_places(self.channels) if is_known(p.tensor)]

    def rows(self, place: Place) -> Array:
        """A parameter as (elements of the place's axis, all else); 16-bit floats as float32."""
        value = parameter_value(self.channels.graph, place.tensor)
        assert value is not None  # places come from `parameters`
        return _rows(value, place.axis)

    def _not_in(self, found: list[Place]) -> Array:
        missing = np.ones(self.channels.unit_count + 1, bool)
        for place in found:
            missing[place.units] = False
        missing[KEPT_UNIT] = False
        return missing

    # --- gradients --------------------------------------------------------------------------------

    def gradients(self, asking: str) -> Iterator[Gradient]:
        """The gradient mappings, one per sample or batch.

        Raises:
            UsageError: there are none, or a one-time iterator is asked for a second time.
        """
        if self._gradients is None and self.data is not None:
            from graphopt.passes.analyze.gradients import OwnGradients

            self._gradients = OwnGradients(self.channels.graph, self.data)
        given = self._gradients
        if given is None:
            raise UsageError(
                f"importance {asking!r} needs gradients: give images (data=), on which the network's "
                "own are computed, or gradients=, a mapping from constants' names to d loss / d "
                "constant, or a sequence of such mappings, one per batch"
            )
        if isinstance(given, Mapping):
            yield given
            return
        if self._used_up:
            raise UsageError(
                f"importance {asking!r} needs gradients that were read already: give a list, or "
                "anything that can be iterated more than once"
            )
        self._used_up = isinstance(given, Iterator)
        is_empty = True
        for each in given:
            is_empty = False
            yield each
        if is_empty:
            raise UsageError(f"importance {asking!r} needs gradients, and gradients= is empty")

    def gradient_rows(self, place: Place, gradient: Gradient) -> Array:
        """A parameter's gradient as (samples, elements of the place's axis, all else)."""
        source = source_constant(place.tensor)
        if source is None:
            raise UsageError(f"layer {place.layer!r}: its weight is computed, and has no gradient")
        found = gradient.get(source.name)
        if found is None:
            raise UsageError(_missing(source.name, gradient))
        value = np.asarray(found)
        shape = tuple(source.shape)
        if value.shape not in (shape, (*value.shape[:1], *shape)) or not value.size:
            raise UsageError(
                f"the gradient of {source.name!r} has shape {value.shape}; the constant has {shape}"
            )
        samples = value if value.ndim > len(shape) else value[None]
        graph = self.channels.graph
        moved = [_rows(moved_gradient(graph, place.tensor, s), place.axis) for s in samples]
        return moved[0][None] if len(moved) == 1 else np.stack(moved)

    # --- activations ------------------------------------------------------------------------------

    @cached_property
    def features(self) -> list[Place]:
        """The feature map of every layer, after normalization and activation."""
        return places.feature_places(self.channels)

    def feature_maps(self, wanted: Sequence[Place], asking: str) -> Iterator[list[Array]]:
        """For every batch, the wanted feature maps as (samples, channels, positions...).

        Raises:
            UsageError: there is no data, or no batch in it.
            RunError: ONNX Runtime cannot run the graph on it.
        """
        if self.data is None:
            raise UsageError(
                f"importance {asking!r} needs calibration data: give data=, a folder of images, "
                "an .npy or .npz file, or arrays"
            )
        if not wanted:
            return
        runner = self._runner(wanted)
        seen = False
        for feeds in self.data:
            seen = True
            maps = runner.run(feeds)
            yield [_maps(maps[p.tensor.name], p.axis) for p in wanted]
        if not seen:
            raise UsageError(f"importance {asking!r} needs calibration data, and data= is empty")

    def _runner(self, wanted: Sequence[Place]) -> OrtRunner:
        twin = self.channels.graph.copy()
        tensors = twin.tensors()
        names = dict.fromkeys(p.tensor.name for p in wanted)
        twin.outputs = [tensors[n] for n in names]
        sweep(twin)
        return open_graph(twin)


def _rows(value: Array, axis: int) -> Array:
    if value.dtype not in (np.float32, np.float64):
        value = value.astype(np.float32)
    first = value if axis == 0 else np.moveaxis(value, axis, 0)
    return first.reshape(value.shape[axis], -1)


def _maps(value: Array, axis: int) -> Array:
    # A channel axis in front leaves no axis for samples: it is one sample then.
    return np.moveaxis(value, axis, 1) if axis else value[None]


def _missing(name: str, gradient: Gradient) -> str:
    near = difflib.get_close_matches(name, list(gradient), n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"there is no gradient of {name!r} among the {len(gradient)} given{hint}"
