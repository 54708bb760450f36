"""Puts a graph down as a program for a GPU: the regions of `lower`, kernels of this room.

Images are blocks of four channels in the network's precision; all else is kept row by row in the
types of the graph. Two rounds, as on a processor: the first plans kernels, the second writes steps
when it is known which images lie in others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from graphopt.errors import UnsupportedError
from graphopt.ir.cost import node_cost
from graphopt.ir.graph import Graph, Node, Tensor, label, static_shape
from graphopt.runtime.gpu.choose import Unit
from graphopt.runtime.gpu.expression import Ending, Kind
from graphopt.runtime.gpu.images import GpuImage
from graphopt.runtime.gpu.kernel import GpuKernel
from graphopt.runtime.gpu.layout import GpuLayout
from graphopt.runtime.gpu.simple import Block, Unblock, blocks_of
from graphopt.runtime.lower import weights
from graphopt.runtime.lower.fuse import Region, per_channel, text_of
from graphopt.runtime.lower.layout import image_shape
from graphopt.runtime.lower.program import Memory, Place, Port, Program, Step
from graphopt.runtime.lower.regions import main_input, main_of, regions_of

LANES = 4
Operands = Callable[[], list[Place]]


class GpuLowering:
    """One graph on its way to a program; planners ask here for images, plain tensors and constants."""

    def __init__(self, graph: Graph, unit: Unit) -> None:
        self.graph, self.unit = graph, unit
        self.dtype = "float16" if unit.half else "float32"
        self.layout = GpuLayout(graph, LANES)
        self.program = Program()
        self._images: dict[int, GpuImage] = {}
        self._plain: dict[int, Place] = {}
        self._constants: dict[tuple[Any, ...], tuple[object, Place]] = {}
        self._later: list[Callable[[], None]] = []

    def run(self) -> Program:
        """The program.

        Raises:
            UnsupportedError: an operator that neither our kernels nor TVM's can do.
        """
        from graphopt.runtime.gpu.planners import plan

        for tensor in self.graph.inputs:
            self.program.inputs.append(self._port(tensor, self.make_plain(tensor)))
        for region in regions_of(self.graph, self.layout):
            plan(self, region)
        for tensor in self.graph.outputs:
            self.program.outputs.append(self._port(tensor, self.plain(tensor)))
        for emit in self._later:
            emit()
        return self.program

    # --- images ---------------------------------------------------------------------------------

    def make_image(self, tensor: Tensor) -> GpuImage:
        """The image a region writes."""
        image = GpuImage(tensor.name, image_shape(tensor) or (0, 0, 0), self._width)
        self._images[id(tensor)] = image
        return image

    def image(self, tensor: Tensor) -> GpuImage:
        """A tensor as an image, converted where it is plain."""
        if id(tensor) not in self._images:
            source, image = self.plain(tensor), self.make_image(tensor)
            kernel = Block(image.shape)
            what = f"{tensor.name} to blocks"
            self.later(lambda: self.step(kernel, (source, image.place), what))
        return self._images[id(tensor)]

    def main_input(self, node: Node) -> Tensor:
        """The image an elementwise node that starts a region goes over."""
        return main_input(self.layout, node)

    @property
    def _width(self) -> int:
        return np.dtype(self.dtype).itemsize

    # --- plain tensors --------------------------------------------------------------------------

    def plain(self, tensor: Tensor) -> Place:
        """A tensor row by row, converted where it is an image."""
        if id(tensor) in self._plain:
            return self._plain[id(tensor)]
        values = getattr(tensor, "values", None)
        if values is not None:
            self._plain[id(tensor)] = self.constant(("plain", id(tensor)), lambda: values, tensor)
            return self._plain[id(tensor)]
        image, place = self._images[id(tensor)], self.make_plain(tensor)
        kernel = Unblock(image.shape)
        what = f"{tensor.name} to rows"
        self.later(lambda: self.step(kernel, (image.place, place), what))
        return place

    def make_plain(self, tensor: Tensor) -> Place:
        """Memory for a tensor row by row."""
        self._plain[id(tensor)] = Place(Memory(tensor.name, self._bytes(tensor)))
        return self._plain[id(tensor)]

    def alias(self, tensor: Tensor, other: Tensor) -> None:
        """Says that a plain tensor is another one with another shape."""
        self._plain[id(tensor)] = self.plain(other)

    def _bytes(self, tensor: Tensor) -> int:
        shape = static_shape(tensor)
        if shape is None:
            raise UnsupportedError(
                f"the shape of {tensor.name!r} is not fixed; compiled networks have fixed shapes: "
                "export the model with fixed sizes, or set them"
            )
        return int(np.prod(shape, dtype=np.int64)) * np.dtype(tensor.dtype).itemsize

    def _port(self, tensor: Tensor, place: Place) -> Port:
        self._bytes(tensor)
        return Port(tensor.name, tuple(tensor.shape), str(np.dtype(tensor.dtype)), place)

    # --- what regions end in ---------------------------------------------------------------------

    def ending(self, region: Region, bias: Any = None) -> tuple[Ending, Operands]:
        """What a region's kernel ends in, and the places of its operands once images lie still.

        Args:
            region: the region.
            bias: one value for every channel, added to the main value before all else.
        """
        from graphopt.runtime.kernels.pointwise import Apply

        shape = static_shape(region.out) or ()
        text = text_of(region, main_of(self.layout, region), lambda t: self._operand(t, shape))
        kinds: list[Kind] = [kind for kind, _ in text.operands]
        places = [place for _, place in text.operands]
        steps = list(text.steps)
        if bias is not None:
            added = self._per_channel(("bias", id(region.first)), bias, region.first)
            # The bias is operand 1, and its sum takes the place of the main value.
            count = len(kinds)
            kinds, places = ["constant", *kinds], [lambda: added, *places]
            moved = {0: count + 2}
            moved.update({i: i + 1 for i in range(1, count + 1)})
            moved.update({count + 1 + i: count + 3 + i for i in range(len(steps))})
            steps = [Apply(s.op, tuple(moved[i] for i in s.inputs), s.attrs) for s in steps]
            steps = [Apply("Add", (0, 1)), *steps]
        return Ending(tuple(kinds), tuple(steps)), lambda: [place() for place in places]

    def _operand(self, tensor: Tensor, shape: tuple[int, ...]) -> tuple[Kind, Callable[[], Place]]:
        values = per_channel(tensor, shape)
        if values is not None:
            place = self._per_channel(("channels", id(tensor)), values, tensor)
            return "constant", lambda: place
        image = self.image(tensor)
        return "image" if static_shape(tensor) == shape else "gate", lambda: image.place

    def _per_channel(self, key: tuple[Any, ...], values: Any, owner: object) -> Place:
        size = LANES * blocks_of(values.size)
        return self.constant(key, lambda: weights.channels(values.reshape(-1), size), owner)

    # --- steps -----------------------------------------------------------------------------------

    def constant(self, key: tuple[Any, ...], make: Callable[[], Any], owner: object) -> Place:
        """A constant, made once for a key. `owner` is kept, for keys with the id of an object."""
        if key not in self._constants:
            self._constants[key] = (owner, self.program.constant(make()))
        return self._constants[key][1]

    def weight(
        self, key: str, tensor: Tensor, how: tuple[float, ...], make: Callable[[], Any]
    ) -> Place:
        """A weight in the network's precision, in an order that `key` and `how` name."""
        return self.constant(
            (key, id(tensor), *how), lambda: make().astype(self.dtype, copy=False), tensor
        )

    def later(self, emit: Callable[[], None]) -> None:
        """Hands in what writes steps once it is known which images lie in others."""
        self._later.append(emit)

    def step(self, kernel: GpuKernel, places: tuple[Place, ...], what: str, macs: int = 0) -> None:
        """Appends a step."""
        self.program.steps.append(Step(kernel, places, 0, 1, what, macs, ranged=False))


def what_of(region: Region) -> str:
    """How a region is called in profiles."""
    return label(region.first)


def macs_of(region: Region) -> int:
    """Multiply-accumulates of the region's first node."""
    return int(node_cost(region.first).macs)
