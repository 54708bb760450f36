"""Runs passes over one graph, and holds each to its contract.

After every pass that changed something the graph is swept, verified and (for exact and close
passes) run against the graph before it. A pass that raises, leaves an invalid graph, changes what
it promised to keep, or changes the graph without logging it is rolled back and reported; the run
goes on, or stops with `strict`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from graphopt.errors import GraphError, PassError, RunError, UsageError
from graphopt.ir.cost import Cost, cost_of
from graphopt.ir.graph import Graph, sweep
from graphopt.ir.proto import to_proto
from graphopt.ir.shapes import infer_shapes
from graphopt.ir.verify import verify
from graphopt.oracle import Oracle, Verdict, departure
from graphopt.pass_base import Changes, Context, Note, Pass


@dataclass(frozen=True)
class PassResult:
    """One row of the report. `status` is verified, unchanged, unverified or rolled-back."""

    name: str
    text: str
    numerics: str
    before: Cost
    after: Cost
    rewrites: tuple[Note, ...]
    refusals: tuple[Note, ...]
    seconds: float
    verify_seconds: float
    status: str
    detail: str
    error: float | None = None
    tolerance: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The graph a pipeline made, and how."""

    graph: Graph
    results: tuple[PassResult, ...]
    final: Verdict | None


Progress = Callable[[str], None]


def silent(text: str) -> None:
    """Progress nobody wants to hear of."""


class Pipeline:
    """A list of passes whose order constraints hold."""

    def __init__(self, passes: Iterable[Pass]) -> None:
        """Raises UsageError listing every violated order constraint."""
        self.passes = tuple(passes)
        problems = list(order_problems(self.passes))
        if problems:
            raise UsageError("; ".join(problems))

    def run(
        self,
        graph: Graph,
        *,
        oracle: Oracle | None = None,
        seed: int = 0,
        strict: bool = False,
        progress: Progress = silent,
    ) -> Outcome:
        """Runs the passes on a copy of `graph`.

        Args:
            graph: in normal form; left as it is.
            oracle: judges the numeric contracts; without one passes are not verified and say so.
            seed: handed to the passes.
            strict: raise PassError at the first pass that breaks its contract.
            progress: called with a pass's name before it runs.
        """
        current, judge = graph.copy(), oracle
        results: list[PassResult] = []
        for each in self.passes:
            progress(each.name)
            step = _Step(each, current, judge, seed)
            results.append(step.result)
            if strict and step.result.status == "rolled-back":
                raise PassError(f"pass {each.name!r} {step.result.detail}")
            current, judge = step.graph, step.judge
        return Outcome(current, tuple(results), self._final(current, oracle))

    def _final(self, graph: Graph, oracle: Oracle | None) -> Verdict | None:
        if oracle is None or any(isinstance(p.numerics, Changes) for p in self.passes):
            return None
        rtol = sum(p.numerics.rtol or 0.0 for p in self.passes)
        return oracle.check(graph, min(rtol, 1e-4))


def order_problems(passes: Sequence[Pass]) -> Iterable[str]:
    """Every violated before/after constraint, with its reason."""
    for i, each in enumerate(passes):
        earlier = {p.name for p in passes[:i]} - {each.name}
        later = {p.name for p in passes[i + 1 :]} - {each.name}
        for name, reason in each.before.items():
            if name in earlier:
                yield f"{each.name} must run before {name}: {reason}"
        for name, reason in each.after.items():
            if name in later and name not in earlier:
                yield f"{each.name} must run after {name}: {reason}"


class _BrokenContractError(Exception):
    """A pass broke its contract; the text continues "pass X ..."."""


class _Step:
    """One pass on one graph: run, check, keep or roll back."""

    def __init__(self, each: Pass, graph: Graph, judge: Oracle | None, seed: int) -> None:
        self._pass, self._before, self._judge = each, graph, judge
        self._context = Context(seed=seed)
        self._verdict: Verdict | None = None
        self.graph, self.judge = graph, judge
        started = time.process_time()
        after = graph.copy()
        status, detail = "unchanged", ""
        ran = started
        try:
            self._edit(after)
            ran = time.process_time()
            if self._changed(after):
                status, detail = self._check(after)
                self.graph = after
        except _BrokenContractError as broken:
            ran = max(ran, started)
            status, detail = "rolled-back", str(broken)
        self.result = self._row(status, detail, ran - started, time.process_time() - ran)

    def _edit(self, after: Graph) -> None:
        try:
            self._pass.run(after, self._context)
            sweep(after)
        except Exception as error:  # a user's pass may raise anything; the run has to survive it
            raise _BrokenContractError(f"failed: {type(error).__name__}: {error}") from error

    def _changed(self, after: Graph) -> bool:
        changed = fingerprint(self._before) != fingerprint(after)
        if changed and not self._context.rewrites:
            raise _BrokenContractError("changed the graph without logging a rewrite")
        return changed

    def _check(self, after: Graph) -> tuple[str, str]:
        infer_shapes(after)
        try:
            verify(after)
        except GraphError as error:
            raise _BrokenContractError(f"left an invalid graph: {error}") from error
        if self._judge is None:
            return "unverified", "no oracle"
        numerics = self._pass.numerics
        try:
            if isinstance(numerics, Changes):
                self.judge = self._judge.adopt(after)
                return "verified", "runs; changes the outputs as declared"
            self._verdict = self._judge.check(after, numerics.rtol)
        except RunError as error:
            raise _BrokenContractError(f"left a graph that does not run: {error}") from error
        if not self._verdict.passed:
            raise _BrokenContractError(f"broke its contract {numerics}: {self._located(after)}")
        return "verified", str(self._verdict)

    def _located(self, after: Graph) -> Verdict:
        assert self._judge is not None
        assert self._verdict is not None
        v = self._verdict
        sample = next(s for s in self._judge.samples if s.recipe == v.sample)
        where = departure(self._before, after, sample, v.tolerance)
        return Verdict(v.error, v.tolerance, v.output, v.sample, where)

    def _row(self, status: str, detail: str, seconds: float, verify_seconds: float) -> PassResult:
        rolled_back = status == "rolled-back"
        return PassResult(
            name=self._pass.name,
            text=str(self._pass),
            numerics=str(self._pass.numerics),
            before=cost_of(self._before),
            after=cost_of(self.graph),
            rewrites=() if rolled_back else tuple(self._context.rewrites),
            refusals=tuple(self._context.refusals),
            seconds=seconds,
            verify_seconds=verify_seconds,
            status=status,
            detail=detail,
            error=self._verdict.error if self._verdict else None,
            tolerance=self._verdict.tolerance if self._verdict else None,
        )


def fingerprint(graph: Graph) -> str:
    """A hash of the structure and of which arrays the constants hold (not of what is in them)."""
    model, arrays = to_proto(graph, hollow=True)
    digest = hashlib.sha256(model.SerializeToString(deterministic=True))
    for name in sorted(arrays):
        digest.update(f"{name}:{id(arrays[name])};".encode())
    return digest.hexdigest()
