"""The models benchmarks run on: exports of the zoo, and real files where they are present."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CACHE = Path("out/bench/models")
ASSETS = Path(__file__).resolve().parents[2] / "shared" / "assets"

YOLO = ("yolov3-tiny", "yolov3", "yolov3-spp", "yolov4", "yolov3-mobilenetv3")
OTHERS = ("retinanet-r50-fpn", "resnet50", "mobilenetv2", "mobilenetv3-large", "wrn-16-2")


@dataclass(frozen=True)
class Case:
    """One model file and the family it belongs to."""

    name: str
    path: Path
    yolo: bool


def cases(*, size: int, only: str | None = None) -> Iterator[Case]:
    """Every case whose name contains `only`; exports are made once and kept in out/bench."""
    for network in (*YOLO, *OTHERS):
        for decode in (False, True) if network in YOLO or "retina" in network else (False,):
            for exporter in ("dynamo", "torchscript", "torchscript-folded"):
                kind = f"{network}{'-decoded' if decode else ''}/{exporter}"
                if only is None or only in kind:
                    path = _exported(network, decode, exporter, size)
                    yield Case(kind, path, network in YOLO)
    for path in sorted(ASSETS.glob("models/*.onnx")):
        if only is None or only in path.stem:
            yield Case(path.stem, path, "yolo" in path.stem)


def _exported(network: str, decode: bool, exporter: str, size: int) -> Path:
    path = CACHE / f"{network}-{'decoded' if decode else 'raw'}-{exporter}-{size}.onnx"
    if path.exists():
        return path
    import torch

    from graphopt import zoo
    from graphopt.frontends.torch_module import to_onnx

    shape = zoo.spec(network).input_shape
    side = shape[1] if shape[1] <= 224 else size
    module = zoo.build(network, decode=decode)
    outputs = zoo.spec(network).decoded_outputs if decode else zoo.spec(network).outputs
    model = to_onnx(
        module,
        torch.zeros(1, shape[0], side, side),
        input_names=["images"],
        output_names=list(outputs),
        exporter="dynamo" if exporter == "dynamo" else "torchscript",
        keep_batchnorm=exporter != "torchscript-folded",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())
    return path
