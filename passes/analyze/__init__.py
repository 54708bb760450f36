"""How much every removable unit of a network matters.

channels = Channels(graph)
worth = scores(channels, "0.7*l2+0.3*chip", data="images/")
"""

from __future__ import annotations

from graphopt.passes.analyze.combine import Climbed, dynamic, kept, weighted_sum
from graphopt.passes.analyze.evidence import Evidence
from graphopt.passes.analyze.importance.base import Importance, WeightImportance
from graphopt.passes.analyze.merge import NORMALIZATIONS, REDUCTIONS, Rating
from graphopt.passes.analyze.registry import IMPORTANCES, parse_importances, register
from graphopt.passes.analyze.score import scores, scores_from

__all__ = [
    "IMPORTANCES",
    "NORMALIZATIONS",
    "REDUCTIONS",
    "Climbed",
    "Evidence",
    "Importance",
    "Rating",
    "WeightImportance",
    "dynamic",
    "kept",
    "parse_importances",
    "register",
    "scores",
    "scores_from",
    "weighted_sum",
]
