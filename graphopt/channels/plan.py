"""A pruning plan as data: which elements of which axes of which parameters stay.

    {"conv1.weight": {0: [0, 2, 3]}, "bn1.weight": {0: [0, 2, 3]}, "conv2.weight": {1: [0, 2, 3]}}

A plan is made from the analysis of a graph and can be saved as JSON, looked at, and applied to the
same graph again, to a state dict or to the `torch.nn.Module` the graph came from. It fits whatever
has parameters of the same names and shapes; a graph also has to need exactly these removals
together, which is checked by analyzing it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.channels.cut import Mask
from graphopt.channels.groups import KEPT_UNIT, Channels
from graphopt.channels.labels import Vector
from graphopt.channels.removal import remove
from graphopt.errors import PlanError, SaveError
from graphopt.ir.graph import Constant, Graph

_SCHEMA = 1
Keep = Mapping[str, Mapping[int, "tuple[int, ...]"]]


@dataclass(frozen=True)
class Plan:
    """What stays of every parameter that loses something, and how that was chosen.

    Attributes:
        keep: parameter name -> {axis: kept indices, ascending}. "name@reader" stands for the copy
            one reader of a shared constant gets.
        shapes: the shapes before, of the same parameters.
        groups: convolution weight -> its number of groups after, where that is not 1.
        others: names that are constants of the graph but no parameters of the module it came from.
        share: whether weights read in several places stay shared (see Channels).
        made: constants that the pruned graph has and the graph this plan is for has not: biases that
            make up for what was removed.
        before, after: the costs, as far as known.
        settings: how the plan was made.
    """

    keep: Keep
    shapes: Mapping[str, tuple[int, ...]]
    groups: Mapping[str, int] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    share: bool = True
    made: tuple[str, ...] = ()
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    # --- making and applying --------------------------------------------------------------------

    @classmethod
    def removing(cls, channels: Channels, removed: Vector, **facts: Any) -> Plan:
        """The plan that removes these units from the analyzed graph (which is left as it is)."""
        gone = channels.gone(removed)
        keep: dict[str, dict[int, tuple[int, ...]]] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        cuts = {id(a.units): _kept(gone[a.units]) for a in channels.axes.axes}
        for member in channels.members:
            kept = cuts[id(member.units)]
            if len(kept) < len(member.units):
                keep.setdefault(member.name, {})[member.axis] = kept
                shapes[member.name] = tuple(member.tensor.shape)
        return cls(keep, shapes, share=channels.share, **facts)

    def units(self, channels: Channels) -> Vector:
        """The units this plan removes from an analyzed graph.

        Raises:
            PlanError: the plan is for another model, has been applied already, or would remove
                channels without what has to go with them.
        """
        self._must_fit({m.name: tuple(m.tensor.shape) for m in channels.members}, channels.graph)
        lost = [m.units[self._lost(m.name, m.axis, len(m.units))] for m in channels.members]
        removed = [np.zeros(0, np.int64), *lost]
        units = np.unique(np.concatenate(removed))
        known = {(m.name, m.axis) for m in channels.members}
        asked = {(name, axis) for name, axes in self.keep.items() for axis in axes}
        if KEPT_UNIT in units or not asked <= known:
            raise PlanError("the plan removes channels that cannot be removed from this model")
        gone = channels.gone(units)
        for member in channels.members:
            if (
                gone[member.units] != self._lost(member.name, member.axis, len(member.units))
            ).any():
                raise PlanError(
                    f"the plan would tear coupled channels apart at axis {member.axis} of "
                    f"{member.name!r}: it was made for another model or changed by hand"
                )
        return units

    def apply(self, graph: Graph) -> Graph:
        """A copy of `graph` without the channels this plan removes; PlanError when it does not fit."""
        twin = graph.copy()
        channels = Channels(twin, share=self.share)
        remove(channels, self.units(channels))
        return twin

    def apply_to_state_dict(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of a state dict (numpy arrays or torch tensors) with the kept elements only.

        Raises:
            PlanError: a parameter is missing or has another shape.
        """
        shapes = {n: s for n, s in self.shapes.items() if n in self.others}
        self._must_have({**shapes, **{name: tuple(value.shape) for name, value in state.items()}})
        return {name: self.slice(name, value) for name, value in state.items()}

    def slice(self, name: str, value: Any) -> Any:
        """The kept elements of one parameter (array or tensor), which need not be in the plan."""
        for axis, kept in self.keep.get(name, {}).items():
            index = [slice(None)] * axis + [np.array(kept)]
            value = value[tuple(index)]
        return value

    def then(self, later: Plan) -> Plan:
        """This plan and one made for what it leaves, as one plan for the model before both.

        Raises:
            PlanError: the later plan is about a parameter the first one has split into copies.
        """
        keep = {name: dict(axes) for name, axes in self.keep.items()}
        shapes = dict(self.shapes)
        for name, axes in later.keep.items():
            if name in self.made:
                continue  # the model before both has none
            if name not in shapes:
                shapes[name] = later.shapes[name]
            elif self._shape_after(name) != later.shapes[name]:
                raise PlanError(f"the two plans do not follow on each other at {name!r}")
            for axis, kept in axes.items():
                first = keep.setdefault(name, {}).get(axis)
                keep[name][axis] = kept if first is None else tuple(first[k] for k in kept)
        return replace(
            later,
            keep=keep,
            shapes=shapes,
            groups={**self.groups, **later.groups},
            made=tuple(dict.fromkeys((*self.made, *later.made))),
            before=self.before,
        )

    def _lost(self, name: str, axis: int, size: int) -> Any:
        mask = np.zeros(size, bool)
        kept = self.keep.get(name, {}).get(axis)
        if kept is not None:
            mask[:] = True
            mask[list(kept)] = False
        return mask

    def _must_fit(self, members: Mapping[str, tuple[int, ...]], graph: Graph) -> None:
        names = {
            name: tuple(t.shape) for name, t in graph.tensors().items() if isinstance(t, Constant)
        }
        self._must_have({**names, **members})

    def _must_have(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        present = [n for n in self.shapes if n in shapes and n not in self.others]
        after = {n: self._shape_after(n) for n in present}
        if present and all(shapes[n] == after[n] != self.shapes[n] for n in present):
            raise PlanError("the plan has been applied to this model already")
        for name, shape in self.shapes.items():
            if name not in shapes:
                raise PlanError(
                    f"the plan is for another model: there is no parameter {name!r} here that "
                    "could lose channels"
                )
            if shapes[name] != shape:
                raise PlanError(
                    f"the plan is for another model: {name!r} is {_text(shapes[name])} here and "
                    f"{_text(shape)} in the plan"
                )

    def _shape_after(self, name: str) -> tuple[int, ...]:
        kept = self.keep[name]
        return tuple(len(kept[a]) if a in kept else d for a, d in enumerate(self.shapes[name]))

    @property
    def removed_parameters(self) -> int:
        """How many elements the listed parameters lose."""
        return sum(math.prod(s) - math.prod(self._shape_after(n)) for n, s in self.shapes.items())

    # --- files ----------------------------------------------------------------------------------

    def to_json(self) -> str:
        """The plan as JSON text."""
        content = {
            "graphopt_plan": _SCHEMA,
            "settings": dict(self.settings),
            "before": dict(self.before),
            "after": dict(self.after),
            "share": self.share,
            "groups": dict(self.groups),
            "others": list(self.others),
            "made": list(self.made),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "keep": {
                n: {str(a): list(k) for a, k in axes.items()} for n, axes in self.keep.items()
            },
        }
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str = "the plan") -> Plan:
        """The plan in a JSON text; PlanError when it is none."""
        try:
            content = json.loads(text)
        except ValueError as error:
            raise PlanError(f"{where} is not JSON: {error}") from error
        if not isinstance(content, dict) or content.get("graphopt_plan") != _SCHEMA:
            raise PlanError(f"{where} is not a graphopt pruning plan of version {_SCHEMA}")
        try:
            return _checked(content)
        except KeyError as error:
            raise PlanError(f"{where} is damaged: there is no {error} in it") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"{where} is damaged: {type(error).__name__}: {error}") from error

    @classmethod
    def load(cls, path: Path) -> Plan:
        """The plan in a file."""
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise PlanError(f"plan {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise PlanError(f"plan {path} is not text") from error
        return cls.from_json(text, str(path))


def save(plan: Plan, path: Path) -> None:
    """Writes a plan as JSON, beside its place first and then renamed.

    Raises:
        SaveError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(plan.to_json(), encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise SaveError(f"cannot write the plan {path}: {error.strerror}") from error


def _kept(lost: Mask) -> tuple[int, ...]:
    return tuple(np.flatnonzero(~lost).tolist())


def _checked(content: Mapping[str, Any]) -> Plan:
    shapes = {str(n): tuple(_whole_numbers(s)) for n, s in content["shapes"].items()}
    keep: dict[str, dict[int, tuple[int, ...]]] = {}
    for name, axes in content["keep"].items():
        keep[name] = {}
        for axis, kept in axes.items():
            indices = tuple(_whole_numbers(kept))
            size = shapes[name][int(axis)]
            if not indices or list(indices) != sorted(set(indices)) or indices[-1] >= size:
                raise ValueError(f"axis {axis} of {name!r} has no ascending indices below {size}")
            keep[name][int(axis)] = indices
    if set(shapes) != set(keep):
        raise ValueError("shapes and kept indices name different parameters")
    return Plan(
        keep=keep,
        shapes=shapes,
        groups={str(n): int(g) for n, g in content["groups"].items()},
        others=tuple(str(n) for n in content["others"]),
        share=bool(content["share"]),
        made=tuple(str(n) for n in content.get("made", ())),
        before={str(k): float(v) for k, v in content["before"].items()},
        after={str(k): float(v) for k, v in content["after"].items()},
        settings=dict(content["settings"]),
    )


def _whole_numbers(values: Iterable[Any]) -> Iterable[int]:
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"{value!r} is not a size or an index")
        yield value


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
