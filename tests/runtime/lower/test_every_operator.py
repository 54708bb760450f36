"""Every case of every operator the view knows, lowered: as ONNX Runtime, or refused by name."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "fx"))  # where the cases are

import operator_cases_places
import operator_cases_quantization
import operator_cases_values
import operator_cases_windows

from graphopt.errors import RunError, UnsupportedError, UsageError
from graphopt.frontends.normal_form import normalize
from graphopt.pipeline import Pipeline
from graphopt.registry import LOWERING, default_passes, pass_class
from graphopt.runtime.run import open_proto
from tests.runtime.lower.interpreter import Interpreter, lowered

_MODULES = (
    operator_cases_windows,
    operator_cases_values,
    operator_cases_places,
    operator_cases_quantization,
)
CASES: dict[str, list[Any]] = defaultdict(list)
for _module in _MODULES:
    for _case in _module.CASES:
        CASES[_case.op].append(_case)

# What TVM's importer makes something else of, so many cases of each: the proof refuses such bundles. Of
# the pools it is shape inference that counts a window too many (steps wider than windows, rounded up).
WRONG = {
    "MaxPool": 1,
    "AveragePool": 2,
    "LpPool": 6,
    "Resize": 7,  # cubic with scales that are not the ratio of the sizes, and antialiased
    "IsInf": 2,
    "Max": 1,  # of what is no number
    "Min": 1,
    "Slice": 1,  # backwards from before the first
    "OneHot": 1,
    "RoiAlign": 5,
    "QuantizeLinear": 1,
    "DynamicQuantizeLinear": 1,
}
# What LLVM refuses: `Compiled.write_object` names the node.
_NOT_COMPILED = ("ScatterND", "ScatterElements", "MaxUnpool", "Equal")


@pytest.mark.slow
@pytest.mark.parametrize("op", CASES)
def test_is_onnx_runtimes_or_refused(op: str, tmp_path: Path) -> None:
    wrong = []
    for number, case in enumerate(CASES[op]):
        folder = tmp_path / str(number)  # a library that is loaded must not be written over
        folder.mkdir()
        wrong += [case.name] if _is_wrong(case, folder) else []
    assert len(wrong) == WRONG.get(op, 0), wrong


def _is_wrong(case: Any, folder: Path) -> bool:
    model, feeds = case.model()
    if any(0 in v.shape for v in feeds.values()):
        return False  # compiled networks have no empty tensors
    try:
        wanted = open_proto(model, {}).run(feeds)
    except RunError:
        return False
    passes = [*default_passes(), *(pass_class(n)() for n in LOWERING)]
    graph = Pipeline(passes).run(normalize(model)).graph
    try:
        program = lowered(graph)
        made = Interpreter(program, folder).run({p.name: feeds[p.name] for p in program.inputs})
    except (UnsupportedError, UsageError):
        return False
    except RuntimeError:
        assert case.op in _NOT_COMPILED
        return False
    return not all(_is_close(made[name], right) for name, right in wanted.items())


def _is_close(found: Any, right: Any) -> bool:
    if found.shape != right.shape or found.dtype != right.dtype:
        return False
    if right.dtype.kind != "f":
        return np.array_equal(found, right)
    own = right.astype(np.float64)
    scale = np.abs(own[np.isfinite(own)]).max(initial=1.0)
    rtol = 1e-2 if right.dtype == np.float16 else 1e-4
    return np.allclose(found.astype(np.float64), own, rtol, rtol * scale, equal_nan=True)
