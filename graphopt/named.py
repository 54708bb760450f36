"""Classes known by name, and how one is written with options: `name{option=value other=value}`."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Generic, TypeVar

from graphopt.errors import UsageError

T = TypeVar("T")


class Classes(dict[str, "str | type[T]"], Generic[T]):
    """Classes by name. One of ours stands as "module:Class" and is imported when it is used.

    Attributes:
        what: what messages call them: "pass", "loss", ...
    """

    def __init__(self, what: str, rows: Mapping[str, str | type[T]]) -> None:
        super().__init__(rows)
        self.what = what

    def register(self, kind: type[T]) -> type[T]:
        """Makes a user's class known by its `name`; also usable as a decorator.

        Raises:
            UsageError: the name is taken.
        """
        name: str = kind.name  # type: ignore[attr-defined]  # every kind of them has one
        if self.get(name, kind) is not kind:
            article = "an" if self.what[0] in "aeiou" else "a"
            raise UsageError(f"{article} {self.what} named {name!r} is registered already")
        self[name] = kind
        return kind

    def find(self, name: str) -> type[T]:
        """The class called `name`.

        Raises:
            UsageError: there is none; the message has near misses.
        """
        target = self.get(name)
        if target is None:
            raise UsageError(unknown(self.what, name, self))
        return target if isinstance(target, type) else imported(target)


def imported(target: str) -> Any:
    """What stands at "module:attribute"."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that matches nothing, with near misses."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return f"no {kind} is called {name!r}; {hint}"


def read_named(text: str, what: str) -> tuple[str, dict[str, str]]:
    """The name and the options in "name" or "name{option=value option=value}".

    Args:
        text: what was written.
        what: what messages call it: "loss", "decoder", ...

    Raises:
        UsageError: it is neither.
    """
    match = re.fullmatch(r"\s*([A-Za-z][\w-]*)\s*(?:\{([^{}]*)\})?\s*", text)
    if match is None:
        raise UsageError(f"cannot read {what} {text!r}; write name or name{{option=value}}")
    return match[1], read_options(match[2] or "", match[1])


def read_options(text: str, name: str) -> dict[str, str]:
    """The options in "option=value other=value", written behind `name`."""
    options: dict[str, str] = {}
    for pair in re.split(r"[,\s]+", text.strip()):
        if not pair:
            continue
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"cannot read option {pair!r} of {name!r}; write option=value")
        options[key] = value
    return options
