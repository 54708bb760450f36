"""Replaces the backbone of a network by a lightweight one with the same outputs.

    features_i = backbone(x)  becomes  features_i = light(x),   shapes equal, MACs(light) <= budget

`outputs` names the tensors where the backbone ends (features at strides 8, 16, 32 for a detector); what
stands between the input and them is replaced by inverted residuals with depthwise convolutions and
squeeze-and-excite (MobileNetV3, Howard et al., ICCV 2019; system 3), as wide as the budget allows.
The new weights are random: they are distilled into place by `recover{stages=...}`, stage by stage
and then end to end. Not handled: features whose stride is not a power of two, and readers of the
old backbone's inner tensors (those keep it alive, and are reported).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphopt.errors import BudgetError, UsageError
from graphopt.ir.cost import node_cost
from graphopt.ir.graph import Graph, Node, Tensor, producer, replace_uses, sweep
from graphopt.ir.shapes import infer_shapes
from graphopt.named import unknown
from graphopt.pass_base import Changes, Context, Pass
from graphopt.passes.distill.light import Light, stage_widths

_NARROWEST, _WIDEST, _HALVINGS = 0.1, 4.0, 12


@dataclass(frozen=True)
class ExchangeBackbone(Pass):
    """features = backbone(x) becomes features = light(x): inverted residuals in a budget, untrained."""

    name: ClassVar[str] = "exchange-backbone"
    numerics: ClassVar[Changes] = Changes("puts an untrained backbone in place of the trained one")
    before: ClassVar[dict[str, str]] = {
        "recover": "the new backbone has to be trained",
        "fuse-conv-bn": "the new backbone is trained with its BatchNormalizations",
    }

    outputs: str = ""  # tensor names separated by |, the largest resolution first
    macs: str = "0.3"  # of what is replaced: a share, or a percentage
    blocks: int = 2  # inverted residuals per resolution
    expand: float = 4.0  # how much wider they are inside
    squeeze: int = 4  # channels per channel of squeeze-and-excite; 0 for none

    def run(self, graph: Graph, context: Context) -> None:
        ends = self._ends(graph)
        source = _only_input(graph)
        old = _between(ends)
        before = sum(node_cost(n).macs for n in old)
        limit = self._share() * before
        width = self._width(graph, source, ends, limit)
        made = self._build(graph, source, ends, width, context.seed)
        for end, new in zip(ends, made, strict=True):
            name = end.name
            replace_uses(graph, end, new)
            if end.name == name:
                end.name = graph.fresh_name(f"{name}_replaced")
                new.name = name
        sweep(graph)
        infer_shapes(graph)
        left = {id(n) for n in graph.nodes}
        alive = [n for n in old if id(n) in left]
        for node in alive:
            context.refused(node, "is still read behind the features that were named")
        after = sum(node_cost(n).macs for n in _between([graph.tensors()[e.name] for e in made]))
        context.rewrote(
            "graph",
            f"{len(old) - len(alive)} nodes with {before / 1e6:.4g} M MACs replaced: {after / 1e6:.4g} M",
        )
        context.facts["stages"] = [t.name for t in made]

    def _share(self) -> float:
        text = self.macs.strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            raise UsageError(
                f"exchange-backbone: macs={self.macs!r} is no share such as 0.3 or 30%"
            )
        return share

    def _ends(self, graph: Graph) -> list[Tensor]:
        names = [n.strip() for n in self.outputs.split("|") if n.strip()]
        known = graph.tensors()
        for name in names:
            if name not in known or producer(known[name]) is None:
                raise UsageError(f"exchange-backbone: {unknown('tensor', name, known)}")
        if not names:
            raise UsageError(
                "exchange-backbone needs the tensors where the backbone ends: outputs='a|b|c' "
                "(graphopt inspect lists the layers)"
            )
        return [known[n] for n in names]

    def _width(self, graph: Graph, source: Tensor, ends: list[Tensor], limit: float) -> float:
        """The largest width that keeps the budget, by halving intervals."""
        narrow, wide = _NARROWEST, _WIDEST
        least = self._cost(graph, source, ends, narrow)
        if least > limit:
            raise BudgetError(
                f"exchange-backbone: even the narrowest backbone has {least / 1e6:.3g} M MACs, more than "
                f"the {limit / 1e6:.3g} M allowed: its features are {[t.shape[1] for t in ends]} wide"
            )
        for _ in range(_HALVINGS):
            middle = (narrow + wide) / 2
            fits = self._cost(graph, source, ends, middle) <= limit
            narrow, wide = (middle, wide) if fits else (narrow, middle)
        return narrow

    def _cost(self, graph: Graph, source: Tensor, ends: list[Tensor], width: float) -> float:
        trial = graph.copy()
        known = trial.tensors()
        made = self._build(trial, known[source.name], [known[t.name] for t in ends], width, 0)
        return float(sum(node_cost(n).macs for n in _between(made)))

    def _build(
        self, graph: Graph, source: Tensor, ends: list[Tensor], width: float, seed: int
    ) -> list[Tensor]:
        light = Light(graph, np.random.default_rng(seed), self.expand, self.squeeze)
        size, made = _size(source), []
        tensor = light.stem(source, stage_widths(2, width))
        stride = 2
        for end in ends:
            wanted = _stride(size, end)
            while stride < wanted:
                stride *= 2
                tensor = light.inverted(
                    tensor, stage_widths(stride, width), stride=2, deep=stride >= 8
                )
                for _ in range(self.blocks - 1):
                    tensor = light.inverted(
                        tensor, stage_widths(stride, width), stride=1, deep=stride >= 8
                    )
            made.append(light.pointwise(tensor, int(end.shape[1])))
        return made


def _only_input(graph: Graph) -> Tensor:
    if len(graph.inputs) != 1:
        raise UsageError(
            f"exchange-backbone: the model has {len(graph.inputs)} inputs, and needs one"
        )
    return graph.inputs[0]


def _size(tensor: Tensor) -> tuple[int, int]:
    shape = list(tensor.shape or [])
    if len(shape) != 4 or not all(isinstance(d, int) for d in shape[1:]):
        raise UsageError(
            f"exchange-backbone: {tensor.name!r} has shape {shape}; it needs (batch, channels, "
            "height, width) with known sizes: fix them with --input-shape"
        )
    return int(shape[2]), int(shape[3])


def _stride(size: tuple[int, int], end: Tensor) -> int:
    height, width = _size(end)
    stride = size[0] // height
    exact = stride >= 2 and stride & (stride - 1) == 0
    if not exact or (height * stride, width * stride) != size:
        raise UsageError(
            f"exchange-backbone: {end.name!r} is {height}x{width} for an input of {size[0]}x{size[1]}: "
            "its stride is no power of two from 2 on"
        )
    return stride


def _between(ends: list[Tensor]) -> list[Node]:
    """Every node the tensors are computed by."""
    found: dict[int, Node] = {}
    stack = [p for t in ends for p in t.inputs]
    while stack:
        node = stack.pop()
        if id(node) not in found:
            found[id(node)] = node
            stack += [p for t in node.inputs for p in t.inputs]
    return list(found.values())
