"""Runs a model over labelled images and scores what comes out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import ModelError, UsageError
from graphopt.evaluate.decoders import decoder_for
from graphopt.evaluate.decoders.base import Decoder
from graphopt.evaluate.examples import Example, Examples, open_examples, spread
from graphopt.evaluate.metrics import average_precision, top_accuracy
from graphopt.evaluate.nms import Detections, Rules, detections
from graphopt.evaluate.pictures import Pictures, Placement
from graphopt.ir.graph import Graph
from graphopt.runtime.run import Runner, open_file, open_graph

Array = np.ndarray[Any, Any]
Read = tuple[Example, Array, Placement]  # an example, its input, where the picture lies on it

_BATCH = 16  # where the model leaves it open


@dataclass
class Evaluation:
    """Labelled images made ready for models of one kind; `on` scores one of them.

    Attributes:
        task: "detection" or "classification".
        examples: the labelled set.
        indices: which of it are used.
        pictures: how they become inputs.
        decoder: what turns outputs into boxes; None for classification.
        rules: which boxes count.
        input: the name of the model's input.
        batch: images at a time.
        dtype: of the input.
    """

    task: str
    examples: Examples
    indices: list[int]
    pictures: Pictures
    decoder: Decoder | None
    rules: Rules
    input: str
    batch: int
    dtype: Any
    keep: bool = False
    _kept: list[Read] | None = None

    @classmethod
    def prepare(
        cls,
        graph: Graph,
        data: str | Examples,
        task: str,
        *,
        decoder: str | Decoder | None = None,
        preprocess: str = "",
        limit: int | None = None,
        rules: Rules | None = None,
        keep: bool = False,
    ) -> Evaluation:
        """See `evaluate`; `keep` holds the inputs in memory for the next model.

        Raises:
            UsageError: see `evaluate`.
        """
        examples = open_examples(data, task)
        if len(graph.inputs) != 1:
            raise UsageError(f"the model has {len(graph.inputs)} inputs; images feed one")
        chosen = decoder_for(decoder, graph) if task == "detection" else None
        usual = chosen.preprocess if chosen else ""
        first = graph.inputs[0]
        size = first.shape[0] if first.shape else 1
        return cls(
            task=task,
            examples=examples,
            indices=spread(len(examples), limit),
            pictures=Pictures.for_graph(graph, preprocess, usual),
            decoder=chosen,
            rules=rules or (chosen.rules if chosen else Rules()),
            input=first.name,
            batch=size if isinstance(size, int) else _BATCH,
            dtype=np.dtype(first.dtype),
            keep=keep,
        )

    def on(
        self, runner: Runner, progress: Callable[[str], None] = lambda _: None
    ) -> dict[str, float]:
        """The metrics of one model.

        Raises:
            UsageError: an image that cannot be read, or a class the model does not have.
            RunError: the model cannot be run.
        """
        scored = self._detect if self.task == "detection" else self._classify
        return scored(runner, progress)

    def batches(self) -> Iterator[tuple[list[Read], dict[str, Array]]]:
        """The examples and their inputs, `batch` at a time; the last repeats where it is short."""
        reads = iter(self._reads())
        while held := list(islice(reads, self.batch)):
            filled = [i for _, i, _ in held] + [held[-1][1]] * (self.batch - len(held))
            yield held, {self.input: np.stack(filled).astype(self.dtype, copy=False)}

    def _reads(self) -> Iterator[Read]:
        if self._kept is not None:
            yield from self._kept
            return
        kept = []
        for index in self.indices:
            example = self.examples[index]
            read = (example, *self.pictures.input_of(example.image))
            if self.keep:
                kept.append(read)
            yield read
        if self.keep:
            self._kept = kept

    def _detect(self, runner: Runner, progress: Callable[[str], None]) -> dict[str, float]:
        assert self.decoder is not None
        truth: list[Example] = []
        found: list[Detections] = []
        for held, feeds in self.batches():
            candidates = self.decoder.decode(runner.run(feeds), self.pictures.size)
            for (example, _, placed), each in zip(held, candidates, strict=False):
                _check_classes(example, each.scores.shape[1])
                kept = detections(
                    each.boxes, each.scores, self.rules, every_class=self.decoder.every_class
                )
                found.append(Detections(placed.to_image(kept.boxes), kept.scores, kept.classes))
                truth.append(example)
            progress(f"{len(truth)} of {len(self.indices)} images")
        return average_precision(truth, found)

    def _classify(self, runner: Runner, progress: Callable[[str], None]) -> dict[str, float]:
        logits, classes = [], []
        for held, feeds in self.batches():
            scores = next(iter(runner.run(feeds).values()))
            scores = scores.reshape(len(scores), -1)[: len(held)]
            for example, _, _ in held:
                _check_classes(example, scores.shape[1])
                classes.append(int(example.classes[0]))
            logits.append(scores)
            progress(f"{len(classes)} of {len(self.indices)} images")
        return top_accuracy(np.concatenate(logits), np.array(classes))


def evaluate(
    model: str | Path | Graph,
    data: str | Examples,
    task: str,
    *,
    decoder: str | Decoder | None = None,
    preprocess: str = "",
    limit: int | None = None,
    rules: Rules | None = None,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """How well a model does on labelled images, run in ONNX Runtime with its optimizations.

    Args:
        model: an ONNX file, or a graph.
        data: KIND:WHERE (`examples.KINDS`), or a labelled set of one's own.
        task: "detection" or "classification".
        decoder: for detection: a name of `decoders.DECODERS`, "module:function" (Python only: see
            `decoders.decoder_for`), or a decoder; found from the outputs where they leave no doubt.
        preprocess: as in graphopt.data, and `top-left`; what it leaves out is usual for the decoder.
        limit: use only so many images, evenly spaced over the set.
        rules: which boxes count.
        threads: of ONNX Runtime, all cores if left out.
        progress: told of every batch.

    Returns:
        {"task", "images", "decoder", "preprocess", "seconds"} and the metrics as shares between 0
        and 1: "ap", "ap50", ... or "top1", "top5".

    Raises:
        UsageError: data, decoder or preprocessing that do not fit or cannot be read.
        ModelError, RunError: the model cannot be loaded or run.
    """
    started = time.perf_counter()
    graph = model if isinstance(model, Graph) else _load(Path(model))
    prepared = Evaluation.prepare(
        graph, data, task, decoder=decoder, preprocess=preprocess, limit=limit, rules=rules
    )
    runner: Runner = (
        open_graph(graph, optimized=True, threads=threads)
        if isinstance(model, Graph)
        else open_file(Path(model), optimized=True, threads=threads)
    )
    found = prepared.on(runner, progress)
    return {
        "task": task,
        "images": len(prepared.indices),
        "decoder": prepared.decoder.name if prepared.decoder else None,
        "preprocess": str(prepared.pictures.how),
        **found,
        "seconds": round(time.perf_counter() - started, 2),
    }


def _load(path: Path) -> Graph:
    from graphopt.frontends.onnx_file import load

    graph = load(path)
    if not graph.inputs:
        raise ModelError(f"{path} has no input")
    return graph


def _check_classes(example: Example, classes: int) -> None:
    if len(example.classes) and (example.classes.max() >= classes or example.classes.min() < 0):
        where = example.image if isinstance(example.image, Path) else "the array"
        raise UsageError(
            f"{where} is labelled with class {int(example.classes.max())}; the model has {classes} "
            "(0 is the first)"
        )
