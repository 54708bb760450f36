"""Quantization as a job: a float model in, one that runtimes compute in integers out.

graphopt.quantize_file("model.onnx", "model.int8.onnx", data="images/", repair="equalize,bias")

No labels are needed: the images show how large activations get.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from graphopt.distill import recovering
from graphopt.errors import BudgetError, UsageError
from graphopt.ir.graph import Graph
from graphopt.named import unknown
from graphopt.optimize import Accuracy, Optimized, optimize_file
from graphopt.pass_base import Pass
from graphopt.pipeline import Progress, silent
from graphopt.registry import default_passes, pass_class

# What mends accuracy without training, in the order they run: the pass, and whether it works on the
# float network (before anything is rounded) or on the rounded one.
REPAIRS = {
    "equalize": ("equalize", "float"),
    "absorb": ("absorb-bias", "float"),
    "smooth": ("smooth", "float"),
    "adaround": ("adaround", "rounded"),
    "reconstruct": ("reconstruct", "rounded"),
    "bias": ("correct-bias", "rounded"),
}
DEFAULT_REPAIR = "bias"


def quantizing(
    data: Any,
    *,
    preprocess: str = "",
    repair: str | Iterable[str] = DEFAULT_REPAIR,
    qat: str | None = None,
    watch: Any = None,
    **options: Any,
) -> list[Pass]:
    """The passes that quantize a float network whose BatchNormalizations are folded.

    Args:
        data: calibration images, see `graphopt.data.load_data`.
        preprocess: how they become inputs.
        repair: names out of REPAIRS, as a list or with commas or | between; "none" for none.
        qat: options of the pass `qat` and of training: trains through the rounding on `data`.
        watch: shows the training, see `graphopt.training`.
        options: of the pass `insert-fake-quant`: target, method, keep, ...

    Raises:
        UsageError: a repair or an option that is none.
    """
    names = re.split(r"[,|\s]+", repair) if isinstance(repair, str) else list(repair)
    wanted = [n for n in names if n not in ("", "none")]
    for name in wanted:
        if name not in REPAIRS:
            raise UsageError(unknown("repair", name, REPAIRS))
    images = {"data": data, "preprocess": preprocess}
    # Repairs look at as many images as calibration does.
    as_many = images | {k: options[k] for k in ("images", "batch") if k in options}
    insert = pass_class("insert-fake-quant").with_options({**images, **options})
    return [
        *_repairs(wanted, "float", as_many),
        insert,
        *_repairs(wanted, "rounded", as_many),
        *([] if qat is None else [recovering(qat, "qat", **images, watch=watch)]),
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


class AccuracyGate:
    """Measures how much a labelled metric loses, and refuses what loses too much."""

    def __init__(
        self,
        source: Path,
        labels: str,
        task: str,
        *,
        decoder: str | None = None,
        preprocess: str = "",
        images: int | None = None,
        max_drop: float | None = None,
    ) -> None:
        """Opens the labelled images and measures the float model in `source`.

        Args:
            source: the float model.
            labels: KIND:WHERE, see `graphopt.evaluate`.
            task: "detection" or "classification".
            decoder, preprocess: as for `graphopt.evaluate.evaluate`.
            images: only so many of them.
            max_drop: how many points (percent) may be lost.

        Raises:
            UsageError, LoadError, RunError: see there.
        """
        from graphopt.evaluate import Evaluation
        from graphopt.frontends.onnx_file import load
        from graphopt.runtime.run import open_file

        self._measure = Evaluation.prepare(
            load(source),
            labels,
            task,
            decoder=decoder,
            preprocess=preprocess,
            limit=images,
            keep=True,
        )
        self._labels, self._max_drop = labels, max_drop
        self._metric = "ap" if task == "detection" else "top1"
        self._before = self._measure.on(open_file(source, optimized=True))[self._metric]

    @property
    def preprocess(self) -> str:
        """How images usually become inputs for the decoder; where they lie on them does not matter."""
        usual = self._measure.decoder.preprocess if self._measure.decoder else ""
        return ", ".join(i for i in map(str.strip, usual.split(",")) if i and i != "top-left")

    def score(self, graph: Graph) -> Accuracy:
        """The metric of a graph beside that of the float model."""
        from graphopt.runtime.run import open_graph

        after = self._measure.on(open_graph(graph, optimized=True))[self._metric]
        count = len(self._measure.indices)
        return Accuracy(self._metric, self._before, after, count, self._labels)

    def drop(self, graph: Graph) -> float:
        """How many points a graph loses."""
        return self.score(graph).lost

    def accept(self, graph: Graph) -> Accuracy:
        """The same.

        Raises:
            BudgetError: more is lost than allowed.
        """
        found = self.score(graph)
        if self._max_drop is not None and found.lost > self._max_drop:
            raise BudgetError(
                f"{found.metric} falls by {found.lost:.2f} points, from {100 * found.before:.2f} to "
                f"{100 * found.after:.2f}, and {self._max_drop:g} are allowed; nothing written"
            )
        return found


def quantize_file(
    source: Path | str,
    target: Path | str,
    /,
    *,
    data: Any,
    labels: str | None = None,
    task: str | None = None,
    decoder: str | None = None,
    label_images: int | None = None,
    max_drop: float | None = None,
    preprocess: str = "",
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
        labels: labelled images to measure on, KIND:WHERE; see `graphopt.evaluate`.
        task: "detection" or "classification", with `labels`.
        decoder: what the outputs of a detector mean, found from them if clear.
        label_images: only so many labelled images.
        max_drop: how many points the metric may lose: the fewest layers stay in float for that.
        preprocess: how images become inputs.
        seed: two runs with one seed write the same bytes.
        measure: time both models in ONNX Runtime.
        progress: told what is going on.
        options: of `quantizing`.

    Raises:
        LoadError, UsageError, UnsupportedError, SaveError: see there.
        BudgetError: the metric loses more than `max_drop`; nothing is written.
    """
    source = Path(source)
    gate = None
    if labels is not None:
        progress("measuring the float model")
        gate = AccuracyGate(
            source,
            labels,
            _known_task(task),
            decoder=decoder,
            preprocess=preprocess,
            images=label_images,
            max_drop=max_drop,
        )
        preprocess = preprocess or gate.preprocess
    elif max_drop is not None:
        raise UsageError(
            "max-drop is measured on labelled images: give --labels KIND:WHERE and --task; without "
            "labels, --recipe floor=20 leaves in float what costs the outputs most"
        )
    if gate is not None and max_drop is not None:
        options |= {"max_drop": max_drop, "drop": gate.drop}
    return optimize_file(
        source,
        Path(target),
        passes=[*default_passes(), *quantizing(data, preprocess=preprocess, **options)],
        seed=seed,
        strict=True,
        measure=measure,
        judge=gate.accept if gate else None,
        progress=progress,
    )


def _known_task(task: str | None) -> str:
    if task is None:
        raise UsageError("labelled images need --task detection or --task classification")
    return task
