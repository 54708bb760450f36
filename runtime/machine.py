"""What kernels have to know of a target's processor, and how LLVM is told of it."""

from __future__ import annotations

from typing import Any, Literal

from graphopt.runtime.board import Target
from graphopt.runtime.kernels.simd import Machine

_ZMM = 16  # float32 in a vector of 512 bits
_BITS = {"float32": 32, "float16": 16}
# Cycles from a fused multiply-add to the next on the same sum, from the cores' optimization guides:
# Cortex-A57 5, Cortex-A76 and x86-64 cores since Skylake 4.
_LATENCY = {1: 5, 2: 4, 4: 4}


def machine_of(target: Target, precision: str = "float32") -> Machine:
    """The machine of a target's fastest core.

    Args:
        target: the board.
        precision: float32 or float16.

    Raises:
        UsageError: the hardware cannot compute in it.
    """
    cluster = target.computing[0]
    lanes = target.vector_bits // _BITS[target.precision(precision)]
    products = max(1, cluster.macs_per_cycle[precision] // lanes)
    sharers = len(cluster.cpus) if cluster.l2_shared else 1
    bandwidth = target.gigabytes_per_second / len(cluster.cpus) / cluster.gigahertz
    return Machine(
        lanes=lanes,
        registers=target.vector_registers,
        lane_products=target.arch == "aarch64",
        products=products,
        loads=min(products, 2),
        latency=_LATENCY.get(products, 4),
        cache=cluster.l2_bytes // sharers,
        bytes_per_cycle=bandwidth,
        dtype=precision,
        integers=_integers(target, lanes),
        fused=target.arch == "aarch64" or target.has("fma") or target.has("avx512f"),
    )


def _integers(target: Target, lanes: int) -> Literal["sdot", "smlal", "vnni", "wide"]:
    """How the processor multiplies bytes best."""
    if target.arch == "aarch64":
        return "sdot" if target.has("dotprod") else "smlal"
    has_vnni = target.has("avx512vnni") if lanes == _ZMM else target.has("avxvnni")
    return "vnni" if has_vnni and lanes >= _ZMM // 2 else "wide"


def llvm_target(target: Target, triple: str | None = None) -> dict[str, Any]:
    """TVM's description of the target.

    Args:
        target: the board.
        triple: of the ABI, where it is not the board's first.
    """
    return {
        "kind": "llvm",
        "mtriple": triple or target.triple,
        "mcpu": target.tune_cpu or target.cpu,
        "mattr": list(target.features),
    }
