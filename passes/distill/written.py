"""The terms of a distillation as text.

    pkd @ features * 6                        at every feature map both networks have
    kl{temperature=3 anchors=3} @ heads       at what the last layers put out
    spatial-attention @ stages * 1|10|100     at the ends of stages, a weight for each
    hybrid-attention @ add_*|out * 10 std     at tensors by name or glob
    gram @ mine=theirs * 0.5 fade             at two tensors of different names
    teacher-bounded{reduce=sum} @ boxes * 0.001    at the boxes of labelled objects

One term per LOSS @ WHERE [* WEIGHT] [WORDS], several with `;` between. One weight counts for every
pair; several, with | between, for one pair each, in the order of the data. Heads and features are
paired by name, the ends of stages one after another, so that these may be of different networks.
Words: a schedule (constant, fade, cosine, rise), `normalized` and `masked` (see `Term`), and `std`:
where the teacher is wider, its channels that vary most are compared (H-AT), as many as the student
has.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from graphopt import named
from graphopt.channels.plan import Plan
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.passes.distill.losses import KeptChannels, Loss, parse_loss
from graphopt.passes.distill.pairing import kept_channels
from graphopt.passes.distill.taps import default_taps, stage_ends
from graphopt.passes.distill.term import SCHEDULES, Pair, Term

BOXES = "boxes"
_FORM = re.compile(
    r"\s*(?P<loss>[A-Za-z][\w-]*(?:\{[^{}]*\})?)\s*@\s*(?P<where>\S+)"
    r"(?:\s+\*\s*(?P<weight>\S+))?(?P<words>(?:\s+[a-z]+)*)\s*"
)
_WORDS = (*SCHEDULES, "normalized", "masked", "std")


@dataclass(frozen=True)
class Written:
    """A term as it was written.

    Attributes:
        loss: what compares.
        where: "heads", "features", "stages", "boxes", or names and globs separated by |, or
            mine=theirs.
        term: the loss with its schedule, and the weight where there is one.
        weights: one per pair, where there are several.
        by_std: the teacher's channels are chosen by how much they vary.
    """

    loss: Loss
    where: str
    term: Term
    weights: tuple[float, ...] = ()
    by_std: bool = False


def read_terms(text: str | Sequence[str]) -> list[Written]:
    """The terms in a text, or in a list of texts.

    Raises:
        UsageError: one that cannot be read, or a loss or word that is not known.
    """
    parts = text.split(";") if isinstance(text, str) else list(text)
    return [_read(part) for part in parts if part.strip()]


def _read(text: str) -> Written:
    match = _FORM.fullmatch(text)
    if match is None:
        raise UsageError(
            f"cannot read the term {text.strip()!r}; write LOSS @ WHERE * WEIGHT, as in "
            "`pkd @ features * 6` (spaces around * )"
        )
    words = match["words"].split()
    for word in words:
        if word not in _WORDS:
            raise UsageError(f"term {text.strip()!r}: {named.unknown('word', word, _WORDS)}")
    try:
        weights = tuple(float(w) for w in (match["weight"] or "1").split("|"))
    except ValueError as error:
        raise UsageError(f"term {text.strip()!r}: {match['weight']} is no number") from error
    schedule = next((w for w in words if w in SCHEDULES), "constant")
    loss = parse_loss(match["loss"])
    term = Term(
        loss,
        weights[0],
        schedule,
        normalized="normalized" in words,
        masked="masked" in words,
    )
    several = weights if len(weights) > 1 else ()
    return Written(loss, match["where"], term, several, "std" in words)


def pairs_of(written: Written, student: Graph, teacher: Graph) -> list[Pair]:
    """The pairs of tensors a term is for.

    Raises:
        UsageError: the graphs have no such tensors.
    """
    if "=" in written.where:
        mine, _, theirs = written.where.partition("=")
        return [(_one(mine, student), _one(theirs, teacher))]
    if written.where == "stages":
        return _stages(stage_ends(student), stage_ends(teacher))
    heads, features = default_taps(student, teacher)
    known = {"heads": heads, "features": features}.get(written.where)
    if known is None:
        known = _matching(written.where, student, teacher)
    if not known:
        raise UsageError(
            f"term at {written.where!r}: student and teacher share no such tensor; name pairs as "
            "mine=theirs"
        )
    return [(name, name) for name in known]


def terms_at(
    written: Sequence[Written],
    student: Graph,
    teacher: Graph,
    plan: Plan | None,
    varying: Callable[[str, int], KeptChannels],
) -> dict[Pair, list[Term]]:
    """The terms by pair, with the teacher's channels for the student's where these are fewer.

    Args:
        written: those at tensors.
        student: the student's graph.
        teacher: the teacher's.
        plan: what the student lost of the teacher, where it was pruned.
        varying: the channels of a teacher's tensor that vary most, that many of them.

    Raises:
        UsageError: no such tensors, or another number of weights than places.
    """
    found: dict[Pair, list[Term]] = {}
    for each in written:
        pairs = pairs_of(each, student, teacher)
        if each.weights and len(each.weights) != len(pairs):
            names = ", ".join(theirs for _, theirs in pairs)
            raise UsageError(
                f"term {each.loss} @ {each.where}: {len(each.weights)} weights for {len(pairs)} "
                f"places ({names})"
            )
        for number, pair in enumerate(pairs):
            term = each.term
            if each.weights:
                term = dataclasses.replace(term, weight=each.weights[number])
            widths = [g.tensors()[n].shape for g, n in zip((student, teacher), pair, strict=True)]
            if _is_narrower(*widths):
                kept = None
                if plan is not None and pair[0] == pair[1]:
                    kept = kept_channels(teacher, plan, [pair[1]]).get(pair[1])
                if kept is None and each.by_std:
                    kept = varying(pair[1], int(widths[0][1]))
                term = dataclasses.replace(term, channels=kept)
            found.setdefault(pair, []).append(term)
    return found


def _is_narrower(mine: Sequence[object] | None, theirs: Sequence[object] | None) -> bool:
    if not mine or not theirs or len(mine) < 2 or len(theirs) < 2:
        return False
    one, other = mine[1], theirs[1]
    return isinstance(one, int) and isinstance(other, int) and one < other


def _stages(mine: Sequence[str], theirs: Sequence[str]) -> list[Pair]:
    if len(mine) != len(theirs):
        raise UsageError(
            f"terms @ stages: the student has {len(mine)} stages, the teacher {len(theirs)}"
        )
    return list(zip(mine, theirs, strict=True))


def _matching(where: str, student: Graph, teacher: Graph) -> list[str]:
    mine = student.tensors()
    both = [n for n in teacher.tensors() if n in mine]
    try:
        return named.matching("tensor of both", where.split("|"), both)
    except UsageError as error:
        raise UsageError(f"term at {where!r}: {error}") from error


def _one(name: str, graph: Graph) -> str:
    if name not in graph.tensors():
        raise UsageError(f"term: {named.unknown('tensor', name, graph.tensors())}")
    return name
