"""Every operator of the FX view against ONNX Runtime, and its gradient against finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnxruntime
import operator_cases_places
import operator_cases_quantization
import operator_cases_values
import operator_cases_windows
import pytest
import torch
from hypothesis import assume, given, settings
from onnx import helper
from onnx.reference import ReferenceEvaluator
from operator_cases import Array, Case, Const, Random, case, const, normal, one_graph
from operator_cases_drawn import DRAWN

from graphopt.errors import UnsupportedError
from graphopt.frontends.normal_form import normalize
from graphopt.fx import to_fx
from graphopt.fx.table import OPERATORS
from graphopt.oracle import error_of

EXAMPLES = 60  # per family of drawn cases
CASES: list[Case] = [
    *operator_cases_values.CASES,
    *operator_cases_windows.CASES,
    *operator_cases_places.CASES,
    *operator_cases_quantization.CASES,
]


def by_onnx_runtime(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Any] | None:
    """What ONNX Runtime computes; None where it cannot."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        return list(session.run(None, feeds))
    except Exception:  # its errors share no base class
        return None


def viewed(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    results = to_fx(normalize(copy))(*[torch.from_numpy(v.copy()) for v in feeds.values()])
    return [r.detach().numpy() for r in (results if isinstance(results, tuple) else (results,))]


def agree(found: list[Array], expected: list[Any], rtol: float = 1e-5) -> None:
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype
        assert mine.shape == theirs.shape
        assert error_of(theirs, mine) <= rtol


def numbered(cases: list[Case]) -> list[Any]:
    return [pytest.param(c, id=f"{i}-{c.name}"[:80]) for i, c in enumerate(cases)]


@pytest.mark.parametrize("each", numbered(CASES))
def test_computes_what_onnx_runtime_does(each: Case) -> None:
    model, feeds = each.model()
    expected = by_onnx_runtime(model, feeds)
    if expected is None:  # it has no kernel
        expected = list(ReferenceEvaluator(model).run(None, feeds))
    agree(viewed(model, feeds), expected, each.rtol)


@pytest.mark.parametrize("family", sorted(DRAWN))
def test_computes_the_same_for_any_parameters(family: str) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(DRAWN[family])
    def check(each: Case) -> None:
        model, feeds = each.model()
        expected = by_onnx_runtime(model, feeds)
        assume(expected is not None)
        agree(viewed(model, feeds), expected)

    check()


# --- gradients --------------------------------------------------------------------------------

# Steps, positions, truth values and types: their gradient is 0 or there is none.
FLAT = {
    *("And", "ArgMax", "ArgMin", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor"),
    *("Cast", "CastLike", "Ceil", "ConstantOfShape", "ConvInteger", "Equal", "EyeLike", "Floor"),
    *("Greater", "GreaterOrEqual", "Hardmax", "IsInf", "IsNaN", "Less", "LessOrEqual"),
    *("MatMulInteger", "NonMaxSuppression", "NonZero", "Not", "Or", "QLinearConv", "QLinearMatMul"),
    *("QuantizeLinear", "Range", "Round", "SequenceLength", "Shape", "Sign", "Size", "Xor"),
}


def has_gradient(each: Case) -> bool:
    """Values given one by one stand at edges; drawn ones are away from kinks."""
    fed = [v for v in each.inputs if v is not None and not isinstance(v, Const)]
    real = [v for v in fed if not isinstance(v, Random) or v.is_float]
    real = [v for v in real if isinstance(v, Random) or v.dtype.kind == "f"]
    drawn = all(isinstance(v, Random) and 0 < math.prod(v.shape) < 999 for v in real)
    return bool(real) and drawn and each.op not in FLAT


SMOOTH = [c for c in CASES if has_gradient(c)]


@pytest.mark.parametrize("each", numbered(SMOOTH))
def test_gradients_are_those_of_finite_differences(each: Case) -> None:
    model, feeds = each.model()
    view = to_fx(normalize(model)).double()
    fed = [torch.from_numpy(v.copy()) for v in feeds.values()]
    fed = [v.double().requires_grad_() if v.is_floating_point() else v for v in fed]
    names, weights = (
        zip(*view.named_parameters(), strict=True) if list(view.parameters()) else ((), ())
    )

    def outputs(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = dict(zip(names, arguments[len(fed) :], strict=True))
        found = torch.func.functional_call(view, given, arguments[: len(fed)])
        found = found if isinstance(found, tuple) else (found,)
        return tuple(f for f in found if f.is_floating_point())

    assert all(f.requires_grad for f in outputs(*fed, *weights))
    assert torch.autograd.gradcheck(outputs, (*fed, *weights), fast_mode=True)


ROOTS = (
    "GlobalLpPool",
    "LpNormalization",
    "LpPool",
    "MeanVarianceNormalization",
    "ReduceL1",
    "ReduceL2",
)


@pytest.mark.parametrize("op", ROOTS)
def test_gradients_are_finite_where_roots_are_zero(op: str) -> None:
    how = {"kernel_shape": [2, 2]} if op == "LpPool" else {}
    model, feeds = case(op, np.zeros((2, 3, 4, 4), np.float32), **how).model()
    x = torch.from_numpy(feeds["in0"]).requires_grad_()
    to_fx(normalize(model))(x).sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


# --- devices ----------------------------------------------------------------------------------

HOST = ("Shape", "Size")  # their results stay on the CPU


@pytest.mark.parametrize("each", numbered([c for c in CASES if c.op not in HOST]))
def test_what_is_needed_is_made_where_the_data_is(each: Case) -> None:
    """The device `meta` stands in for a GPU: it refuses to meet tensors of the CPU, too."""
    model, feeds = each.model()
    view = to_fx(normalize(model)).to("meta")
    try:
        results = view(*[torch.from_numpy(v).to("meta") for v in feeds.values()])
    except NotImplementedError:  # it asks for values, which are not there
        return
    except RuntimeError as error:
        assert "item() cannot be called on meta" in str(error)
        return
    results = results if isinstance(results, tuple) else (results,)
    assert {r.device.type for r in results} == {"meta"}


# --- the table --------------------------------------------------------------------------------


def test_every_row_has_a_case() -> None:
    assert set(OPERATORS) - {c.op for c in CASES} - SEQUENCES == set()
    assert set(OPERATORS) - {c.op for c in SMOOTH} - SEQUENCES == FLAT - SEQUENCES


# --- sequences of tensors ---------------------------------------------------------------------

SEQUENCES = {
    *("ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceLength", "SplitToSequence")
}


@pytest.mark.parametrize(
    "text",
    [
        "n = Constant <value_int = -1> () s = SplitToSequence <axis = 1> (x) r = SequenceAt (s, n)",
        "n = Constant <value_int = 2> () s = SplitToSequence (x, n) r = SequenceAt (s, n)",
        "n = Constant <value_int = 1> () l = Constant <value_ints = [2, 3]> () s = SplitToSequence (x, l) r = SequenceAt (s, n)",
        "s = SplitToSequence <axis = 1, keepdims = 0> (x) r = ConcatFromSequence <axis = 0, new_axis = 1> (s)",
        "s = SequenceConstruct (x, y) r = ConcatFromSequence <axis = 1> (s)",
        "s = SequenceConstruct (x, y) r = SequenceLength (s)",
    ],
)
def test_sequences_are_lists(text: str) -> None:
    start = '<ir_version: 10, opset_import: ["": 20]> g (float[5,4] x, float[5,4] y) => (float r)'
    model = onnx.parser.parse_model(f"{start} {{ {text} }}")
    model.graph.output[0].CopyFrom(onnx.ValueInfoProto(name="r"))
    model = onnx.shape_inference.infer_shapes(model)
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal((5, 4)).astype(np.float32) for name in "xy"}
    expected = by_onnx_runtime(model, feeds)
    assert expected is not None
    agree(viewed(model, feeds), expected)


# --- refusals ---------------------------------------------------------------------------------


def refused(node: onnx.NodeProto, results: list[str], opset: int = 20) -> str:
    """What is said about a node that reads x (2, 3, 8, 8)."""
    model = one_graph([node], {"x": np.zeros((2, 3, 8, 8), np.float32)}, results, [], opset)
    with pytest.raises(UnsupportedError) as error:
        to_fx(normalize(model))
    return str(error.value)


def test_an_operator_without_a_row_is_refused_by_name() -> None:
    said = refused(helper.make_node("Bernoulli", ["x"], ["y"], name="coin"), ["y"])
    assert "Bernoulli 'coin' has no row" in said


def test_an_attribute_that_a_row_does_not_know_is_refused_by_name() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], name="bend", slope=0.1)
    assert "Relu 'bend' has the attribute 'slope'" in refused(node, ["y"])


def test_a_second_output_that_is_not_computed_is_refused_by_name() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20]> g (float[2,3,4] x, float[4] w) => (float[2,3,4] y, float[2,3,1] m)'
        " { [steady] y, m = LayerNormalization (x, w) }"
    )
    with pytest.raises(UnsupportedError, match="LayerNormalization 'steady' has a second output"):
        to_fx(normalize(model))


def test_an_unknown_domain_is_refused_by_name() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 20, "com.microsoft": 1]> g (float[2,3] x) => (float[2,3] y)'
        " { [fast] y = com.microsoft.QuickGelu (x) }"
    )
    with pytest.raises(UnsupportedError, match="com.microsoft::QuickGelu 'fast' is not a standard"):
        to_fx(normalize(model))


# --- many rows in other types -----------------------------------------------------------------

WIDE = [case(op, normal(2, 3, 4)) for op in ("Relu", "Softmax", "Gelu", "ReduceMean", "Transpose")]
WIDE += [
    case("Conv", normal(1, 2, 5, 5), const(normal(2, 2, 3, 3))),
    case("Resize", normal(1, 2, 4, 4), None, None, const([1, 2, 7, 9]), mode="cubic"),
    case("RoiAlign", normal(1, 2, 6, 6), const(np.array([[1, 1, 4, 5]], np.float32)), const([0])),
    case("LSTM", normal(3, 2, 3), const(normal(1, 16, 3)), const(normal(1, 16, 4)), hidden_size=4),
]


@pytest.mark.parametrize("each", numbered(WIDE))
def test_bfloat16_stays_bfloat16(each: Case) -> None:
    model, feeds = each.model()
    view = to_fx(normalize(model)).to(torch.bfloat16)
    result = view(*[torch.from_numpy(v).bfloat16() for v in feeds.values()])
    assert result.dtype == torch.bfloat16
