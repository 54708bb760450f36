"""What `recover` does once it knows student, teacher and images, and labels where there are any."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx

from graphopt.channels.plan import Plan
from graphopt.data import Samples
from graphopt.errors import ModelError, UsageError
from graphopt.evaluate.decoders import decoder_for
from graphopt.evaluate.decoders.anchors import AnchorMaps
from graphopt.evaluate.decoders.base import Decoder
from graphopt.evaluate.decoders.rows import Decoded, Yolox
from graphopt.fx import parameters_before, tap, to_fx, write_back
from graphopt.fx.build import origin
from graphopt.fx.support import check_supported
from graphopt.ir.graph import Graph, rank_of
from graphopt.pass_base import Context
from graphopt.passes.distill.distillation import Distillation
from graphopt.passes.distill.labelled import TARGETS, Labels
from graphopt.passes.distill.losses import ChannelStd, KeptChannels, Norm
from graphopt.passes.distill.pairing import kept_channels
from graphopt.passes.distill.reading import norm_after
from graphopt.passes.distill.taps import default_taps
from graphopt.passes.distill.term import Pair, Term
from graphopt.passes.distill.written import BOXES, read_terms, terms_at
from graphopt.passes.simplify.free_batch import FreeBatch, fixed_batch
from graphopt.training import History, Hook, Objective, Task, Trainer

if TYPE_CHECKING:
    from graphopt.passes.distill.recover import Recover

Inputs = tuple[torch.Tensor, ...]

HEAD_CLASSES = "kl{temperature=4}"
HEAD_VALUES = "mse"
HEAD_MAP = "mse{anchors=1}"
HEAD_YOLO = "objectness-scaled"
HEAD_ROWS = "objectness-rows"
FEATURE = "pkd"
FEATURE_OTHER_WIDTH = "spatial-attention"
_EXAMPLES = 2
_SEEN, _AT_ONCE = 1000, 50  # images that say which channels vary


def recover(
    graph: Graph,
    teacher: Graph | None,
    samples: Samples,
    wanted: Recover,
    *,
    plan: Plan | None,
    seed: int,
    known: Mapping[str, Any] | None = None,
    labels: Labels | None = None,
    hooks: Callable[[Any], Sequence[Hook]] = lambda _: (),
    view_of: Callable[[Graph, Inputs], fx.GraphModule] = lambda graph, _: to_fx(graph),
    back: Callable[[torch.nn.Module, Graph], Any] = write_back,
) -> History:
    """Trains the constants of `graph`, in place.

    Args:
        graph: the student.
        teacher: what it learns from; none where labels say everything.
        samples: inputs for both, and targets where there are labels.
        wanted: the options.
        plan: what the student lost of the teacher, where it was pruned.
        seed: of order, augmentation and dropout.
        known: what earlier passes found out; a list of "stages" among it is trained first.
        labels: what to make of the targets.
        hooks: given the view that is trained, makes what takes part in the run.
        view_of: makes that view of the graph (freed of its batch) and some inputs.
        back: brings what it has learnt into the graph.

    Raises:
        UnsupportedError: nodes without a derivative.
        UsageError: no tensors in common, shapes that do not fit, too few images, nothing to learn.
        TrainingError: the loss is not finite.
    """
    recipe = wanted.training(seed)
    for each in (graph, teacher):
        if each is not None:
            check_supported(each)  # before anything is tried with them
    student = freed(graph)
    example = _stacked(samples, student, min(_EXAMPLES, len(samples)))
    view = view_of(student, example)
    taught = None if teacher is None else to_fx(freed(teacher))
    if taught is not None:
        for stage in stages_of(wanted, known):
            _train_stage(view, taught, stage, samples, wanted, example, seed)
    objective = _objective(view, taught, student, teacher, samples, wanted, plan, labels, example)
    names = [t.name for t in graph.inputs] + ([TARGETS] if labels is not None else [])
    trainer = Trainer(
        objective.student if isinstance(objective, Distillation) else view,
        objective,
        samples,
        names,
        recipe,
        hooks=hooks(view),
        folder=Path(wanted.folder) if wanted.folder else None,
        evaluate=_evaluating(wanted, view, graph, back),
        watch=wanted.watch,
        device=wanted.device,
    )
    history = trainer.run()
    back(view, graph)
    return history


def _objective(
    view: Any,
    taught: Any,
    student: Graph,
    teacher: Graph | None,
    samples: Samples,
    wanted: Recover,
    plan: Plan | None,
    labels: Labels | None,
    example: Inputs,
) -> Objective:
    """What is made small."""
    if teacher is None:
        if labels is None:
            raise UsageError("there is nothing to learn from: give labels, or a teacher")
        return Task(labels.setup.loss)
    written = read_terms(wanted.terms)
    at_boxes = [w for w in written if w.where == BOXES]
    if at_boxes and labels is None:
        raise UsageError("terms @ boxes need labels")
    at_tensors = [w for w in written if w.where != BOXES]
    terms: Any = (
        terms_at(at_tensors, student, teacher, plan, _varying(taught, samples))
        if written
        else default_terms(student, teacher, plan, wanted)
    )
    return Distillation(
        view,
        taught,
        terms,
        example=example,
        balance=wanted.balance,
        task=None if labels is None else labels.setup.loss,
        guided=None if labels is None else labels.at_boxes(at_boxes),
        masks=labels.masks if labels is not None and labels.setup.task == "detection" else None,
        inputs=len(student.inputs),
    )


def _varying(taught: Any, samples: Samples) -> Callable[[str, int], KeptChannels]:
    """Finds the channels of a teacher's tensor that vary most from image to image."""

    def chosen(name: str, count: int) -> KeptChannels:
        taught.eval()
        norm = norm_after(taught, name)
        spread = ChannelStd(None if norm is None else Norm.of(norm))
        read = tap(taught, [name])
        names = origin(taught).inputs
        seen = min(len(samples), _SEEN)
        with torch.no_grad():
            for first in range(0, seen, _AT_ONCE):
                rows = [samples[k] for k in range(first, min(first + _AT_ONCE, seen))]
                inputs = [torch.from_numpy(np.stack([r[n] for r in rows])) for n in names]
                spread.add(read(*inputs)[1][name])
        return spread.select(count, least=min(seen, _SEEN))

    return chosen


def stages_of(wanted: Recover, known: Mapping[str, Any] | None) -> list[list[str]]:
    """For every stage the tensor it ends at, behind those of the stages before it."""
    text = wanted.stages.strip()
    names = [n.strip() for n in text.split("|") if n.strip()]
    if text == "known":
        names = list((known or {}).get("stages", []))
    return [names[: k + 1] for k in range(len(names))]


def _train_stage(
    view: Any,
    taught: Any,
    stage: list[str],
    samples: Samples,
    wanted: Recover,
    example: Inputs,
    seed: int,
) -> None:
    """Trains what leads to a stage's end and to none before it, on that tensor alone."""
    end = stage[-1]
    mine = parameters_before(view, end)
    for earlier in stage[:-1]:
        mine -= parameters_before(view, earlier)
    held = {n: p.requires_grad for n, p in view.named_parameters()}
    for name, parameter in view.named_parameters():
        parameter.requires_grad_(held[name] and name in mine)
    try:
        both = [Term(FEATURE), Term("hint", normalized=True)]
        terms: dict[Pair, list[Term]] = {(end, end): both}
        distillation = Distillation(view, taught, terms, example=example)
        recipe = dataclasses.replace(wanted.training(seed), epochs=wanted.stage_epochs)
        folder = Path(wanted.folder) / f"stage{len(stage)}" if wanted.folder else None
        Trainer(
            distillation.student,
            distillation,
            samples,
            origin(view).inputs,
            recipe,
            folder=folder,
            watch=wanted.watch,
            device=wanted.device,
        ).run()
    finally:
        for name, parameter in view.named_parameters():
            parameter.requires_grad_(held[name])


def default_terms(
    student: Graph, teacher: Graph, plan: Plan | None, wanted: Recover
) -> dict[Pair, Term]:
    """What is compared: heads, and feature maps at the ends of stages and before heads.

    Raises:
        UsageError: the graphs share no head under one name.
    """
    heads, features = default_taps(student, teacher)
    rows = _rows_loss(teacher) if wanted.head == "auto" else None
    if rows is not None:
        heads = [t.name for t in teacher.outputs]
    if not heads:
        raise UsageError(
            "student and teacher share no tensor name at their heads: take a teacher the student "
            "was made from, or name pairs with graphopt.passes.distill.Distillation"
        )
    kept = kept_channels(teacher, plan, [*heads, *features]) if plan is not None else {}
    terms: dict[Pair, Term] = {}
    classes = is_classifier(teacher, heads)
    for name in heads if wanted.head != "none" else ():
        asked = wanted.head if wanted.head != "auto" else rows
        loss = asked or _head_loss(teacher, name, classes=classes)
        by_size = not classes and not loss.startswith((HEAD_YOLO, HEAD_ROWS))
        terms[name, name] = Term(loss, channels=kept.get(name), normalized=by_size)
    for name in features if wanted.feature != "none" else ():
        loss = (
            wanted.feature
            if wanted.feature != "auto"
            else _feature_loss(student, teacher, name, kept)
        )
        weight = wanted.feature_weight / len(features)
        terms[name, name] = Term(loss, weight=weight, channels=kept.get(name))
    return terms


def _head_loss(teacher: Graph, name: str, *, classes: bool) -> str:
    if classes:
        return HEAD_CLASSES
    anchors = _yolo_anchors(teacher)
    if anchors is not None and name in {t.name for t in teacher.outputs}:
        return f"{HEAD_YOLO}{{anchors={anchors}}}"
    return HEAD_MAP if rank_of(teacher.tensors()[name]) == 4 else HEAD_VALUES


def _decoder(teacher: Graph) -> Decoder | None:
    """What the outputs mean, where that is without a doubt."""
    try:
        return decoder_for(None, teacher)
    except (UsageError, ModelError):
        return None


def _rows_loss(teacher: Graph) -> str | None:
    """What compares the only output of a detector that puts out rows of boxes and probabilities."""
    decoder = _decoder(teacher)
    if isinstance(decoder, Decoded):
        return HEAD_ROWS
    return f"{HEAD_ROWS}{{units=cells}}" if isinstance(decoder, Yolox) else None


def _yolo_anchors(teacher: Graph) -> int | None:
    """How many anchors a cell has, where the outputs are YOLO's raw maps without a doubt."""
    decoder = _decoder(teacher)
    return len(decoder.anchors[0]) if isinstance(decoder, AnchorMaps) else None


def _feature_loss(student: Graph, teacher: Graph, name: str, kept: dict[str, KeptChannels]) -> str:
    widths = [g.tensors()[name].shape[1] for g in (student, teacher)]
    return FEATURE if name in kept or widths[0] == widths[1] else FEATURE_OTHER_WIDTH


def freed(graph: Graph) -> Graph:
    """A copy that takes any batch.

    Raises:
        UsageError: it cannot be freed, with the reason.
    """
    copy = graph.copy()
    if fixed_batch(copy) is None:
        return copy
    context = Context()
    FreeBatch().run(copy, context)
    if not context.rewrites:
        reason = context.refusals[0].what
        raise UsageError(f"the model cannot be trained in batches: {reason}")
    return copy


def is_classifier(graph: Graph, heads: list[str]) -> bool:
    """Whether every head gives one row of classes per image."""
    tensors = graph.tensors()
    shapes = [tensors[name].shape for name in heads]
    return bool(shapes) and all(s is not None and len(s) == 2 and s[1] != 1 for s in shapes)


def _stacked(samples: Samples, graph: Graph, count: int) -> Inputs:
    rows = [samples[i] for i in range(count)]
    return tuple(
        torch.from_numpy(np.stack([r[t.name] for r in rows]).astype(t.dtype)) for t in graph.inputs
    )


def _evaluating(
    wanted: Recover, view: Any, graph: Graph, back: Callable[[torch.nn.Module, Graph], Any]
) -> Any:
    """The metrics of the graph as it stands, after every epoch."""
    if wanted.evaluate is None:
        return None

    def judge(model: torch.nn.Module) -> dict[str, float]:
        now = graph.copy()
        back(model if "graphopt" in getattr(model, "meta", {}) else view, now)
        found: dict[str, float] = wanted.evaluate(now)
        return found

    return judge
