"""Decoders by name, and which one a model needs.

decoder_for("yolov3{anchors=10x13|16x30|...}", graph)    options: graphopt.evaluate.decoders.text
decoder_for(None, graph)                                 the model's metadata, else its outputs
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from graphopt.errors import ModelError, UsageError
from graphopt.evaluate.decoders.base import Array, Candidates, Decoder, Shapes
from graphopt.evaluate.decoders.text import with_options
from graphopt.ir.graph import Graph
from graphopt.named import Classes, imported, read_named

_HERE = "graphopt.evaluate.decoders"

# Where a model says what decodes its outputs.
METADATA = "graphopt.decoder"

_OURS = {
    "yolov3": f"{_HERE}.anchors:Yolov3",
    "yolov3-tiny": f"{_HERE}.anchors:Yolov3Tiny",
    "yolov4": f"{_HERE}.anchors:Yolov4",
    "yolov5": f"{_HERE}.anchors:Yolov5",
    "yolox": f"{_HERE}.rows:Yolox",
    "decoded": f"{_HERE}.rows:Decoded",
    "fastestdet": f"{_HERE}.fastestdet:FastestDet",
    "yolo-fastestv2": f"{_HERE}.fastestv2:FastestV2",
    "ultra-light": f"{_HERE}.boxes:UltraLight",
    "retinanet": f"{_HERE}.retina:Retina",
}
DECODERS: Classes[Decoder] = Classes("decoder", _OURS)

Function = Callable[[Mapping[str, Array], tuple[int, int]], list[Candidates]]


@dataclass(frozen=True)
class Own(Decoder):
    """A function of the user's as a decoder."""

    name: ClassVar[str] = "own"

    function: Function

    def __str__(self) -> str:
        return f"{self.function.__module__}:{self.function.__qualname__}"

    def fits(self, outputs: Shapes, size: tuple[int, int]) -> bool:  # noqa: ARG002
        """Whoever brings a function knows."""
        return True

    def decode(self, outputs: Mapping[str, Array], size: tuple[int, int]) -> list[Candidates]:
        """What the function makes of the outputs."""
        return self.function(outputs, size)


def decoder_for(given: str | Decoder | Function | None, graph: Graph) -> Decoder:
    """The decoder that is `given`, or that the model names, or the only one that fits its outputs.

    Args:
        given: a name with options (see `text`), a decoder, a function (outputs by name, (height,
            width)) -> a list of `Candidates`, such a function as "module:function", or None to look
            at the model.
        graph: the detector.

    Raises:
        UsageError: no such decoder or option, or none or several that fit.
        ModelError: the model's metadata names a decoder that is none or does not fit.
    """
    if isinstance(given, Decoder):
        return given
    if callable(given):
        return Own(given)
    if given is not None:
        return _imported(given)
    if METADATA in graph.metadata:
        return _remembered(graph)
    outputs, size = _shapes(graph), input_size(graph)
    fitting = [d for d in map(decoder_named, DECODERS) if size and d.fits(outputs, size)]
    if len(fitting) == 1:
        return fitting[0]
    shapes = ", ".join(f"{n} {tuple(s)}" for n, s in outputs.items())
    names = ", ".join(d.name for d in fitting) or ", ".join(DECODERS)
    what = "several decoders fit" if fitting else "no decoder fits"
    raise UsageError(f"{what} the outputs {shapes}; say which one: {names}")


def input_size(graph: Graph) -> tuple[int, int] | None:
    """Height and width of the first input, None where the model leaves them open."""
    shape = list(graph.inputs[0].shape or [])
    sizes = shape[1:3] if shape[-1:] in ([1], [3]) else shape[2:]
    if len(sizes) != 2 or not all(isinstance(d, int) for d in sizes):
        return None
    return int(sizes[0]), int(sizes[1])


def _shapes(graph: Graph) -> dict[str, list[Any]]:
    return {t.name: list(t.shape or []) for t in graph.outputs}


def _remembered(graph: Graph) -> Decoder:
    """The decoder in the model's metadata: names alone, as a model must not import anything."""
    text = graph.metadata[METADATA]
    try:
        found = decoder_named(text)
    except UsageError as error:
        raise ModelError(f"the model's metadata {METADATA}: {str(error)[:300]}") from error
    outputs, size = _shapes(graph), input_size(graph)
    is_known = all(isinstance(d, int) for s in outputs.values() for d in s[1:])
    if size and is_known and all(outputs.values()) and not found.fits(outputs, size):
        shapes = ", ".join(f"{n} {tuple(s)}" for n, s in outputs.items())
        raise ModelError(
            f"the model's metadata {METADATA} is {text[:80]!r}, which does not fit its outputs "
            f"{shapes}; say which decoder does"
        )
    return found


def _imported(name: str) -> Decoder:
    if ":" not in name:
        return decoder_named(name)
    try:
        return Own(imported(name))
    except (ImportError, AttributeError) as error:
        raise UsageError(f"decoder {name!r} cannot be imported: {error}") from error


def decoder_named(text: str) -> Decoder:
    """The decoder of a name with options: one of ours, nothing is imported for it.

    Raises:
        UsageError: no such decoder or option.
    """
    name, options = read_named(text, "decoder")
    return with_options(DECODERS.find(name), options)
