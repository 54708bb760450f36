"""Puts a graph down as a program: regions, images, kernels, steps.

Two rounds over the operators in order. The first decides what is computed together, with which
algorithm, and what borders images need for it; the second, when all sizes are final, writes steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from graphopt.errors import UnsupportedError
from graphopt.ir.cost import node_cost
from graphopt.ir.graph import Graph, Node, Tensor, is_op, label, static_shape
from graphopt.runtime.kernels.blocking import Block, Unblock
from graphopt.runtime.kernels.grid import Grid
from graphopt.runtime.kernels.movement import PadPlain
from graphopt.runtime.kernels.pointwise import AS_IT_IS, Expression, Operand, Pointwise, Strides
from graphopt.runtime.kernels.simd import Machine
from graphopt.runtime.kernels.winograd import WinogradWeight
from graphopt.runtime.lower import weights
from graphopt.runtime.lower.choose import Direct, Shape, Winograd
from graphopt.runtime.lower.cpu_layout import CpuLayout
from graphopt.runtime.lower.fuse import Region, per_channel, text_of
from graphopt.runtime.lower.images import Image
from graphopt.runtime.lower.layout import image_shape
from graphopt.runtime.lower.picks import picks_to_gathers
from graphopt.runtime.lower.program import Kernel, Memory, Place, Port, Program, Step
from graphopt.runtime.lower.quantized import grid_of, has_integers, take_products
from graphopt.runtime.lower.regions import main_input, main_of, regions_of
from graphopt.runtime.lower.rows import rows_to_pixels
from graphopt.runtime.lower.vectors import vectors_to_images

_ALIASES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity")
_FLOAT = 4  # bytes of a float32
INTEGER_LANES = 16  # channels of a pixel of integers that lie together
Emit = Callable[[], None]


class Lowering:
    """One graph on its way to a program.

    Kernels are planned by the functions of `planners.py`, which ask here for images, plain tensors
    and constants, and hand in what writes their steps.
    """

    def __init__(
        self,
        graph: Graph,
        machine: Machine,
        plain_machine: Machine | None = None,
        tuned: Mapping[Shape, Direct | Winograd] | None = None,
    ) -> None:
        """Begins with a graph, which is changed.

        Args:
            graph: in normal form, all sizes known.
            machine: what computes images.
            plain_machine: what computes the rest; the same if not given.
            tuned: how to compute convolutions about which more is known than the model says.
        """
        if has_integers(graph) and machine.lanes > INTEGER_LANES:
            # A vector of numbers lies in one block of integers.
            machine = replace(machine, lanes=INTEGER_LANES)
        self.graph, self.machine, self.tuned = graph, machine, tuned or {}
        self.shapes: dict[Shape, Node] = {}  # of convolutions of images, with the first of each
        self.counts: Counter[Shape] = Counter()  # how many there are of each
        # Plain tensors are float32 whatever images are.
        self.plain_machine = plain_machine or machine
        vectors_to_images(graph)
        rows_to_pixels(graph)
        self.products = take_products(graph)
        picks_to_gathers(graph, lambda g: CpuLayout(g, machine.lanes))
        self.layout = CpuLayout(graph, machine.lanes)
        self.program = Program()
        self._images: dict[int, Image] = {}
        self._plain: dict[int, Place] = {}
        self._later: list[Emit] = []
        self._begun: set[int] = set()
        self._constants: dict[tuple[Any, ...], tuple[object, Place]] = {}
        self._converted: dict[tuple[int, bool], Image] = {}
        self._numbers: dict[int, Image] = {}

    def run(self) -> Program:
        """The program.

        Raises:
            UnsupportedError: an operator that neither our kernels nor TVM's importer can do.
        """
        for tensor in self.graph.inputs:
            port = self._port(tensor, Place(Memory(tensor.name, self._size(tensor))))
            self.program.inputs.append(port)
            self._plain[id(tensor)] = port.place
        for region in regions_of(self.graph, self.layout):
            self.plan(region)
        for tensor in self.graph.outputs:
            self._output(tensor)
        for emit in self._later:
            emit()
        return self.program

    def plan(self, region: Region) -> None:
        """Plans the kernels of one region."""
        from graphopt.runtime.lower.planners import plan

        plan(self, region)

    # --- tensors ------------------------------------------------------------------------------

    def make_image(self, tensor: Tensor) -> Image:
        """The blocked image a region writes."""
        shape = image_shape(tensor) or (0, 0, 0)
        image = Image(tensor.name, shape, self.machine.lanes, self.machine.dtype)
        self._images[id(tensor)] = image
        return image

    def new_image(self, tensor: Tensor, grid: Grid) -> Image:
        """An image of integers in the shape of a tensor."""
        shape = image_shape(tensor) or (0, 0, 0)
        return Image(tensor.name, shape, INTEGER_LANES, grid.dtype, grid)

    def sink(self, region: Region, grid: Grid | None = None) -> Image:
        """The image a region writes: of integers where it rounds, or where it has this grid."""
        if region.rounding is not None:
            grid = grid_of(region.rounding)
        if grid is None:
            return self.make_image(region.out)
        image = self.new_image(region.out, grid)
        made = region.out if region.rounding is None else region.rounding.outputs[0]
        self._images[id(made)] = image
        return image

    def set_image(self, tensor: Tensor, image: Image) -> None:
        """Says that a tensor is an image there is already."""
        self._images[id(tensor)] = image

    def image(self, tensor: Tensor) -> Image:
        """A tensor as a blocked image of numbers, converted where it is plain or of integers."""
        stored = self.stored(tensor)
        if stored.grid is None:
            return stored
        if id(stored) not in self._numbers:
            shape = (stored.channels, stored.height, stored.width)
            image = Image(tensor.name, shape, self.machine.lanes, self.machine.dtype)
            self._numbers[id(stored)] = image
            what = f"{tensor.name} to numbers"
            self.later(lambda: self.copy_image(stored, image, what))
        return self._numbers[id(stored)]

    def stored(self, tensor: Tensor) -> Image:
        """A tensor as a blocked image: of integers where it is stored so."""
        if id(tensor) in self._images:
            return self._images[id(tensor)]
        return self._blocked(tensor, self.machine.lanes)

    def round_plain(self, tensor: Tensor, sink: Image, what: str) -> None:
        """Writes a plain tensor as an image of integers."""
        source, machine = self.plain(tensor), self.plain_machine

        def emit() -> None:
            to = _exactly(sink.wide, machine)
            kernel = Block(machine, sink.channels, sink.height, sink.width, to)
            self.write(sink)
            self.step(kernel, (source, sink.place), kernel.parts, what)

        self.later(emit)

    def copy_image(self, source: Image, sink: Image, what: str) -> None:
        """Writes one image as another: on its grid, or as numbers."""
        lanes = min(source.lanes, sink.lanes)
        machine = replace(self.plain_machine, lanes=lanes)
        to = _exactly(sink.wide, machine)
        blocks = sink.vectors(lanes)
        kernel = Pointwise(machine, source.wide, to, blocks, sink.height, sink.width, AS_IT_IS)
        self.write(sink)
        self.step(kernel, (source.place, sink.place), kernel.parts, what)

    def padded_plain(self, tensor: Tensor) -> Image:
        """A plain tensor as an image of single pixels, with a border where its readers ask for one."""
        return self._blocked(tensor, 1)

    def has_image(self, tensor: Tensor) -> bool:
        """Whether the tensor is a blocked image already."""
        return id(tensor) in self._images

    def _blocked(self, tensor: Tensor, lanes: int) -> Image:
        key = (id(tensor), lanes == 1)
        if key in self._converted:
            return self._converted[key]
        channels, height, width = image_shape(tensor) or (0, 0, 0)
        image = Image(tensor.name, (channels, height, width), lanes, self.machine.dtype)
        source = self.plain(tensor)

        def emit() -> None:
            kernel: PadPlain | Block = (
                PadPlain(self.machine, channels, height, width, image.strides)
                if lanes == 1
                else Block(self.machine, channels, height, width, image.strides)
            )
            self.write(image)
            self.step(kernel, (source, image.place), kernel.parts, f"{tensor.name} to blocks")

        self.later(emit)
        self._converted[key] = image
        return image

    def plain(self, tensor: Tensor) -> Place:
        """A tensor row by row, converted where it is a blocked image."""
        if id(tensor) in self._plain:
            return self._plain[id(tensor)]
        values = getattr(tensor, "values", None)
        if values is not None:
            self.hold(tensor, values)
            return self._plain[id(tensor)]
        image = self.image(tensor)
        place = Place(Memory(f"{tensor.name} plain", self._size(tensor)))
        self._plain[id(tensor)] = place

        def emit() -> None:
            kernel = Unblock(self.machine, image.channels, image.height, image.width, image.strides)
            self.step(kernel, (image.place, place), kernel.parts, f"{tensor.name} to rows")

        self.later(emit)
        return place

    def make_plain(self, tensor: Tensor) -> Place:
        """Memory for a tensor row by row."""
        self._plain[id(tensor)] = Place(Memory(tensor.name, self._size(tensor)))
        return self._plain[id(tensor)]

    def hold(self, tensor: Tensor, values: Any) -> None:
        """Says that a plain tensor is a constant."""
        self._plain[id(tensor)] = self.constant(("plain", id(tensor)), lambda: values, tensor)

    def alias(self, tensor: Tensor, other: Tensor) -> None:
        """Says that a plain tensor is another one with another shape."""
        self._plain[id(tensor)] = self.plain(other)

    def _size(self, tensor: Tensor) -> int:
        # Vectors may be stored and read past the end of what is no multiple of them.
        return self._bytes(tensor) + self.machine.lanes * _FLOAT

    def _bytes(self, tensor: Tensor) -> int:
        shape = static_shape(tensor)
        if shape is None:
            raise UnsupportedError(
                f"the shape of {tensor.name!r} is not fixed; compiled networks have fixed shapes: "
                "export the model with fixed sizes, or set them"
            )
        if 0 in shape:
            raise UnsupportedError(f"{tensor.name!r} has no elements: its shape is {shape}")
        return int(np.prod(shape, dtype=np.int64)) * np.dtype(tensor.dtype).itemsize

    def _port(self, tensor: Tensor, place: Place) -> Port:
        self._bytes(tensor)
        return Port(tensor.name, tuple(tensor.shape), str(np.dtype(tensor.dtype)), place)

    def _output(self, tensor: Tensor) -> None:
        self.program.outputs.append(self._port(tensor, self.plain(tensor)))

    # --- expressions ---------------------------------------------------------------------------

    def expression(
        self, region: Region
    ) -> tuple[Callable[[], Expression], Callable[[], Iterable[Place]]]:
        """What a region's kernel ends in, and the places of its operands, once sizes are final."""
        shape = static_shape(region.out) or ()
        text = text_of(region, main_of(self.layout, region), lambda t: self._operand(t, shape))

        def expression() -> Expression:
            operands = tuple(Operand(kind, strides()) for kind, strides, _ in text.operands)
            return Expression(operands, tuple(text.steps))

        return expression, lambda: [place() for _, _, place in text.operands]

    def main_input(self, node: Node) -> Tensor:
        """The image an elementwise node that starts a region goes over."""
        return main_input(self.layout, node)

    def _operand(self, tensor: Tensor, shape: tuple[int, ...]) -> Any:
        constant = per_channel(tensor, shape)
        lanes = self.machine.lanes
        if constant is not None:
            size = -(-shape[1] // lanes) * lanes
            place = self.constant(
                ("channels", id(tensor)),
                lambda: self.typed(weights.channels(constant, size)),
                tensor,
            )
            return "channels", lambda: Strides(0, lanes), lambda: place
        image = self.stored(tensor)
        kind = "image" if static_shape(tensor) == shape else "channels"
        return kind, lambda: image.strides, lambda: image.place

    # --- steps ----------------------------------------------------------------------------------

    def constant(
        self, key: tuple[Any, ...], make: Callable[[], Any], owner: object = None
    ) -> Place:
        """A constant, made once for a key. `owner` is kept, for keys with the id of an object."""
        if key not in self._constants:
            self._constants[key] = (owner, self.program.constant(make()))
        return self._constants[key][1]

    def prepared(self, kernel: WinogradWeight, given: Place, name: str) -> Place:
        """What `kernel` makes of a constant when the network is loaded; made once for both."""
        key = ("prepared", kernel, given)
        if key not in self._constants:
            place = Place(
                Memory(f"{name} transformed", kernel.size * self.machine.width, lasting=True)
            )
            self.program.prepare.append(Step(kernel, (given, place), 0, kernel.parts, name))
            self._constants[key] = (None, place)
        return self._constants[key][1]

    def typed(self, values: Any) -> Any:
        """Values as the machine's type."""
        return values.astype(self.machine.dtype, copy=False)

    def later(self, emit: Emit) -> None:
        """Hands in what writes steps once all sizes are final."""
        self._later.append(emit)

    def write(self, image: Image) -> None:
        """Says that an image is about to be written: its border is cleared before the first time."""
        root = image.root
        if id(root) in self._begun:
            return
        self._begun.add(id(root))
        if root.border:
            kernel = root.border_kernel()
            self.step(kernel, (Place(root.memory),), kernel.parts, f"border of {root.name}")

    def step(
        self,
        kernel: Kernel,
        places: tuple[Place, ...],
        parts: int,
        what: str,
        *,
        begin: int = 0,
        macs: int = 0,
        private: int = 0,
        ranged: bool = True,
    ) -> None:
        """Appends a step."""
        self.program.steps.append(
            Step(kernel, places, begin, begin + parts, what, macs, private, ranged)
        )


def _exactly(to: Strides, machine: Machine) -> Strides:
    """The same image, written with the integers that QuantizeLinear makes."""
    return to if to.grid is None else replace(to, grid=to.grid.exactly(fused=machine.fused))


def what_of(region: Region) -> str:
    """How a region is called in profiles."""
    return label(region.first)


def macs_of(region: Region) -> int:
    """Multiply-accumulates of the region's first node."""
    return int(node_cost(region.first).macs)


def is_alias(node: Node) -> bool:
    """Whether a plain result is its input with another shape."""
    return is_op(node, *_ALIASES)
