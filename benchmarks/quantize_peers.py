"""Quantizes one file with one peer, inside the peer's own environment.

    python quantize_peers.py JOB.json

A job is {"tool", "model", "data", "output", "options"}; `data` is an .npz with one array `x` of
inputs (images, channels, height, width). Prints the seconds it took.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

Job = dict[str, Any]


def _inputs(job: Job) -> tuple[str, np.ndarray[Any, Any], int]:
    """The input's name, all images, and how many the model takes at a time."""
    images = np.load(job["data"])["x"]
    first = onnx.load(job["model"], load_external_data=False).graph.input[0]
    batch = first.type.tensor_type.shape.dim[0].dim_value or 8
    return first.name, images, batch


def _batches(job: Job) -> Iterator[dict[str, np.ndarray[Any, Any]]]:
    name, images, batch = _inputs(job)
    for k in range(0, len(images) - batch + 1, batch):
        yield {name: images[k : k + batch]}


def onnxruntime_static(job: Job) -> None:
    """quantize_static in QDQ format, the types and the per-channel setting its guide recommends."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.items = _batches(job)

        def get_next(self) -> Any:
            return next(self.items, None)

    options = job["options"]
    quantize_static(
        job["model"],
        job["output"],
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=getattr(CalibrationMethod, options["method"]),
        nodes_to_exclude=options.get("exclude", []),
    )


def nncf_ptq(job: Job) -> None:
    """nncf.quantize with its mixed preset and the accurate bias correction where asked for."""
    import nncf

    data = nncf.Dataset(list(_batches(job)))
    options = job["options"]
    excluded = options.get("exclude", [])
    model = nncf.quantize(
        onnx.load(job["model"]),
        data,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=10_000,
        fast_bias_correction=options["fast"],
        ignored_scope=nncf.IgnoredScope(names=excluded) if excluded else None,
    )
    onnx.save(model, job["output"])


def neural_compressor_ptq(job: Job) -> None:
    """neural_compressor's static post-training quantization without accuracy-driven tuning."""
    from neural_compressor import PostTrainingQuantConfig, quantization

    class Loader:
        batch_size = 1

        def __iter__(self) -> Iterator[Any]:
            for feeds in _batches(job):
                yield next(iter(feeds.values())), None

    config = PostTrainingQuantConfig(approach="static", quant_format="QDQ")
    made = quantization.fit(model=job["model"], conf=config, calib_dataloader=Loader())
    made.save(job["output"])


TOOLS: dict[str, Callable[[Job], None]] = {
    "onnxruntime": onnxruntime_static,
    "nncf": nncf_ptq,
    "neural-compressor": neural_compressor_ptq,
}

if __name__ == "__main__":
    wanted = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    started = time.perf_counter()
    TOOLS[wanted["tool"]](wanted)
    Path(f"{wanted['output']}.seconds").write_text(f"{time.perf_counter() - started:.3f}")
