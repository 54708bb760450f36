"""What share of a core's peak our kernels reach, by kind of product, as board files hold it.

    python -m benchmarks.efficiency [--boards tx2,kirin990] [--networks resnet20_32,...]

Networks are compiled in float32 and counted in the emulator, as `graphopt bench BOARD@emulated` does;
a share is multiply-accumulates of the direct algorithm over the cycles of all layers of a kind, times
the peak. Everything a layer costs counts: transforms of Winograd's algorithm, ends of rows, bias and
activation. Misses of caches do not.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

from benchmarks.arm_models import CASES, prepared
from graphopt.compile import compile_file
from graphopt.frontends.onnx_file import load
from graphopt.report.terminal import console, print_rows
from graphopt.runtime.efficiency import KINDS, kind_of
from graphopt.runtime.places.emulated import counts_of
from graphopt.runtime.targets import target

NETWORKS = ("resnet20_32", "mobilenetv2_96", "yolov3_tiny_160", "yolov3_mobilenetv3_128")


def main() -> None:
    """Prints one line for every board."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--boards", default="tx2,kirin990", help="comma-separated")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="comma-separated")
    args = parser.parse_args()
    rows = []
    for board in args.boards.split(","):
        cycles: Counter[str] = Counter()
        limits: Counter[str] = Counter()
        for network in args.networks.split(","):
            assert network in CASES, f"{network} is not one of {', '.join(CASES)}"
            with tempfile.TemporaryDirectory() as folder:
                for kind, (took, limit) in counted(network, board, Path(folder)).items():
                    cycles[kind] += took
                    limits[kind] += limit
            console().print(f"{board}: {network} counted")
        rows.append([board, *(f"{limits[k] / cycles[k]:.2f}" if cycles[k] else "" for k in KINDS)])
    print_rows(console(), ["board", *(f">{k}" for k in KINDS)], rows)


def counted(network: str, board: str, folder: Path) -> dict[str, tuple[float, float]]:
    """By kind: (cycles, cycles at the peak)."""
    model = prepared(network, folder)
    kinds = {n.name: kind_of(n) for n in load(model).nodes}
    compile_file(
        model,
        folder / "bundle",
        target=target(board),
        abi=target(board).emulated_abi,
        precision="float32",
        optimize=False,
        verify=False,
    )
    found: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))
    for layer in counts_of(folder / "bundle", target(board)).layers:
        kind = kinds.get(layer.name.removesuffix(" input"), "")
        if kind and layer.cycles is not None:
            took, limit = found[kind]
            found[kind] = (took + layer.cycles, limit + layer.limit)
    return found


if __name__ == "__main__":
    main()
