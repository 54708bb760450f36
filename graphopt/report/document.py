"""The report as data: one JSON document with a schema version, from which all else is drawn."""

from __future__ import annotations

import dataclasses
import json
import math
import platform
from collections import Counter
from collections.abc import Iterable
from typing import Any

from graphopt import __version__
from graphopt.ir.cost import NodeCost
from graphopt.optimize import Optimized, Snapshot
from graphopt.pipeline import PassResult

SCHEMA = 1
_INFINITE = 1e308

Document = dict[str, Any]


def document(run: Optimized) -> Document:
    """The report of one `graphopt optimize` run.

    Units: bytes, milliseconds where a key ends in `_ms`, seconds in `seconds`; MACs are
    multiply-accumulates per image.
    """
    return {
        "schema": SCHEMA,
        "tool": {"name": "graphopt", "version": __version__, "packages": _versions()},
        "machine": f"{platform.machine()}, {platform.system()}",
        "before": _snapshot(run.before),
        "after": _snapshot(run.after),
        "passes": [_pass(p) for p in run.passes],
        "training": next((p.facts["training"] for p in run.passes if "training" in p.facts), None),
        "pruning": next((pruning_facts(p) for p in run.passes if "plan" in p.facts), None),
        "quantization": next(
            (dict(p.facts["quantization"]) for p in run.passes if "quantization" in p.facts), None
        ),
        "accuracy": dataclasses.asdict(run.accuracy) if run.accuracy else None,
        "sparsity": [dict(p.facts["gamma"]) for p in run.passes if "gamma" in p.facts],
        "verification": {
            "executor": run.executor,
            "samples": list(run.samples),
            "error": run.verdict.error if run.verdict else None,
            "tolerance": run.verdict.tolerance if run.verdict else None,
            "output": run.verdict.output if run.verdict else None,
            # What passes that change the outputs have proven of their results themselves.
            "proofs": [f"{p.name}: {p.detail}" for p in run.passes if _has_proof(p)],
        },
        "latency": dataclasses.asdict(run.latency) if run.latency else None,
        "bench": dict(run.bench) if run.bench else None,
        "bundle": dict(run.bundle) if run.bundle else None,
        "operator_shares": dict(run.operator_shares),
        "notes": list(run.notes),
        "seconds": dict(run.seconds),
    }


def to_json(content: Document) -> str:
    """The document as JSON text; an infinite error, which JSON cannot hold, becomes 1e308."""
    return json.dumps(_finite(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return _INFINITE
    return value


def histogram(layers: Iterable[NodeCost]) -> dict[str, int]:
    """How many nodes there are of each operator, most frequent first."""
    counts = Counter(layer.op for layer in layers)
    return dict(sorted(counts.items(), key=lambda kv: (-kv[1], kv[0])))


def _snapshot(shot: Snapshot) -> Document:
    return {
        "path": shot.path,
        "file_bytes": shot.file_bytes,
        "sha256": shot.sha256,
        "opset": shot.opset,
        **dataclasses.asdict(shot.cost),
        "operators": histogram(shot.layers),
        "layers": [dataclasses.asdict(layer) for layer in shot.layers],
    }


def _pass(result: PassResult) -> Document:
    return {
        "name": result.name,
        "text": result.text,
        "numerics": result.numerics,
        "status": result.status,
        "detail": result.detail,
        "error": result.error,
        "tolerance": result.tolerance,
        "before": dataclasses.asdict(result.before),
        "after": dataclasses.asdict(result.after),
        "rewrites": [dataclasses.asdict(n) for n in result.rewrites],
        "refusals": [dataclasses.asdict(n) for n in result.refusals],
        "ms": result.seconds * 1e3,
        "verify_ms": result.verify_seconds * 1e3,
    }


def pruning_facts(result: PassResult) -> Document:
    """What a run of `prune` decided: costs, layer widths, and what had to stay and why."""
    plan = result.facts["plan"]
    rounds = {f"round {r['round']}": r for r in result.facts.get("rounds", ())}
    told = [*result.rewrites, *(n for n in result.refusals if n.where in rounds)]
    return {
        "settings": dict(plan.settings),
        "before": dict(plan.before),
        "after": dict(plan.after),
        "layers": [
            {"layer": name, "before": before, "after": after}
            for name, (before, after) in result.facts["channels"].items()
        ],
        "groups": list(result.facts["groups"]),
        "held": [dataclasses.asdict(n) for n in result.refusals if n.where not in rounds],
        "done": [n.what for n in result.rewrites if n.where == "graph"]
        + [f"{n.where}: {n.what}" for n in told if n.where in rounds],
        "rounds": list(rounds.values()),
    }


def _has_proof(result: PassResult) -> bool:
    return result.status == "verified" and "plan" in result.facts


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {p: version(p) for p in ("onnx", "onnxruntime", "onnx-graphsurgeon", "onnxscript")}
