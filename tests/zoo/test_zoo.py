"""The zoo against its published figures, against itself, and against ONNX Runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from graphopt import zoo
from graphopt.errors import LoadError, UsageError
from graphopt.zoo.layers import SqueezeExcite
from graphopt.zoo.networks import network

QUICK_EXPORTS = [
    ("yolov3-tiny", True, "dynamo"),
    ("yolov3-tiny", False, "torchscript"),
    ("yolov3-mobilenetv3", True, "torchscript"),
    ("retinanet-r50-fpn", True, "torchscript"),
    ("wrn-16-1", False, "dynamo"),
    ("resnet20", True, "dynamo"),
    ("mobilenetv2", False, "torchscript"),
]
ALL_EXPORTS = [
    (name, decode, exporter)
    for name in zoo.names()
    for decode in (False, True)
    for exporter in ("dynamo", "torchscript")
]
SLOW_TO_BUILD = ("yolov3", "yolov3-spp")

# Where the published figure is rounded, or counts a little besides convolutions.
PARAMS_TOLERANCE = {"resnet32": 0.01, "resnet56": 0.004, "resnet20": 0.0011}
GFLOPS_TOLERANCE = {"retinanet-r50-fpn": 0.004} | {
    name: 0.006 for name in zoo.names() if name.startswith("wrn")
}


def empty(name: str) -> nn.Module:
    model = zoo.spec(name)
    with torch.device("meta"):
        return network(model, model.classes).eval()


def parameters(module: nn.Module) -> int:
    return sum(values.numel() for values in module.parameters())


def multiply_adds(module: nn.Module, shape: tuple[int, int, int]) -> int:
    counted: list[int] = []

    def count(layer: nn.Module, _: object, output: Tensor) -> None:
        counted.append(output.numel() * layer.weight[0].numel())

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        module(torch.empty(1, *shape, device="meta"))
    return sum(counted)


def as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def small_size(name: str) -> int:
    return min(zoo.spec(name).input_shape[1], 128)


def state_names(module: nn.Module) -> set[str]:
    return {key for key in module.state_dict() if not key.endswith("num_batches_tracked")}


@pytest.mark.parametrize("name", [name for name in zoo.names() if name != "retinanet-r50-fpn"])
def test_parameters_are_as_published(name: str) -> None:
    tolerance = PARAMS_TOLERANCE.get(name, 0.0005)
    published = zoo.spec(name).params_millions
    assert parameters(empty(name)) / 1e6 == pytest.approx(published, rel=tolerance)


def test_retinanet_parameters_without_the_frozen_ones_are_as_published() -> None:
    net = empty("retinanet-r50-fpn")
    frozen = parameters(net.backbone.stem) + parameters(net.backbone.stages[0])
    assert round((parameters(net) - frozen) / 1e6, 2) == 37.74


@pytest.mark.parametrize(
    ("name", "exact"),
    [("resnet50", 25557032), ("mobilenetv2", 3504872), ("mobilenetv3-large", 5483032)],
)
def test_parameters_are_torchvisions_exactly(name: str, exact: int) -> None:
    assert parameters(empty(name)) == exact


def test_yolov4_has_the_parameters_of_coco_with_80_classes() -> None:
    with torch.device("meta"):
        assert parameters(network(zoo.spec("yolov4"), 80)) == 64363101


@pytest.mark.parametrize("name", zoo.names())
def test_gflops_are_as_published(name: str) -> None:
    model = zoo.spec(name)
    tolerance = GFLOPS_TOLERANCE.get(name, 0.002)
    gflops = 2 * multiply_adds(empty(name), model.input_shape) / 1e9
    assert gflops == pytest.approx(model.gflops, rel=tolerance)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW_TO_BUILD else [])
        for name in zoo.names()
    ],
)
def test_signals_reach_the_outputs_at_a_sensible_size(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    size = small_size(name)
    with torch.no_grad():
        outputs = as_tuple(zoo.build(name)(torch.rand(2, 3, size, size, generator=generator)))
    assert len(outputs) == len(zoo.spec(name).outputs)
    for output in outputs:
        assert output.isfinite().all()
        assert 0.02 < output.std() < 10
        assert not torch.equal(output[0], output[1])


@pytest.mark.parametrize("name", ["yolov3-tiny", "wrn-16-1"])
def test_batch_norm_statistics_are_not_trivial(name: str) -> None:
    for norm in zoo.build(name).modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                assert values.isfinite().all()
                assert values.std() > 0


def test_building_does_not_depend_on_nor_touch_the_global_random_state() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = zoo.build("wrn-16-1").state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    second = zoo.build("wrn-16-1").state_dict()
    assert all(torch.equal(values, second[key]) for key, values in first.items())


def test_weights_do_not_depend_on_the_number_of_threads() -> None:
    threads = torch.get_num_threads()
    states = []
    for count in (1, 2):
        torch.set_num_threads(count)
        states.append(zoo.build("resnet20").state_dict())
    torch.set_num_threads(threads)
    assert all(torch.equal(values, states[1][key]) for key, values in states[0].items())


def test_another_seed_gives_other_weights() -> None:
    first, second = (zoo.build("wrn-16-1", seed=seed) for seed in (0, 1))
    assert not torch.equal(first.stem.weight, second.stem.weight)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_two_exports_are_the_same_bytes(exporter: str) -> None:
    first, second = (zoo.export("wrn-16-1", exporter=exporter) for _ in range(2))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize(("name", "decode", "exporter"), QUICK_EXPORTS)
def test_export_computes_what_the_module_computes(name: str, decode: bool, exporter: str) -> None:
    check_export(name, decode, exporter)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "decode", "exporter"), ALL_EXPORTS)
def test_every_export_computes_what_the_module_computes(
    name: str, decode: bool, exporter: str
) -> None:
    check_export(name, decode, exporter)


def check_export(name: str, decode: bool, exporter: str) -> None:
    size = small_size(name)
    module = zoo.build(name, decode=decode)
    proto = zoo.export(name, decode=decode, exporter=exporter, input_size=size)
    check_structure(name, decode, module, proto)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for batch in (1, 3):
        images = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(7))
        with torch.no_grad():
            expected = as_tuple(module(images))
        outputs = session.run(None, {"images": images.numpy()})
        for output, wanted in zip(outputs, expected, strict=True):
            scale = float(wanted.abs().max())
            np.testing.assert_allclose(output, wanted.numpy(), rtol=1e-4, atol=2e-4 * scale)


def check_structure(name: str, decode: bool, module: nn.Module, proto: onnx.ModelProto) -> None:
    model = zoo.spec(name)
    outputs = tuple(output.name for output in proto.graph.output)
    assert outputs == (model.decoded_outputs if decode else model.outputs)
    assert state_names(module) <= {initial.name for initial in proto.graph.initializer}
    norms = sum(isinstance(part, nn.BatchNorm2d) for part in module.modules())
    assert sum(node.op_type == "BatchNormalization" for node in proto.graph.node) == norms


def test_decoding_leaves_the_state_dict_alone() -> None:
    raw, decoded = (zoo.build("yolov3-tiny", decode=decode) for decode in (False, True))
    assert list(raw.state_dict()) == list(decoded.state_dict())


def test_yolo_decode_places_a_box_in_the_middle_of_its_cell() -> None:
    from graphopt.zoo.decode import YoloDecode

    decode = YoloDecode([((10.0, 20.0), (30.0, 40.0))], [16], [1.0])
    boxes = decode((torch.zeros(1, 2 * 7, 2, 3),))
    assert boxes.shape == (1, 2 * 2 * 3, 7)
    last = boxes[0, -1]  # second anchor, row 1, column 2
    assert last.tolist() == [2.5 * 16, 1.5 * 16, 30, 40, 0.5, 0.5, 0.5]


def test_retina_decode_gives_the_anchor_for_zero_deltas() -> None:
    from graphopt.zoo.decode import RetinaDecode

    levels = [(2, 2)] * 5
    maps = [torch.zeros(1, 9 * 3, *level) for level in levels]
    maps += [torch.zeros(1, 9 * 4, *level) for level in levels]
    boxes, scores = RetinaDecode()(tuple(maps))
    assert boxes.shape == (1, 5 * 4 * 9, 4)
    assert scores.shape == (1, 5 * 4 * 9, 3)
    square = boxes[0, 9 + 3]  # column 1 of the first row, ratio 1, smallest octave, stride 8
    assert square.tolist() == [8 - 16, -16, 8 + 16, 16]


def test_weights_go_through_a_file(tmp_path: Path) -> None:
    source = zoo.build("wrn-16-1", seed=5)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    loaded = zoo.build("wrn-16-1", weights=tmp_path / "w.safetensors").state_dict()
    assert all(torch.equal(values, loaded[key]) for key, values in source.state_dict().items())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
def test_pickles_are_refused_with_a_way_out(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(LoadError, match=r"safetensors only.*save_file"):
        zoo.build("wrn-16-1", weights=tmp_path / f"w{suffix}")


def test_a_missing_or_broken_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(LoadError, match="no such file"):
        zoo.build("wrn-16-1", weights=path)
    path.write_bytes(b"not one")
    with pytest.raises(LoadError, match="not a readable"):
        zoo.build("wrn-16-1", weights=path)


def test_other_names_are_counted_and_the_first_shown(tmp_path: Path) -> None:
    state = {f"model.{key}": value for key, value in zoo.build("wrn-16-1").state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    message = r"69 missing \(stem.weight, .* and 66 more\) and \d+ unexpected \(model\."
    with pytest.raises(LoadError, match=message):
        zoo.build("wrn-16-1", weights=tmp_path / "w.safetensors")


def test_another_number_of_classes_is_said(tmp_path: Path) -> None:
    save_file(zoo.build("wrn-16-1").state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(LoadError, match=r"2 tensors.*fc.weight is \[10, 64\], not \[100, 64\]"):
        zoo.build("wrn-16-1", weights=tmp_path / "w.safetensors", classes=100)


def test_an_unknown_name_shows_the_near_ones() -> None:
    with pytest.raises(UsageError, match=r"'yolo3'.*did you mean .*yolov3"):
        zoo.spec("yolo3")


@pytest.mark.parametrize("size", [100, 0, (64, 33)])
def test_a_size_that_cannot_be_is_refused(size: int | tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="multiples of 32"):
        zoo.export("yolov3-tiny", input_size=size)


def test_no_classes_are_refused() -> None:
    with pytest.raises(UsageError, match="0 classes"):
        zoo.build("wrn-16-1", classes=0)


def test_listing_the_zoo_loads_no_framework() -> None:
    code = (
        "import sys; from graphopt import zoo; import graphopt.frontends.torch_module; "
        "zoo.spec(zoo.names()[0]); print(sorted({'torch', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", zoo.names())
def test_a_narrower_network_runs_with_a_share_of_the_parameters(name: str) -> None:
    model = zoo.spec(name)
    with torch.device("meta"):
        full, half = (network(model, 3, width) for width in (1.0, 0.5))
        size = small_size(name)
        outputs = as_tuple(half.eval()(torch.empty(1, 3, size, size)))
    assert 0.2 < parameters(half) / parameters(full) < 0.6
    widths = {c.out_channels for c in half.modules() if isinstance(c, nn.Conv2d)}
    predictions = {o.shape[1] for o in outputs}
    squeezed = {m.squeeze.out_channels for m in half.modules() if isinstance(m, SqueezeExcite)}
    assert all(w % 8 == 0 for w in widths - predictions - squeezed)


@pytest.mark.parametrize("name", ["wrn-16-1", "resnet20"])
def test_the_narrowest_networks_still_halve_their_maps(name: str) -> None:
    net = zoo.build(name, width=0.125)
    assert net(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    strides = [m.stride[0] for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert strides.count(2) in (2, 4)  # with a shortcut of their own, or without


@pytest.mark.parametrize("width", [0, -1, 9, float("nan")])
def test_a_width_that_cannot_be_is_refused(width: float) -> None:
    with pytest.raises(UsageError, match="width="):
        zoo.build("wrn-16-1", width=width)


def test_an_untrained_detector_expects_little_and_keeps_unit_scales() -> None:
    net = zoo.build("yolov3-tiny", classes=2, width=0.25, untrained=True)
    gammas = [m.weight for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(bool((g == 1).all()) for g in gammas)
    with torch.no_grad():
        maps = net(torch.rand(1, 3, 64, 64))
    for each in maps:
        scores = each.reshape(1, 3, 7, *each.shape[2:])[:, :, 4:].sigmoid()
        assert float(scores.mean()) == pytest.approx(0.01, rel=0.3)
    again = zoo.build("yolov3-tiny", classes=2, width=0.25, untrained=True)
    other = zoo.build("yolov3-tiny", classes=2, width=0.25, untrained=True, seed=1)
    same, different = (next(n.parameters()) for n in (again, other))
    assert torch.equal(next(net.parameters()), same)
    assert not torch.equal(next(net.parameters()), different)
