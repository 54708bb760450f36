"""Where graphs are compared by default."""

from __future__ import annotations

import torch
from conftest import graph_from, run_pass

from graphopt.channels.groups import Channels
from graphopt.channels.plan import Plan
from graphopt.channels.removal import remove
from graphopt.frontends.normal_form import normalize
from graphopt.frontends.torch_module import to_onnx
from graphopt.ir.graph import Graph
from graphopt.oracle import Oracle, departure
from graphopt.passes.distill.pairing import kept_channels
from graphopt.passes.distill.taps import default_taps, head_inputs, head_tensors, stage_ends
from graphopt.zoo import build

CLASSIFIER = """(float[N,3,16,16] x) => (float[N,5] y)
    <float[4,3,3,3] w1, float[8,4,3,3] w2, float[8,8,3,3] w3, float[8,5] f, float[5] b>
    { c1 = Conv <pads = [1,1,1,1]> (x, w1)  r1 = Relu (c1)
      c2 = Conv <pads = [1,1,1,1], strides = [2,2]> (r1, w2)  r2 = Relu (c2)
      m = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r2)
      c3 = Conv <pads = [1,1,1,1]> (m, w3)  r3 = Relu (c3)
      p = GlobalAveragePool (r3)  q = Flatten (p)  g = MatMul (q, f)  l = Add (g, b)  y = Softmax (l) }"""
DETECTOR = """(float[N,3,16,16] x) => (float[N,2,128] y)
    <float[4,3,3,3] w1, float[8,4,3,3] w2, float[2,4,1,1] h1, float[2,8,1,1] h2, int64[3] s = {0, 2, -1}>
    { c1 = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w1)  r1 = Relu (c1)
      c2 = Conv <pads = [1,1,1,1]> (r1, w2)  r2 = Relu (c2)
      a = Conv (r1, h1)  b = Conv (r2, h2)
      fa = Reshape (a, s)  fb = Reshape (b, s)  o = Concat <axis = 2> (fa, fb)  y = Sigmoid (o) }"""

WITH_BATCHNORMS = """(float[N,3,16,16] x) => (float[N,2,16,8] y)
    <float[4,3,3,3] w1, float[2,4,1,1] h1, float[2,4,1,1] h2, float[4] s, float[4] m, float[4] var,
     float[2] s2, float[2] m2, float[2] var2>
    { c1 = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w1)
      n1 = BatchNormalization (c1, s, m, m, var)  r1 = Relu (n1)
      ca = Conv (r1, h1)  a = BatchNormalization (ca, s2, m2, m2, var2)
      cb = Conv (r1, h2)  b = BatchNormalization (cb, s2, m2, m2, var2)
      o = Concat <axis = 2> (a, b)  y = Sigmoid (o) }"""


def test_classifier() -> None:
    graph = graph_from(CLASSIFIER)
    assert head_tensors(graph) == ["l"]
    assert head_inputs(graph) == ["r3"]
    assert stage_ends(graph) == ["r1", "r2", "r3"]
    assert default_taps(graph, graph) == (["l"], ["r1", "r2", "r3"])


def test_detector_before_its_decoder() -> None:
    graph = graph_from(DETECTOR)
    assert sorted(head_tensors(graph)) == ["a", "b"]
    assert sorted(head_inputs(graph)) == ["r1", "r2"]


def test_the_batchnorm_of_a_head_is_part_of_it_as_where_it_is_folded() -> None:
    teacher = graph_from(WITH_BATCHNORMS)
    ran = run_pass("fuse-conv-bn", teacher)
    student = ran.graph
    assert "BatchNormalization" not in ran.ops
    heads, features = default_taps(student, teacher)
    assert (sorted(heads), features) == (["a", "b"], default_taps(teacher, teacher)[1])
    for graph in (teacher, student):
        graph.outputs = [graph.tensors()[name] for name in heads + features]
    assert departure(teacher, student, Oracle(teacher).samples[0], 1e-5) is None


def test_only_names_both_have() -> None:
    teacher, student = graph_from(CLASSIFIER), graph_from(CLASSIFIER)
    student.tensors()["r2"].name = "other"
    assert default_taps(student, teacher)[1] == ["r1", "r3"]


def test_yolo_heads_and_scales() -> None:
    for exporter in ("torchscript", "dynamo"):
        module = build("yolov3-tiny").eval()
        graph = normalize(to_onnx(module, torch.randn(1, 3, 128, 128), exporter=exporter))
        heads, features = default_taps(graph, graph)
        assert len(heads) == 2
        assert len(features) >= 5


def pruned(graph: Graph) -> tuple[Graph, Plan]:
    student = graph.copy()
    channels = Channels(student)
    units = [int(u) for group in channels.groups for u in group.units[1::2]]
    plan = Plan.removing(channels, units)
    remove(channels, units)
    return student, plan


def test_kept_channels_follow_the_plan_to_every_tensor() -> None:
    teacher = graph_from(CLASSIFIER)
    student, plan = pruned(teacher)
    kept = kept_channels(teacher, plan, ["r1", "r2", "m", "r3", "l"])
    assert {name: k.indices for name, k in kept.items()} == {
        "r1": (0, 2),
        "r2": (0, 2, 4, 6),
        "m": (0, 2, 4, 6),
        "r3": (0, 2, 4, 6),
    }
    assert teacher.tensors()["w1"].values.shape == (4, 3, 3, 3)
    assert student.tensors()["w1"].values.shape == (2, 3, 3, 3)
