"""Pass names, and pipelines written as text or TOML.

    "simplify, merge-sibling-convs{max-channels=8}, insert-batchnorm{data=images preprocess='crop bgr'}"

    [[pass]]
    name = "merge-sibling-convs"
    max-channels = 8

A name stands for a class under "module:Class", imported when used. `default` in a text stands for
the default pipeline. A user's own pass is registered with `register`, or named in place as
"my_module:MyPass".
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from graphopt.errors import UsageError
from graphopt.named import Classes, imported, matching, read_named, split_named
from graphopt.pass_base import Pass
from graphopt.toml import read_toml

_SIMPLIFY = "graphopt.passes.simplify"
_FUSE = "graphopt.passes.fuse"
_QUANTIZE = "graphopt.passes.quantize"

# In the order of the default pipeline, which is also how they are listed.
_OURS = {
    "train": "graphopt.passes.distill.train:Train",
    "drop-layers": "graphopt.passes.prune.drop_layers:DropLayers",
    "sparsify": "graphopt.passes.prune.sparsify:Sparsify",
    "prune": "graphopt.passes.prune.prune:Prune",
    "prune-recover": "graphopt.passes.prune.prune_recover:PruneRecover",
    "regrow": "graphopt.passes.prune.regrow:Regrow",
    "exchange-backbone": "graphopt.passes.distill.exchange_backbone:ExchangeBackbone",
    "recover": "graphopt.passes.distill.recover:Recover",
    "free-batch": f"{_SIMPLIFY}.free_batch:FreeBatch",
    "insert-batchnorm": "graphopt.passes.prune.insert_batchnorm:InsertBatchnorm",
    "fold-shapes": f"{_SIMPLIFY}.fold_shapes:FoldShapes",
    "simplify": f"{_SIMPLIFY}.simplify:Simplify",
    "merge-casts": f"{_SIMPLIFY}.merge_casts:MergeCasts",
    "merge-movement": f"{_SIMPLIFY}.merge_movement:MergeMovement",
    "merge-slices": f"{_SIMPLIFY}.merge_slices:MergeSlices",
    "fuse-focus-conv": f"{_SIMPLIFY}.fuse_focus_conv:FuseFocusConv",
    "recompose-space-to-depth": f"{_SIMPLIFY}.recompose_space_to_depth:RecomposeSpaceToDepth",
    "cancel-split-concat": f"{_SIMPLIFY}.cancel_split_concat:CancelSplitConcat",
    "sink-transposes": f"{_SIMPLIFY}.sink_transposes:SinkTransposes",
    "merge-reshapes": f"{_SIMPLIFY}.merge_reshapes:MergeReshapes",
    "flatten-concat": f"{_SIMPLIFY}.flatten_concat:FlattenConcat",
    "recompose-norms": f"{_SIMPLIFY}.recompose_norms:RecomposeNorms",
    "recompose-activations": f"{_SIMPLIFY}.recompose_activations:RecomposeActivations",
    "fuse-conv-bn": f"{_FUSE}.fuse_conv_bn:FuseConvBn",
    "fuse-conv-affine": f"{_FUSE}.fuse_conv_affine:FuseConvAffine",
    "fuse-affine-conv": f"{_FUSE}.fuse_affine_conv:FuseAffineConv",
    "fuse-pad": f"{_FUSE}.fuse_pad:FusePad",
    "merge-parallel-convs": f"{_FUSE}.merge_parallel_convs:MergeParallelConvs",
    "fuse-conv-conv": f"{_FUSE}.fuse_conv_conv:FuseConvConv",
    "merge-sibling-convs": f"{_FUSE}.merge_sibling_convs:MergeSiblingConvs",
    "explicit-padding": f"{_SIMPLIFY}.explicit_padding:ExplicitPadding",
    "merge-clips": f"{_SIMPLIFY}.merge_clips:MergeClips",
    "merge-scalar-arithmetic": f"{_SIMPLIFY}.merge_scalar_arithmetic:MergeScalarArithmetic",
    "fold-exp-scale": f"{_FUSE}.fold_exp_scale:FoldExpScale",
    "loosen-clips": f"{_QUANTIZE}.loosen_clips:LoosenClips",
    "equalize": f"{_QUANTIZE}.equalize:Equalize",
    "absorb-bias": f"{_QUANTIZE}.absorb_bias:AbsorbBias",
    "to-float16": f"{_QUANTIZE}.to_float16:ToFloat16",
    "to-bfloat16": f"{_QUANTIZE}.to_bfloat16:ToBfloat16",
    "to-float32": f"{_QUANTIZE}.to_float32:ToFloat32",
    "smooth": f"{_QUANTIZE}.smooth:Smooth",
    "insert-fake-quant": "graphopt.passes.quantize.insert_fake_quant:InsertFakeQuant",
    "adaround": f"{_QUANTIZE}.adaround:Adaround",
    "reconstruct": f"{_QUANTIZE}.reconstruct:Reconstruct",
    "correct-bias": f"{_QUANTIZE}.correct_bias:CorrectBias",
    "qat": f"{_QUANTIZE}.qat:Qat",
    "quantize-constants": "graphopt.passes.quantize.quantize_constants:QuantizeConstants",
    "lower-batchnorm": "graphopt.passes.lower.lower_batchnorm:LowerBatchnorm",
    "lower-scatter": "graphopt.passes.lower.lower_scatter:LowerScatter",
    "lower-opset": "graphopt.passes.lower.lower_opset:LowerOpset",
}
PASSES: Classes[Pass] = Classes("pass", _OURS)

# One list, in phases. A name may stand twice: fusing opens new chances for merging.
DEFAULT: tuple[str, ...] = (
    # Commodity first: constants hide most spellings. Shapes that became known make constants, and
    # constants make shapes known, so both run twice; without anything to do they cost nothing.
    "fold-shapes",
    "simplify",
    "fold-shapes",
    # Whoever asks for padding asks for numbers.
    "explicit-padding",
    # Less moving about.
    "merge-casts",
    "merge-movement",
    "merge-slices",
    "fuse-focus-conv",
    "recompose-space-to-depth",
    "cancel-split-concat",
    "sink-transposes",
    "merge-reshapes",
    "flatten-concat",
    "simplify",
    # Say what is meant: one operator for what exporters spell out.
    "recompose-norms",
    "recompose-activations",
    # Into the weights.
    "fuse-conv-bn",
    "fuse-conv-affine",
    "fuse-affine-conv",
    "fuse-pad",
    "merge-parallel-convs",
    "fuse-conv-conv",
    "merge-sibling-convs",
    # What is left between.
    "merge-clips",
    "merge-scalar-arithmetic",
    # Into the bias, once the factors are one.
    "fold-exp-scale",
)

# What a graph goes through before it is compiled, after all else.
LOWERING: tuple[str, ...] = ("lower-batchnorm", "lower-scatter")


def register(pass_class: type[Pass]) -> type[Pass]:
    """Makes a pass known by its `name`; also usable as a decorator.

    Raises:
        UsageError: the name is taken.
    """
    return PASSES.register(pass_class)


def pass_class(name: str) -> type[Pass]:
    """The class registered under `name`, or named as "module:Class"."""
    try:
        found = imported(name) if ":" in name else PASSES.find(name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"pass {name!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Pass)):
        raise UsageError(f"{name!r} is not a subclass of graphopt.Pass")
    return found


def default_passes() -> list[Pass]:
    """The passes of the default pipeline, in order."""
    return [pass_class(name)() for name in DEFAULT]


def parse_passes(text: str) -> list[Pass]:
    """The passes of a pipeline text (see the module docstring)."""
    passes: list[Pass] = []
    items = split_named(text)
    if not all(items):
        raise UsageError(f"pipeline {text!r} has an empty pass name")
    for item in items:
        name, options = read_named(item, "pass")
        if name == "default":
            passes += default_passes()
        else:
            passes.append(pass_class(name).with_options(options))
    return passes


def read_pipeline(path: Path) -> list[Pass]:
    """The passes of a TOML file's [[pass]] tables."""
    tables = read_toml(path, "pipeline file").get("pass")
    if not isinstance(tables, list) or not all(isinstance(t, dict) and "name" in t for t in tables):
        raise UsageError(f"pipeline file {path} needs [[pass]] tables, each with a name")
    passes: list[Pass] = []
    for table in tables:
        options = {k: v for k, v in table.items() if k != "name"}
        if table["name"] == "default" and not options:
            passes += default_passes()
        else:
            passes.append(pass_class(str(table["name"])).with_options(options))
    return passes


def select(passes: list[Pass], *, skip: Iterable[str] = (), only: Iterable[str] = ()) -> list[Pass]:
    """The passes without those in `skip`, or only those in `only`; names may be globs.

    Raises:
        UsageError: a selector that matches none of the passes.
    """
    skip, only = list(skip), list(only)
    names = list(dict.fromkeys(p.name for p in passes))
    kind = "pass in this pipeline"
    left_out, wanted = matching(kind, skip, names), matching(kind, only, names)
    kept = [p for p in passes if p.name not in left_out]
    return [p for p in kept if not only or p.name in wanted]
