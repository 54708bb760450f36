"""Takes the upper bound off a Clip that hardly ever reaches it.

    clip(x, 0, c) becomes relu(x)   where on data P(x > c) <= share

A ReLU6 is not positively homogeneous, and stops `equalize`; a Relu is and does not. The outputs change
where the bound was reached, which the report measures on the data. Not handled: lower bounds other
than 0, and bounds that are computed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphopt.data import load_data
from graphopt.errors import UsageError
from graphopt.ir.graph import Graph, Node, input_of, nodes_of, scalar_of
from graphopt.pass_base import Changes, Context, Pass
from graphopt.passes.quantize.probe import largest_error, probed, share_above
from graphopt.runtime.run import Feeds


@dataclass(frozen=True)
class LoosenClips(Pass):
    """clip(x, 0, c) becomes relu(x) where on data x exceeds c for at most a `share` of its values."""

    name: ClassVar[str] = "loosen-clips"
    numerics: ClassVar[Changes] = Changes("lifts bounds that data hardly ever reaches")
    before: ClassVar[dict[str, str]] = {"equalize": "it stops at the bounds this one takes off"}

    data: Any = None  # images: see graphopt.data
    preprocess: str = ""
    batch: int = 8
    limit: int = 256
    share: float = 1e-3  # of the values of a tensor: how many may have reached the bound

    def run(self, graph: Graph, context: Context) -> None:
        if not 0 <= self.share <= 1:
            raise UsageError(f"share={self.share:g} is a share of values between 0 and 1")
        clips = [(n, hi) for n in nodes_of(graph, "Clip") if (hi := _upper_bound(n)) is not None]
        if not clips:
            return
        if self.data is None:
            raise UsageError("loosen-clips looks at activations: give data=FOLDER (or arrays)")
        feeds = load_data(
            self.data, graph, preprocess=self.preprocess, batch=self.batch, limit=self.limit
        )
        before = graph.copy()
        for (node, bound), share in zip(clips, _shares(graph, clips, feeds), strict=True):
            if share > self.share:
                context.refused(node, f"{share:.2%} of its values are above its bound {bound:g}")
                continue
            node.op, node.attrs = "Relu", {}
            for index in (2, 1):
                del node.inputs[index]
            context.rewrote(
                node, f"its bound {bound:g} is lifted: {share:.2g} of its values exceed it"
            )
        if context.rewrites:
            error = largest_error(before, graph, feeds)
            context.facts["loosened"] = {"clips": len(context.rewrites), "error": error}
            context.proof = f"the outputs on the data differ by at most {error:.2g}"


def _upper_bound(node: Node) -> float | None:
    """The bound of a Clip to [0, bound], or None for other Clips."""
    low, high = input_of(node, 1), input_of(node, 2)
    if low is None or high is None or scalar_of(low) != 0:
        return None
    bound = scalar_of(high)
    is_float = node.outputs[0].dtype is not None and np.dtype(node.outputs[0].dtype).kind == "f"
    return bound if is_float and bound is not None and 0 < bound < math.inf else None


def _shares(graph: Graph, clips: list[tuple[Node, float]], data: Iterable[Feeds]) -> list[float]:
    probes = [(node.inputs[0].name, share_above(bound)) for node, bound in clips]
    batches = [[float(v) for v in found] for found in probed(graph, probes, data)]
    return [float(v) for v in np.mean(batches, axis=0)]
