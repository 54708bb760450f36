"""One score per unit from the name of an importance."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.channels.groups import Channels
from graphopt.data import Data, load_data
from graphopt.errors import UsageError
from graphopt.passes.analyze.combine import weighted_sum
from graphopt.passes.analyze.evidence import Evidence, Gradient
from graphopt.passes.analyze.importance.base import Importance
from graphopt.passes.analyze.merge import Scores
from graphopt.passes.analyze.registry import parse_importances


def scores(
    channels: Channels,
    importance: str | Importance,
    *,
    data: Data | str | Path | Iterable[Any] | None = None,
    gradients: Gradient | Iterable[Gradient] | None = None,
    hessian: Gradient | None = None,
    merge: str | None = None,
    normalize: str | None = None,
    seed: int = 0,
) -> Scores:
    """How much every unit matters: float64, shape (units,), higher is more important.

    Units the importance has nothing to go by (bn-gamma where there is no BatchNormalization, hrank
    behind a Flatten) get the largest score, so that they are removed last.

    Args:
        channels: the analysis of the graph.
        importance: a name, a sum such as "0.7*l2+0.3*chip" (`registry.parse_importances`,
            `combine.weighted_sum`), or an importance.
        data: calibration data, or what `graphopt.data.load_data` makes it from.
        gradients: gradients of constants as arrays (`Evidence`).
        hessian: the diagonal of the loss's Hessian by constant, for `obd`.
        merge: how coupled layers become one score (`merge.REDUCTIONS`); each importance has its
            own default.
        normalize: how layers are made comparable (`merge.NORMALIZATIONS`), likewise.
        seed: for `random`.

    Raises:
        UsageError: an unknown name or option, or data or gradients that are needed and not given.
        ModelError: scores of a layer that are NaN or infinite.
    """
    if data is not None and not isinstance(data, Data):
        data = load_data(data, channels.graph)
    evidence = Evidence(channels, data, gradients, hessian=hessian, seed=seed)
    return scores_from(evidence, importance, merge=merge, normalize=normalize)


def scores_from(
    evidence: Evidence,
    importance: str | Importance,
    *,
    merge: str | None = None,
    normalize: str | None = None,
) -> Scores:
    """As `scores`, from evidence that is there already."""
    named = parse_importances(importance) if isinstance(importance, str) else [(1.0, importance)]
    parts = [(w, i.scores(evidence, reduce=merge, normalize=normalize)) for w, i in named]
    found = parts[0][1] if len(parts) == 1 else weighted_sum(parts)
    known = np.isfinite(found)
    if len(found) and not known.any():
        raise UsageError(f"importance {str(importance)!r} finds nothing to go by in this graph")
    return found if known.all() else np.where(known, found, found[known].max())
