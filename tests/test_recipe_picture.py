"""The picture of a recipe: points where cost and accuracy say, none hidden behind another."""

from __future__ import annotations

import itertools
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from graphopt.recipes.picture import picture, points


def result(stage: str, macs: float, share: float, **more: Any) -> dict[str, Any]:
    return {
        "stage": stage,
        "text": f"<{stage}>",
        "from": None,
        "seed": 0,
        "ablation": False,
        "cost": {"macs": macs},
        "metrics": {"ap50": share},
        **more,
    }


def circles(svg: str) -> list[tuple[float, float]]:
    found = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    return [(float(x), float(y)) for x, y in found]


def test_cheaper_is_left_and_better_is_up() -> None:
    results = [result("a", 1e9, 0.5), result("b", 1e8, 0.7), result("c", 1e7, 0.6)]
    a, b, c = circles(picture(results, "ap50", "title"))
    assert c[0] < b[0] < a[0]
    assert b[1] < c[1] < a[1]
    assert a[0] - b[0] == pytest.approx(b[0] - c[0], abs=0.2)  # a decade is a decade


def test_seeds_are_one_point_with_their_spread() -> None:
    results = [result("a", 1e9, 0.5), result("a", 1e9, 0.6, seed=1)]
    (point,) = points(results, "ap50")
    assert (point.mean, point.spread) == (pytest.approx(55), pytest.approx(7.07, abs=0.01))
    assert len(circles(picture(results, "ap50", "title"))) == 1


def test_points_of_one_cost_do_not_hide_each_other() -> None:
    results = [result(str(k), 1e9, 0.5) for k in range(5)]
    across = sorted(x for x, _ in circles(picture(results, "ap50", "title")))
    assert all(b - a >= 18 for a, b in itertools.pairwise(across))


def test_near_costs_have_marks_between_them_too() -> None:
    results = [result("a", 16e6, 0.5), result("b", 32e6, 0.7)]
    texts = re.findall(r">([\d.]+ ?M)</text>", picture(results, "ap50", "title"))
    assert len(texts) >= 3
    assert {"20M", "30M"} <= set(texts)


def test_it_is_xml_and_names_are_escaped() -> None:
    results = [result("a", 1e9, 0.5), result("b", 2e9, 0.9, ablation=True, **{"from": "a"})]
    root = ElementTree.fromstring(picture(results, "ap50", "a < b"))
    assert root.find("{*}title").text == "a < b"  # type: ignore[union-attr]
    texts = [t.text or "" for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any("<b>" in t for t in texts)
