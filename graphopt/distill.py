"""Distillation as a job: a student file and a teacher file in, a better student out.

graphopt.distill_file("small.onnx", "big.onnx", "better.onnx", data="images/", epochs=5)

No labels are needed: the student learns what the teacher makes of the images.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.named import read_options
from graphopt.optimize import Optimized, optimize_file
from graphopt.pass_base import Pass
from graphopt.pipeline import Progress, silent
from graphopt.registry import pass_class

# How to prune what is trained afterwards. `prune` by itself makes the most of a network that nobody
# trains: it refits weights and spares coupled layers. Training suffers from both; it starts better where
# constants and linear shares of what was removed are put into what is left (benchmarks/recover.py).
BEFORE_TRAINING = {"importance": "l2", "allocation": "uniform", "compensation": "linear"}


def recovering(options: str | Mapping[str, Any], name: str = "recover", **more: Any) -> Pass:
    """A pass that trains, with its options and those of a training recipe beside them.

    Args:
        options: "epochs=5 lr=0.01 feature=none", or the same by name.
        name: of a pass that trains: "recover", "qat", "train".
        more: options whose values are no text: data, watch, ...

    Raises:
        UsageError: an option neither has.
    """
    given = read_options(options, name) if isinstance(options, str) else dict(options)
    kind: Any = pass_class(name)
    made: Pass = kind.with_recipe({**given, **more})
    return made


def distill_file(
    student: Path | str,
    teacher: Path | str,
    target: Path | str,
    *,
    data: Any,
    seed: int = 0,
    measure: bool = True,
    progress: Progress = silent,
    **options: Any,
) -> Optimized:
    """Trains the model in `student` on what the one in `teacher` does; writes the result to `target`.

    Args:
        student: an ONNX file.
        teacher: another with the same inputs, and tensors of the same names at its heads.
        target: written when the run is over.
        data: images without labels: see `graphopt.data.load_samples`.
        seed: two runs with one seed write the same bytes.
        measure: time both models in ONNX Runtime.
        progress: told what is going on.
        options: of the pass `recover` and of its recipe: epochs, lr, batch, feature, ...

    Raises:
        LoadError, UsageError, UnsupportedError, TrainingError, SaveError: see there.
    """
    learning = recovering(options, data=data, teacher=str(teacher))
    return optimize_file(
        Path(student),
        Path(target),
        passes=[learning],
        seed=seed,
        strict=True,
        measure=measure,
        progress=progress,
    )
