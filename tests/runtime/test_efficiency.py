"""Kinds of products, and what they are predicted to take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from conftest import graph_from

from graphopt.errors import UsageError
from graphopt.runtime.board_file import read_board
from graphopt.runtime.efficiency import KINDS, kind_of, layer_seconds, node_seconds, share_of
from graphopt.runtime.targets import target

X = "float[1,8,12,12] x"
CASES = {
    f"({X}) => (float[1,8,10,10] y) <float[8,8,3,3] w> {{ y = Conv (x, w) }}": "conv3x3",
    f"({X}) => (float[1,8,5,5] y) <float[8,8,3,3] w> {{ y = Conv <strides = [2,2]> (x, w) }}": "conv",
    f"({X}) => (float[1,8,8,8] y) <float[8,8,3,3] w> {{ y = Conv <dilations = [2,2]> (x, w) }}": "conv",
    "(float[1,3,9,9] x) => (float[1,8,7,7] y) <float[8,3,3,3] w> { y = Conv (x, w) }": "conv",
    f"({X}) => (float[1,8,10,10] y) <float[8,1,3,3] w> {{ y = Conv <group = 8> (x, w) }}": "depthwise",
    f"({X}) => (float[1,8,10,10] y) <float[8,4,3,3] w> {{ y = Conv <group = 2> (x, w) }}": "conv",
    f"({X}) => (float[1,8,6,6] y) <float[8,8,1,1] w> {{ y = Conv <strides = [2,2]> (x, w) }}": "conv1x1",
    f"({X}) => (float[1,8,12,12] y) <float[8,8,1,1] w> {{ y = ConvTranspose (x, w) }}": "conv",
    "(float[2,8] x) => (float[2,5] y) <float[8,5] w> { y = Gemm (x, w) }": "dense",
    "(float[2,8] x) => (float[2,5] y) <float[8,5] w> { y = MatMul (x, w) }": "dense",
    f"({X}) => (float[1,8,12,12] y) {{ y = Relu (x) }}": "",
}


@pytest.mark.parametrize("text", CASES)
def test_kinds(text: str) -> None:
    assert kind_of(graph_from(text).nodes[0]) == CASES[text]
    assert CASES[text] in (*KINDS, "")


def test_what_a_layer_takes() -> None:
    board = target("tx2")
    macs = board.peak("float32")  # a second's
    assert layer_seconds(board, "conv1x1", macs, 0) == pytest.approx(
        1 / board.efficiency["conv1x1"]
    )
    assert layer_seconds(board, "conv3x3", macs, 0) < 0.5
    assert layer_seconds(board, "", 0, 59.7e9) == pytest.approx(1)
    assert layer_seconds(board, "conv3x3", macs, 59.7e9) == pytest.approx(1)  # bound by memory
    assert share_of(target("cortex-a53"), "conv3x3") == 1  # not counted


def test_what_a_node_takes() -> None:
    node = graph_from(next(iter(CASES))).nodes[0]
    board = replace(target("tx2"), gigabytes_per_second=1e9)
    macs = 8 * 8 * 9 * 100
    taken = node_seconds(board, node)
    assert taken == pytest.approx(macs / board.peak("float32") / board.efficiency["conv3x3"])
    slow = replace(board, gigabytes_per_second=1e-6)
    moved = 4 * (8 * 144 + 8 * 8 * 9 + 8 * 100)
    assert node_seconds(slow, node) == pytest.approx(moved / 1e3)


def test_board_files_say_both(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'extends = "tx2"\n[efficiency]\ndense = 0.5\n[onnx]\nreader = "R"\nopset = 11\nwithout = ["If"]\n'
    )
    board = read_board(path)
    assert board.efficiency == {"dense": 0.5}
    assert board.onnx is not None
    assert (board.onnx.name, board.onnx.opset, board.onnx.without) == ("R", 11, ("If",))
    path.write_text('extends = "tx2"\n[efficiency]\nconv5x5 = 0.5\n')
    with pytest.raises(UsageError, match=r"efficiency.conv5x5"):
        read_board(path)
    path.write_text('extends = "tx2"\n[onnx]\nreader = "R"\nopset = 11\nwithout = "If"\n')
    with pytest.raises(UsageError, match=r"onnx.without"):
        read_board(path)
