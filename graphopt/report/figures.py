"""Numbers as people read them: three digits, a decimal unit, the change in percent."""

from __future__ import annotations

from collections.abc import Callable, Iterable

Show = Callable[[float], str]
Units = tuple[tuple[float, str], ...]

_COUNTS: Units = ((1e9, " G"), (1e6, " M"), (1e3, " k"))
_SIZES: Units = ((1e9, " GB"), (1e6, " MB"), (1e3, " kB"))
_TIMES: Units = ((1e3, " s"), (1.0, " ms"), (1e-3, " µs"))


def count(value: float) -> str:
    """A count with three digits and a unit: 61.9 M."""
    return _scaled(value, _COUNTS) or f"{value:.0f}"


def size(value: float) -> str:
    """Bytes with three digits and a decimal unit: 248 MB."""
    return _scaled(value, _SIZES) or f"{value:.0f} B"


def milliseconds(value: float) -> str:
    """A time given in milliseconds, with three digits: 33.1 ms, 15.2 µs."""
    return _scaled(value, _TIMES) or f"{value:.3g} ms"


def change(before: float, after: float) -> str:
    """The relative change: -12.3 %, or nothing when equal."""
    if before == after:
        return ""
    if not before:
        return f"+{after}"
    text = f"{(after - before) / before:+.1%}".replace("%", " %")
    return "≈ 0 %" if text[1:] == "0.0 %" else text


def moved(before: float, after: float, show: Show) -> str:
    """A figure before and after: 169 → 56; once when equal; with the difference when that is small."""
    old, new = show(before), show(after)
    if before == after:
        return new
    if old != new:
        return f"{old} → {new}"
    return f"{new} ({'+' if after > before else '-'}{show(abs(after - before))})"


def error(value: float) -> str:
    """An error or a tolerance: 2.1e-05."""
    return f"{value:.1e}" if value else "0"


def shape(dims: Iterable[int | str | None] | None) -> str:
    """The shape of a tensor: batch×16×416×416."""
    if dims is None:
        return "?"
    return "×".join("?" if d is None else str(d) for d in dims)


# What is told of a model: label, key in the document, how it is shown.
TOTALS: tuple[tuple[str, str, Show], ...] = (
    ("nodes", "nodes", str),
    ("parameters", "parameters", count),
    ("MACs", "macs", count),
    ("weights", "weight_bytes", size),
    ("activations", "activation_bytes", size),
    ("file", "file_bytes", size),
)


def _scaled(value: float, units: Units) -> str | None:
    # 999.7 k has to become 1 M: with three digits it would read "1e+03 k".
    unit = next(((limit, name) for limit, name in units if value >= 0.9995 * limit), None)
    if unit is None:
        return None
    limit, name = unit
    scaled = value / limit
    return f"{scaled:.3g}{name}" if scaled < 999.5 else f"{scaled:.0f}{name}"
