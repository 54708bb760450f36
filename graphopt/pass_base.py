"""What a pass is, and what it promises.

    @dataclass(frozen=True)
    class DropDropout(Pass):
        '''dropout(x) == x at inference.'''

        name = "drop-dropout"
        numerics = Exact()

        def run(self, graph: Graph, context: Context) -> None:
            for node in nodes_of(graph, "Dropout"):
                if is_output(graph, node.outputs[0]):
                    context.refused(node, "its result is an output of the model")
                    continue
                bypass(graph, node)
                context.rewrote(node, "removed")

A pass edits the graph it is given (the pipeline gives it a copy), logs every rewrite and every
candidate it left alone with a reason, and never sorts or deletes nodes: `sweep` does that after it.
The pipeline holds it to `numerics` by running the graph before and after.
"""

from __future__ import annotations

import abc
import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from graphopt.errors import UsageError
from graphopt.ir.graph import Graph, Node, label
from graphopt.named import write_options


@dataclass(frozen=True)
class Exact:
    """No arithmetic changes: every operator that stays computes on the same values.

    The check allows rounding nevertheless, because ONNX Runtime's own kernels round differently
    with the alignment of their memory: removing an unrelated node can change the last bit of a
    convolution, and what later layers make of it (generated graphs, ONNX Runtime 1.31).
    """

    rtol: ClassVar[float] = 1e-5

    def __str__(self) -> str:
        return "exact"


@dataclass(frozen=True)
class Close:
    """Outputs are equal within `rtol` (see `graphopt.oracle.error_of` for the measure)."""

    rtol: float = 1e-5

    def __str__(self) -> str:
        return f"close({self.rtol:g})"


@dataclass(frozen=True)
class Changes:
    """The pass means to change what the network computes; `why` is shown in the report."""

    why: str
    rtol: ClassVar[None] = None

    def __str__(self) -> str:
        return f"changes ({self.why})"


Numerics = Exact | Close | Changes


@dataclass(frozen=True)
class Note:
    """One line of a pass's log: where, and what was done or why it was not."""

    where: str
    what: str


@dataclass
class Context:
    """What a pass is given besides the graph, and where it writes its log."""

    seed: int = 0
    # The last graph that computes what the model computed: whoever trains learns from it.
    teacher: Graph | None = None
    # What earlier passes found out, by name.
    known: Mapping[str, Any] = field(default_factory=dict)
    rewrites: list[Note] = field(default_factory=list)
    refusals: list[Note] = field(default_factory=list)
    # What a pass found out that others may want: a pruning plan, for one.
    facts: dict[str, Any] = field(default_factory=dict)
    # What a pass that changes the outputs has proven of its result itself.
    proof: str = ""

    def rewrote(self, where: Node | str, what: str) -> None:
        """Logs a rewrite at a node (or a named place)."""
        self.rewrites.append(Note(where if isinstance(where, str) else label(where), what))

    def refused(self, where: Node | str, reason: str) -> None:
        """Logs a candidate left alone, with the reason in one plain sentence."""
        note = Note(where if isinstance(where, str) else label(where), reason)
        if note not in self.refusals:
            self.refusals.append(note)


@dataclass(frozen=True)
class Pass(abc.ABC):
    """Base of every pass. Options are the dataclass fields of the subclass."""

    name: ClassVar[str]
    numerics: ClassVar[Numerics]
    # Names of passes this one has to run before or after, each with the reason.
    before: ClassVar[Mapping[str, str]] = {}
    after: ClassVar[Mapping[str, str]] = {}

    @abc.abstractmethod
    def run(self, graph: Graph, context: Context) -> None:
        """Edits `graph` in place."""

    @classmethod
    def summary(cls) -> str:
        """The first sentence of the docstring."""
        return " ".join((cls.__doc__ or "").split("\n\n")[0].split())

    @classmethod
    def with_options(cls, options: Mapping[str, Any]) -> Pass:
        """An instance from named options, given as Python values or as text.

        Raises:
            UsageError: an option the pass does not have, or a value of the wrong type.
        """
        return cls(**options_for(cls, options, "pass"))

    def options(self) -> dict[str, Any]:
        """The options and their values, under their command-line names.

        Fields with `repr=False` are for Python alone (somebody to tell about progress).
        """
        shown = [f.name for f in dataclasses.fields(self) if f.repr]
        return {name.replace("_", "-"): getattr(self, name) for name in shown}

    def __str__(self) -> str:
        changed = {
            f.name.replace("_", "-"): _shown(getattr(self, f.name))
            for f in dataclasses.fields(self)
            if f.repr and not _is_default(getattr(self, f.name), f.default)
        }
        inner = write_options(changed)
        return f"{self.name}{{{inner}}}" if inner else self.name


def _is_default(value: Any, default: Any) -> bool:
    # Options may be arrays, whose comparison is no truth value.
    return value is default or (type(value) is type(default) and bool(value == default))


def _shown(value: Any) -> Any:
    """An option in a line: what is no word or number is named by its type."""
    plain = isinstance(value, str | int | float | Path) or value is None
    return value if plain else f"<{type(value).__name__}>"


_TRUTH = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}


def options_for(kind: Any, options: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Options by field name, each in its field's type.

    Args:
        kind: a dataclass with a `name`, whose fields are its options.
        options: Python values or text, under names with hyphens or underscores.
        what: what messages call it: "pass", "loss", ...

    Raises:
        UsageError: an option it does not have, or a value of the wrong type.
    """
    kinds = typing.get_type_hints(kind)
    known = {f.name.replace("_", "-"): f.name for f in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    for key, value in options.items():
        field_name = known.get(key.replace("_", "-"))
        if field_name is None:
            have = ", ".join(known) or "none"
            raise UsageError(f"{what} {kind.name!r} has no option {key!r}; its options: {have}")
        values[field_name] = as_kind(value, kinds[field_name], f"{kind.name}{{{key}}}")
    return values


def as_kind(value: Any, kind: Any, where: str) -> Any:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if value is None or value == "none":
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if kind is Any:
        return value
    if kind is bool:
        truth = value if isinstance(value, bool) else _TRUTH.get(str(value).lower())
        if truth is None:
            raise UsageError(f"{where}: {value!r} is not true or false")
        return truth
    if kind is int and isinstance(value, bool | float):
        raise UsageError(f"{where}: {value!r} is not a int")
    try:
        return kind(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: {value!r} is not a {kind.__name__}") from error
