"""Matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803 - the attribute's name
    transB: int = 0,  # noqa: N803
) -> Tensor:
    """alpha A' B' + beta C, where ' transposes on request."""
    left = a.mT if transA else a
    if alpha == beta == 1.0 and transB and (c is None or c.dim() == 1):
        return functional.linear(left, b, c)
    product = left @ (b.mT if transB else b)
    product = product if alpha == 1.0 else alpha * product
    if c is None:
        return product
    return product + (c if beta == 1.0 else beta * c)


def einsum(*inputs: Tensor, equation: str) -> Tensor:
    """The sum of products the equation names."""
    return torch.einsum(equation, *inputs)


ROWS: dict[str, Any] = {
    "Det": torch.linalg.det,
    "Einsum": einsum,
    "Gemm": gemm,
    "MatMul": torch.matmul,
}
