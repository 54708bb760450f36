"""Importances by name, sums of them, and the search for a sum's weight."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import graph_from

from graphopt.channels.groups import Channels
from graphopt.errors import UsageError
from graphopt.passes.analyze import (
    IMPORTANCES,
    WeightImportance,
    dynamic,
    kept,
    parse_importances,
    register,
    scores,
    weighted_sum,
)

CHAIN = """(float[1,2] x) => (float[1,1] y) <float[2,3] w = {3.0, 0.0, 1.0, 4.0, 1.0, 1.0}, float[3,1] v>
    { h = MatMul (x, w)  y = MatMul (h, v) }"""


def chain() -> Channels:
    return Channels(graph_from(CHAIN))


@pytest.mark.parametrize("name", IMPORTANCES)
def test_an_importance_is_called_the_same_and_explains_itself(name: str) -> None:
    kind = IMPORTANCES.find(name)
    assert kind.name == name
    assert kind.needs in ("weights", "activations", "gradients")
    assert "=" in (kind.__doc__ or "") or "uniform" in (kind.__doc__ or "")
    assert kind() == IMPORTANCES.find(name)()


def test_a_sum_is_of_scores_between_0_and_1() -> None:
    # l1: 7, 1, 2; l2: 5, 1, sqrt 2
    l1, l2 = np.array([1, 0, 1 / 6]), np.array([1, 0, (np.sqrt(2) - 1) / 4])
    found = scores(chain(), "3*l1 + 1*l2")
    assert found == pytest.approx((3 * l1 + l2) / 4)
    assert scores(chain(), "l1+l2{sides=output}") == pytest.approx((l1 + l2) / 2)


def test_units_one_part_does_not_know_are_judged_by_the_other() -> None:
    found = weighted_sum(
        [(0.5, np.array([0, 4, np.nan, np.nan])), (0.5, np.array([2, 0, 1, np.nan]))]
    )
    assert found[:3] == pytest.approx([0.5, 0.5, 0.5])
    assert np.isnan(found[3])


def test_equal_scores_sum_to_nothing() -> None:
    assert weighted_sum([(1, np.full(3, 7.0))]).tolist() == [0, 0, 0]


@pytest.mark.parametrize("weight", [-1.0, 0.0, np.nan, np.inf])
def test_weights_are_checked(weight: float) -> None:
    with pytest.raises(UsageError, match="weights of importances"):
        weighted_sum([(weight, np.arange(3.0))])


BAD = {
    "tailor": "no importance is called 'tailor'; did you mean taylor",
    "zzz": "no importance is called 'zzz'; known: l1, l2",
    "l1+": "cannot read ''",
    "0.5l1": "cannot read '0.5l1'",
    "l1{side=both}": "'l1' has no option 'side'; its options: sides",
    "l1{sides}": "cannot read option 'sides' of 'l1'",
    "l1{sides=top}": "l1: sides='top' is none of output, input, both",
    "bn-gamma{x=1}": "its options: none",
    "taylor{form=cube}": "taylor: form='cube' is none of square, gate, abs",
    "group-fisher{cost=ms}": "group-fisher: cost='ms' is none of macs, memory, none",
    "activation{form=max}": "activation: form='max' is none of abs, nonzero",
}


@pytest.mark.parametrize("text", BAD)
def test_what_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=BAD[text]):
        parse_importances(text)


def test_a_users_own() -> None:
    class Spread(WeightImportance):
        """s_c = max W_c - min W_c."""

        name = "spread"

        def of_rows(self, rows):  # type: ignore[no-untyped-def]
            return np.ptp(rows, axis=1)

    try:
        register(Spread)
        assert scores(chain(), "spread", normalize="none").tolist() == [1, 1, 0]
        assert scores(chain(), Spread(), normalize="none").tolist() == [1, 1, 0]
        with pytest.raises(UsageError, match="registered already"):
            register(type("Spread", (WeightImportance,), {"name": "spread"}))
    finally:
        IMPORTANCES.pop("spread", None)


def test_the_lowest_go() -> None:
    assert kept(np.array([3.0, 1, 2, np.nan]), 0.5).tolist() == [True, False, False, True]
    assert kept(np.array([1.0, 1, 1]), 0.4).tolist() == [False, True, True]
    assert kept(np.zeros(3), 0).all()


def test_the_climb_finds_the_best_weight() -> None:
    rng = np.random.default_rng(0)
    gamma, chip = rng.random(400), rng.random(400)
    best = kept(weighted_sum([(0.8, gamma), (0.2, chip)]), 0.5)
    asked = []

    def quality(mask: np.ndarray) -> float:  # type: ignore[type-arg]
        asked.append(mask)
        return float((mask == best).mean())

    found = dynamic(gamma, chip, quality, ratio=0.5, rounds=5)
    assert found.weight == pytest.approx(0.8, abs=0.05)
    assert found.tried[0][0] == 0.5
    assert [w for w, _ in found.tried[:3]] == [0.5, 0.25, 0.75]
    assert len(asked) == len(found.tried) == len({w for w, _ in found.tried})
    assert dict(found.tried)[found.weight] == max(q for _, q in found.tried)
    assert found.scores == pytest.approx(
        weighted_sum([(found.weight, gamma), (1 - found.weight, chip)])
    )


def test_the_climb_stays_where_nothing_is_better() -> None:
    found = dynamic(np.arange(4.0), np.arange(4.0)[::-1], lambda _: 1.0)
    assert found.weight == 0.5


def test_the_climb_takes_a_users_selection() -> None:
    seen = []
    dynamic(
        np.arange(4.0),
        np.arange(4.0),
        lambda mask: float(seen.append(mask) or mask.sum()),  # type: ignore[func-returns-value]
        select=lambda scores: scores > 0.9,
        rounds=1,
    )
    assert all(mask.tolist() == [False, False, False, True] for mask in seen)


def test_the_climb_refuses_what_cannot_be_meant() -> None:
    with pytest.raises(UsageError, match="gives NaN at weight 0.5"):
        dynamic(np.arange(3.0), np.arange(3.0), lambda _: float("nan"))
    with pytest.raises(UsageError, match="between 0 and 1"):
        dynamic(np.arange(3.0), np.arange(3.0), lambda _: 1.0, start=2)
