"""The pass that removes channels.

    y = conv2(act(conv1(x)))  becomes  y = conv2[:, kept](act(conv1[kept](x)))

for the channels that matter least, and for everything coupled to them, so that budgets are met.
What is left is proven to equal the original with the removed channels zeroed; then what they
contributed is made up for in the weights of their readers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from graphopt.channels.groups import Channels
from graphopt.channels.labels import Floats, Vector
from graphopt.channels.plan import Plan
from graphopt.channels.removal import remove
from graphopt.errors import BudgetError, UsageError
from graphopt.ir.graph import Graph
from graphopt.ir.shapes import infer_shapes
from graphopt.pass_base import Changes, Context, Pass
from graphopt.passes.prune import sensitivity
from graphopt.passes.prune.account import Account, Totals
from graphopt.passes.prune.allocation import layers_of, shares
from graphopt.passes.prune.budget import Budget
from graphopt.passes.prune.choose import Choice, Wishes, choose
from graphopt.passes.prune.facts import add_up, group_map, groups_after, layer_widths, made_since
from graphopt.passes.prune.mend import mending, mode_of
from graphopt.passes.prune.proof import RTOL, prove
from graphopt.passes.prune.recalibrate import recalibrate
from graphopt.passes.prune.search import searched
from graphopt.passes.prune.sections import Section, sections
from graphopt.passes.prune.selection import Limits
from graphopt.runtime.targets import target


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
    latency: str | None = None  # what it is predicted to take on `target`
    target: str | None = None
    importance: str = "auto"  # group-fisher where there are images or gradients, else fpgm
    merge: str | None = None
    normalize: str | None = None
    allocation: str = "isomorphic"
    shares: str = ""  # with allocation=sections: what each section loses, "0.05|0.2|0.6"
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
    search: bool = False  # the weight of two importances, "bn-gamma+chip", by what is left
    labels: Any = None  # labelled images, KIND:WHERE: what a search judges by, else the outputs
    compensation: str = "auto"
    recalibration: bool = False  # of BatchNormalizations, on images in batches of many
    verify: bool = True
    plan: Any = None  # a Plan or the path of one: replayed instead of choosing
    rounds: int = 1  # budgets reached in so many equal steps, scores and compensation anew in each

    def run(self, graph: Graph, context: Context) -> None:
        _positive(self.rounds, "rounds")
        channels = self._analysis(graph)
        if self.rounds == 1 or self.plan is not None:
            self._round(channels, context)
        else:
            self._rounds(channels, context)
        # What is left of the last network that computed what the model computed: recovery pairs
        # channels by it, and regrowth puts back by it.
        before = context.known.get("since_teacher")
        plan = context.facts["plan"]
        context.facts["since_teacher"] = plan if before is None else before.then(plan)

    def _rounds(self, channels: Channels, context: Context) -> None:
        graph = channels.graph
        for number, step in enumerate(self._steps(channels, self.rounds)):
            earlier = dict(context.facts)
            context.rewrites.clear()
            context.refusals.clear()
            step._round(self._analysis(graph) if number else channels, context)
            if earlier:
                add_up(context.facts, earlier)
        plan: Plan = context.facts["plan"]
        context.facts["plan"] = dataclasses.replace(plan, settings=self.settings())

    def _analysis(self, graph: Graph) -> Channels:
        return Channels(graph, share=self.share, rewrite=self.rewrite)

    def steps(self, graph: Graph, rounds: int) -> list[Prune]:
        """The same wishes with budgets on the way from the whole to what is wanted, one per round.

        Raises:
            UsageError, BudgetError: a budget that cannot be meant.
        """
        return self._steps(self._analysis(graph), rounds)

    def _steps(self, channels: Channels, rounds: int) -> list[Prune]:
        whole = self._account(channels).without()
        limits = {
            m: (whole.of(m), Budget.parse(m, text, whole).limit)
            for m in Totals.metrics()
            if (text := getattr(self, m)) is not None
        }
        steps = []
        for k in range(1, rounds + 1):
            reached: dict[str, Any] = {
                m: Budget(m, first - (first - last) * k / rounds)
                for m, (first, last) in limits.items()
            }
            steps.append(dataclasses.replace(self, rounds=1, **reached))
        return steps

    def _round(self, channels: Channels, context: Context) -> None:
        graph = channels.graph
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
        mend = self._mending(channels, removed, context)
        remove(channels, removed)
        infer_shapes(graph)
        context.facts["plan"] = dataclasses.replace(plan, groups=groups_after(graph, plan))
        for name, (before, after) in context.facts["channels"].items():
            if after < before:
                context.rewrote(name, f"{before} -> {after} channels")
        if mend is not None:
            known = set(graph.tensors())
            context.rewrote("graph", mend())
            biases = made_since(graph, known)
            context.facts["plan"] = dataclasses.replace(context.facts["plan"], made=biases)
        if self.recalibration:
            context.rewrote("graph", self._recalibrated(graph))

    # --- steps ----------------------------------------------------------------------------------

    def _chosen(self, channels: Channels, context: Context) -> Choice:
        wishes = Wishes(
            budgets={m: b for m in Totals.metrics() if (b := getattr(self, m)) is not None},
            allocation=self.allocation,
            limits=Limits(_share(self.floor, "floor"), _positive(self.multiple, "multiple")),
            include=_globs(self.include),
            exclude=_globs(self.exclude),
            target=self.target,
        )
        found = self._scores(channels, wishes, context)
        until = 1.0 + 1e-6 if self.shares else None
        made = choose(channels, found, wishes, self._times(channels, found, context), until)
        for note in made.notes:
            context.refused("budget", note)
        return made

    def _scores(self, channels: Channels, wishes: Wishes, context: Context) -> Floats:
        from graphopt.passes.analyze import Evidence, parse_importances, scores_from

        evidence = Evidence(
            channels, self._batches(channels.graph), self.gradients, seed=context.seed
        )
        how = {"merge": self.merge, "normalize": self.normalize}
        if not self.search:
            found: Floats = scores_from(evidence, self._importance(), **how)
            return found
        parts = [scores_from(evidence, i, **how) for _, i in parse_importances(self._importance())]
        climbed = searched(
            channels,
            parts,
            lambda worth: choose(channels, worth, wishes).removed,
            self._batches(channels.graph),
            self._judge(),
        )
        context.facts["weight"] = climbed.weight
        tried = ", ".join(f"{w:.3g}: {q:.3g}" for w, q in sorted(climbed.tried))
        context.rewrote("graph", f"weight {climbed.weight:.3g} of the first importance ({tried})")
        return climbed.scores

    def _judge(self) -> Callable[[Graph], float] | None:
        if self.labels is None:
            return None
        from graphopt.tasks.judging import judging

        measure = judging(self.labels, preprocess=self.preprocess)
        return lambda graph: next(iter(measure(graph).values()))

    def _times(self, channels: Channels, scores: Floats, context: Context) -> Floats | None:
        """Times measured on data, for the allocations that do; None for the others."""
        if self.allocation not in sensitivity.PARTS:
            if self.shares:
                raise UsageError("shares are given per section: use allocation=sections")
            return None
        if self.shares:
            return shares(channels, scores, _sections_with(self.shares, sections(channels)))
        parts = sensitivity.PARTS[self.allocation](channels)
        batches = self._batches(channels.graph)
        data = self._drawn(channels.graph) if batches is None else islice(batches, 1)
        found = sensitivity.measure(channels, scores, parts, data)
        context.facts["sensitivity"] = dict(zip(found.names, found.errors, strict=True))
        return sensitivity.times(channels.unit_count, scores, parts, found)

    def _replayed(self, channels: Channels) -> Choice:
        given = [m for m in Totals.metrics() if getattr(self, m) is not None]
        if given:
            raise UsageError(f"a plan says already what goes; leave out {', '.join(given)}")
        plan = self.plan if isinstance(self.plan, Plan) else Plan.load(Path(str(self.plan)))
        removed = plan.units(channels)
        account = self._account(channels)
        return Choice(removed, account.without(), account.without(removed))

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
            after = self._account(channels).without(removed)
        return Plan.removing(
            channels,
            removed,
            before=dataclasses.asdict(made.before),
            after=dataclasses.asdict(after),
            settings=self.settings(),
        )

    def settings(self) -> dict[str, Any]:
        """The options that say what was wanted, as a plan keeps them."""
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        options["importance"] = self._importance()
        return {k: v for k, v in options.items() if isinstance(v, str | int | float | bool) and v}

    def _importance(self) -> str:
        """The best that was measured of those for which there is what they need (docs)."""
        if self.importance != "auto":
            return self.importance
        judged = self.data is not None or self.gradients is not None
        return "group-fisher" if judged else "fpgm"

    def _mending(
        self, channels: Channels, removed: Vector, context: Context
    ) -> Callable[[], str] | None:
        mode = mode_of(self.compensation, images=self.data is not None)
        if mode == "none":
            return None
        data = self._batches(channels.graph) or self._drawn(channels.graph)
        return mending(channels, removed, mode, data, context.seed)

    def _recalibrated(self, graph: Graph) -> str:
        data = self._batches(graph)
        if data is None:
            raise UsageError("BatchNormalizations are recalibrated on images: give --data")
        return f"recalibrated {recalibrate(graph, data)} BatchNormalizations"

    def _account(self, channels: Channels) -> Account:
        return Account(channels, None if self.target is None else target(self.target))

    def _batches(self, graph: Graph) -> Any:
        if self.data is None:
            return None
        from graphopt.data import load_data

        return load_data(self.data, graph, preprocess=self.preprocess, batch=self.batch)

    def _drawn(self, graph: Graph) -> Any:
        """Random inputs: what does not depend on the input is constant on them too."""
        from graphopt.oracle import Oracle

        return [s.feeds for s in Oracle(graph).samples]


def _why(held: Vector, of: int, reason: Any) -> str:
    many = "all" if len(held) == of else str(len(held))
    return f"{many} of its {of} channels stay: {reason.what}" + (
        f" ({reason.where})" if reason.where and reason.where not in reason.what else ""
    )


def _sections_with(text: str, found: Sequence[Section]) -> dict[int, tuple[str, float]]:
    """For every group the name of its section and the share the section loses."""
    try:
        values = [float(v) for v in text.split("|")]
    except ValueError as error:
        raise UsageError(f"shares {text!r} are no numbers; write 0.05|0.2|0.6") from error
    if len(values) != len(found):
        names = ", ".join(s.name for s in found)
        raise UsageError(
            f"{len(values)} shares were given for {len(found)} sections; they are: {names}"
        )
    return {g: (s.name, v) for s, v in zip(found, values, strict=True) for g in s.groups}


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
