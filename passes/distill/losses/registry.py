"""Losses by name, and how one is written with its options.

    kl                                  as it comes
    kl{temperature=3 reduce=batch}      with options
    dist{anchors=3 part=classes inter=0 sigmoid=true}

A name stands for a class under "module:Class", imported when used. A user's own is registered with
`register`.
"""

from __future__ import annotations

import importlib
import re

from graphopt.errors import UsageError
from graphopt.pass_base import options_for
from graphopt.passes.distill.losses.base import Loss
from graphopt.registry import read_options, unknown

_HERE = "graphopt.passes.distill.losses"

LOSSES: dict[str, str | type[Loss]] = {
    "kl": f"{_HERE}.kl:Kl",
    "mse": f"{_HERE}.mse:Mse",
    "dist": f"{_HERE}.dist:Dist",
    "objectness-scaled": f"{_HERE}.objectness_scaled:ObjectnessScaled",
    "teacher-bounded": f"{_HERE}.teacher_bounded:TeacherBounded",
    "hint": f"{_HERE}.hint:Hint",
    "masked-feature": f"{_HERE}.masked_feature:MaskedFeature",
    "spatial-attention": f"{_HERE}.spatial_attention:SpatialAttention",
    "hybrid-attention": f"{_HERE}.hybrid_attention:HybridAttention",
    "channel-distillation": f"{_HERE}.channel_distillation:ChannelDistillation",
    "pkd": f"{_HERE}.pkd:Pkd",
    "cwd": f"{_HERE}.cwd:Cwd",
    "gram": f"{_HERE}.gram:Gram",
}


def register(loss: type[Loss]) -> type[Loss]:
    """Makes a loss known by its `name`; also usable as a decorator.

    Raises:
        UsageError: the name is taken.
    """
    known = LOSSES.get(loss.name)
    if known is not None and known is not loss:
        raise UsageError(f"a loss named {loss.name!r} is registered already")
    LOSSES[loss.name] = loss
    return loss


def loss_class(name: str) -> type[Loss]:
    """The class registered under `name`.

    Raises:
        UsageError: there is none.
    """
    target = LOSSES.get(name)
    if target is None:
        raise UsageError(unknown("loss", name, LOSSES))
    if isinstance(target, type):
        return target
    module, _, attribute = target.partition(":")
    found: type[Loss] = getattr(importlib.import_module(module), attribute)
    return found


def parse_loss(text: str) -> Loss:
    """The loss written as `text` (see the module's text).

    Raises:
        UsageError: it cannot be read, names something that is not there, or an option has a value
            that cannot be meant.
    """
    match = re.fullmatch(r"\s*([A-Za-z][\w-]*)\s*(?:\{([^{}]*)\})?\s*", text)
    if match is None:
        raise UsageError(f"cannot read loss {text!r}; write name or name{{option=value}}")
    kind = loss_class(match[1])
    return kind(**options_for(kind, read_options(match[2] or "", kind.name), "loss"))
