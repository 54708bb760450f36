"""Batches: what computes every image by itself is lowered for one, and its steps are taken once for each.

    y[n] = f(x[n])   for n < N

Whether a network is of that kind is decided operator by operator; a softmax over the batch is not, and is
put down as it is. Each image's steps write where the last one's did, so that a batch takes no more memory
than one image but for its inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from graphopt.ir.graph import Graph, Variable, static_shape
from graphopt.ir.shapes import infer_shapes
from graphopt.runtime.kernels.simd import Machine
from graphopt.runtime.lower.choose import Direct, Shape, Winograd
from graphopt.runtime.lower.limit import within
from graphopt.runtime.lower.lowering import Lowering
from graphopt.runtime.lower.program import Memory, Place, Port, Program, Step
from graphopt.runtime.lower.separable import separated
from graphopt.runtime.lower.sketch import Sketch


def lower(
    graph: Graph,
    machine: Machine,
    plain_machine: Machine | None = None,
    tuned: Mapping[Shape, Direct | Winograd] | None = None,
    *,
    lasting: int | None = None,
) -> Program:
    """The program of a graph.

    Args:
        graph: in normal form, all sizes known; it is changed.
        machine: what computes images.
        plain_machine: what computes the rest; the same if not given.
        tuned: how to compute convolutions about which more is known than the model says.
        lasting: the most bytes of weights that are transformed when the network is loaded.

    Raises:
        UnsupportedError: an operator that neither our kernels nor TVM's importer can do.
    """
    single = of_one(graph)
    alone = graph if single is None else single
    if lasting is not None:
        sketch = Sketch(alone.copy(), machine, plain_machine or machine)
        sketch.run()
        tuned = within(machine, sketch.counts, lasting, tuned)
    program = Lowering(alone, machine, plain_machine, tuned).run()
    if single is None:
        return program
    return _repeated(program, (static_shape(graph.inputs[0]) or (1,))[0])


def of_one(graph: Graph) -> Graph | None:
    """The graph for one image of its batch; None where there is one only, or they are not apart."""
    shapes = [static_shape(t) for t in graph.inputs]
    counts = {s[0] if s else 1 for s in shapes if s is not None}
    if len(counts) != 1 or None in shapes or min(counts) < 2:
        return None
    (count,) = counts
    own = graph.copy()
    before = {t.name: static_shape(t) for n in own.nodes for t in n.outputs}
    batched = separated(own, count)
    if batched is None:
        return None
    inputs = {id(t) for t in own.inputs}
    for tensor in own.inputs:
        tensor.shape = [1, *tensor.shape[1:]]
    for tensor in (t for n in own.nodes for t in n.outputs):
        if isinstance(tensor, Variable) and not tensor.is_empty() and id(tensor) not in inputs:
            tensor.shape = None
    infer_shapes(own)
    for name, tensor in own.tensors().items():
        if name in before and before[name] is not None:
            wanted = before[name]
            wanted = (1, *wanted[1:]) if name in batched else wanted  # type: ignore[index]
            if static_shape(tensor) != wanted:
                return None
    return own


def _repeated(program: Program, count: int) -> Program:
    """The program of `count` images from that of one."""
    made = Program(prepare=program.prepare, constants=program.constants)
    whole = _Whole(count)
    made.inputs = [whole.port(p) for p in program.inputs]
    made.outputs = [whole.port(p) for p in program.outputs]
    for number in range(count):
        clones: dict[Memory, Memory] = {}
        made.steps += [_of_image(s, number, whole, clones) for s in program.steps]
    return made


class _Whole:
    """The memory of inputs and outputs of all images."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._known: dict[Memory, tuple[Memory, int]] = {}

    def port(self, port: Port) -> Port:
        """The port of all images."""
        one, place = port.bytes, port.place
        assert isinstance(place.of, Memory)
        if place.of not in self._known:
            # What is stored past the end of an image is written anew by the next.
            size = place.of.size + (self._count - 1) * one
            self._known[place.of] = (Memory(place.of.name, size), one)
        memory, _ = self._known[place.of]
        return replace(port, shape=(self._count, *port.shape[1:]), place=replace(place, of=memory))

    def of(self, place: Place, number: int) -> Place | None:
        """Where a place of one image is for image `number`; None for other memory."""
        if not isinstance(place.of, Memory) or place.of not in self._known:
            return None
        memory, one = self._known[place.of]
        return Place(memory, place.offset + number * one)


def _of_image(step: Step, number: int, whole: _Whole, clones: dict[Memory, Memory]) -> Step:
    def own(place: Place) -> Place:
        found = whole.of(place, number)
        if found is not None:
            return found
        if not isinstance(place.of, Memory) or place.of.lasting:
            return place
        # A piece of its own for every image: it lives as long as this one is computed, not all of them.
        clone = clones.setdefault(place.of, Memory(place.of.name, place.of.size))
        return Place(clone, place.offset)

    return replace(step, places=tuple(own(p) for p in step.places))
