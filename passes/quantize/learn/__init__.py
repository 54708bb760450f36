"""Training through rounding: a rounded graph's view with scales that learn, and the way back.

view = to_fx(graph)                        # of a graph after insert-fake-quant
learn_grids(view, graph, images[:2])       # scales (and zero points) become parameters of the view
...                                        # any loop, any optimizer
write_back(view, graph)                    # weights, scales and zero points, ready for quantize-constants

`qat` is the pass that does all this. Everything here imports torch.
"""

from graphopt.passes.quantize.learn.grids import LearnedGrid, ObservedGrid
from graphopt.passes.quantize.learn.timing import Timing
from graphopt.passes.quantize.learn.view import (
    SCALES,
    grids_of,
    learn_grids,
    learn_scales,
    write_back,
)

__all__ = [
    "SCALES",
    "LearnedGrid",
    "ObservedGrid",
    "Timing",
    "grids_of",
    "learn_grids",
    "learn_scales",
    "write_back",
]
