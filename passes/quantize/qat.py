"""Trains a rounded network through its rounding until it does what the float network did, without labels.

    min over W, b, s (, z) of  E_x [ sum_heads d(rounded(x), float(x)) + w sum_features (1 - rho(x)) ]
    with  r(w) = s clip(round(w / s), -q, q),   dr/dw = 1 inside,  dr/ds as in LSQ,   s = s_0 2^e

Straight-through gradients, and scales learned like weights: Esser et al., "Learned Step Size
Quantization", ICLR 2020; offsets after Bhalgat et al., "LSQ+", CVPR workshops 2020. With `scales=observed`
ranges are moving averages of extremes instead, as in Jacob et al., CVPR 2018. What is compared with the
float network, and how a run goes, is as in `recover`.

BatchNormalizations are folded before rounding, and it is the folded network that is trained: what is
rounded in training is what is stored. (Keeping them apart with batch statistics matters for training
from scratch; here the network is trained already, and gamma would be a second scale of a weight that has a
trained one. Krishnamoorthi, 2018, freezes them in the end for the same reason.)
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph
from graphopt.named import unknown
from graphopt.pass_base import Changes, Context
from graphopt.passes.distill.recover import Recover, told
from graphopt.passes.quantize.layers import float_network
from graphopt.passes.quantize.pairs import pairs

if TYPE_CHECKING:
    from graphopt.training import Hook

_OFFSETS = ("learned", "fixed")
# Learning rates. Of those tried on ResNet-8 and ResNet-20 the best for few epochs: on 8 bits there is
# little to win and noise to lose by, on 4 bits weights have a long way to go.
_SGD, _ADAM, _ADAM_COARSE = 1e-4, 2e-4, 1e-3
_FINE = 8  # bits
_FREEZE_OBSERVED = 0.1  # of the run


@dataclass(frozen=True)
class Qat(Recover):
    """min E_x [ d(rounded(x), float(x)) ] over weights and scales: training through the rounding.

    The options of `recover`, and those of the scales. Not handled: what `recover` does not, weights
    that are stored as integers already, and labels (`examples/qat_own_loop.py` has a loss of its own).
    """

    name: ClassVar[str] = "qat"
    numerics: ClassVar[Changes] = Changes("trains through rounding")
    before: ClassVar[dict[str, str]] = {
        "quantize-constants": "weights are trained in float, and stored as integers after it"
    }
    after: ClassVar[dict[str, str]] = {
        "insert-fake-quant": "it trains what that pass rounds",
        "fuse-conv-bn": "what is rounded in training has to be what is stored",
    }
    defaults: ClassVar[dict[str, Any]] = {"optimizer": "adamw"}

    epochs: float = 2.0
    scales: str = "learned"  # or "observed", or "fixed"
    offsets: str = "fixed"  # or "learned": zero points, where the target has any
    delay: float = 0.0  # the share of the run in which activations are not rounded yet
    freeze: float | None = None  # the share after which scales stay; 0.1 if observed, else 1
    momentum: float = 0.1  # how much a new batch counts for an observed range

    def run(self, graph: Graph, context: Context) -> None:
        self._check_data()
        self._check_options(context.seed)
        if not self.epochs:
            return
        if reason := _why_nothing_to_train(graph):
            context.refused("graph", reason)
            return
        from graphopt.fx import to_fx
        from graphopt.passes.quantize.learn import Timing, learn_grids, write_back

        def view_of(student: Graph, example: Any) -> Any:
            view = to_fx(student)
            offsets = self.offsets == "learned"
            how: Any = {"scales": self.scales, "offsets": offsets, "gated": self.delay > 0}
            learn_grids(view, student, example, **how)
            return view

        def hooks(view: Any) -> list[Hook]:
            freeze = self._freeze
            return [Timing(view, graph, delay=self.delay, freeze=freeze, momentum=self.momentum)]

        how: Any = {"view_of": view_of, "hooks": hooks, "back": write_back}
        history = self._with_rate(graph, context.seed)._trained(graph, context, **how)
        context.rewrote("graph", f"{told(history)}; scales {self.scales}")

    def _with_rate(self, graph: Graph, seed: int) -> Qat:
        """The same with a learning rate, for weights counted in units of their size, which all are."""
        if self.training(seed).optimizer == "sgd":
            rate = _SGD
        else:
            fewest = min(p.grid.kind.bits for p in pairs(graph) if p.is_weight)
            rate = _ADAM if fewest >= _FINE else _ADAM_COARSE
        return dataclasses.replace(self, recipe=f"lr={rate} {self.recipe}")

    @property
    def _freeze(self) -> float:
        if self.freeze is not None:
            return self.freeze
        return _FREEZE_OBSERVED if self.scales == "observed" else 1.0

    def _check_options(self, seed: int) -> None:
        from graphopt.passes.quantize.learn import SCALES

        for option, known in (("scales", SCALES), ("offsets", _OFFSETS)):
            if getattr(self, option) not in known:
                raise UsageError(unknown(f"way of qat's {option}", getattr(self, option), known))
        for name in ("delay", "freeze", "momentum"):
            if not 0 <= (getattr(self, name) or 0) <= 1:
                raise UsageError(f"qat: {name}={getattr(self, name)} is not between 0 and 1")
        if self.scales == "observed" and self.training(seed).ema:
            raise UsageError(
                "qat: ema would average observed ranges, which are averages: use scales=learned"
            )

    def _teacher(self, graph: Graph, context: Context) -> Graph:
        """The float network: the context's, or the graph without its rounding."""
        if self.teacher is None and (context.teacher is None or any(pairs(context.teacher))):
            return float_network(graph, context)
        return super()._teacher(graph, context)


def _why_nothing_to_train(graph: Graph) -> str:
    found = list(pairs(graph))
    if not found:
        return "nothing is rounded: run insert-fake-quant before"
    if not any(p.is_weight for p in found):
        return "no weight is rounded in float: they may be stored as integers already"
    return ""
