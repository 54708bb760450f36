"""The pass that removes channels.

    y = conv2(act(conv1(x)))  becomes  y = conv2[:, kept](act(conv1[kept](x)))

for the channels that matter least, and for everything coupled to them, so that budgets are met.
What is left is proven to equal the original with the removed channels zeroed; then what they
contributed is made up for in the weights of their readers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from graphopt.channels.groups import Channels
from graphopt.channels.labels import Floats, Vector
from graphopt.channels.plan import Plan
from graphopt.channels.removal import remove
from graphopt.errors import BudgetError, UsageError
from graphopt.ir.graph import Graph, label
from graphopt.ir.shapes import infer_shapes
from graphopt.pass_base import Changes, Context, Pass
from graphopt.passes.prune import sensitivity
from graphopt.passes.prune.account import Account, Totals
from graphopt.passes.prune.allocation import layers_of
from graphopt.passes.prune.budget import Budget
from graphopt.passes.prune.choose import Choice, Wishes, choose
from graphopt.passes.prune.compensate import MODES, Reader, compensate, readers
from graphopt.passes.prune.moments import Moments, measure
from graphopt.passes.prune.proof import RTOL, prove
from graphopt.passes.prune.recalibrate import recalibrate
from graphopt.passes.prune.sections import sections
from graphopt.passes.prune.selection import Limits
from graphopt.runtime.targets import target


@dataclass(frozen=True)
class _Measured:
    """How removed channels are made up for, whose readers, and the moments of what they read."""

    mode: str
    readers: list[Reader]
    moments: list[list[Moments | None]]


@dataclass(frozen=True)
class Prune(Pass):
    """y = conv2(act(conv1(x))) becomes y = conv2[:, kept](act(conv1[kept](x))), coupled layers included.

    Budgets say what may be left: 0.5 or 50% of the original, or an absolute 4.1G. Not handled:
    channels that reach an output of the model, a subgraph or an operator that mixes channels; the
    report names each with its reason.
    """

    name: ClassVar[str] = "prune"
    numerics: ClassVar[Changes] = Changes("removes channels")
    before: ClassVar[dict[str, str]] = {
        "fuse-conv-bn": "importances read the BatchNormalizations",
        "merge-sibling-convs": "merged convolutions are harder to tell apart",
    }

    macs: str | None = None
    parameters: str | None = None
    bytes: str | None = None
    activations: str | None = None
    channels: str | None = None
    latency: str | None = None  # the roofline bound on `target`
    target: str | None = None
    importance: str = "l2"
    merge: str | None = None
    normalize: str | None = None
    allocation: str = "isomorphic"
    floor: float = 0.1
    multiple: int = 8
    include: str = ""  # globs of layer or parameter names, separated by |
    exclude: str = ""
    share: bool = True
    rewrite: bool = True  # see Channels
    data: Any = None  # calibration images: see graphopt.data
    preprocess: str = ""
    batch: int = 8
    gradients: Any = None
    compensation: str = "auto"
    recalibration: bool | None = None  # None: where there are images
    verify: bool = True
    plan: Any = None  # a Plan or the path of one: replayed instead of choosing
    rounds: int = 1  # budgets reached in so many equal steps, scores and compensation anew in each

    def run(self, graph: Graph, context: Context) -> None:
        if _positive(self.rounds, "rounds") == 1 or self.plan is not None:
            self._round(graph, context)
            return
        for step in self._steps(graph):
            earlier = dict(context.facts)
            context.rewrites.clear()
            context.refusals.clear()
            step._round(graph, context)
            if earlier:
                _add_up(context.facts, earlier)

    def _steps(self, graph: Graph) -> list[Prune]:
        """The same wishes with budgets on the way from the whole to what is wanted."""
        channels = Channels(graph.copy(), share=self.share, rewrite=self.rewrite)
        whole = self._account(channels).totals(np.ones(channels.unit_count, bool))
        limits = {
            m: (whole.of(m), Budget.parse(m, text, whole).limit)
            for m in Totals.metrics()
            if (text := getattr(self, m)) is not None
        }
        steps = []
        for k in range(1, self.rounds + 1):
            reached: dict[str, Any] = {
                m: f"{first - (first - last) * k / self.rounds:.17g}"
                for m, (first, last) in limits.items()
            }
            steps.append(dataclasses.replace(self, rounds=1, **reached))
        return steps

    def _round(self, graph: Graph, context: Context) -> None:
        channels = Channels(graph, share=self.share, rewrite=self.rewrite)
        made = (
            self._replayed(channels) if self.plan is not None else self._chosen(channels, context)
        )
        removed = self._proven(channels, made.removed, context)
        context.facts["plan"] = plan = self._plan(channels, removed, made)
        context.facts["channels"] = layer_widths(channels, removed)
        context.facts["groups"] = group_map(channels, removed)
        for held in channels.held():
            context.refused(held.layer, _why(held.channels, held.of, held.reason))
        if not len(removed):
            return
        measured = self._measured(channels, removed)
        remove(channels, removed)
        infer_shapes(graph)
        context.facts["plan"] = dataclasses.replace(plan, groups=_groups_after(graph, plan))
        for name, (before, after) in context.facts["channels"].items():
            if after < before:
                context.rewrote(name, f"{before} -> {after} channels")
        for what in self._made_up(channels, removed, measured):
            context.rewrote("graph", what)

    # --- steps ----------------------------------------------------------------------------------

    def _chosen(self, channels: Channels, context: Context) -> Choice:
        from graphopt.passes.analyze import scores

        wishes = Wishes(
            budgets={m: b for m in Totals.metrics() if (b := getattr(self, m)) is not None},
            allocation=self.allocation,
            limits=Limits(_share(self.floor, "floor"), _positive(self.multiple, "multiple")),
            include=_globs(self.include),
            exclude=_globs(self.exclude),
            target=self.target,
        )
        found = scores(
            channels,
            self.importance,
            data=self._batches(channels.graph),
            gradients=self.gradients,
            merge=self.merge,
            normalize=self.normalize,
            seed=context.seed,
        )
        made = choose(channels, found, wishes, self._times(channels, found, context))
        for note in made.notes:
            context.refused("budget", note)
        return made

    def _times(self, channels: Channels, scores: Floats, context: Context) -> Floats | None:
        """Times measured on data, for the allocations that do; None for the others."""
        if self.allocation not in ("sensitivity", "sections"):
            return None
        if self.allocation == "sections":
            parts = [
                (s.name, np.concatenate([channels.groups[g].units for g in s.groups]))
                for s in sections(channels)
            ]
        else:
            names = [layers[0] if layers else "?" for layers in layers_of(channels)]
            parts = [(n, g.units) for n, g in zip(names, channels.groups, strict=True)]
        batches = self._batches(channels.graph)
        data = self._drawn(channels.graph) if batches is None else islice(batches, 1)
        found = sensitivity.measure(channels, scores, parts, data)
        context.facts["sensitivity"] = dict(zip(found.names, found.errors, strict=True))
        return sensitivity.times(channels.unit_count, scores, parts, found)

    def _replayed(self, channels: Channels) -> Choice:
        plan = self.plan if isinstance(self.plan, Plan) else Plan.load(Path(str(self.plan)))
        removed = plan.units(channels)
        account = self._account(channels)
        alive = np.ones(channels.unit_count, bool)
        before = account.totals(alive)
        alive[removed] = False
        return Choice(removed, before, account.totals(alive))

    def _proven(self, channels: Channels, removed: Vector, context: Context) -> Vector:
        if not self.verify or not len(removed):
            return removed
        proven = prove(channels, removed, seed=context.seed)
        for group in proven.guilty:
            layers = ", ".join(layers_of(channels)[group]) or f"group {group}"
            context.refused(
                layers, f"kept: removing its channels broke the proof ({proven.detail})"
            )
        context.proof = f"pruned == masked within {RTOL:g}"
        if not len(proven.removed):
            raise BudgetError(f"no removal could be proven: {proven.detail}")
        return proven.removed

    def _plan(self, channels: Channels, removed: Vector, made: Choice) -> Plan:
        after = made.after
        if len(removed) != len(made.removed):
            alive = np.ones(channels.unit_count, bool)
            alive[removed] = False
            after = self._account(channels).totals(alive)
        text = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain = {k: v for k, v in text.items() if isinstance(v, str | int | float | bool) and v}
        return Plan.removing(
            channels,
            removed,
            before=dataclasses.asdict(made.before),
            after=dataclasses.asdict(after),
            settings=plain,
        )

    def _measured(self, channels: Channels, removed: Vector) -> _Measured | None:
        """What compensation needs of the network while it is whole."""
        mode = self._mode()
        if mode == "none":
            return None
        found = readers(channels, removed)
        places = [
            [(c.node.inputs[0], c.axis, len(c.labels)) for c in r.contractions] for r in found
        ]
        data = self._batches(channels.graph) or self._drawn(channels.graph)
        seen = iter(measure(channels.graph, [p for own in places for p in own], data))
        return _Measured(mode, found, [[next(seen) for _ in own] for own in places])

    def _made_up(
        self, channels: Channels, removed: Vector, measured: _Measured | None
    ) -> list[str]:
        told = []
        if measured is not None:
            mode = measured.mode
            changed = compensate(channels, removed, measured.readers, measured.moments, mode)
            told.append(f"compensation ({mode}): {changed} layers")
        recalibration = self.data is not None if self.recalibration is None else self.recalibration
        if recalibration:
            data = self._batches(channels.graph)
            if data is None:
                raise UsageError("BatchNormalizations are recalibrated on images: give --data")
            told.append(f"recalibrated {recalibrate(channels.graph, data)} BatchNormalizations")
        return told

    def _account(self, channels: Channels) -> Account:
        return Account(channels, None if self.target is None else target(self.target))

    def _mode(self) -> str:
        mode = self.compensation
        if mode == "auto":
            return "none" if self.data is None else "linear"
        if mode not in MODES:
            raise UsageError(f"compensation {mode!r} is not one of auto, {', '.join(MODES)}")
        if mode in ("mean", "linear") and self.data is None:
            raise UsageError(f"compensation {mode!r} is measured on images: give --data")
        return mode

    def _batches(self, graph: Graph) -> Any:
        if self.data is None:
            return None
        from graphopt.data import load_data

        return load_data(self.data, graph, preprocess=self.preprocess, batch=self.batch)

    def _drawn(self, graph: Graph) -> Any:
        """Random inputs: what does not depend on the input is constant on them too."""
        from graphopt.oracle import Oracle

        return [s.feeds for s in Oracle(graph).samples]


def _add_up(facts: dict[str, Any], earlier: dict[str, Any]) -> None:
    """What two rounds did together, told as one."""
    if "plan" in earlier and "plan" in facts:
        facts["plan"] = earlier["plan"].then(facts["plan"])
    before = earlier["channels"]
    facts["channels"] = {
        name: (before.get(name, (old, old))[0], new)
        for name, (old, new) in facts["channels"].items()
    }
    widths = facts["channels"]
    for group in facts["groups"]:
        if group["layers"] and group["layers"][0] in widths:
            group["before"] = max(group["before"], widths[group["layers"][0]][0])


def layer_widths(channels: Channels, removed: Vector) -> dict[str, tuple[int, int]]:
    """Output channels of every linear layer before and after."""
    gone = channels.gone(removed)
    return {
        label(s.node): (len(s.labels), len(s.labels) - int(gone[channels.units_of(s.labels)].sum()))
        for s in channels.sweep.findings.sites
        if s.role == "output"
    }


def group_map(channels: Channels, removed: Vector) -> list[dict[str, Any]]:
    """What is left of every group, and the layers whose output channels it is."""
    gone = channels.gone(removed)
    return [
        {
            "layers": layers,
            "before": group.size,
            "after": group.size - int(gone[group.units].sum()),
        }
        for group, layers in zip(channels.groups, layers_of(channels), strict=True)
    ]


def _groups_after(graph: Graph, plan: Plan) -> dict[str, int]:
    return {
        n.inputs[1].name: int(n.attrs["group"])
        for n in graph.nodes
        if n.op in ("Conv", "ConvTranspose")
        and n.attrs.get("group", 1) != 1
        and n.inputs[1].name in plan.keep
    }


def _why(held: Vector, of: int, reason: Any) -> str:
    many = "all" if len(held) == of else str(len(held))
    return f"{many} of its {of} channels stay: {reason.what}" + (
        f" ({reason.where})" if reason.where and reason.where not in reason.what else ""
    )


def _globs(text: str) -> Sequence[str]:
    return [g for g in text.split("|") if g]


def _share(value: float, name: str) -> float:
    if not 0 <= value <= 1:
        raise UsageError(f"{name} is a share of channels between 0 and 1, not {value:g}")
    return value


def _positive(value: int, name: str) -> int:
    if value < 1:
        raise UsageError(f"{name} is a number of channels of at least 1, not {value}")
    return value
