"""What a rule is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from graphopt.channels.cut import Cut
from graphopt.channels.view import View


@dataclass(frozen=True)
class Rule:
    """`label` carries labels through a node; `shrink` rewrites what of it names sizes or positions.

    `shrink` runs before constants are sliced, on a node of which at least one axis gets smaller, and
    on every node whose sizes (input `size_input`) are computed: they may be computed from an axis
    that gets smaller elsewhere.
    """

    label: Callable[[View], None]
    shrink: Callable[[Cut], None] | None = None
    size_input: int | None = None
