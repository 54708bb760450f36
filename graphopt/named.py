"""Things known by name: classes, options written behind a name, names that globs stand for.

name{option=value other="a value, with spaces"}
/model.2*    a glob; a name that is there is itself, whatever characters it is made of
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Generic, TypeVar

from graphopt.errors import UsageError

T = TypeVar("T")
_LISTED = 50
_QUOTED = r"""(?:"[^"]*"|'[^']*')"""
_OPTIONS = rf"\{{((?:{_QUOTED}|[^{{}}])*)\}}"


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


def is_named(name: str, pattern: str) -> bool:
    """Whether a pattern (a name or a glob) stands for a name."""
    return name == pattern or fnmatchcase(name, pattern)


def matching(kind: str, patterns: Iterable[str], known: Iterable[str]) -> list[str]:
    """The names of `known`, in order, that any of the patterns stands for.

    Raises:
        UsageError: a pattern that stands for nothing; the message calls the things `kind`.
    """
    names = list(dict.fromkeys(known))
    found: set[str] = set()
    for pattern in patterns:
        hits = {n for n in names if is_named(n, pattern)}
        if not hits:
            raise UsageError(unknown(kind, pattern, names))
        found |= hits
    return [n for n in names if n in found]


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that matches nothing, with near misses."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {_listed(names)}"
    return f"no {kind} is called {name!r}; {hint}"


def _listed(names: Sequence[str]) -> str:
    """Names in a message; of a network's thousand tensors the first ones do."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def read_named(text: str, what: str) -> tuple[str, dict[str, str]]:
    """The name and the options in "name" or "name{option=value option='a value'}".

    Args:
        text: what was written.
        what: what messages call it: "loss", "decoder", ...

    Raises:
        UsageError: it is neither.
    """
    match = re.fullmatch(rf"\s*([\w.:-]+)\s*(?:{_OPTIONS})?\s*", text)
    if match is None:
        raise UsageError(f"cannot read {what} {text!r}; write name or name{{option=value}}")
    return match[1], read_options(match[2] or "", match[1])


def read_options(text: str, name: str) -> dict[str, str]:
    """The options in "option=value other='a value'", written behind `name`.

    Commas or spaces stand between options; a value in quotes may have them, and braces.

    Raises:
        UsageError: an option without a value.
    """
    options: dict[str, str] = {}
    for pair in re.findall(rf"(?:{_QUOTED}|[^\s,])+", text):
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"cannot read option {pair!r} of {name!r}; write option=value")
        options[key] = re.sub(_QUOTED, lambda quoted: quoted[0][1:-1], value)
    return options


def write_options(options: Mapping[str, Any]) -> str:
    """Options as `read_options` reads them."""
    return " ".join(f"{key}={_quoted(str(value))}" for key, value in options.items())


def _quoted(value: str) -> str:
    if not re.search(r"[\s,{}\"']", value):
        return value
    return f"'{value}'" if '"' in value else f'"{value}"'


def split_named(text: str) -> list[str]:
    """What stands between the commas of "name, name{option=value}", outside options."""
    return [i.strip() for i in re.sub(rf"({_OPTIONS})|,", _mark, text).split("\0")]


def _mark(found: re.Match[str]) -> str:
    return found[1] or "\0"
