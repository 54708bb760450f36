"""Matrix products: what is summed over meets on both sides, the rest goes on to the output."""

from __future__ import annotations

from graphopt.channels.rules.rule import Rule
from graphopt.channels.view import Axis, DenyError, View


def _contracted(view: View, a: tuple[int, int], b: tuple[int, int]) -> None:
    """The axes a and b, each (input, axis), are multiplied and summed over."""
    both = view.meet(a, b)
    # The labels are masked where the data is computed; a constant is the other side.
    index, axis = b if view.is_constant(a[0]) else a
    view.contract(index, axis, both)


def _matmul(view: View) -> None:
    """y[..., m, n] = sum over k of a[..., m, k] * b[..., k, n]; a 1-D operand has only k."""
    rank_a, rank_b = len(view.dims(0)), len(view.dims(1))
    k_b = rank_b - 2 if rank_b > 1 else 0
    _contracted(view, (0, rank_a - 1), (1, k_b))
    if rank_b > 1 and view.is_constant(1):
        view.site("input", 1, rank_b - 2)
        view.site("output", 1, rank_b - 1)
    elif rank_a > 1 and view.is_constant(0):
        view.site("input", 0, rank_a - 1)
        view.site("output", 0, rank_a - 2)
    rows = [view.take(0, rank_a - 2)] if rank_a > 1 else []
    columns = [view.take(1, rank_b - 1)] if rank_b > 1 else []
    view.give([*_batch(view, rank_a - 2, rank_b - 2), *rows, *columns])


def _batch(view: View, rank_a: int, rank_b: int) -> list[Axis]:
    rank = max(rank_a, rank_b, 0)
    axes: list[Axis] = []
    for axis in range(rank):
        found: list[Axis] = []
        sizes = []
        for i, own_rank in ((0, rank_a), (1, rank_b)):
            own = axis - (rank - own_rank)
            if own >= 0:
                sizes.append(view.dims(i)[own])
                found.append(view.take(i, own))
        if len(sizes) == 2 and 1 in sizes and sizes[0] != sizes[1]:
            one = sizes.index(1)
            view.freeze(found[one], "broadcasts its only element")
            axes.append(found[1 - one])
        else:
            axes.append(view.unite(*found))
    return axes


def _gemm(view: View) -> None:
    """y = alpha * a' b' + beta * c, where ' transposes if asked to."""
    k_a = 0 if view.attr("transA", 0) else 1
    k_b = 1 if view.attr("transB", 0) else 0
    _contracted(view, (0, k_a), (1, k_b))
    view.site("input", 1, k_b)
    view.site("output", 1, 1 - k_b)
    rows, columns = view.take(0, 1 - k_a), view.take(1, 1 - k_b)
    if view.has(2):
        dims = view.dims(2)
        if dims and dims[-1] != 1:
            columns = view.join(columns, (2, len(dims) - 1))
            view.site("bias", 2, len(dims) - 1)
        if len(dims) == 2 and dims[0] != 1:
            rows = view.join(rows, (2, 0))
    view.give([rows, columns])


def _einsum(view: View) -> None:
    """Each letter is one axis everywhere; letters missing in the result are summed over."""
    equation = (
        str(view.attr("equation", b""), "ascii")
        if isinstance(view.attr("equation", ""), bytes)
        else str(view.attr("equation", ""))
    )
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if "." in equation or not arrow or any(len(set(t)) != len(t) for t in terms):
        raise DenyError(f"has an equation with ellipsis, diagonal or no result: {equation!r}")
    letters: dict[str, Axis] = {}
    for letter in dict.fromkeys(left.replace(",", "")):
        places = [(i, t.index(letter)) for i, t in enumerate(terms) if letter in t]
        letters[letter] = view.unite(*(view.take(*p) for p in places))
        for i, axis in places:
            if view.is_constant(i):
                view.site("output" if letter in right else "input", i, axis)
        if letter not in right:
            index, axis = next((p for p in places if not view.is_constant(p[0])), places[0])
            view.contract(index, axis, letters[letter])
    view.give([letters[letter] for letter in right])


def _recurrent(view: View) -> None:
    """LSTM, GRU, RNN: the input features are summed over; the hidden state stays whole."""
    both = view.join(view.take(0, 2), (1, 2))
    view.contract(0, 2, both)
    view.site("input", 1, 2)
    for k, rank in enumerate((4, 3, 3)[: len(view.node.outputs)]):
        view.give([None] * rank, k)


RULES: dict[str, Rule] = {
    "MatMul": Rule(_matmul),
    "Gemm": Rule(_gemm),
    "Einsum": Rule(_einsum),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), Rule(_recurrent)),
}
