"""Training as a job: a network of the zoo, or an ONNX file, and labelled images in; a trained file out.

train_file("yolov3-tiny", "mine.onnx", labels="yolo:train/", width=0.25, input_size=160, epochs=30)
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphopt.distill import recovering
from graphopt.errors import UsageError
from graphopt.evaluate import Examples, open_examples
from graphopt.frontends.normal_form import normalize
from graphopt.frontends.onnx_file import save
from graphopt.ir.graph import Graph
from graphopt.optimize import Optimized, optimize_file
from graphopt.pipeline import Progress, silent
from graphopt.prune import KEEPING_NAMES
from graphopt.registry import parse_passes
from graphopt.tasks.judging import judging
from graphopt.zoo import export, names, spec

_VALIDATED = 200  # images after every epoch


def train_file(
    network: str | Path,
    target: Path | str,
    *,
    labels: str | Examples,
    validation: str | Examples | None = None,
    classes: int | None = None,
    width: float | None = None,
    input_size: int | None = None,
    anchors: str = "fitted",
    seed: int = 0,
    measure: bool = True,
    progress: Progress = silent,
    **options: Any,
) -> Optimized:
    """Trains a network on labelled images and writes it to `target`.

    Args:
        network: a name of `graphopt zoo list`, which starts untrained, or an ONNX file, which goes on
            from its weights.
        target: written when the run is over.
        labels: KIND:WHERE (graphopt.evaluate.examples), or a labelled set.
        validation: likewise; up to 200 of its images are judged after every epoch.
        classes: of a network of the zoo; as many as the labels name if left out.
        width: a factor for the channels of a network of the zoo.
        input_size: height and width in pixels, for a network of the zoo.
        anchors: of a YOLO of the zoo: "fitted" to the labels, or "published".
        seed: two runs with one seed write the same bytes.
        measure: time the network before and after in ONNX Runtime.
        progress: told what is going on.
        options: of the pass `train` and of its recipe: epochs, lr, batch, augment, loss, ...

    Raises:
        LoadError, UsageError, UnsupportedError, TrainingError, SaveError: see there.
    """

    def trained(source: Path) -> Optimized:
        learning = _learning(labels, validation, options)
        return optimize_file(
            source,
            Path(target),
            passes=[*parse_passes(KEEPING_NAMES), learning],
            seed=seed,
            strict=True,
            measure=measure,
            progress=progress,
        )

    if str(network) not in names():
        given = {"classes": classes, "width": width, "input-size": input_size}
        for name, value in given.items():
            if value is not None:
                raise UsageError(
                    f"{name} is for networks of the zoo ({', '.join(names())}); {network} has its own"
                )
        return trained(Path(network))
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / f"{network}.onnx"
        progress(f"building {network}")
        size = spec(str(network)).input_shape[1] if input_size is None else input_size
        save(
            untrained(str(network), labels, classes, 1.0 if width is None else width, size, seed),
            source,
        )
        if anchors == "fitted" and "decoder" not in options:
            progress("fitting anchors")
            options |= fitted_decoder(str(network), labels, size, seed)
        elif anchors not in ("fitted", "published"):
            raise UsageError(f"anchors={anchors} is neither fitted nor published")
        return trained(source)


def untrained(
    network: str,
    labels: str | Examples,
    classes: int | None,
    width: float,
    size: int,
    seed: int,
) -> Graph:
    """A network of the zoo with weights to train from, with as many classes as the labels name.

    Raises:
        UsageError: the labels do not say how many classes there are.
    """
    if classes is None:
        classes = len(open_examples(labels, spec(network).task).names)
        if not classes:
            raise UsageError(f"labelled data {labels} does not name its classes: give classes=N")
    model = export(
        network, classes=classes, width=width, input_size=size, seed=seed, untrained=True
    )
    return normalize(model)


def fitted_decoder(network: str, labels: str | Examples, size: int, seed: int) -> dict[str, str]:
    """The option `decoder` for a YOLO, with anchors fitted to the labels; nothing for other networks."""
    from graphopt.evaluate.decoders import DECODERS, decoder_named
    from graphopt.tasks.anchors import fitted_anchors

    model = spec(network)
    if not network.startswith("yolo"):
        return {}
    plain: Any = decoder_named(network if network in DECODERS else "yolov3")
    found = fitted_anchors(labels, size, scales=len(model.outputs), per_scale=3, seed=seed)
    return {"decoder": str(dataclasses.replace(plain, anchors=found))}


def _learning(
    labels: str | Examples, validation: str | Examples | None, options: Mapping[str, Any]
) -> Any:
    """The pass `train`, which judges its epochs if there is something to judge by."""
    learning: Any = recovering(options, "train", labels=labels)
    if validation is None:
        return learning
    judge = judging(
        validation,
        learning.task,
        decoder=learning.decoder,
        preprocess=learning.preprocess,
        limit=_VALIDATED,
    )
    return dataclasses.replace(learning, evaluate=judge)
