"""The differentiable view of a graph: a torch.fx.GraphModule, node for node, and the way back.

    view = to_fx(graph)                     # parameters and nodes are named after the graph's tensors
    view.train(); loss(view(images)).backward(); optimizer.step()
    write_back(view, graph)                 # what was learnt, by name

Everything here imports torch; nothing else of graphopt's core does.
"""

from graphopt.fx.address import matching, parameters_before, tap, tensors
from graphopt.fx.build import to_fx
from graphopt.fx.write_back import write_back

__all__ = ["matching", "parameters_before", "tap", "tensors", "to_fx", "write_back"]
