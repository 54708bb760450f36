"""A pruning plan applied to the user's own torch module, in place, and to its optimizer.

Parameters and buffers are sliced by name; the sizes layers keep beside them (out_channels,
num_features, groups, ...) are set to what the slices say; an optimizer is given the new parameters
in the places of the old ones, with its state sliced alike. What forward() has written into its own
code (a chunk size, a view) cannot be changed from outside: the module is run, compared with the
pruned graph, and put back as it was when it does not agree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from graphopt.channels.plan import Plan
from graphopt.errors import PlanError
from graphopt.ir.graph import Constant, Graph, Tensor, input_of, nodes_of

if TYPE_CHECKING:
    import torch
    from torch import nn


def slim(
    module: nn.Module, plan: Plan, optimizer: torch.optim.Optimizer | None = None
) -> nn.Module:
    """Removes from a module, in place, what the plan removes; returns the module.

    The plan must name the module's parameters: make it with `graphopt.prune_module`, or from a
    graph exported by `graphopt.from_torch`.

    Args:
        module: changed in place.
        plan: which elements of which parameters stay.
        optimizer: its state (momenta, running averages) is sliced alike.

    Raises:
        PlanError: a parameter is missing, has another shape, or was slimmed already.
    """
    state = dict(_tensors(module))
    plan.apply_to_state_dict({n: np.empty(tuple(t.shape), np.bool_) for n, t in state.items()})
    # New tensors: torch remembers the old shape of one that a gradient was computed for.
    sliced = {
        id(t): (t, _like(t, plan.slice(n, t.detach()))) for n, t in state.items() if n in plan.keep
    }
    for layer in module.modules():
        for slots in (layer._parameters, layer._buffers):
            for key, tensor in slots.items():
                if id(tensor) in sliced:
                    slots[key] = sliced[id(tensor)][1]
    if optimizer is not None:
        _hand_over(optimizer, plan, state, sliced)
    for name, layer in module.named_modules():
        own = {n for n, _ in layer.named_parameters(recurse=False)}
        own |= {n for n, _ in layer.named_buffers(recurse=False)}
        dotted = f"{name}." if name else ""
        if any(f"{dotted}{n}" in plan.keep for n in own):
            _fix_sizes(layer, plan.groups.get(f"{dotted}weight"))
    return module


def take_values(module: nn.Module, graph: Graph) -> None:
    """Copies a pruned graph's constants into the module's parameters of the same names.

    This is how compensated weights and recalibrated statistics get there. A bias compensation added
    to a layer without one becomes a new parameter.
    """
    import torch

    constants = {t.name: t for t in graph.tensors().values() if isinstance(t, Constant)}
    with torch.no_grad():
        for name, tensor in _tensors(module):
            found = constants.get(name)
            if found is not None and tuple(found.shape) == tuple(tensor.shape):
                tensor.copy_(torch.from_numpy(np.array(found.values)))
    for weight, bias in _new_biases(graph, {n for n, _ in _tensors(module)}):
        layer = module.get_submodule(weight.rpartition(".")[0])
        if getattr(layer, "bias", None) is None:
            like = layer.weight
            values = torch.from_numpy(np.array(bias.values)).to(like)
            layer.bias = torch.nn.Parameter(values, requires_grad=like.requires_grad)


def difference(
    module: nn.Module, graph: Graph, examples: tuple[torch.Tensor, ...], run: Callable[..., Any]
) -> float:
    """The largest difference of a module's outputs from a graph's, relative to the outputs' size."""
    import torch

    names = [t.name for t in graph.inputs]
    feeds = {n: e.detach().cpu().numpy() for n, e in zip(names, examples, strict=True)}
    expected = list(run(graph, feeds).values())
    with _evaluating(module), torch.no_grad():
        flat = torch.utils._pytree.tree_flatten(module(*examples))[0]
    found = [t.detach().cpu().numpy() for t in flat if isinstance(t, torch.Tensor)]
    if [f.shape for f in found] != [e.shape for e in expected]:
        raise PlanError(
            f"the slimmed module gives shapes {[f.shape for f in found]}, "
            f"the pruned graph {[e.shape for e in expected]}"
        )
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(f - e).max() / max(np.abs(e).max(), 1e-6)) for f, e in pairs)


@contextmanager
def restored_on_error(module: nn.Module, optimizer: torch.optim.Optimizer | None) -> Iterator[None]:
    """Puts parameters, buffers, sizes and the optimizer back when the block raises."""
    tables = ("_parameters", "_buffers")
    layers = [(m, dict(vars(m)), [dict(getattr(m, t)) for t in tables]) for m in module.modules()]
    values = [(t, t.detach().clone()) for _, t in _tensors(module)]
    groups = [list(g["params"]) for g in optimizer.param_groups] if optimizer else []
    state = dict(optimizer.state) if optimizer else {}
    try:
        yield
    except BaseException:
        for layer, attributes, contents in layers:
            vars(layer).update(attributes)
            for table, content in zip(tables, contents, strict=True):
                getattr(layer, table).clear()
                getattr(layer, table).update(content)
        for tensor, value in values:
            tensor.data.copy_(value)
        if optimizer is not None:
            for group, parameters in zip(optimizer.param_groups, groups, strict=True):
                group["params"] = parameters
            optimizer.state.clear()
            optimizer.state.update(state)
        raise


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = {m: m.training for m in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for layer, was in training.items():
            layer.training = was


def _tensors(module: nn.Module) -> Iterator[tuple[str, Any]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _like(old: Any, values: Any) -> Any:
    import torch

    values = values.clone(memory_format=torch.contiguous_format)
    if not isinstance(old, torch.nn.Parameter):
        return values
    return torch.nn.Parameter(values, requires_grad=old.requires_grad)


def _hand_over(
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    state: dict[str, Any],
    sliced: dict[int, tuple[Any, Any]],
) -> None:
    """The optimizer goes on with the new parameters and the kept part of its state."""
    for group in optimizer.param_groups:
        group["params"] = [sliced[id(p)][1] if id(p) in sliced else p for p in group["params"]]
    for name, old in state.items():
        known = optimizer.state.pop(old, None) if id(old) in sliced else None
        if known is not None:
            optimizer.state[sliced[id(old)][1]] = {
                key: plan.slice(name, value).clone()
                if getattr(value, "shape", None) == old.shape
                else value
                for key, value in known.items()
            }


def _new_biases(graph: Graph, known: set[str]) -> Iterator[tuple[str, Tensor]]:
    """(weight name, constant) for biases the module has no parameter for."""
    for node in nodes_of(graph, "Conv", "ConvTranspose", "Gemm"):
        bias = input_of(node, 2)
        weight = node.inputs[1].name
        if weight in known and isinstance(bias, Constant) and bias.name not in known:
            yield weight, bias


# --- the sizes layers keep --------------------------------------------------------------------


def _fix_sizes(layer: Any, groups: int | None) -> None:
    """Sets what a layer says of its own sizes to what its parameters have."""
    from torch import nn
    from torch.nn.modules.batchnorm import _NormBase
    from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

    if isinstance(layer, _ConvNd):
        layer.groups = groups or layer.groups
        first, second = layer.weight.shape[0], layer.weight.shape[1] * layer.groups
        transposed = isinstance(layer, _ConvTransposeNd)
        layer.in_channels, layer.out_channels = (first, second) if transposed else (second, first)
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, _NormBase):
        sized = layer.weight if layer.weight is not None else layer.running_mean
        layer.num_features = len(sized)
    elif isinstance(layer, nn.GroupNorm):
        width = layer.num_channels // layer.num_groups
        layer.num_channels = len(layer.weight)
        layer.num_groups = layer.num_channels // width
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = tuple(layer.weight.shape)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(layer.weight)
    elif isinstance(layer, nn.Embedding):
        layer.num_embeddings, layer.embedding_dim = layer.weight.shape
