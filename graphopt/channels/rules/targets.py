"""The sizes a Reshape turns others into, as far as they follow from what is known."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

Dims = list[Any]


def completed(old: Dims, new: Dims) -> tuple[Dims, Dims]:
    """Both shapes with a name for every unknown size, and the one size worked out that follows.

    Two sizes without a name are not the same one.
    """
    old, new = _named(old, "in"), _named(new, "out")
    unknown = [a for a, d in enumerate(new) if not isinstance(d, int) and d not in old]
    rest = Counter(d for a, d in enumerate(new) if a not in unknown and not isinstance(d, int))
    if len(unknown) != 1 or rest != Counter(d for d in old if not isinstance(d, int)):
        return old, new
    counts = [math.prod(d for d in dims if isinstance(d, int)) for dims in (old, new)]
    if not counts[1] or counts[0] % counts[1]:
        return old, new
    return old, [counts[0] // counts[1] if a in unknown else d for a, d in enumerate(new)]


def constant_target(old: Dims, new: Dims) -> list[int] | None:
    """A Reshape target that needs no computing, or None.

    Sizes that stand at the same place in the input are copied (0), one more may be left open (-1).
    """
    old, new = completed(old, new)
    target = [
        d if isinstance(d, int) else 0 if old[a : a + 1] == [d] else -1 for a, d in enumerate(new)
    ]
    return None if target.count(-1) > 1 else target


def _named(dims: Dims, side: str) -> Dims:
    return [f"?{side}{a}" if d is None else d for a, d in enumerate(dims)]
