"""Union-find against a naive one, and how labels behave around what is kept."""

from __future__ import annotations

import numpy as np
import pytest

from graphopt.channels.labels import KEPT, Labels, Reason
from graphopt.channels.rules.reshape import segments
from graphopt.channels.rules.targets import completed, constant_target


class Naive:
    """Sets in a list."""

    def __init__(self, count: int) -> None:
        self.set_of = [{i} for i in range(count)]

    def unite(self, a: int, b: int) -> None:
        if self.set_of[a] is not self.set_of[b]:
            both = self.set_of[a] | self.set_of[b]
            for each in both:
                self.set_of[each] = both


@pytest.mark.parametrize("seed", range(20))
def test_unions_are_those_of_a_naive_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, count = Labels(), 60
    made = np.concatenate([labels.fresh(n) for n in (10, 30, 20)])
    naive = Naive(count + 1)
    for _ in range(rng.integers(1, 8)):
        size = rng.integers(1, 12)
        a, b = rng.choice(made, (2, size))
        labels.unite(a, b, "somewhere")
        for x, y in zip(a.tolist(), b.tolist(), strict=True):
            naive.unite(x, y)
    roots = labels.find(made)
    for x, root in zip(made.tolist(), roots.tolist(), strict=True):
        assert root == min(naive.set_of[x]), "the representative is the first label"


def test_labels_grow_beyond_the_first_table() -> None:
    labels = Labels()
    first, second = labels.fresh(1000), labels.fresh(5000)
    labels.unite(first, second[:1000], "here")
    assert (labels.find(second[:1000]) == first).all()
    assert (labels.find(second[1000:]) == second[1000:]).all()


def test_what_meets_kept_is_frozen_and_not_united() -> None:
    labels = Labels()
    a = labels.fresh(3)
    labels.unite(a, np.array([KEPT, a[2], a[1]]), "an Add")
    assert labels.frozen_roots().tolist() == [a[0]]
    (vector, reason), *_ = labels.frozen
    assert reason == Reason("an Add", "is combined with a tensor that keeps its size")
    assert labels.find(np.array([KEPT]))[0] == KEPT
    assert vector.tolist() == [a[0]]


def test_freezing_reaches_what_is_united_later() -> None:
    labels = Labels()
    a, b = labels.fresh(2), labels.fresh(2)
    labels.freeze(a[:1], Reason("x", "is an output"))
    labels.unite(a, b, "an Add")
    assert set(labels.find(b[:1]).tolist()) <= set(labels.frozen_roots().tolist())
    assert not set(labels.find(b[1:]).tolist()) & set(labels.frozen_roots().tolist())


@pytest.mark.parametrize(
    ("old", "new", "spans"),
    [
        ([2, 8, 3, 3], [2, 72], [([0], [0]), ([1, 2, 3], [1])]),
        ([2, 12, 5], [2, 3, 4, 5], [([0], [0]), ([1], [1, 2]), ([2], [3])]),
        ([4, 6], [6, 4], [([0, 1], [0, 1])]),
        ([1, 8], [8], [([0, 1], [0])]),
        ([8], [8, 1, 1], [([0], [0]), ([], [1]), ([], [2])]),
        (["N", 8, 2, 2], ["N", 32], [([0], [0]), ([1, 2, 3], [1])]),
        (["N", 8, 4], ["?", 8, 4], [([0], [0]), ([1], [1]), ([2], [2])]),
        (["N", 8, "H", "W"], ["N", 8, "?"], [([0], [0]), ([1], [1]), ([2, 3], [2])]),
        (["N", "T", 8], ["?", 8], [([0, 1], [0]), ([2], [1])]),
        (["N", "T", 12], ["T", "?", 4], [([0, 1, 2], [0, 1, 2])]),
    ],
)
def test_segments(old: list, new: list, spans: list) -> None:
    found = segments(old, new)
    assert found is not None
    assert [(list(a), list(b)) for a, b in found] == spans


@pytest.mark.parametrize(("old", "new"), [([2, 8], [2, 9]), ([4], [2]), (["N", 8], ["N", 4])])
def test_shapes_that_do_not_match(old: list, new: list) -> None:
    assert segments(old, new) is None


@pytest.mark.parametrize("seed", range(20))
def test_segments_cover_everything_once_with_equal_products(seed: int) -> None:
    rng = np.random.default_rng(seed)
    factors = rng.choice([1, 2, 2, 3, 5], 7)
    old, new = (_merged(factors, rng) for _ in range(2))
    found = segments(old, new)
    assert found is not None
    assert [a for span, _ in found for a in span] == list(range(len(old)))
    assert [a for _, span in found for a in span] == list(range(len(new)))
    for a, b in found:
        assert np.prod([old[i] for i in a]) == np.prod([new[i] for i in b])


def _merged(factors: np.ndarray, rng: np.random.Generator) -> list[int]:
    cuts = np.sort(rng.choice(np.arange(1, len(factors)), rng.integers(0, 5), replace=False))
    return [int(np.prod(piece)) for piece in np.split(factors, cuts)]


def test_the_one_size_that_follows_is_worked_out() -> None:
    assert completed(["N", 8, 4], ["N", None]) == (["N", 8, 4], ["N", 32])
    assert completed([None, 8], [None, 8])[1] != completed([None, 8], [None, 8])[0]


def test_targets_without_computing() -> None:
    assert constant_target(["N", 8, 2, 2], ["N", 32]) == [0, 32]
    assert constant_target(["N", 8, "H", "W"], ["N", 8, None]) == [0, 8, -1]
    assert constant_target(["N", "T", 8], ["T", "N", 8]) is None
