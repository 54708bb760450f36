"""Decoders as text, options included, and back.

    yolov3                                              as it comes
    yolov3{anchors=10x13|16x30|33x23|30x61|...}         all scales in one list, finest first
    yolov4{scale-xy=1.2|1.1|1.05}

The text may come from a model somebody else made: it is read as numbers and nothing else.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, TypeVar

from graphopt.errors import UsageError
from graphopt.evaluate.decoders.base import Decoder
from graphopt.named import unknown

_Kind = TypeVar("_Kind", bound=Decoder)

_MOST = 64  # numbers in a list; nobody has as many anchors


def with_options(kind: type[_Kind], options: dict[str, str]) -> _Kind:
    """The decoder with options given as text.

    Raises:
        UsageError: an option it does not have, or a value that cannot be meant.
    """
    fields = {f.name.replace("_", "-"): f.name for f in dataclasses.fields(kind)}
    values: dict[str, Any] = {}
    plain = kind()
    for key, text in options.items():
        name = fields.get(key.replace("_", "-"))
        if name is None:
            raise UsageError(f"decoder {kind.name}: {unknown('option', key, fields)}")
        try:
            values[name] = _read(text, getattr(plain, name))
        except ValueError as error:
            example = _shown(getattr(plain, name))
            raise UsageError(
                f"decoder {kind.name}: {key}={text[:80]!r} cannot be read; write it as in {example}"
            ) from error
    if "anchors" in values:
        values["anchors"] = _by_scale(values["anchors"], plain, values)
    made = dataclasses.replace(plain, **values)
    made.check()
    return made


def text_of(decoder: Decoder) -> str:
    """The text that `with_options` reads back equal; what is as it comes is left out."""
    values = {f.name: getattr(decoder, f.name) for f in dataclasses.fields(decoder)}
    plain = type(decoder)()
    changed = [(n, v) for n, v in values.items() if v != getattr(plain, n)]
    inner = " ".join(f"{n.replace('_', '-')}={_shown(v)}" for n, v in changed)
    return f"{decoder.name}{{{inner}}}" if inner else decoder.name


def _read(text: str, like: Any) -> Any:
    """A value of the same form as `like`: a number, a list of them, or a list of widths x heights."""
    items = text.split("|")
    if len(items) > _MOST:
        raise ValueError(text)
    if not isinstance(like, tuple):
        return _number(text)
    if not isinstance(like[0], tuple):
        return tuple(_number(i) for i in items)
    pairs = [tuple(_number(v) for v in item.split("x")) for item in items]
    if any(len(p) != 2 for p in pairs):
        raise ValueError(text)
    return tuple(pairs)


def _number(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise ValueError(text)
    return int(value) if value.is_integer() else value


def _by_scale(pairs: Any, plain: Any, values: dict[str, Any]) -> Any:
    """The one list of anchors cut into as many parts as there are scales."""
    scales = len(values.get("scale_xy", plain.anchors))
    each, rest = divmod(len(pairs), scales)
    if rest:
        raise UsageError(
            f"decoder {plain.name}: {len(pairs)} anchors for {scales} scales; give as many to each"
        )
    return tuple(pairs[k * each : (k + 1) * each] for k in range(scales))


def _shown(value: Any) -> str:
    if not isinstance(value, tuple):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value[0], tuple) and isinstance(value[0][0], tuple):
        value = tuple(pair for scale in value for pair in scale)
    if isinstance(value[0], tuple):
        return "|".join(f"{_shown(w)}x{_shown(h)}" for w, h in value)
    return "|".join(_shown(v) for v in value)
