"""The scale of a normalization."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphopt.errors import UsageError
from graphopt.passes.analyze.evidence import Evidence
from graphopt.passes.analyze.importance.base import Importance
from graphopt.passes.analyze.merge import Rating


@dataclass(frozen=True)
class BnGamma(Importance):
    """s_c = |gamma_c|, gamma being the scale of the normalization behind a layer.

    Liu et al., Network Slimming, ICCV 2017: one threshold over all layers, so nothing is
    normalized. Units without a scale get no score of their own. Needs a model in which
    BatchNormalization was not folded into the convolutions.
    """

    name = "bn-gamma"
    normalize = "none"

    def rate(self, evidence: Evidence) -> Sequence[Rating]:
        """|gamma| of every normalization.

        Raises:
            UsageError: no normalization has a scale.
        """
        found = [
            Rating(p, np.abs(evidence.rows(p)[:, 0]).astype(np.float64))
            for p in evidence.parameters("scale")
        ]
        if not found:
            raise UsageError(
                "importance 'bn-gamma' needs normalizations with a scale, and no channel that can "
                "be removed has one; exporters fold BatchNormalization into convolutions: export "
                "with them kept, or use another importance"
            )
        return found
