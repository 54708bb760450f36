"""The pass `train`: a network learns from labels, alone or with a teacher beside them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from graphopt.errors import UsageError
from graphopt.evaluate import evaluate
from graphopt.frontends import from_torch
from graphopt.ir.graph import Constant, Graph
from graphopt.passes.distill.losses import KeptChannels
from graphopt.passes.distill.recover import Recover
from graphopt.passes.distill.train import Train
from graphopt.passes.distill.written import read_terms, terms_at
from graphopt.pipeline import Pipeline
from graphopt.train import untrained

SHAPES = "shapes:train,count=24,size=64"
ANCHORS = "yolov3-tiny{anchors=8x8|12x12|16x16|20x20|24x24|28x28}"
QUICK: dict[str, Any] = {"recipe": "batch=8 workers=0 augment=none", "device": "cpu"}


def detector(seed: int = 0) -> Graph:
    return untrained("yolov3-tiny", SHAPES, None, 0.125, 64, seed)


def classifier() -> Graph:
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)),
    )
    return from_torch(net.eval(), (torch.zeros(1, 3, 16, 16),))


@pytest.fixture
def red_and_blue(tmp_path: Path) -> str:
    """Pictures whose class is their colour."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 2, 64)
    pictures = rng.integers(0, 100, (64, 16, 16, 3)).astype(np.uint8)
    pictures[np.arange(64), :, :, 2 * kinds] += 100
    np.savez(tmp_path / "set.npz", x=pictures, y=kinds)
    return f"npz:{tmp_path}/set.npz"


def test_a_classifier_learns(red_and_blue: str) -> None:
    graph = classifier()
    before = evaluate(graph, red_and_blue, "classification")["top1"]
    how = {**QUICK, "recipe": "batch=16 lr=0.1 workers=0 augment=none"}
    outcome = Pipeline([Train(labels=red_and_blue, epochs=10, **how)]).run(graph, strict=True)
    assert before < 0.8
    assert evaluate(outcome.graph, red_and_blue, "classification")["top1"] == 1.0


def test_a_detector_learns_all_its_terms() -> None:
    passes = [Train(labels=SHAPES, decoder=ANCHORS, epochs=6, **QUICK)]
    (result,) = Pipeline(passes).run(detector(), strict=True).results
    rows = result.facts["training"]["rows"]
    assert set(rows[0]) == {"epoch", "box", "object", "class", "lr", "images/s"}
    assert all(rows[-1][term] < rows[0][term] for term in ("box", "object", "class"))
    assert "on 3 terms" in result.rewrites[0].what


def test_what_was_trained_for_is_remembered_by_the_model() -> None:
    passes = [Train(labels=SHAPES, decoder=ANCHORS, epochs=1, **QUICK)]
    graph = Pipeline(passes).run(detector(), strict=True).graph
    assert graph.metadata["graphopt.decoder"] == ANCHORS
    found = evaluate(graph, SHAPES, "detection")
    assert found["decoder"] == "yolov3-tiny"


def test_labels_and_a_teacher_together() -> None:
    teacher = Pipeline([Train(labels=SHAPES, decoder=ANCHORS, epochs=1, **QUICK)])
    graph = teacher.run(detector(), strict=True).graph
    terms = "pkd @ features * 2; kl{temperature=3 anchors=3} @ heads; teacher-bounded @ boxes * 0.5"
    learning = Recover(labels=SHAPES, terms=terms, epochs=1, **QUICK)
    (result,) = Pipeline([learning]).run(detector(1), teacher=graph, strict=True).results
    names = set(result.facts["training"]["rows"][0])
    assert {"box", "object", "class", "teacher-bounded boxes"} <= names
    assert sum(n.startswith("kl ") for n in names) == 2
    assert any(n.startswith("pkd ") for n in names)


def test_boxes_are_pushed_only_where_the_teacher_is_better() -> None:
    from graphopt.passes.distill.labelled import AtBoxes
    from graphopt.passes.distill.written import read_terms

    written = read_terms("teacher-bounded{reduce=sum} @ boxes * 3")
    boxes = torch.tensor([[1.0, 0, 0, 0], [2.0, 0, 0, 0]], requires_grad=True)
    said = torch.tensor([[0.5, 0, 0, 0], [4.0, 0, 0, 0]])
    terms = AtBoxes(written, lambda outputs, targets: (outputs, targets))
    (loss,) = terms(boxes, said, torch.zeros(2, 4)).values()
    assert float(loss.detach()) == 3.0  # the first box, squared; of the second the teacher is worse
    none = terms(boxes[:0], said[:0], torch.zeros(0, 4))
    assert float(none["teacher-bounded boxes"].detach()) == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "labels=KIND:WHERE"),
        ({"labels": "shapes:nothing"}, "split"),
        ({"labels": SHAPES, "task": "segmentation"}, "segmentation"),
        ({"labels": SHAPES, "loss": "iou=huge"}, "huge"),
        ({"labels": SHAPES, "terms": "pkd at features"}, "cannot read the term"),
        ({"labels": SHAPES, "terms": "pkd @ nowhere"}, "nowhere"),
        ({"labels": SHAPES, "terms": "pkd @ boxes"}, "only teacher-bounded"),
        ({"labels": SHAPES, "terms": "pkd @ features * many"}, "many is no number"),
        ({"labels": SHAPES, "terms": "pkd @ features loudly"}, "loudly"),
        ({"labels": SHAPES, "terms": "pkd @ heads * 1|2|3"}, "3 weights for 2 places"),
    ],
)
def test_what_cannot_be_trained_is_told_before(options: dict[str, Any], message: str) -> None:
    learning = Train(**{"decoder": ANCHORS, **QUICK, "epochs": 1.0, **options})
    with pytest.raises(UsageError, match=message):
        Pipeline([learning]).run(detector(), teacher=detector(), strict=True)


def test_boxes_ask_for_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((8, 3, 64, 64), np.float32))
    learning = Recover(data=str(tmp_path / "x.npy"), terms="teacher-bounded @ boxes", **QUICK)
    with pytest.raises(UsageError, match="need labels"):
        Pipeline([learning]).run(detector(), teacher=detector(1), strict=True)


def test_the_wider_teacher_lends_the_channels_that_vary() -> None:
    wide = untrained("yolov3-tiny", SHAPES, None, 0.25, 64, 0)
    learning = Recover(
        labels=SHAPES,
        decoder=ANCHORS,
        terms="hybrid-attention @ features std",
        epochs=0.34,
        **QUICK,
    )
    (result,) = Pipeline([learning]).run(detector(), teacher=wide, strict=True).results
    row = result.facts["training"]["rows"][0]
    assert any(name.startswith("hybrid-attention ") for name in row)


def test_stages_of_different_networks_are_compared_one_after_another() -> None:
    wide = untrained("yolov4", SHAPES, None, 0.125, 64, 0)
    narrow = untrained("yolov3", SHAPES, None, 0.125, 64, 0)
    terms = terms_at(
        read_terms("spatial-attention @ stages * 1|2|3|4|5"), narrow, wide, None, _never
    )
    assert [t.weight for several in terms.values() for t in several] == [1, 2, 3, 4, 5]
    sizes = [
        [g.tensors()[n].shape[2] for g, n in zip((narrow, wide), pair, strict=True)]
        for pair in terms
    ]
    assert sizes == [[64 >> k] * 2 for k in range(5)]
    with pytest.raises(UsageError, match="the student has 6 stages, the teacher 5"):
        terms_at(read_terms("pkd @ stages"), detector(), wide, None, _never)


def _never(name: str, count: int) -> Any:
    raise AssertionError(f"nobody asked for {count} channels of {name}")


def test_the_average_of_the_weights_is_what_is_kept() -> None:
    """With a decay of 1 the average stays where its first step put it, whatever is learnt after."""
    steady = "batch=8 workers=0 augment=none schedule=constant warmup=0"

    def weights(epochs: float, more: str) -> list[Any]:
        how = {**QUICK, "recipe": f"{steady} {more}", "epochs": epochs}
        passes = [Train(labels=SHAPES, decoder=ANCHORS, **how)]
        graph = Pipeline(passes).run(detector(), strict=True).graph
        return [t.values for t in graph.tensors().values() if isinstance(t, Constant)]

    once, kept, learnt = weights(1 / 3, ""), weights(1, "ema=1.0"), weights(1, "")
    assert all(np.array_equal(a, b) for a, b in zip(once, kept, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(once, learnt, strict=True))


def test_heads_of_a_yolo_are_compared_where_the_teacher_sees_something() -> None:
    teacher = detector()
    teacher.metadata["graphopt.decoder"] = ANCHORS
    images = np.random.default_rng(0).random((8, 3, 64, 64)).astype(np.float32)
    learning = Recover(data=list(images), epochs=1, **QUICK)
    (result,) = Pipeline([learning]).run(detector(1), teacher=teacher, strict=True).results
    names = [n for n in result.facts["training"]["rows"][0] if n.startswith("objectness-scaled ")]
    assert names == ["objectness-scaled p4", "objectness-scaled p5"]


def test_words_behind_a_term() -> None:
    plain, marked = read_terms("masked-feature @ features; pkd @ heads * 2 fade normalized masked")
    assert not any((plain.term.normalized, plain.term.masked, plain.by_std))
    assert marked.term.normalized
    assert marked.term.masked
    assert (marked.term.weight, marked.term.schedule) == (2, "fade")


def test_channels_of_a_wider_teacher_are_lent_only_where_it_is_asked_for() -> None:
    wide = untrained("yolov3-tiny", SHAPES, None, 0.25, 64, 0)
    asked: list[tuple[str, int]] = []

    def varying(name: str, count: int) -> KeptChannels:
        asked.append((name, count))
        return KeptChannels(tuple(range(count)))

    lent = terms_at(read_terms("pkd @ features std"), detector(), wide, None, varying)
    assert asked == [
        (name, detector().tensors()[name].shape[1])
        for name, _ in lent
        if detector().tensors()[name].shape[1] < wide.tensors()[name].shape[1]
    ]
    assert len(asked) > 3
    kept = [t.channels for several in lent.values() for t in several if t.channels is not None]
    assert [len(k.indices) for k in kept] == [count for _, count in asked]
    plain = terms_at(read_terms("pkd @ features"), detector(), wide, None, _never)
    assert all(t.channels is None for several in plain.values() for t in several)


def test_a_loss_with_a_mask_sees_only_where_objects_are() -> None:
    from graphopt.passes.distill.labelled import labels_of

    labels = labels_of(detector(), SHAPES, task="auto", loss="", preprocess="", decoder=ANCHORS)
    targets = torch.tensor([[[1.0, 0, 0, 32, 32], [-1, 0, 0, 64, 64]]])
    mask = labels.masks(targets, 4, 4)
    assert mask.shape == (1, 4, 4)
    assert mask[0, :2, :2].all()
    assert mask.sum() == 4
    passes = [Recover(labels=SHAPES, decoder=ANCHORS, epochs=0.34, **QUICK)]
    rows = []
    for words in ("", " masked"):
        learning = dataclasses.replace(passes[0], terms=f"spatial-attention @ features{words}")
        outcome = Pipeline([learning]).run(detector(), teacher=detector(1), strict=True)
        rows.append(outcome.results[0].facts["training"]["rows"][0])
    names = [n for n in rows[0] if n.startswith("spatial-attention ")]
    assert names
    assert any(rows[0][n] != rows[1][n] for n in names)
