"""Options of a loss, written as text: "box=0.05 iou=giou smoothing=0.1"."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from graphopt.errors import UsageError
from graphopt.named import read_options, unknown
from graphopt.pass_base import as_kind

_Kind = TypeVar("_Kind", bound="Options")


@dataclass(frozen=True)
class Options:
    """Base of the options of a loss: the fields of the subclass.

    A word that Python keeps for itself has an underscore behind it as a field: `class_` is `class`.
    """

    name: ClassVar[str]

    @classmethod
    def parse(cls: type[_Kind], text: str) -> _Kind:
        """Reads "option=value option=value".

        Raises:
            UsageError: an option there is not, or a value that cannot be meant.
        """
        kinds = typing.get_type_hints(cls)
        fields = {f.name.rstrip("_").replace("_", "-"): f.name for f in dataclasses.fields(cls)}
        values = {}
        for key, value in read_options(text, f"loss {cls.name}").items():
            field = fields.get(key.replace("_", "-"))
            if field is None:
                raise UsageError(unknown(f"option of the {cls.name} loss", key, fields))
            values[field] = as_kind(value, kinds[field], f"loss {cls.name}: {key}")
        return cls(**values)

    def check_choice(self, option: str, known: Sequence[str]) -> None:
        """Refuses a word that is none of `known`."""
        value = getattr(self, option)
        if value not in known:
            raise UsageError(f"loss {self.name}: {unknown(option, value, known)}")

    def check_numbers(self, *options: str, most: float = math.inf) -> None:
        """Refuses what is no finite number from 0 to `most`."""
        for option in options:
            value = getattr(self, option)
            if not (math.isfinite(value) and 0 <= value <= most):
                limit = "at least 0" if most == math.inf else f"from 0 to {most:g}"
                word = option.rstrip("_").replace("_", "-")
                raise UsageError(f"loss {self.name}: {word}={value} is not a number {limit}")
