"""Ways in: ONNX files and torch modules."""

from __future__ import annotations

from typing import Any


def from_torch(module: Any, example_inputs: Any, **options: Any) -> Any:
    """The graph of a torch module, in normal form, with BatchNorm and parameter names kept.

    Args:
        module: `torch.nn.Module`, `torch.fx.GraphModule` or `torch.export.ExportedProgram`.
        example_inputs: one tensor or a tuple of them.
        options: see `graphopt.frontends.torch_module.to_onnx`.

    Raises:
        ExportError: torch cannot export the module; the message says where.
    """
    from graphopt.frontends.normal_form import normalize
    from graphopt.frontends.torch_module import to_onnx

    return normalize(to_onnx(module, example_inputs, **options))
