"""Every network of the zoo and every real one prunes to 70, 50 and 30 % of its MACs, unannotated."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
from conftest import ASSETS

from graphopt import zoo
from graphopt.frontends.normal_form import normalize
from graphopt.frontends.onnx_file import load
from graphopt.ir.graph import Graph
from graphopt.prune import prune_graph

SHARES = (0.7, 0.5, 0.3)
SIZES = {"classification": 64, "detection": 128}


@lru_cache(maxsize=1)
def _zoo_graph(name: str) -> Graph:
    spec = zoo.spec(name)
    size = min(spec.input_shape[-1], SIZES.get(spec.task, 128))
    return normalize(zoo.export(name, exporter="torchscript", input_size=size))


def _prunes(graph: Graph, share: float) -> None:
    found = prune_graph(graph, macs=share)
    assert found.result.detail == "pruned == masked within 0.0001"
    left = found.plan.after["macs"] / found.plan.before["macs"]
    # The nets of CIFAR have layers of 16 channels, in which 8 are the smallest step.
    assert 0.95 * share <= left <= share
    assert not [n for n in found.result.refusals if "broke the proof" in n.what]


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo.names())
@pytest.mark.parametrize("share", SHARES)
def test_zoo(name: str, share: float) -> None:
    _prunes(_zoo_graph(name), share)


MODELS = sorted((ASSETS / "models").glob("*.onnx")) if ASSETS.is_dir() else []


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("path", MODELS, ids=lambda p: p.stem)
def test_real_models(path: Path, share: float) -> None:
    _prunes(load(path), share)


def test_there_are_real_models(assets: Path) -> None:
    assert len(list((assets / "models").glob("*.onnx"))) >= 9
