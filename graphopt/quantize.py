"""Quantization as a job: a float model in, one that runtimes compute in integers out.

graphopt.quantize_file("model.onnx", "model.int8.onnx", data="images/", repair="equalize,bias")

No labels are needed: the images show how large activations get.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from graphopt.errors import UsageError
from graphopt.optimize import Optimized, optimize_file
from graphopt.pass_base import Pass
from graphopt.pipeline import Progress, silent
from graphopt.registry import default_passes, pass_class, unknown

# What mends accuracy without training, in the order they run: the pass, and whether it works on the
# float network (before anything is rounded) or on the rounded one.
REPAIRS = {
    "equalize": ("equalize", "float"),
    "absorb": ("absorb-bias", "float"),
    "bias": ("correct-bias", "rounded"),
}
DEFAULT_REPAIR = "equalize"


def quantizing(
    data: Any,
    *,
    preprocess: str = "",
    repair: str | Iterable[str] = DEFAULT_REPAIR,
    **options: Any,
) -> list[Pass]:
    """The passes that quantize a float network whose BatchNormalizations are folded.

    Args:
        data: calibration images, see `graphopt.data.load_data`.
        preprocess: how they become inputs.
        repair: names out of REPAIRS, as a list or with commas between; "none" for none.
        options: of the pass `insert-fake-quant`: target, method, keep, ...

    Raises:
        UsageError: a repair or an option that is none.
    """
    names = [r.strip() for r in repair.split(",")] if isinstance(repair, str) else list(repair)
    wanted = [n for n in names if n not in ("", "none")]
    for name in wanted:
        if name not in REPAIRS:
            raise UsageError(unknown("repair", name, REPAIRS))
    images = {"data": data, "preprocess": preprocess}
    insert = pass_class("insert-fake-quant").with_options({**images, **options})
    return [
        *_repairs(wanted, "float", images),
        insert,
        *_repairs(wanted, "rounded", images),
        pass_class("quantize-constants")(),
    ]


def _repairs(wanted: Sequence[str], when: str, images: dict[str, Any]) -> list[Pass]:
    found = []
    for name, (pass_name, stage) in REPAIRS.items():
        if name in wanted and stage == when:
            kind = pass_class(pass_name)
            takes = {k: v for k, v in images.items() if k in kind.__dataclass_fields__}
            found.append(kind.with_options(takes))
    return found


def quantize_file(
    source: Path | str,
    target: Path | str,
    /,
    *,
    data: Any,
    seed: int = 0,
    measure: bool = True,
    progress: Progress = silent,
    **options: Any,
) -> Optimized:
    """Optimizes and quantizes the model in `source` and writes the result to `target`.

    Args:
        source: an ONNX file in float32.
        target: written when the run is over.
        data: calibration images without labels.
        seed: two runs with one seed write the same bytes.
        measure: time both models in ONNX Runtime.
        progress: told what is going on.
        options: of `quantizing`.

    Raises:
        LoadError, UsageError, UnsupportedError, SaveError: see there.
    """
    return optimize_file(
        Path(source),
        Path(target),
        passes=[*default_passes(), *quantizing(data, **options)],
        seed=seed,
        strict=True,
        measure=measure,
        progress=progress,
    )
