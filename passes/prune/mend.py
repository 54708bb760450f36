"""What makes up for removed channels: measured while the network is whole, applied when it is pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from graphopt.channels.groups import Channels
from graphopt.channels.labels import Vector
from graphopt.errors import UsageError
from graphopt.passes.prune.compensate import compensate, readers
from graphopt.passes.prune.moments import measure
from graphopt.passes.prune.refit import layers, record, refit
from graphopt.runtime.run import Feeds

# constants: what does not depend on the input; mean: measured means; linear: predicted from the
# channels that stay; refit: linear, then every layer fitted to what the original computed.
MODES = ("none", "constants", "mean", "linear", "refit")
NEED_IMAGES = ("mean", "linear", "refit")


def mode_of(asked: str, *, images: bool) -> str:
    """The mode to use: "auto" is the best measured for what there is (benchmarks/prune_accuracy.py).

    Raises:
        UsageError: no such mode, or one that needs images and there are none.
    """
    if asked == "auto":
        return "refit" if images else "none"
    if asked not in MODES:
        raise UsageError(f"compensation {asked!r} is not one of auto, {', '.join(MODES)}")
    if asked in NEED_IMAGES and not images:
        raise UsageError(f"compensation {asked!r} is measured on images: give --data")
    return asked


def mending(
    channels: Channels, removed: Vector, mode: str, data: Iterable[Feeds], seed: int
) -> Callable[[], str]:
    """Measures what `mode` needs; the function it returns edits the pruned graph and tells of it."""
    found = readers(channels, removed)
    places = [[(c.node.inputs[0], c.axis, len(c.labels)) for c in r.contractions] for r in found]
    seen = iter(measure(channels.graph, [p for own in places for p in own], data))
    moments = [[next(seen) for _ in own] for own in places]
    folded = "linear" if mode == "refit" else mode
    fitted = layers(channels, removed) if mode == "refit" else []
    targets = record(channels.graph, fitted, data, seed) if fitted else None

    def apply() -> str:
        changed = compensate(channels, removed, found, moments, folded)
        if targets is not None:
            changed = max(changed, refit(channels.graph, fitted, targets, data))
        return f"compensation ({mode}): {changed} layers"

    return apply
