"""From a graph to what it is for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from graphopt.errors import UsageError
from graphopt.evaluate import Decoder
from graphopt.evaluate.decoders import decoder_for, input_size
from graphopt.evaluate.decoders.anchors import AnchorMaps
from graphopt.evaluate.decoders.retina import Retina
from graphopt.evaluate.decoders.rows import Decoded
from graphopt.ir.graph import Graph, is_op
from graphopt.named import unknown

if TYPE_CHECKING:
    from torch import Tensor

TASKS = ("auto", "detection", "classification")


@dataclass
class TaskSetup:
    """What a network is trained and judged by.

    Attributes:
        task: "detection" or "classification".
        decoder: what turns its outputs into boxes; None for classification.
        loss: a torch module: loss(outputs, targets) gives weighted terms by name. `outputs` is what
            the network returns, a tensor or several; `targets` the array of `labelled_samples`
            in batches.
        metric: the figure of merit among those of `graphopt.evaluate`: "ap50" or "top1".
        classes: how many the network has.
    """

    task: str
    decoder: Decoder | None
    loss: Callable[..., dict[str, Tensor]]
    metric: str
    classes: int = 0


def task_for(
    graph: Graph, task: str = "auto", *, decoder: str | Decoder | None = None, loss: str = ""
) -> TaskSetup:
    """What a network is for.

    Args:
        graph: a network with raw outputs, such as those of the zoo, or a YOLO that decodes its boxes.
        task: "detection", "classification", or "auto": classification for one output (images,
            classes), else detection.
        decoder: for detection, see `graphopt.evaluate.decoders.decoder_for`.
        loss: options of the loss as text, "box=2 iou=giou"; see `graphopt.tasks.yolo`, `undecoded`,
            `retinanet` and `classification`.

    Raises:
        UsageError: a task there is not, outputs no loss is known for, or options that cannot be
            meant.
        ModelError: see `decoder_for`.
    """
    task, meant = meaning_of(graph, task, decoder)
    return _classification(graph, loss) if meant is None else _detection(graph, meant, loss)


def meaning_of(
    graph: Graph, task: str = "auto", decoder: str | Decoder | None = None
) -> tuple[str, Decoder | None]:
    """What a network is judged by: "classification" and None, or "detection" and its decoder.

    Args:
        graph: any network `graphopt.evaluate` can judge, with a loss or without.
        task: see `task_for`.
        decoder: likewise.

    Raises:
        UsageError: a task there is not.
        ModelError: see `decoder_for`.
    """
    if task not in TASKS:
        raise UsageError(f"task: {unknown('task', task, TASKS)}")
    if task == "auto":
        task = "classification" if _is_classifier(graph) and decoder is None else "detection"
    return task, None if task == "classification" else decoder_for(decoder, graph)


def _is_classifier(graph: Graph) -> bool:
    return len(graph.outputs) == 1 and len(graph.outputs[0].shape or ()) == 2


def _classification(graph: Graph, loss: str) -> TaskSetup:
    from graphopt.tasks.classification import ClassificationLoss, ClassificationOptions

    shape = list(graph.outputs[0].shape or ())
    is_flat = len(shape) >= 2 and isinstance(shape[1], int) and set(shape[2:]) <= {1}
    if len(graph.outputs) != 1 or not is_flat:
        raise UsageError(f"a classifier has one output (images, classes); there are {_told(graph)}")
    producer = graph.outputs[0].inputs[0] if graph.outputs[0].inputs else None
    made = ClassificationLoss(
        int(shape[1]), ClassificationOptions.parse(loss), probabilities=is_op(producer, "Softmax")
    )
    return TaskSetup("classification", None, made, "top1", made.classes)


def _detection(graph: Graph, decoder: Decoder, loss: str) -> TaskSetup:
    size = input_size(graph)
    if size is None:
        raise UsageError("the input has no fixed height and width, which a detector's loss needs")
    if isinstance(decoder, AnchorMaps):
        made: Any = _yolo(graph, decoder, size, loss)
    elif isinstance(decoder, Retina):
        made = _retina(graph, decoder, loss)
    elif isinstance(decoder, Decoded):
        made = _decoded_yolo(graph, size, loss)
    else:
        raise UsageError(
            f"no loss is known for decoder {decoder.name!r}; yolov3, yolov3-tiny, yolov4 and yolov5 "
            "(raw maps or decoded), and raw maps of retinanet can be trained on labels"
        )
    return TaskSetup("detection", decoder, made, "ap50", made.classes)


def _yolo(graph: Graph, decoder: AnchorMaps, size: tuple[int, int], loss: str) -> Any:
    from graphopt.tasks.yolo import YoloLoss, YoloOptions

    channels = {s[1] if len(s) == 4 else None for s in _shapes(graph)}
    each = {len(a) for a in decoder.anchors}
    count = channels.pop() if len(channels) == len(each) == 1 else None
    classes, rest = divmod(count, each.pop()) if isinstance(count, int) else (0, 1)
    if rest or classes <= 5 or len(graph.outputs) != len(decoder.anchors):
        _refuse(graph, decoder, f"{len(decoder.anchors)} maps of anchors * (5 + classes) channels")
    return YoloLoss(decoder, size, classes - 5, YoloOptions.parse(loss))


def _decoded_yolo(graph: Graph, size: tuple[int, int], loss: str) -> Any:
    from graphopt.tasks.undecoded import DecodedOptions, DecodedYoloLoss

    options = DecodedOptions.parse(loss)
    shapes = _shapes(graph)
    if (
        len(shapes) != 1
        or len(shapes[0]) != 3
        or not all(isinstance(n, int) for n in shapes[0][1:])
    ):
        raise UsageError(
            f"decoded boxes are one output (images, boxes, 5 + classes), not {_told(graph)}"
        )
    return DecodedYoloLoss(size, shapes[0][1], shapes[0][2] - 5, options)


def _retina(graph: Graph, decoder: Retina, loss: str) -> Any:
    from graphopt.tasks.retinanet import RetinaLoss, RetinaOptions

    shapes = _shapes(graph)
    if len(shapes) != 2 * len(decoder.strides) or any(
        len(s) != 4 or not isinstance(s[1], int) for s in shapes
    ):
        _refuse(graph, decoder, f"a class map and a box map of {len(decoder.strides)} levels")
    kinds = {s[1] for s in shapes} - {4 * decoder.per_cell} or {4 * decoder.per_cell}
    classes, rest = divmod(kinds.pop(), decoder.per_cell)
    if rest or kinds:
        _refuse(graph, decoder, "class maps of anchors * classes channels")
    return RetinaLoss(decoder, classes, RetinaOptions.parse(loss))


def _shapes(graph: Graph) -> list[list[Any]]:
    return [list(t.shape or ()) for t in graph.outputs]


def _told(graph: Graph) -> str:
    return ", ".join(f"{t.name} {tuple(t.shape or ())}" for t in graph.outputs) or "none"


def _refuse(graph: Graph, decoder: Decoder, wanted: str) -> None:
    raise UsageError(
        f"the loss for decoder {decoder.name!r} needs {wanted}, not decoded; the outputs are "
        f"{_told(graph)}"
    )
