"""Modules, fx graphs and exported programs to ONNX, and what is said when that fails."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from graphopt.errors import ExportError, UsageError
from graphopt.frontends.torch_module import to_onnx

IMAGE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
EXPORTERS = ["dynamo", "torchscript"]


class Block(nn.Module):
    """Convolution, batch norm with its own statistics, dropout, mean."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.bn = nn.BatchNorm2d(4)
        for values in (self.bn.weight, self.bn.bias, self.bn.running_mean, self.bn.running_var):
            nn.init.uniform_(values, 0.5, 1.5, generator=generator)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.bn(self.conv(x)).relu()).mean((2, 3))


class BranchesOnValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class FixesBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.ones(2, 1, 1, 1) if x.shape[0] == 2 else x


class HasUntranslatable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class WrongShape(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x)


class Sum(nn.Module):
    def forward(self, x: Tensor, y: Tensor, scale: Tensor) -> Tensor:
        return (x + y) * scale


def run(proto: onnx.ModelProto, *inputs: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
    return session.run(None, feed)[0]


def axes(value: onnx.ValueInfoProto) -> list[str | int]:
    return [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_batch_norm_and_names_are_kept(exporter: str) -> None:
    module = Block()
    proto = to_onnx(module, IMAGE, exporter=exporter)
    wanted = {key for key in module.state_dict() if "tracked" not in key}
    assert operators(proto).count("BatchNormalization") == 1
    assert wanted <= {value.name for value in proto.graph.initializer}


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("batch", [1, 3])
def test_any_batch_gives_the_same_values(exporter: str, batch: int) -> None:
    module = Block().eval()
    images = IMAGE.repeat(batch, 1, 1, 1)
    with torch.no_grad():
        expected = module(images).numpy()
    proto = to_onnx(module, IMAGE, exporter=exporter)
    np.testing.assert_allclose(run(proto, images), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_the_batch_is_free_only_when_asked(exporter: str) -> None:
    free = to_onnx(Block(), IMAGE, exporter=exporter)
    fixed = to_onnx(Block(), IMAGE, exporter=exporter, dynamic_batch=False)
    assert axes(free.graph.input[0]) == ["batch", 3, 8, 8]
    assert axes(fixed.graph.input[0]) == [1, 3, 8, 8]


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_inputs_and_outputs_are_named(exporter: str) -> None:
    proto = to_onnx(Block(), IMAGE, input_names=["a"], output_names=["b"], exporter=exporter)
    assert [proto.graph.input[0].name, proto.graph.output[0].name] == ["a", "b"]


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_only_inputs_with_the_batch_are_freed(exporter: str) -> None:
    inputs = (torch.rand(1, 4), torch.rand(1, 4), torch.tensor(2.0))
    proto = to_onnx(Sum(), inputs, exporter=exporter)
    assert [axes(value) for value in proto.graph.input] == [["batch", 4], ["batch", 4], []]
    assert run(proto, torch.ones(3, 4), torch.ones(3, 4), torch.tensor(2.0)).shape == (3, 4)


def test_torchscript_folds_batch_norms_when_let() -> None:
    proto = to_onnx(Block(), IMAGE, exporter="torchscript", keep_batchnorm=False)
    assert "BatchNormalization" not in operators(proto)


def test_fx_graphs_and_exported_programs_are_taken() -> None:
    module = Block().eval()
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(module, (IMAGE.repeat(2, 1, 1, 1),), dynamic_shapes=(batch,))
    with torch.no_grad():
        expected = module(IMAGE).numpy()
    for source in (torch.fx.symbolic_trace(module), program, program.module()):
        proto = to_onnx(source, IMAGE)
        np.testing.assert_allclose(run(proto, IMAGE), expected, rtol=1e-5, atol=1e-6)


def test_an_exported_program_keeps_its_shapes() -> None:
    proto = to_onnx(torch.export.export(nn.ReLU(), (IMAGE,)), IMAGE)
    assert axes(proto.graph.input[0]) == [1, 3, 8, 8]


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_training_flags_come_back(exporter: str) -> None:
    module = Block().train()
    module.bn.eval()
    to_onnx(module, IMAGE, exporter=exporter)
    assert [module.training, module.bn.training, module.dropout.training] == [True, False, True]


def test_training_flags_come_back_after_a_failure() -> None:
    module = BranchesOnValues().train()
    with pytest.raises(ExportError):
        to_onnx(module, IMAGE)
    assert module.training


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_nothing_is_printed_logged_or_left_changed(
    exporter: str, capfd: pytest.CaptureFixture[str]
) -> None:
    module = Block()
    level, filters = logging.root.manager.disable, list(warnings.filters)
    random_state = torch.get_rng_state()
    to_onnx(module, IMAGE, exporter=exporter)
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == level
    assert warnings.filters == filters
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize(
    ("module", "exporter", "message"),
    [
        (BranchesOnValues(), "dynamo", r"test_torch_module.py:\d+: the code branches on"),
        (HasUntranslatable(), "dynamo", "translation of the operator prims.bessel_j0"),
        (HasUntranslatable(), "torchscript", "translation of the operator aten::special_bessel"),
        (WrongShape(), "dynamo", r"WrongShape cannot be .*_module.py:\d+: .*reduction dim"),
        (WrongShape(), "torchscript", r"WrongShape cannot be .*_module.py:\d+: mat1 and mat2"),
        (FixesBatch(), "dynamo", r"fixes the batch size.*pass dynamic_batch=False"),
    ],
)
def test_a_failure_is_one_line_that_says_where_and_what_to_do(
    module: nn.Module, exporter: str, message: str
) -> None:
    with pytest.raises(ExportError, match=message) as raised:
        to_onnx(module, IMAGE, exporter=exporter)
    assert "\n" not in str(raised.value)


def test_an_opset_the_exporter_cannot_reach_is_refused() -> None:
    with pytest.raises(ExportError, match="opset 18, not the 9"):
        to_onnx(nn.ReLU(), IMAGE, opset=9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"exporter": "tracer"}, "unknown exporter 'tracer'"),
        ({"keep_batchnorm": False}, "take torchscript"),
        ({"example_inputs": ()}, "one tensor or a tuple"),
        ({"example_inputs": ([1.0],)}, "one tensor or a tuple"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        to_onnx(nn.ReLU(), **{"example_inputs": IMAGE, **options})


def test_torchscript_takes_no_exported_program() -> None:
    with pytest.raises(UsageError, match="take dynamo"):
        to_onnx(torch.export.export(nn.ReLU(), (IMAGE,)), IMAGE, exporter="torchscript")
