"""Importances by name, and what is written of them in one line.

    l1                       one importance
    l2{sides=both}           with an option
    0.7*l2 + 0.3*chip        a weighted sum

A name stands for a class under "module:Class", imported when used. A user's own is registered with
`register`.
"""

from __future__ import annotations

import re

from graphopt.errors import UsageError
from graphopt.named import Classes, read_options
from graphopt.pass_base import options_for
from graphopt.passes.analyze.importance.base import Importance

_HERE = "graphopt.passes.analyze.importance"

_OURS = {
    "l1": f"{_HERE}.l1:L1",
    "l2": f"{_HERE}.l2:L2",
    "bn-gamma": f"{_HERE}.bn_gamma:BnGamma",
    "fpgm": f"{_HERE}.fpgm:Fpgm",
    "lamp": f"{_HERE}.lamp:Lamp",
    "random": f"{_HERE}.chance:Random",
    "activation": f"{_HERE}.activation:Activation",
    "hrank": f"{_HERE}.hrank:Hrank",
    "chip": f"{_HERE}.chip:Chip",
    "taylor": f"{_HERE}.taylor:Taylor",
    "group-fisher": f"{_HERE}.group_fisher:GroupFisher",
    "obd": f"{_HERE}.obd:Obd",
}
IMPORTANCES: Classes[Importance] = Classes("importance", _OURS)

_NUMBER = r"\d+\.?\d*|\.\d+"
_TERM = re.compile(rf"(?:({_NUMBER})\s*\*\s*)?([A-Za-z][\w-]*)\s*(?:\{{([^{{}}]*)\}})?")


def register(importance: type[Importance]) -> type[Importance]:
    """Makes an importance known by its `name`; also usable as a decorator.

    Raises:
        UsageError: the name is taken.
    """
    return IMPORTANCES.register(importance)


def parse_importances(text: str) -> list[tuple[float, Importance]]:
    """The weights and importances of a line (see the module's text).

    Raises:
        UsageError: it cannot be read, or names something that is not there.
    """
    parts = []
    for term in re.split(r"\+(?![^{]*\})", text):
        match = _TERM.fullmatch(term.strip())
        if match is None:
            raise UsageError(
                f"cannot read {term.strip()!r} in importance {text!r}; write name, "
                "name{option=value}, or a sum such as 0.7*l2+0.3*chip"
            )
        weight, name, options = match.groups()
        kind = IMPORTANCES.find(name)
        given = options_for(kind, read_options(options or "", name), "importance")
        parts.append((float(weight or 1), kind(**given)))
    return parts
