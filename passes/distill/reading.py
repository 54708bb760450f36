"""Reading tensors out of a network while it runs: a view's by tensor name, any module's by dotted path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, fx, nn

from graphopt.errors import UsageError
from graphopt.fx import tap
from graphopt.fx.address import tensors
from graphopt.named import unknown

Read = tuple[Any, dict[str, Tensor]]


def reading(module: nn.Module, names: Sequence[str]) -> nn.Module:
    """A module that returns `(outputs, {name: value})` and has the parameters of `module`.

    Args:
        module: a view made by `graphopt.fx.to_fx`, or any module.
        names: tensor names of the graph, or paths of submodules such as "layer3.1" ("" for the
            module's own result).

    Raises:
        UsageError: a name there is not, with near misses.
    """
    if isinstance(module, fx.GraphModule) and "graphopt" in module.meta:
        return tap(module, names)
    return Hooked(module, names)


def norm_after(module: nn.Module, name: str) -> nn.Module | None:
    """The BatchNormalization that reads a tensor of a view; none there, or none known of a module."""
    if not (isinstance(module, fx.GraphModule) and "graphopt" in module.meta):
        return None
    node = tensors(module).get(name)
    for reader in node.users if node is not None else ():
        if reader.op == "call_module":
            found = module.get_submodule(str(reader.target))
            if isinstance(found, nn.modules.batchnorm._BatchNorm):
                return found
    return None


class Hooked(nn.Module):
    """Runs a module and keeps what some of its submodules returned."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        """Puts hooks on the submodules; `remove` takes them off."""
        super().__init__()
        self.module = module
        self._values: dict[str, Tensor] = {}
        known = dict(module.named_modules())
        self._handles = []
        for name in names:
            if name not in known:
                raise UsageError(unknown("submodule", name, [n for n in known if n]))
            self._handles.append(known[name].register_forward_hook(self._keeper(name)))

    def _keeper(self, name: str) -> Any:
        def keep(_: nn.Module, __: Any, result: Any) -> None:
            if not isinstance(result, Tensor):
                kind = type(result).__name__
                raise UsageError(
                    f"submodule {name!r} returns a {kind}, not one tensor: take another"
                )
            self._values[name] = result

        return keep

    def forward(self, *inputs: Any) -> Read:
        """The module's outputs, and the tensors by name."""
        self._values.clear()
        outputs = self.module(*inputs)
        values, self._values = self._values, {}
        return outputs, values

    def remove(self) -> None:
        """Takes the hooks off the module."""
        for handle in self._handles:
            handle.remove()
