"""Runs one peer over jobs, inside the peer's own environment: reads and writes JSON lines.

A job is {"name", "file", "ratio"} for ONNX files, or {"name", "pattern" or "network", "keep"} for
torch modules; an answer adds "outcome", "layers", "reached", "parameters" and "detail".

What counts as exact: hardly two weights are equal, so the pruned weights tell which elements were
kept. The reference is the original in which, in every layer, the weights of input channels that
were removed are zero. Equal outputs mean that exactly those contributions are gone and that no
channel stands in another's place.
"""

from __future__ import annotations

import copy
import json
import signal
import sys
from typing import Any

import numpy as np

TOLERANCE = 1e-3
SECONDS = 60
Arrays = dict[str, "np.ndarray[Any, Any]"]


class NotTheSameError(Exception):
    """The pruned weights are not a selection of the original ones."""


def kept_of(
    before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]
) -> list[np.ndarray[Any, Any]]:
    """For each axis the indices that `after` kept of `before`."""
    order = np.argsort(before, axis=None)
    ranked = before.reshape(-1)[order]
    at = np.searchsorted(ranked, after.reshape(-1)).clip(max=ranked.size - 1)
    if before.ndim != after.ndim or not np.array_equal(ranked[at], after.reshape(-1)):
        raise NotTheSameError
    places = np.unravel_index(order[at], before.shape)
    # Two weights may be equal by chance: the indices found most often are those that were kept.
    kept = [
        np.sort(np.argsort(-np.bincount(p, minlength=size), kind="stable")[:left])
        for p, size, left in zip(places, before.shape, after.shape, strict=True)
    ]
    if not np.array_equal(before[np.ix_(*kept)], after):
        raise NotTheSameError
    return kept


def without(before: np.ndarray[Any, Any], kept: np.ndarray[Any, Any], axis: int) -> Any:
    """`before` with zeros for what was removed of one axis."""
    mask = np.zeros(before.shape[axis], bool)
    mask[kept] = True
    shape = [-1 if a == axis else 1 for a in range(before.ndim)]
    return before * mask.reshape(shape).astype(before.dtype)


def error(expected: list[Any], found: list[Any]) -> float:
    """The worst difference, relative to each output's largest value."""
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape:
            return float("inf")
        worst = max(worst, float(np.abs(a - b).max() / (np.abs(a).max() + 1e-9)) if a.size else 0)
    return worst


def judged(job: dict[str, Any], pruned: Any, counts: tuple[int, int, float]) -> dict[str, Any]:
    """The answer: `pruned()` gives the expected and the found outputs."""
    layers, reached, parameters = counts
    answer = {"name": job["name"], "layers": layers, "reached": reached, "parameters": parameters}
    if not parameters:
        return {**answer, "outcome": "refused"}
    try:
        worst = error(*pruned())
    except NotTheSameError:
        return {**answer, "outcome": "unclear", "detail": "weights were rewritten"}
    outcome = "exact" if worst <= TOLERANCE else "wrong"
    return {**answer, "outcome": outcome, "detail": f"error {worst:.1g}"}


# --- Torch-Pruning ----------------------------------------------------------------------------


def torch_pruning(job: dict[str, Any]) -> dict[str, Any]:
    """L2 importance, half of every layer, the layers that make outputs left out."""
    import torch
    import torch_pruning as tp

    module, example = _module(job)
    original = copy.deepcopy(module)
    layers = {k: m for k, m in module.named_modules() if getattr(m, "weight", None) is not None}
    keep = [layers[k] for k in job["keep"] if k in layers]
    pruner = tp.pruner.MetaPruner(
        module, example, importance=tp.importance.MagnitudeImportance(p=2), pruning_ratio=0.5,
        ignored_layers=keep,
    )  # fmt: skip
    pruner.step()
    before = {k: v.numpy() for k, v in original.state_dict().items()}
    after = {k: v.numpy() for k, v in module.state_dict().items()}
    kinds = (torch.nn.modules.conv._ConvNd, torch.nn.Linear)
    linear = [k for k, m in original.named_modules() if isinstance(m, kinds)]
    reached = [k for k in linear if _fewer_outputs(original, before, after, k)]
    names = [k for k, _ in original.named_parameters()]
    sizes = [sum(arrays[k].size for k in names) for arrays in (before, after)]

    def run() -> tuple[list[Any], list[Any]]:
        masked = dict(original.state_dict())
        for name in linear:
            key, axis = f"{name}.weight", _input_axis(original.get_submodule(name))
            kept = kept_of(before[key], after[key])
            masked[key] = torch.from_numpy(without(before[key], kept[axis], axis))
        original.load_state_dict(masked)
        with torch.no_grad():
            return tuple(_flat(m(example)) for m in (original, module))

    return judged(job, run, (len(linear), len(reached), 1 - sizes[1] / sizes[0]))


def _module(job: dict[str, Any]) -> Any:
    import torch

    if "pattern" in job:
        from benchmarks.patterns import patterns

        pattern = next(p for p in patterns() if p.name == job["pattern"])
        return pattern.module(), pattern.example()
    from graphopt import zoo

    channels, *_ = zoo.spec(job["network"]).input_shape
    size = job["size"]
    return zoo.build(job["network"]).eval(), torch.randn(1, channels, size, size)


def _fewer_outputs(module: Any, before: Arrays, after: Arrays, name: str) -> bool:
    axis = 1 - _input_axis(module.get_submodule(name))
    key = f"{name}.weight"
    return after[key].shape[axis] < before[key].shape[axis]


def _input_axis(layer: Any) -> int:
    return 0 if getattr(layer, "transposed", False) and layer.groups == 1 else 1


def _flat(outputs: Any) -> list[Any]:
    if isinstance(outputs, list | tuple):
        return [a for each in outputs for a in _flat(each)]
    return [outputs.numpy()]


# --- onnxsim ----------------------------------------------------------------------------------


def onnxsim(job: dict[str, Any]) -> dict[str, Any]:
    """`apply_structured_pruning` after `simplify`, half of every layer by L2 norm."""
    import onnx
    import onnxsim as peer
    from onnx import numpy_helper

    model, _ = peer.simplify(onnx.load(job["file"]))
    original = onnx.ModelProto.FromString(model.SerializeToString())
    pruned = peer.apply_structured_pruning(model, sparsity=0.5)
    before, after = (
        {t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (original, pruned)
    )
    axes = _axes(original, before)
    known = {k: v for k, v in axes.items() if k in after}
    reached = [k for k, (_, out) in known.items() if after[k].shape[out] < before[k].shape[out]]
    sizes = [sum(v.size for v in a.values() if v.dtype.kind == "f") for a in (before, after)]

    def run() -> tuple[list[Any], list[Any]]:
        for tensor in original.graph.initializer:
            if tensor.name in axes:
                if tensor.name not in known:
                    raise NotTheSameError
                axis = axes[tensor.name][0]
                kept = kept_of(before[tensor.name], after[tensor.name])
                values = without(before[tensor.name], kept[axis], axis)
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        feeds = _feeds(original)
        return _ran(original, feeds), _ran(pruned, feeds)

    return judged(job, run, (len(axes), len(reached), 1 - sizes[1] / max(sizes[0], 1)))


def _axes(model: Any, weights: Arrays) -> dict[str, tuple[int, int]]:
    """For every layer's weight its input and its output axis."""
    found: dict[str, tuple[int, int]] = {}
    for node in model.graph.node:
        weight = node.input[1] if len(node.input) > 1 else ""
        if weight not in weights:
            continue
        rank = weights[weight].ndim
        if node.op_type == "Conv":
            found[weight] = (1, 0)
        elif node.op_type == "ConvTranspose":
            found[weight] = (0, 1)
        elif node.op_type == "MatMul" and rank > 1:
            found[weight] = (rank - 2, rank - 1)
        elif node.op_type == "Gemm":
            trans = any(a.name == "transB" and a.i for a in node.attribute)
            found[weight] = (1, 0) if trans else (0, 1)
    return found


def _feeds(model: Any) -> Arrays:
    rng = np.random.default_rng(0)
    feeds: Arrays = {}
    for each in model.graph.input:
        kind = each.type.tensor_type
        shape = [d.dim_value or (2 if a == 0 else 6) for a, d in enumerate(kind.shape.dim)]
        values = rng.standard_normal(shape)
        if kind.elem_type == 7:
            values = rng.integers(0, 10, shape)
        elif kind.elem_type == 9:
            values = values > 0
        feeds[each.name] = np.asarray(values, {1: np.float32, 7: np.int64, 9: bool}[kind.elem_type])
    return feeds


def _ran(model: Any, feeds: Arrays) -> list[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feeds)


PEERS = {"torch-pruning": torch_pruning, "onnxsim": onnxsim}


def main() -> None:
    """Answers every job of standard input; a job that fails or takes too long is a crash."""
    peer = PEERS[sys.argv[1]]
    signal.signal(signal.SIGALRM, _too_long)
    for line in sys.stdin:
        job = json.loads(line)
        signal.alarm(SECONDS)
        try:
            answer = peer(job)
        except Exception as failure:  # whatever it is, the user of the peer sees a traceback
            text = f"{type(failure).__name__}: {failure}".splitlines()[0][:160]
            answer = {"name": job["name"], "outcome": "crash", "detail": text}
        signal.alarm(0)
        print("ANSWER " + json.dumps(answer), flush=True)


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


if __name__ == "__main__":
    main()
