"""One rule per operator: how labels move through it, and what to rewrite after channels are gone.

Files are by family. A rule that is missing is a refusal (`graphopt.channels.sweep`).
"""

from __future__ import annotations

from graphopt.channels.rules import (
    convolution,
    elementwise,
    movement,
    normalization,
    products,
    reduction,
    reshape,
    sizes,
    spatial,
)
from graphopt.channels.rules.rule import Rule
from graphopt.ir.graph import STANDARD_DOMAINS, Node

RULES: dict[str, Rule] = {
    **convolution.RULES,
    **elementwise.RULES,
    **movement.RULES,
    **normalization.RULES,
    **products.RULES,
    **reduction.RULES,
    **reshape.RULES,
    **sizes.RULES,
    **spatial.RULES,
}


def rule_for(node: Node) -> Rule | None:
    """The rule of a standard operator, or None."""
    return RULES.get(node.op) if node.domain in STANDARD_DOMAINS else None
