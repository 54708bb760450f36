"""Every network of the zoo and every real one prunes to 70, 50 and 30 % of its MACs, unannotated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import ASSETS

from graphopt import zoo
from graphopt.frontends.normal_form import normalize
from graphopt.frontends.onnx_file import load
from graphopt.ir.graph import Graph
from graphopt.prune import prune_graph
from graphopt.runtime.run import open_graph
from graphopt.samples import dim_choices, draw

SHARES = (0.7, 0.5, 0.3)
SIZES = {"classification": 64, "detection": 64}


def _prunes(graph: Graph, share: float, *, verify: bool) -> None:
    found = prune_graph(graph, macs=share, verify=verify)
    left = found.plan.after["macs"] / found.plan.before["macs"]
    # The nets of CIFAR have layers of 16 channels, in which 8 are the smallest step.
    assert 0.95 * share <= left <= share
    if verify:
        assert found.result.detail == "pruned == masked within 0.0001"
        assert not [n for n in found.result.refusals if "broke the proof" in n.what]
    sizes = next(iter(dim_choices(graph)))[0]
    open_graph(found.graph).run(draw(found.graph, sizes, np.random.default_rng(0)))


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names())
def test_zoo(name: str) -> None:
    spec = zoo.spec(name)
    size = min(spec.input_shape[-1], SIZES[spec.task])
    graph = normalize(zoo.export(name, exporter="torchscript", input_size=size))
    for share in SHARES:
        _prunes(graph, share, verify=share == 0.5)


MODELS = sorted((ASSETS / "models").glob("*.onnx")) if ASSETS.is_dir() else []


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_real_models(path: Path, share: float) -> None:
    _prunes(load(path), share, verify=True)


def test_there_are_real_models(assets: Path) -> None:
    assert len(list((assets / "models").glob("*.onnx"))) >= 9
