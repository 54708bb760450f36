"""What activations look like: histograms over images, and ranges chosen from them."""

from graphopt.passes.quantize.observe.calibrate import Observed, observe
from graphopt.passes.quantize.observe.ranges import METHODS, Method, range_of

__all__ = ["METHODS", "Method", "Observed", "observe", "range_of"]
