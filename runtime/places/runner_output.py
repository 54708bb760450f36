"""Reads what a bundle's runner prints (deploy/c/run.c)."""

from __future__ import annotations

import re

from graphopt.errors import RunError
from graphopt.runtime.native import Layer
from graphopt.runtime.places.figures import Times

_READY = re.compile(r"^\d+ layers, (?P<threads>\d+) threads?, .*", re.MULTILINE)
_LATENCY = re.compile(
    r"^latency: median (?P<median>[\d.]+) ms, .*least (?P<least>[\d.]+), .*\((?P<runs>\d+) runs",
    re.MULTILINE,
)
# ms, share, MMAC, GMAC/s, layer
_LAYER = re.compile(r"^ *([\d.]+) +[\d.]+ +([\d.]+) +[\d.]+  (.*)$", re.MULTILINE)


def times_in(text: str, *, profile: str = "") -> Times:
    """What a runner printed with --iters; `profile` is what it printed with --profile.

    Raises:
        RunError: that is not what a runner prints.
    """
    latency, ready = _LATENCY.search(text), _READY.search(text)
    if latency is None or ready is None:
        raise RunError(f"the runner did not say how long it took; it said: {text[-200:].strip()!r}")
    return Times(
        median=float(latency["median"]),
        least=float(latency["least"]),
        runs=int(latency["runs"]),
        threads=int(ready["threads"]),
        layers=profile_in(profile),
    )


def profile_in(text: str) -> list[Layer]:
    """The layers that a runner printed with --profile."""
    return [
        Layer(name, float(ms), round(float(macs) * 1e6)) for ms, macs, name in _LAYER.findall(text)
    ]
