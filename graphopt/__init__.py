"""graphopt: makes trained vision networks small and fast on ARM boards.

Public names are resolved when first used, so that `import graphopt` loads no framework.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Changes": "graphopt.pass_base",
    "Close": "graphopt.pass_base",
    "Context": "graphopt.pass_base",
    "Exact": "graphopt.pass_base",
    "Graph": "graphopt.ir.graph",
    "GraphoptError": "graphopt.errors",
    "Optimized": "graphopt.optimize",
    "Oracle": "graphopt.oracle",
    "Outcome": "graphopt.pipeline",
    "Pass": "graphopt.pass_base",
    "Pipeline": "graphopt.pipeline",
    "cost_of": "graphopt.ir.cost",
    "default_passes": "graphopt.registry",
    "from_torch": "graphopt.frontends",
    "distill_file": "graphopt.distill",
    "load": "graphopt.frontends.onnx_file",
    "optimize_file": "graphopt.optimize",
    "parse_passes": "graphopt.registry",
    "Plan": "graphopt.channels.plan",
    "Pruned": "graphopt.prune",
    "prune_file": "graphopt.prune",
    "prune_graph": "graphopt.prune",
    "prune_module": "graphopt.prune",
    "pruning": "graphopt.prune",
    "quantize_file": "graphopt.quantize",
    "quantizing": "graphopt.quantize",
    "read_pipeline": "graphopt.registry",
    "register": "graphopt.registry",
    "save": "graphopt.frontends.onnx_file",
    "slim": "graphopt.frontends.slim_module",
    "to_fx": "graphopt.fx",
    "to_text": "graphopt.ir.text",
    "train_file": "graphopt.train",
    "write_back": "graphopt.fx",
}

__all__ = [*sorted(_PUBLIC), "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'graphopt' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return __all__
