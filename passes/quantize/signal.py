"""How much of a network's outputs is left after rounding.

    SQNR = 10 log10( sum y^2 / sum (y - y_q)^2 )   in decibels, over all images, per output

6 dB are one bit. Computed with ONNX Runtime, optimizations off, so that what is measured is the
simulation the graph describes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from graphopt.data import Feeds
from graphopt.runtime.run import Outputs, Runner

LOSSLESS = 200.0  # decibels: nothing differs
NOTHING = -200.0


class Signal:
    """The outputs of a network on some images, and how close others come to them."""

    def __init__(self, reference: Runner, data: Iterable[Feeds]) -> None:
        """Runs the reference; batches and outputs are held."""
        self.batches: list[Feeds] = list(data)
        self.expected: list[Outputs] = [reference.run(f) for f in self.batches]

    def of(self, runner: Runner) -> dict[str, float]:
        """SQNR in decibels by output name; outputs that are no floats are left out."""
        power: dict[str, float] = {}
        noise: dict[str, float] = {}
        for feeds, expected in zip(self.batches, self.expected, strict=True):
            found = runner.run(feeds)
            for name, wanted in expected.items():
                if not isinstance(wanted, np.ndarray) or wanted.dtype.kind != "f":
                    continue
                # Decoded boxes may overflow on images that are no pictures: compare the rest.
                a, b = _finite(wanted, found[name])
                power[name] = power.get(name, 0.0) + float(np.square(a).sum())
                noise[name] = noise.get(name, 0.0) + float(np.square(a - b).sum())
        return {n: decibels(power[n], noise[n]) for n in power}


def _finite(a: Any, b: Any) -> tuple[Any, Any]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    return np.where(both, a, 0.0), np.where(both, b, 0.0)


def decibels(power: float, noise: float) -> float:
    """10 log10(power / noise), within the bounds a reader can make sense of."""
    if noise <= 0:
        return LOSSLESS
    if power <= 0:
        return NOTHING
    return min(max(10 * math.log10(power / noise), NOTHING), LOSSLESS)


def worst(found: dict[str, float]) -> float:
    """The lowest of several SQNR."""
    return min(found.values(), default=LOSSLESS)


def told(found: dict[str, float], shown: int = 3) -> str:
    """SQNR as a line: "28.5 dB", or by output where there are several."""
    items: Sequence[tuple[str, float]] = sorted(found.items(), key=lambda item: item[1])
    if not items:
        return "no float outputs"
    if len(items) == 1:
        return f"{items[0][1]:.1f} dB"
    parts = [f"{n} {v:.1f} dB" for n, v in items[:shown]]
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(parts) + more
