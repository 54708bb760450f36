"""A torch module as ONNX: batch norms kept, initializers named like the state dict.

The default exporter is torch.export's ("dynamo"). The older tracer ("torchscript") is here to
be compared with; it fixes whatever Python code computed from the example, without a word.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from graphopt.errors import ExportError, UsageError

if TYPE_CHECKING:
    import onnx
    import torch
    from torch import nn

Exporter = Literal["dynamo", "torchscript"]

BATCH = "batch"
LONGEST_REASON = 240


def to_onnx(
    module: nn.Module | torch.export.ExportedProgram,
    example_inputs: torch.Tensor | tuple[torch.Tensor, ...],
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_batch: bool = True,
    opset: int = 20,
    exporter: Exporter = "dynamo",
    keep_batchnorm: bool = True,
) -> onnx.ModelProto:
    """Export in eval mode; the module's training flags are as before afterwards.

    `dynamic_batch` frees axis 0 of every input whose axis 0 is as long as the first input's; an
    ExportedProgram keeps the shapes it was exported with. `keep_batchnorm=False` lets the
    torchscript exporter fold them into convolutions, as it does by default.
    """
    inputs = _checked_inputs(example_inputs)
    if exporter not in ("dynamo", "torchscript"):
        raise UsageError(f"unknown exporter {exporter!r}: take dynamo or torchscript")
    if exporter == "dynamo" and not keep_batchnorm:
        raise UsageError("the dynamo exporter always keeps batch norms: take torchscript")
    names = {
        "input_names": list(input_names) if input_names is not None else None,
        "output_names": list(output_names) if output_names is not None else None,
    }
    with _silenced(), _in_eval_mode(module):
        if exporter == "torchscript":
            model = _trace(module, inputs, names, dynamic_batch, opset, keep_batchnorm)
        else:
            model = _export(module, inputs, names, dynamic_batch, opset)
    _check_opset(model, opset)
    return model


def _checked_inputs(
    example_inputs: torch.Tensor | tuple[torch.Tensor, ...],
) -> tuple[torch.Tensor, ...]:
    import torch

    inputs = (
        (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    )
    if not inputs or not all(isinstance(value, torch.Tensor) for value in inputs):
        raise UsageError("example_inputs: give one tensor or a tuple of tensors, one per input")
    return inputs


def _export(
    module: Any,
    inputs: tuple[torch.Tensor, ...],
    names: dict[str, list[str] | None],
    dynamic_batch: bool,
    opset: int,
) -> onnx.ModelProto:
    import torch

    if isinstance(module, torch.export.ExportedProgram):
        return _run_dynamo(module, (), names, None, opset)
    if not dynamic_batch:
        return _run_dynamo(module, inputs, names, None, opset)
    free = _batched(inputs)
    shapes = tuple({0: BATCH} if batched else None for batched in free)
    try:
        return _run_dynamo(module, _widened(inputs, free), names, shapes, opset)
    except ExportError as error:
        if not _exports_with_fixed_batch(module, inputs, names, opset):
            raise
        raise ExportError(
            f"{error}; it exports with a fixed batch: make the code independent of the batch "
            "size or pass dynamic_batch=False"
        ) from error


def _run_dynamo(
    module: Any,
    inputs: tuple[torch.Tensor, ...],
    names: dict[str, list[str] | None],
    dynamic_shapes: tuple[dict[int, str] | None, ...] | None,
    opset: int,
) -> onnx.ModelProto:
    import torch

    try:
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            optimize=False,
            verbose=False,
            opset_version=opset,
            dynamic_shapes=dynamic_shapes,
            **names,
        )
    except Exception as error:
        raise ExportError(_explain(module, error)) from error
    return program.model_proto


def _exports_with_fixed_batch(
    module: Any,
    inputs: tuple[torch.Tensor, ...],
    names: dict[str, list[str] | None],
    opset: int,
) -> bool:
    try:
        _run_dynamo(module, inputs, names, None, opset)
    except ExportError:
        return False
    return True


def _trace(
    module: Any,
    inputs: tuple[torch.Tensor, ...],
    names: dict[str, list[str] | None],
    dynamic_batch: bool,
    opset: int,
    keep_batchnorm: bool,
) -> onnx.ModelProto:
    import onnx
    import torch

    if isinstance(module, torch.export.ExportedProgram):
        raise UsageError("the torchscript exporter takes no ExportedProgram: take dynamo")
    named = names["input_names"] or [f"input_{index}" for index in range(len(inputs))]
    free = zip(named, _batched(inputs), strict=False)  # torch says which names are too many
    axes = {name: {0: BATCH} for name, batched in free if batched}
    mode = torch.onnx.TrainingMode
    target = io.BytesIO()
    try:
        torch.onnx.export(
            module,
            inputs,
            target,
            dynamo=False,
            verbose=False,
            opset_version=opset,
            input_names=named,
            output_names=names["output_names"],
            dynamic_axes=axes if dynamic_batch else None,
            # only folding in EVAL mode merges batch norms; PRESERVE follows the module, in eval
            do_constant_folding=not keep_batchnorm,
            training=mode.PRESERVE if keep_batchnorm else mode.EVAL,
        )
    except Exception as error:
        raise ExportError(_explain(module, error)) from error
    return onnx.load_from_string(target.getvalue())


def _batched(inputs: tuple[torch.Tensor, ...]) -> list[bool]:
    first = inputs[0]
    if first.ndim == 0:
        return [False] * len(inputs)
    return [value.ndim > 0 and value.shape[0] == first.shape[0] for value in inputs]


def _widened(inputs: tuple[torch.Tensor, ...], free: list[bool]) -> tuple[torch.Tensor, ...]:
    """A batch of one becomes two: torch.export takes an axis of length 1 for a constant."""
    import torch

    if not free[0] or inputs[0].shape[0] != 1:
        return inputs
    return tuple(
        torch.cat((value, value)) if batched else value
        for value, batched in zip(inputs, free, strict=True)
    )


def _check_opset(model: onnx.ModelProto, opset: int) -> None:
    given = next(entry.version for entry in model.opset_import if entry.domain == "")
    if given != opset:
        raise ExportError(f"torch exported opset {given}, not the {opset} asked for: pass another")


@contextlib.contextmanager
def _in_eval_mode(module: Any) -> Iterator[None]:
    import torch

    if isinstance(module, torch.export.ExportedProgram):
        yield
        return
    flags = {part: part.training for part in module.modules()}
    # modules made by torch.export refuse eval(); their mode was fixed when they were exported
    with contextlib.suppress(NotImplementedError):
        module.eval()
    try:
        yield
    finally:
        for part, training in flags.items():
            part.training = training


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Both exporters print, log and warn about their own inner workings."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    sink = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(sink),
            contextlib.redirect_stderr(sink),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _explain(module: Any, error: BaseException) -> str:
    """One line: the module, what torch says at the bottom of it all, the user's line."""
    while error.__cause__ is not None:
        error = error.__cause__
    where = _user_line(error)
    place = f" at {where}" if where else ""
    return f"{type(module).__name__} cannot be exported{place}: {_reason(error)}"


def _reason(error: BaseException) -> str:
    text = re.sub(r"\x1b\[\d+m", "", str(error))
    operator = re.search(r"OpOverload\(op='([\w.]+)'", text)
    if operator is None:
        operator = re.search(r"the operator '([\w:.]+)'", text)
    if operator is not None:
        return (
            f"ONNX has no translation of the operator {operator.group(1)}; "
            "replace it in the module by operators that have one"
        )
    if "static shape" in text:
        return "the code fixes the batch size"
    if "data-dependent" in text:
        return (
            "the code branches on, or takes a size from, the value of a tensor; "
            "use torch.where or torch.cond, or a fixed size"
        )
    line = " ".join(text.split("\n\n")[0].split()) or type(error).__name__
    return line if len(line) <= LONGEST_REASON else f"{line[:LONGEST_REASON]}..."


def _user_line(error: BaseException) -> str | None:
    """The deepest line of the traceback that is neither torch's nor ours."""
    import torch

    ours = (str(Path(torch.__file__).parent), __file__)
    frames = traceback.extract_tb(error.__traceback__)
    outside = [frame for frame in frames if not frame.filename.startswith(ours)]
    outside = [frame for frame in outside if Path(frame.filename).is_file()]
    if not outside:
        return None
    return f"{outside[-1].filename}:{outside[-1].lineno}"
