"""Losses by name, and how one is written with its options.

    kl                                  as it comes
    kl{temperature=3 reduce=batch}      with options
    dist{anchors=3 part=classes inter=0 sigmoid=true}

A name stands for a class under "module:Class", imported when used. A user's own is registered with
`register`.
"""

from __future__ import annotations

from graphopt.named import Classes, read_named
from graphopt.pass_base import options_for
from graphopt.passes.distill.losses.base import Loss

_HERE = "graphopt.passes.distill.losses"

_OURS = {
    "kl": f"{_HERE}.kl:Kl",
    "mse": f"{_HERE}.mse:Mse",
    "dist": f"{_HERE}.dist:Dist",
    "objectness-scaled": f"{_HERE}.objectness_scaled:ObjectnessScaled",
    "objectness-rows": f"{_HERE}.objectness_rows:ObjectnessRows",
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
LOSSES: Classes[Loss] = Classes("loss", _OURS)


def register(loss: type[Loss]) -> type[Loss]:
    """Makes a loss known by its `name`; also usable as a decorator.

    Raises:
        UsageError: the name is taken.
    """
    return LOSSES.register(loss)


def parse_loss(text: str) -> Loss:
    """The loss written as `text` (see the module's text).

    Raises:
        UsageError: it cannot be read, names something that is not there, or an option has a value
            that cannot be meant.
    """
    name, options = read_named(text, "loss")
    kind = LOSSES.find(name)
    return kind(**options_for(kind, options, "loss"))
