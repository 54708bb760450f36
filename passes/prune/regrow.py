"""Puts the best removed channels back, with the weights they had last.

    plan' = plan without the units that matter most,   W' = W of the teacher, with W[kept] = W of
    the student

Pruning judges channels once, and what training makes of the others shows who was missed. CHEX (Hou et
al., CVPR 2022) alternates removing and regrowing; here a budget says how much may stand afterwards:

    prune{macs=0.45}, recover{epochs=1}, regrow{macs=0.5}, recover{epochs=4}

Blocks of `multiple` channels come back in the order of their importance, measured in the network
before it was pruned, as a share of their layer's; what training has done to the others since is
kept. The longer that was, the less the old channels fit in: with `preserve` the weights that read
them start at zero, as in Net2Net's wider layers (Chen et al., ICLR 2016), and training finds out
what they are good for:

    W'[:, kept] = W of the student, W'[:, back] = 0
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from graphopt.channels.groups import Channels
from graphopt.channels.labels import Floats, Vector
from graphopt.channels.plan import Plan
from graphopt.channels.removal import remove
from graphopt.errors import UsageError
from graphopt.ir.contents import replace_contents
from graphopt.ir.graph import (
    Constant,
    Graph,
    Node,
    add_constant,
    input_of,
    input_value,
    is_op,
    set_input,
)
from graphopt.ir.shapes import infer_shapes
from graphopt.pass_base import Changes, Context, Pass
from graphopt.passes.prune.account import Account, Totals
from graphopt.passes.prune.budget import Budget
from graphopt.passes.prune.facts import group_map, groups_after, layer_widths, made_since


@dataclass(frozen=True)
class Regrow(Pass):
    """y = conv2[:, kept](conv1[kept](x)) becomes y = conv2[:, kept + best](conv1[kept + best](x)).

    Budgets say what may stand afterwards, as for `prune`. Not handled: a network whose constants
    were merged or renamed since it was pruned; with `preserve`, channels that are multiplied with
    one another (the heads of an attention) begin as they were.
    """

    name: ClassVar[str] = "regrow"
    numerics: ClassVar[Changes] = Changes("puts removed channels back")
    after: ClassVar[dict[str, str]] = {"prune": "there is nothing to put back before"}

    macs: str | None = None
    parameters: str | None = None
    bytes: str | None = None
    activations: str | None = None
    channels: str | None = None
    importance: str = "fpgm"
    multiple: int = 8
    preserve: bool = False  # the network computes what it did: what reads them starts at zero
    data: Any = None  # for importances that look at images
    preprocess: str = ""
    batch: int = 8

    def run(self, graph: Graph, context: Context) -> None:
        plan, teacher = context.known.get("since_teacher"), context.teacher
        if not isinstance(plan, Plan) or teacher is None:
            raise UsageError("regrow puts back what `prune` removed: run prune before it")
        full, plan = widened(graph, plan, teacher)
        channels = Channels(full, share=plan.share)
        removed = plan.units(channels)
        worth = self._scores(Channels(teacher.copy(), share=plan.share))
        back = self._chosen(channels, removed, worth)
        left = np.setdiff1d(removed, back)
        smaller = _about(teacher, full, Plan.removing(channels, left, settings=plan.settings))
        context.facts["plan"] = context.facts["since_teacher"] = smaller
        context.facts["channels"] = layer_widths(channels, left)
        context.facts["groups"] = group_map(channels, left)
        if not len(back):
            context.refused("graph", "no block of removed channels fits into the budget")
            return
        before = layer_widths(channels, removed)
        if self.preserve:
            _silence(channels, back)
        remove(channels, left)
        infer_shapes(full)
        whole = replace(smaller, groups=groups_after(full, smaller), before=plan.before)
        context.facts["plan"] = context.facts["since_teacher"] = whole
        replace_contents(graph, full)
        for name, (_, after) in context.facts["channels"].items():
            if after > before[name][1]:
                context.rewrote(name, f"{before[name][1]} -> {after} channels")

    def _scores(self, channels: Channels) -> Floats:
        from graphopt.data import load_data
        from graphopt.passes.analyze import scores

        feeds = None
        if self.data is not None:
            feeds = load_data(
                self.data, channels.graph, preprocess=self.preprocess, batch=self.batch
            )
        found: Floats = scores(channels, self.importance, data=feeds)
        return found

    def _chosen(self, channels: Channels, removed: Vector, worth: Floats) -> Vector:
        """The units that come back: block by block while the budgets hold."""
        account = Account(channels)
        limits = self._limits(account)
        left = removed
        for block in _blocks(channels, removed, worth, self.multiple):
            smaller = np.setdiff1d(left, block)
            totals = account.without(smaller)
            if all(totals.of(b.metric) <= b.limit for b in limits):
                left = smaller
        return np.setdiff1d(removed, left)

    def _limits(self, account: Account) -> list[Budget]:
        whole = account.without()
        texts = {m: getattr(self, m, None) for m in Totals.metrics()}
        found = [Budget.parse(m, t, whole) for m, t in texts.items() if t is not None]
        if not found:
            raise UsageError("regrow needs a budget, such as macs=0.5: what may stand afterwards")
        return found


def _blocks(channels: Channels, removed: Vector, worth: Floats, multiple: int) -> Iterator[Vector]:
    """Removed units in blocks of one group each, the most important first."""
    found: list[tuple[float, Vector]] = []
    for group in channels.groups:
        gone = np.intersect1d(group.units, removed)
        if not len(gone):
            continue
        level = worth[group.units].mean() or 1.0
        order = gone[np.argsort(-worth[gone], kind="stable")]
        for start in range(0, len(order), multiple):
            block = order[start : start + multiple]
            found.append((float(worth[block].mean() / level), block))
    for _, block in sorted(found, key=lambda pair: -pair[0]):
        yield block


def _silence(channels: Channels, units: Vector) -> None:
    """Sets the weights that read these units to zero."""
    chosen = channels.gone(units)
    for site, axis in channels.sites:
        if site.role != "input" or axis is None or not chosen[axis.units].any():
            continue
        weight = site.node.inputs[site.index]
        at = (slice(None),) * site.axis
        weight.values = weight.values.copy()
        weight.values[(*at, chosen[axis.units])] = 0


# --- the student's weights in the teacher's places ------------------------------------------------


def widened(student: Graph, plan: Plan, teacher: Graph) -> tuple[Graph, Plan]:
    """A copy of the teacher that holds the student's values wherever the student has any.

    The plan that comes with it speaks of the biases too that layers got since.

    Raises:
        UsageError: the student has lost a constant that the plan is about.
    """
    full = teacher.copy()
    mine = {t.name: t.values for t in student.tensors().values() if isinstance(t, Constant)}
    for tensor in full.tensors().values():
        if not isinstance(tensor, Constant):
            continue
        values = mine.get(tensor.name)
        if tensor.name in plan.keep:
            if values is None:
                raise UsageError(
                    f"regrow: constant {tensor.name!r} is gone; run regrow before passes that merge "
                    "or rename constants"
                )
            tensor.values = _scattered(tensor.values, values, plan.keep[tensor.name])
        elif values is not None and values.shape == tensor.values.shape:
            tensor.values = values
    return full, _with_biases(student, plan, full)


def _about(teacher: Graph, full: Graph, plan: Plan) -> Plan:
    """What a plan says of the teacher's constants: those that the student made since are not among them."""
    known = teacher.tensors()
    keep = {name: axes for name, axes in plan.keep.items() if name in known}
    shapes = {name: plan.shapes[name] for name in keep}
    return replace(plan, keep=keep, shapes=shapes, made=made_since(full, known))


def _scattered(whole: Any, values: Any, keep: Any) -> Any:
    """`whole` with `values` at the kept indices of every axis."""
    at = [np.arange(n) for n in whole.shape]
    for axis, kept in keep.items():
        at[axis] = np.array(kept)
    full = whole.copy()
    full[np.ix_(*at)] = values
    return full


def _with_biases(student: Graph, plan: Plan, full: Graph) -> Plan:
    """Gives layers the biases they got since, to make up for what was removed; the plan with them."""
    keep, shapes = dict(plan.keep), dict(plan.shapes)
    known = {t.name for t in full.tensors().values() if isinstance(t, Constant)}
    made = {n.outputs[0].name: n for n in full.nodes if n.outputs}
    for node in student.nodes:
        twin = made.get(node.outputs[0].name) if node.outputs else None
        bias = input_of(node, 2) if is_op(node, "Conv", "Gemm") else None
        if twin is None or not isinstance(bias, Constant) or bias.values.ndim != 1:
            continue
        if bias.name in known:
            continue
        values, kept = _whole_bias(twin, bias.values, plan)
        own = add_constant(full, bias.name, values)
        set_input(twin, 2, own)
        if kept is not None:
            keep[own.name], shapes[own.name] = {0: kept}, values.shape
    return replace(plan, keep=keep, shapes=shapes)


def _whole_bias(layer: Node, values: Any, plan: Plan) -> tuple[Any, tuple[int, ...] | None]:
    """A bias for all outputs of the teacher's layer, and which of them the student has (None: all)."""
    weight, old = layer.inputs[1], input_value(layer, 2)
    axis = 0 if layer.op == "Conv" or layer.attrs.get("transB", 0) else 1
    kept = plan.keep.get(weight.name, {}).get(axis)
    if kept is None:
        return values, None
    whole = np.zeros(weight.values.shape[axis], values.dtype)
    if old is not None and old.shape == whole.shape:
        whole[:] = old
    whole[list(kept)] = values
    return whole, kept
