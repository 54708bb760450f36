"""The normal form: every dialect comes out the same, and computes what it computed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest

from graphopt.errors import LoadError
from graphopt.frontends.normal_form import OPSET, normalize
from graphopt.ir.graph import Constant, Graph
from graphopt.ir.proto import to_proto
from graphopt.ir.verify import verify
from graphopt.oracle import Oracle
from graphopt.runtime.run import open_graph, open_proto


def parsed(body: str, *, opset: int = 20, ir: int = 10, functions: str = "") -> onnx.ModelProto:
    head = f'<ir_version: {ir}, opset_import: ["": {opset}, "local": 1]>'
    return onnx.parser.parse_model(f"{head} g {body} {functions}")


def normal(model: onnx.ModelProto) -> Graph:
    """The normal form, proven equal to the model it came from."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    graph = normalize(twin)
    verify(graph)
    assert Oracle(graph, reference=open_proto(model, {})).check(graph, 0.0).passed
    return graph


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def test_constant_nodes_become_constants_of_the_right_type() -> None:
    graph = normal(
        parsed(
            """(float[2] x) => (float[2] y, float[2] z) {
            a = Constant <value_floats = [1.5, 2.5]> ()  b = Constant <value_float = 3.0> ()
            c = Constant <value_ints = [2]> ()  d = Constant <value = float {0.5}> ()
            e = Reshape (a, c)  f = Mul (x, e)  y = Add (f, b)  z = Sub (y, d) }"""
        )
    )
    assert "Constant" not in ops(graph)
    types = {
        t.name: str(t.values.dtype) for t in graph.tensors().values() if isinstance(t, Constant)
    }
    # graphsurgeon 0.6.1 makes float64 of value_floats, and an invalid model of the graph.
    assert types == {"a": "float32", "b": "float32", "c": "int64", "d": "float32"}


def test_a_constant_that_is_an_output_stays_a_node() -> None:
    graph = normal(
        parsed(
            "(float[2] x) => (float[2] y, int64[2] k) { k = Constant <value_ints = [3, 4]> ()  y = Relu (x) }"
        )
    )
    assert sorted(ops(graph)) == ["Constant", "Relu"]


def test_identities_go_but_interfaces_stay() -> None:
    graph = normal(
        parsed(
            """(float[2] x) => (float[2] x_again, float[2] y, float[2] y_again)
            { a = Identity (x)  b = Relu (a)  y = Identity (b)  y_again = Identity (y)  x_again = Identity (x) }"""
        )
    )
    assert sorted(ops(graph)) == ["Identity", "Identity", "Relu"]
    assert [t.name for t in graph.outputs] == ["x_again", "y", "y_again"]


def test_functions_are_inlined() -> None:
    graph = normal(
        parsed(
            "(float[2] x) => (float[2] y) { a = local.twice (x)  y = local.twice (a) }",
            functions='<opset_import: ["": 20], domain: "local"> twice (v) => (w) { t = Constant <value_float = 2.0> ()  w = Mul (v, t) }',
        )
    )
    assert ops(graph) == ["Mul", "Mul"]


@pytest.mark.parametrize("opset", range(7, 21))
def test_every_opset_from_seven_is_raised(opset: int) -> None:
    graph = normal(
        parsed(
            """(float[1,3,8,8] x) => (float[1,2,6,6] y) <float[2,3,3,3] w>
            { c = Conv (x, v)  y = Relu (c) }""".replace("(x, v)", "(x, x2)").replace(
                "x) =>", "x, float[2,3,3,3] x2) =>"
            ),
            opset=opset,
            ir=4,
        )
    )
    assert graph.opset == OPSET


def test_a_newer_opset_is_kept() -> None:
    assert normal(parsed("(float[2] x) => (float[2] y) { y = Relu (x) }", opset=21)).opset == 21


def test_old_operators_are_converted() -> None:
    graph = normal(
        parsed(
            "(float[1,1,2,2] x) => (float[1,1,4,4] y) { s = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> ()  y = Upsample (x, s) }",
            opset=9,
            ir=4,
        )
    )
    assert ops(graph) == ["Resize"]


def test_initializers_listed_as_inputs_are_constants() -> None:
    model = parsed("(float[2] x, float[2] w) => (float[2] y) { y = Mul (x, w) }", opset=8, ir=3)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32([2, 3]), "w"))
    assert [t.name for t in normal(model).inputs] == ["x"]


def test_names_are_repaired() -> None:
    model = parsed("(float[2] x) => (float[2] y) { a = Relu (x)  b = Relu (a)  y = Relu (b) }")
    model.graph.node[0].name = model.graph.node[1].name = "same"
    model.graph.node[2].name = ""
    graph = normalize(model)  # ONNX Runtime itself refuses two nodes of one name
    names = [n.name for n in graph.nodes]
    assert len(set(names)) == 3
    assert all(names)


def test_shapes_are_inferred_and_the_batch_stays_symbolic() -> None:
    graph = normal(
        parsed(
            "(float[N,3,8,8] x) => (float[?,?,?,?] y) <float[4,3,3,3] w> { c = Conv (x, k)  y = Relu (c) }".replace(
                "<float[4,3,3,3] w>", ""
            ).replace("x) =>", "x, float[4,3,3,3] k) =>")
        )
    )
    assert graph.nodes[0].outputs[0].shape == ["N", 4, 6, 6]


def test_stale_sizes_of_minus_one_become_free() -> None:
    model = parsed("(float[2] x) => (float[2] y) { y = Relu (x) }")
    for info in (model.graph.input[0], model.graph.output[0]):
        info.type.tensor_type.shape.dim[0].dim_value = -1
    graph = normalize(model)
    assert graph.inputs[0].shape == [None]
    assert Oracle(graph).check(graph, 0.0).passed


def test_metadata_survives() -> None:
    model = parsed("(float[2] x) => (float[2] y) { y = Relu (x) }", opset=13)
    onnx.helper.set_model_props(model, {"names": "{0: 'hand'}", "stride": "32"})
    model.producer_name = "someone"
    graph = normalize(model)
    written, _ = to_proto(graph.copy())
    assert {p.key: p.value for p in written.metadata_props} == {
        "names": "{0: 'hand'}",
        "stride": "32",
    }
    assert written.producer_name == "someone"


def test_what_the_model_says_of_itself_survives() -> None:
    model = parsed("(float[2] x) => (float[2] y) { y = Relu (x) }", opset=13)
    model.doc_string, model.domain, model.model_version = "finds cats", "org.cats", 7
    written, _ = to_proto(normalize(model).copy())
    assert (written.doc_string, written.domain, written.model_version) == (
        "finds cats",
        "org.cats",
        7,
    )


BRANCHES = """(float[2] x, bool p) => (float[2] y) <float[2] k = {1.0, 2.0}>
    { a = Mul (x, k)
      y = If (p) <
        then_branch = t () => (float[2] t) <float[2] w = {3.0, 4.0}> { b = Mul (a, w)  t = Add (b, k) },
        else_branch = e () => (float[2] e) <float[2] w = {5.0, 6.0}> { c = Identity (a)  e = Mul (c, w) } > }"""


def test_subgraphs_keep_their_meaning() -> None:
    graph = normal(parsed(BRANCHES))
    written, _ = to_proto(graph)
    (branch,) = (n for n in written.graph.node if n.op_type == "If")
    assert all(not a.g.initializer for a in branch.attribute), "written twice: here and outside"
    assert len(written.graph.initializer) == 3


def test_a_copy_keeps_subgraphs_apart() -> None:
    graph = normal(parsed(BRANCHES))
    twin = graph.copy().copy()
    verify(twin)
    assert Oracle(graph).check(twin, 0.0).passed


def test_a_loop() -> None:
    graph = normal(
        parsed(
            """(float[2] x, int64 n) => (float[2] y) <bool go = {1}, float[2] k = {1.5, 0.5}>
            { y = Loop (n, go, x) < body = b (int64 i, bool c, float[2] s) => (bool c2, float[2] s2)
                { c2 = Identity (c)  m = Mul (s, k)  s2 = Add (m, x) } > }"""
        )
    )
    assert ops(graph) == ["Loop"]


def test_a_branch_that_returns_an_initializer() -> None:
    normal(
        parsed(
            """(float[2] x, bool p) => (float[2] y) { y = If (p) <
                then_branch = t () => (float[2] w) <float[2] w = {3.0, 4.0}> { },
                else_branch = e () => (float[2] e) { e = Relu (x) } > }"""
        )
    )


def test_a_branch_that_returns_a_tensor_from_outside() -> None:
    # ONNX Runtime refuses this one, onnx.reference runs it.
    model = parsed(
        """(float[2] x, bool p) => (float[2] y) { r = Relu (x)  y = If (p) <
            then_branch = t () => (float[2] r) { },
            else_branch = e () => (float[2] e) { e = Neg (r) } > }"""
    )
    graph = normalize(model)
    verify(graph)
    for flag, expected in ((True, [0, 3]), (False, [0, -3])):
        feeds = {"x": np.array([-2, 3], np.float32), "p": np.array(flag)}
        np.testing.assert_array_equal(open_graph(graph).run(feeds)["y"], expected)


@pytest.mark.parametrize(
    "dtype",
    [
        "FLOAT16",
        "BFLOAT16",
        "INT8",
        "UINT8",
        "INT4",
        "UINT4",
        "BOOL",
        "DOUBLE",
        "FLOAT8E4M3FN",
        "FLOAT8E4M3FNUZ",
        "FLOAT8E5M2FNUZ",
    ],
)
def test_constants_of_every_type_round_trip(dtype: str) -> None:
    kind = getattr(onnx.TensorProto, dtype)
    values = np.arange(10).astype(onnx.helper.tensor_dtype_to_np_dtype(kind)).reshape(2, 5)
    model = parsed("(float[2] x) => (float[2] y) { y = Relu (x)  z = Shape (w) }", opset=21)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "w"))
    model.graph.node[1].output[0] = "z"
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", onnx.TensorProto.INT64, [2]))
    written, _ = to_proto(normalize(model))
    (tensor,) = (t for t in written.graph.initializer if t.name == "w")
    assert tensor.data_type == kind
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), values)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda m: m.graph.sparse_initializer.add(), "sparse initializers"),
        (
            lambda m: m.graph.node[0].attribute.append(
                onnx.helper.make_attribute("t", onnx.helper.make_tensor_type_proto(1, [2]))
            ),
            "holds a type",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused(edit: object, message: str) -> None:
    model = parsed("(float[2] x) => (float[2] y) { y = Relu (x) }")
    edit(model)  # type: ignore[operator]
    with pytest.raises(LoadError, match=message):
        normalize(model)
