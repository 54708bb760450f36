"""Runs passes over one graph, and holds each to its contract.

After every pass that changed something the graph is swept, verified and (for exact and close
passes) run against the graph before it. A pass that raises, leaves an invalid graph, changes what
it promised to keep, or changes the graph without logging it is rolled back and reported; the run
goes on, or stops with `strict`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.errors import (
    BudgetError,
    GraphError,
    PassError,
    PlanError,
    RunError,
    TrainingError,
    UnsupportedError,
    UsageError,
)
from graphopt.ir.cost import Cost, cost_of
from graphopt.ir.difference import differs
from graphopt.ir.graph import Graph, sweep
from graphopt.ir.shapes import infer_shapes
from graphopt.ir.verify import verify
from graphopt.oracle import Oracle, Verdict, departure
from graphopt.pass_base import Changes, Context, Note, Pass
from graphopt.runtime.memory import release
from graphopt.runtime.run import Outputs


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
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The graph a pipeline made, and how."""

    graph: Graph
    results: tuple[PassResult, ...]
    final: Verdict | None


Progress = Callable[[str], None]

# Above this, memory is handed back after every pass that changed something.
_LARGE_BYTES = 64_000_000


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
        teacher: Graph | None = None,
        known: Mapping[str, Any] | None = None,
        progress: Progress = silent,
    ) -> Outcome:
        """Runs the passes on a copy of `graph`.

        Args:
            graph: in normal form; left as it is.
            oracle: judges the numeric contracts; without one passes are not verified and say so.
            seed: handed to the passes.
            strict: raise PassError at the first pass that breaks its contract.
            teacher: what passes that train learn from; the graph before the first pass that
                changes outputs if left out.
            known: what earlier runs found out, by name (`Context.known`).
            progress: called with a pass's name before it runs.
        """
        bench = _Workbench(graph, oracle, teacher, known or {})  # every pass edits a copy
        results: list[PassResult] = []
        for each in self.passes:
            progress(each.name)
            result = _Step(each, bench, seed).result
            results.append(result)
            if strict and result.status == "rolled-back":
                raise PassError(f"pass {each.name!r} {result.detail}")
        # The caller's graph is never handed out: somebody may edit the result.
        final = bench.copy() if bench.graph is graph else bench.graph
        return Outcome(final, tuple(results), self._final(final, oracle))

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


class _Workbench:
    """The current graph, what it costs, a judge of the next one, and a copy for the next pass."""

    def __init__(
        self,
        graph: Graph,
        judge: Oracle | None,
        teacher: Graph | None,
        known: Mapping[str, Any],
    ) -> None:
        self.judge = judge
        self.teacher = teacher  # else the graph before the first pass that changes outputs
        self.known = dict(known)
        self.accept(graph, judge)

    def accept(self, graph: Graph, judge: Oracle | None) -> None:
        """Makes `graph` the current one."""
        self.graph, self.judge = graph, judge
        self.cost = cost_of(graph)
        self._copy: Graph | None = None

    def copy(self) -> Graph:
        """A copy to edit; a pass that left its copy as it was hands it on to the next."""
        copy = self.graph.copy() if self._copy is None else self._copy
        self._copy = None
        return copy

    def hand_back(self, copy: Graph) -> None:
        """Takes back a copy that was not changed."""
        self._copy = copy


class _Step:
    """One pass on one graph: run, check, keep or roll back."""

    def __init__(self, each: Pass, bench: _Workbench, seed: int) -> None:
        self._pass, self._bench = each, bench
        if bench.teacher is None and isinstance(each.numerics, Changes):
            bench.teacher = bench.graph
        self._context = Context(seed=seed, teacher=bench.teacher, known=dict(bench.known))
        self._verdict: Verdict | None = None
        self._started = self._edited = time.process_time()
        before, after = bench.cost, bench.copy()
        status, detail = "unchanged", ""
        try:
            if self._edit(after):
                status, detail = self._check(after)
            else:
                bench.hand_back(after)
        except _BrokenContractError as broken:
            status, detail = "rolled-back", str(broken)
        if status != "rolled-back":
            bench.known |= self._context.facts
        self.result = self._row(status, detail, before)

    def _edit(self, after: Graph) -> bool:
        """Runs the pass on the copy; whether that changed anything."""
        current = self._bench.graph
        try:
            self._pass.run(after, self._context)
            changed = differs(after, current)
            if changed:
                sweep(after)
                changed = differs(after, current)
        except (UsageError, BudgetError, PlanError, TrainingError, UnsupportedError):
            raise  # what the user asked for cannot be: no fault of the pass
        except Exception as error:  # a user's pass may raise anything; the run has to survive it
            raise _BrokenContractError(f"failed: {type(error).__name__}: {error}") from error
        finally:
            self._edited = time.process_time()
        if changed and not self._context.rewrites:
            raise _BrokenContractError("changed the graph without logging a rewrite")
        return changed

    def _check(self, after: Graph) -> tuple[str, str]:
        """Accepts the graph, or raises what is wrong with it."""
        infer_shapes(after)
        try:
            verify(after)
        except GraphError as error:
            raise _BrokenContractError(f"left an invalid graph: {error}") from error
        judge = self._bench.judge
        if judge is None:
            self._bench.accept(after, None)
            proof = self._context.proof
            return ("verified", proof) if proof else ("unverified", "no oracle")
        changes = isinstance(self._pass.numerics, Changes)
        try:
            # What means to change the outputs may change the inputs' types too: new samples.
            fresh = judge.anew(after) if changes else None
            outputs = [] if changes else judge.run(after)
        except RunError as error:
            raise _BrokenContractError(f"left a graph that does not run: {error}") from error
        detail = self._judged(judge, outputs, after)
        # The next pass is compared with this graph: each answers for its own error only.
        self._bench.accept(after, fresh or judge.expecting(outputs))
        if self._bench.cost.weight_bytes > _LARGE_BYTES:
            release()
        return "verified", detail

    def _judged(self, judge: Oracle, outputs: list[Outputs], after: Graph) -> str:
        numerics = self._pass.numerics
        if isinstance(numerics, Changes):
            return self._context.proof or "runs; changes the outputs as declared"
        self._verdict = judge.compare(outputs, numerics.rtol)
        if self._verdict.passed:
            return str(self._verdict)
        sample = next(s for s in judge.samples if s.recipe == self._verdict.sample)
        where = departure(self._bench.graph, after, sample, self._verdict.tolerance)
        located = dataclasses.replace(self._verdict, departs_at=where)
        raise _BrokenContractError(f"broke its contract {numerics}: {located}")

    def _row(self, status: str, detail: str, before: Cost) -> PassResult:
        return PassResult(
            name=self._pass.name,
            text=str(self._pass),
            numerics=str(self._pass.numerics),
            before=before,
            after=self._bench.cost,
            rewrites=tuple(self._context.rewrites),
            refusals=tuple(self._context.refusals),
            seconds=self._edited - self._started,
            verify_seconds=time.process_time() - self._edited,
            status=status,
            detail=detail,
            error=self._verdict.error if self._verdict else None,
            tolerance=self._verdict.tolerance if self._verdict else None,
            facts=self._context.facts,
        )
