"""Elementwise operators on vectors equal ONNX Runtime's, over the numbers networks have and beyond."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from harness import MACHINES, Stored, Values, call, compiled

from graphopt.runtime.kernels.formulas import FORMULAS
from graphopt.runtime.kernels.pointwise import Apply, Expression, Operand, Pointwise, Strides

ATTRIBUTES = {
    "LeakyRelu": {"alpha": 0.1},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "Elu": {"alpha": 1.5},
    "Selu": {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
    "Celu": {"alpha": 0.7},
}
POSITIVE = ("Sqrt", "Reciprocal")
BINARY = ("Add", "Sub", "Mul", "Div", "Min", "Max", "PRelu")
# exp saturates at the ends of float32, where ONNX Runtime gives infinity and zero.
LIMITS = {"Exp": (-87.0, 88.0)}
HEIGHT, WIDTH = 3, 40


def given(op: str, seed: int) -> Values:
    rng = np.random.default_rng(seed)
    low, high = LIMITS.get(op, (-100.0, 100.0))
    x = np.concatenate([rng.uniform(low, high, 500), rng.normal(0, 2, 440), np.linspace(-1, 1, 20)])
    x = np.abs(x) + 0.01 if op in POSITIVE else x
    return rng.permutation(x).astype(np.float32).reshape(8, HEIGHT, WIDTH)


def wanted(op: str, x: Values, other: Values, attrs: dict[str, float]) -> Values:
    inputs = ["x", "o"] if op in BINARY else ["x"]
    extra = []
    if op == "Clip":
        inputs += ["low", "high"]
        extra = [onnx.helper.make_tensor(n, 1, [], [v]) for n, v in (("low", -0.5), ("high", 0.75))]
        attrs = {}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op, inputs, ["y"], **attrs)],
        "g",
        [
            onnx.helper.make_tensor_value_info(n, 1, [8, HEIGHT, WIDTH])
            for n in inputs[:2]
            if n in "xo"
        ],
        [onnx.helper.make_tensor_value_info("y", 1, [8, HEIGHT, WIDTH])],
        extra,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    model.ir_version = 9
    session = ort.InferenceSession(model.SerializeToString())
    feeds = {"x": x, "o": other}
    return session.run(None, {k: feeds[k] for k in inputs if k in feeds})[0]


def run(
    op: str, attrs: dict[str, float], x: Values, other: Values, kind: str, folder: Path
) -> Values:
    machine = MACHINES[kind]
    binary = op in BINARY
    source, second = (
        Stored(8, HEIGHT, WIDTH, machine.lanes),
        Stored(8, HEIGHT, WIDTH, machine.lanes),
    )
    sink = Stored(8, HEIGHT, WIDTH, machine.lanes)
    operands = (Operand("image", second.strides),) if binary else ()
    step = Apply(op, (0, 1) if binary else (0,), tuple(sorted(attrs.items())))
    kernel = Pointwise(
        machine,
        source.strides,
        sink.strides,
        sink.blocks,
        HEIGHT,
        WIDTH,
        Expression(operands, (step,)),
    )
    library = compiled({"kernel": kernel}, folder)
    arrays = [source.put(x).pixels, sink.pixels] + [second.put(other).pixels] * binary
    call(library.kernel, arrays, 0, kernel.parts)
    return sink.get()


@pytest.mark.parametrize("op", FORMULAS)
def test_equals_onnxruntime(op: str, tmp_path: Path) -> None:
    attrs = ATTRIBUTES.get(op, {"min": -0.5, "max": 0.75} if op == "Clip" else {})
    x, other = given(op, 0), given("Sqrt" if op == "Div" else op, 1)
    made = run(op, attrs, x, other, "avx2", tmp_path)
    right = wanted(op, x, other, attrs)
    assert np.all(np.abs(made - right) <= 3e-6 * np.abs(right) + 3e-7)


def test_constants_and_channels(tmp_path: Path) -> None:
    """2 x + v[c], on a last channel block that is not full."""
    machine = MACHINES["neon"]
    x = given("Add", 0)[:6]
    v = np.arange(8, dtype=np.float32)
    source, sink = Stored(6, HEIGHT, WIDTH, 4).put(x), Stored(6, HEIGHT, WIDTH, 4)
    steps = (Apply("Constant", (), (("value", 2.0),)), Apply("Mul", (2, 0)), Apply("Add", (3, 1)))
    text = Expression((Operand("channels", Strides(0, 4)),), steps)
    kernel = Pointwise(machine, source.strides, sink.strides, 2, HEIGHT, WIDTH, text)
    library = compiled({"kernel": kernel}, tmp_path)
    call(library.kernel, [source.pixels, sink.pixels, v], 0, kernel.parts)
    assert np.array_equal(sink.get(), 2 * x + v[:6, None, None])


@pytest.mark.parametrize("op", ["Sigmoid", "Mish", "Relu", "HardSwish"])
def test_float16_is_float32_rounded(op: str, tmp_path: Path) -> None:
    machine = replace(MACHINES["avx2"], dtype="float16")
    x = np.random.default_rng(0).normal(0, 3, (8, HEIGHT, WIDTH)).astype(np.float16)
    memory = np.ascontiguousarray(x.transpose(1, 2, 0))
    made = np.empty_like(memory)
    strides = Strides(WIDTH * 8, HEIGHT * WIDTH * 8)
    text = Expression((), (Apply(op, (0,)),))
    kernel = Pointwise(machine, strides, strides, 1, HEIGHT, WIDTH, text)
    call(compiled({"kernel": kernel}, tmp_path).kernel, [memory, made], 0, kernel.parts)
    right = wanted(op, memory.astype(np.float32).reshape(8, HEIGHT, WIDTH), x, {})
    error = np.abs(made.reshape(right.shape).astype(np.float32) - right)
    assert np.all(error <= 2e-3 * np.maximum(np.abs(right), 1))
