"""From a graph to a torch.fx.GraphModule that computes the same and has gradients."""

from __future__ import annotations

import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from graphopt.errors import UnsupportedError
from graphopt.fx import modules
from graphopt.fx.constants import limits_of, parameters_of, to_tensor, torch_type
from graphopt.fx.slots import SCALAR, WHOLE, as_integers, as_whole, host, on_device_of
from graphopt.fx.support import check_supported
from graphopt.fx.table import CREATORS, KIND, LIMITS, MODULES, MOVEMENTS, OUTPUTS, Row, row
from graphopt.ir.graph import Constant, Graph, Node, Tensor, input_of, is_op, label, scalar_of

META = "graphopt"
_STATISTICS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Place:
    """Where the module holds the values of a constant that can be learnt, and which node reads it there.

    Attributes:
        path: dotted: as in the state dict, or a property of a submodule.
        constant: the name of the constant in the graph.
        node: the node it is kept for alone, or "" when every reader shares it.
        index: which input of that node it is.
    """

    path: str
    constant: str
    node: str = ""
    index: int = 0


@dataclass
class Origin:
    """What a view knows of the graph it was made from; kept in `view.meta["graphopt"]`."""

    places: list[Place] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def path(self, constant: str) -> str | None:
        """The parameter or statistic that holds a constant's values, or None."""
        return next((p.path for p in self.places if p.constant == constant), None)


def origin(view: nn.Module) -> Origin:
    """What a view made by `to_fx` knows of its graph, also behind torch.compile and DDP.

    Raises:
        UnsupportedError: the module was not made by `to_fx`.
    """
    found = getattr(plain(view), "meta", {}).get(META)
    if not isinstance(found, Origin):
        raise UnsupportedError(f"{type(view).__name__} is no view of a graph: make one with to_fx")
    return found


def plain(view: nn.Module) -> nn.Module:
    """The module inside torch.compile's and DistributedDataParallel's wrappers."""
    while True:
        compiled = getattr(view, "_orig_mod", None)
        if isinstance(compiled, nn.Module):
            view = compiled
        elif isinstance(view, nn.DataParallel | nn.parallel.DistributedDataParallel):
            view = view.module
        else:
            return view


def to_fx(
    graph: Graph, *, trainable: Sequence[str] = (), frozen: Sequence[str] = ()
) -> fx.GraphModule:
    """A differentiable module that computes what `graph` computes.

    Its inputs are the graph's, in order; its result is the graph's output, or a tuple of them. It comes in
    eval mode. Parameters are called like the graph's constants, so that the `state_dict()` of a
    graph exported from a module fits that module; every node carries the name of its tensor in
    `node.meta["tensor"]`. Every BatchNormalization is one of torch's own, with batch statistics in
    training mode. Any batch size that the graph takes works; a graph with a fixed batch is freed of
    it by the pass `free-batch`.

    Args:
        graph: in normal form; left as it is, and no values are shared with it.
        trainable: names or globs of constants to train besides those recognized as
            weights (see `graphopt.fx.constants`).
        frozen: names or globs of constants that get no gradient. (Statistics of a BatchNormalization are
            frozen by putting its module into eval mode.)

    Raises:
        UnsupportedError: nodes without a differentiable form, named.
        UsageError: a name or glob that matches no constant.
    """
    check_supported(graph)
    return _Builder(graph, parameters_of(graph, also=trainable, frozen=frozen)).build()


class _Builder:
    def __init__(self, graph: Graph, parameters: dict[str, bool]) -> None:
        self.graph = graph
        self.parameters = parameters
        self.root = nn.Module()
        self.made = fx.Graph()
        self.origin = Origin()
        self.values: dict[int, fx.Node] = {}  # by id of the tensor
        self.on_host: set[int] = set()
        self.inline: dict[int, fx.Node] = {}  # constants of shape arithmetic
        self.moved: dict[int, fx.Node] = {}  # results of shape arithmetic, beside the data
        self.whole: set[int] = set()  # integers held as floating-point numbers (`slots.py`)
        self.recast: dict[int, fx.Node] = {}  # integers held the other way than they are made
        self.weights: dict[str, torch.Tensor] = {}
        self.fixed: list[str] = []  # paths of constants that are no parameters

    def build(self) -> fx.GraphModule:
        for tensor in self.graph.inputs:
            node = self.made.placeholder(_identifier(tensor.name))
            node.meta["tensor"] = tensor.name
            self.values[id(tensor)] = node
            self.origin.inputs.append(tensor.name)
        for each in self.graph.nodes:
            self._add(each)
        results = [self._value(t, on_host=id(t) in self.on_host) for t in self.graph.outputs]
        self.origin.outputs = [t.name for t in self.graph.outputs]
        self.made.output(results[0] if len(results) == 1 else tuple(results))
        view = fx.GraphModule(self.root, self.made, class_name="GraphView")
        for path in self.fixed:  # torch.fx copies buffers as part of the state
            _attach(view, path, view.get_buffer(path))
        view.meta[META] = self.origin
        return view.eval()

    def _add(self, node: Node) -> None:
        if is_op(node, "Identity"):
            self._alias(node)
        elif is_op(node, *MODULES):
            self._add_module(node)
        else:
            self._add_function(node)

    def _alias(self, node: Node) -> None:
        source = node.inputs[0]
        on_host, whole = id(source) in self.on_host, id(source) in self.whole
        self.values[id(node.outputs[0])] = self._value(source, on_host=on_host, whole=whole)
        for held, kept in ((on_host, self.on_host), (whole, self.whole)):
            if held:
                kept.add(id(node.outputs[0]))

    # --- functions ----------------------------------------------------------------------------

    def _add_function(self, node: Node) -> None:
        found = row(node.op)
        assert found is not None  # check_supported has seen to it
        on_host = self._is_host(node, found)
        arguments = [
            self._argument(node, i, found, on_host=on_host) for i in range(len(node.inputs))
        ]
        while arguments and arguments[-1] is None:
            arguments.pop()
        keywords = {k: _plain(v) for k, v in node.attrs.items()}
        if "to" in keywords:  # of Cast: a number in ONNX's numbering of types
            keywords["to"] = torch_type(node.outputs[0].dtype)
        kind = node.outputs[0].dtype
        known = {OUTPUTS: len(node.outputs), KIND: torch_type(kind), LIMITS: limits_of(kind)}
        keywords |= {k: v for k, v in known.items() if k in found.keywords}
        made = self._node("call_function", found.function, tuple(arguments), keywords, node)
        results = list(node.outputs)
        for i, tensor in enumerate(results):
            value = made
            if found.several:
                if not tensor.outputs and not any(t is tensor for t in self.graph.outputs):
                    continue
                value = self.made.call_function(operator.getitem, (made, i))
            self._is(tensor, value)
            if on_host:
                self.on_host.add(id(tensor))
            if (found.makes_whole and i == 0) or self._moves_whole(node, tensor):
                self.whole.add(id(tensor))

    def _moves_whole(self, node: Node, tensor: Tensor) -> bool:
        """Whether a node moves integers held as floating-point numbers and `tensor` is one of these."""
        held = is_op(node, *MOVEMENTS) and any(id(t) in self.whole for t in node.inputs)
        return held and bool(tensor.dtype == node.outputs[0].dtype)

    def _is_host(self, node: Node, found: Row) -> bool:
        if node.op in CREATORS:
            return True
        # Numbers in slots of their own say nothing: a weight may be expanded to a computed shape.
        read = [
            t
            for i, t in enumerate(node.inputs)
            if not (isinstance(t, Constant) or t.is_empty() or found.takes_number(i))
        ]
        return bool(read) and all(id(t) in self.on_host for t in read)

    def _argument(self, node: Node, index: int, found: Row, *, on_host: bool) -> Any:
        tensor = input_of(node, index)
        if tensor is None:
            return None
        if found.takes_number(index):
            if not isinstance(tensor, Constant):
                return self.values[id(tensor)]
            is_scalar = found.slot(index) == SCALAR
            return scalar_number(tensor) if is_scalar else tensor.values.reshape(-1).tolist()
        if isinstance(tensor, Constant) and node.op in CREATORS:
            return self._weight(tensor)  # whose shape is asked for
        takes_either = found.slot(index) == WHOLE and id(tensor) in self.whole
        whole = takes_either or self._moves_whole(node, tensor)
        return self._value(tensor, on_host=on_host, whole=whole)

    def _node(self, kind: str, target: Any, arguments: Any, keywords: Any, node: Node) -> fx.Node:
        name = _identifier(node.outputs[0].name or label(node))
        made = self.made.create_node(kind, target, arguments, keywords, name=name)
        made.meta["node"] = label(node)
        return made

    def _is(self, tensor: Tensor, value: fx.Node) -> None:
        self.values[id(tensor)] = value
        value.meta["tensor"] = tensor.name

    # --- what nodes read ----------------------------------------------------------------------

    def _value(self, tensor: Tensor, *, on_host: bool, whole: bool = False) -> fx.Node:
        value = self._as_made(tensor, on_host=on_host)
        if whole == (id(tensor) in self.whole):
            return value
        if id(tensor) not in self.recast:
            kind = () if whole else (torch_type(tensor.dtype), limits_of(tensor.dtype))
            how = as_whole if whole else as_integers
            self.recast[id(tensor)] = self.made.call_function(how, (value, *kind))
        return self.recast[id(tensor)]

    def _as_made(self, tensor: Tensor, *, on_host: bool) -> fx.Node:
        if isinstance(tensor, Constant):
            return self._inline(tensor) if on_host else self._weight(tensor)
        if on_host or id(tensor) not in self.on_host:
            return self.values[id(tensor)]
        if id(tensor) not in self.moved:
            arguments = (self.values[id(tensor)], self._data())
            self.moved[id(tensor)] = self.made.call_function(on_device_of, arguments)
        return self.moved[id(tensor)]

    def _data(self) -> fx.Node:
        """Something that is where the data is."""
        return next(iter(self.made.nodes))

    def _inline(self, constant: Tensor) -> fx.Node:
        if id(constant) not in self.inline:
            values = constant.values
            arguments = (values.reshape(-1).tolist(), list(values.shape), torch_type(values.dtype))
            self.inline[id(constant)] = self.made.call_function(host, arguments)
        return self.inline[id(constant)]

    def _weight(self, constant: Tensor) -> fx.Node:
        if id(constant) not in self.values:
            path = self._place(constant)
            self.values[id(constant)] = node = self.made.get_attr(path)
            node.meta["tensor"] = constant.name
        return self.values[id(constant)]

    def _place(self, constant: Tensor) -> str:
        path = _free_path(self.root, constant.name)
        _attach(self.root, path, self._tensor_of(constant))
        if constant.name in self.parameters:
            self.origin.places.append(Place(path, constant.name))
        else:
            self.fixed.append(path)
        return path

    def _tensor_of(self, constant: Tensor) -> torch.Tensor:
        """The one parameter or buffer of a constant."""
        if constant.name not in self.weights:
            values = to_tensor(constant.values)
            if constant.name in self.parameters:
                values = nn.Parameter(values, requires_grad=self.parameters[constant.name])
            self.weights[constant.name] = values
        return self.weights[constant.name]

    # --- modules ------------------------------------------------------------------------------

    def _add_module(self, node: Node) -> None:
        source = self._value(node.inputs[0], on_host=False)
        if is_op(node, "Dropout"):
            ratio = scalar_of(input_of(node, 1)) if input_of(node, 1) is not None else 0.5
            path = _free_path(self.root, _identifier(label(node)))
            _attach(self.root, path, modules.Dropout(float(ratio or 0.0)))
        else:
            path = self._place_norm(node)
        self._is(node.outputs[0], self._node("call_module", path, (source,), {}, node))

    def _place_norm(self, node: Node) -> str:
        constants = node.inputs[1:5]
        path = _free_path(self.root, _norm_path(node))
        norm = modules.batch_norm(
            rank=len(node.inputs[0].shape),
            channels=int(constants[0].values.size),
            epsilon=float(node.attrs.get("epsilon", 1e-5)),
            momentum=float(node.attrs.get("momentum", 0.9)),
        )
        for index, (name, constant) in enumerate(zip(_STATISTICS, constants, strict=True), start=1):
            values = self._tensor_of(constant)
            is_statistic = name.startswith("running")
            delattr(norm, name)
            if is_statistic:
                norm.register_buffer(name, values.detach().clone())
            else:
                norm.register_parameter(name, values)
            owner = (label(node), index) if is_statistic else ("", 0)
            self.origin.places.append(Place(f"{path}.{name}", constant.name, *owner))
        _attach(self.root, path, norm)
        return path


def scalar_number(constant: Tensor) -> float | int:
    """The one number of a constant."""
    number: float | int = constant.values.reshape(-1)[0].item()
    return number


def _norm_path(node: Node) -> str:
    """What the names of its constants have in common, where they are called as torch calls them."""
    names = [t.name for t in node.inputs[1:5]]
    stem = names[0].removesuffix(".weight")
    if stem and names == [f"{stem}.{ending}" for ending in _STATISTICS]:
        return stem
    return _identifier(label(node))


def _plain(value: Any) -> Any:
    """An attribute as Python numbers."""
    if isinstance(value, np.ndarray | np.generic):
        return value.item() if value.size == 1 and value.ndim < 2 else value.tolist()
    if isinstance(value, Constant):
        return _plain(value.values)
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if isinstance(value, tuple | list) else value


# --- names ------------------------------------------------------------------------------------


def _identifier(name: str) -> str:
    """A name Python takes."""
    plain_name = re.sub(r"\W", "_", name)
    return plain_name if re.match(r"[A-Za-z_]", plain_name) else f"_{plain_name}"


def _free_path(root: nn.Module, name: str) -> str:
    """The dotted path a name stands for, or one close to it where that is taken."""
    if _is_free(root, name):
        return name
    flat = base = name.replace(".", "_").strip() or "constant"
    count = 0
    while not _is_free(root, flat):
        count += 1
        flat = f"{base}_{count}"
    return flat


def _is_free(root: nn.Module, path: str) -> bool:
    *containers, last = path.split(".")
    if not all([*containers, last]) or hasattr(fx.GraphModule, (containers or [last])[0]):
        return False
    module: Any = root
    for name in containers:
        following = getattr(module, name, None)
        if following is None:
            return True
        if type(following) is not nn.Module:  # a layer of torch's, a tensor, a method
            return False
        module = following
    return not hasattr(module, last)


def _attach(root: nn.Module, path: str, value: torch.Tensor | nn.Module) -> None:
    *containers, last = path.split(".")
    module = root
    for name in containers:
        if not hasattr(module, name):
            module.add_module(name, nn.Module())
        module = getattr(module, name)
    if isinstance(value, nn.Module):
        module.add_module(last, value)
    elif isinstance(value, nn.Parameter):
        module.register_parameter(last, value)
    else:
        # Anchors, grids and other numbers of the graph: no part of what is learnt.
        module.register_buffer(last, value, persistent=False)
