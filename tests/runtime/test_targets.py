"""Boards: the figures known of each, what their hardware refuses, and files of the user's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_bad_input import fails, run

from graphopt.errors import UsageError
from graphopt.runtime.board import PRECISIONS
from graphopt.runtime.board_file import BOARDS
from graphopt.runtime.targets import TARGETS, target


def test_every_file_is_a_board_and_the_host_is_one() -> None:
    assert set(TARGETS) == {p.stem for p in BOARDS.glob("*.toml")} | {"host"}
    assert len(TARGETS) == 11
    with pytest.raises(KeyError):
        _ = TARGETS["toaster"]


@pytest.mark.parametrize("name", list(TARGETS))
def test_a_board_holds_together(name: str) -> None:
    board = target(name)
    assert board.name == name
    assert board.default_precision in board.precisions
    for precision in PRECISIONS:
        if precision in board.precisions:
            assert 1e9 < board.peak(precision) < 1e13
        else:
            assert len(board.unsupported[precision].split()) > 3
    numbers = [n for c in board.clusters for n in c.cpus]
    assert len(numbers) == len(set(numbers))
    assert all(16 << 10 <= c.l1d_bytes <= c.l2_bytes for c in board.clusters)


@pytest.mark.parametrize(
    ("name", "precision", "giga_macs"),
    [
        ("tx2", "float32", 4 * 2.035 * 4),
        ("tx2", "int8", 4 * 2.035 * 8),
        ("kirin990", "float32", 83.5),
        ("kirin990", "float16", 167),
        ("kirin990", "int8", 334),
        ("tx2-gpu", "float16", 666),
        ("kirin990-gpu", "float32", 230),
        ("rpi4", "float32", 24),
        ("rpi5", "int8", 307),
    ],
)
def test_peaks_are_the_published_ones(name: str, precision: str, giga_macs: float) -> None:
    assert target(name).peak(precision) == pytest.approx(giga_macs * 1e9, rel=0.01)


def test_the_roofline_counts_in_the_precision_asked_for() -> None:
    tx2 = target("tx2")
    assert tx2.seconds(65.12e9, 0) == pytest.approx(2.0)
    assert tx2.seconds(65.12e9, 0, "int8") == pytest.approx(1.0)
    assert tx2.seconds(0, 59.7e9, "int8") == pytest.approx(1.0)


def test_what_kernels_ask_a_board() -> None:
    kirin, tx2 = target("kirin990"), target("tx2")
    assert kirin.has("dotprod")
    assert kirin.has("fullfp16")
    assert not tx2.has("dotprod")
    assert (kirin.cpu, kirin.tune_cpu) == ("cortex-a76", "neoverse-n1")
    assert (tx2.core, tx2.cores, tx2.computing[0].cpus) == ("cortex-a57", 4, (0, 3, 4, 5))
    assert [c.gigahertz for c in kirin.computing] == [2.86, 2.36]
    assert (tx2.triple, tx2.abi().version) == ("aarch64-unknown-linux-gnu", "2.27")
    assert kirin.abi("linux-musl").libc == "musl"
    assert target("tx2-gpu").gpu.arch == "sm_62"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "precision", "reason"),
    [
        ("tx2", "float16", "tx2 cannot do float16: Cortex-A57 has no fp16 arithmetic; use float32"),
        ("cortex-a53", "float16", "no fp16 arithmetic"),
        ("tx2-gpu", "int8", "sm_62 has no dp4a, so no int8; use float16"),
        ("kirin990-gpu", "int8", "no OpenCL kernels"),
        ("tx2", "int3", "no precision is called 'int3'; known: float32, float16, int8"),
    ],
)
def test_what_the_hardware_cannot_do_is_refused(name: str, precision: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        target(name).precision(precision)


def test_unknown_names_are_answered_with_known_ones() -> None:
    with pytest.raises(UsageError, match="did you mean kirin990"):
        target("kirin980")
    with pytest.raises(
        UsageError, match="tx2 has no ABI called 'android'; it has linux-gnu, linux"
    ):
        target("tx2").abi("android")


# --- files ------------------------------------------------------------------------------------

OWN = """
extends = "rpi4"
description = "mine, overclocked"

[[cluster]]
core = "cortex-a72"
cpus = [0, 1]
gigahertz = 2.0
l1d_kib = 32
l2_kib = 1024
l2_shared = true
macs_per_cycle = { float32 = 4, int8 = 8 }
"""


def _own(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_board_of_ones_own_extends_another(tmp_path: Path) -> None:
    board = target(_own(tmp_path, OWN))
    assert (board.name, board.cores, board.cpu) == ("mine", 2, "cortex-a72")
    assert board.macs_per_second == pytest.approx(2 * 2.0e9 * 4)
    assert board.abi().version == "2.31"
    whole = (BOARDS / "tx2.toml").read_text(encoding="utf-8")
    assert target(_own(tmp_path, whole)).peak("int8") == target("tx2").peak("int8")


TX2 = (BOARDS / "tx2.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("was", "becomes", "told"),
    [
        ('cpu = "cortex-a57"', 'cpuu = "cortex-a57"', "the key cpu is missing (a text); is 'cpuu' meant"),
        ("vector_bits =", "features_ = 1\nvector_bits =", "'features_'; did you mean features"),
        ("l1d_kib = 32", "l1d_kib = 32\nl2_kibs = 1", "'cluster[0].l2_kibs'; did you mean cluster"),
        ("gigahertz = 2.035", "gigahertz = -2.0", "cluster[0].gigahertz = -2.0 has to be a positive"),
        ("gigahertz = 2.035", "", "the key cluster[0].gigahertz is missing (a positive number)"),
        ("gigahertz = 2.035", "gigahertz = true", "gigahertz = True has to be"),
        ("gigahertz = 2.035", "gigahertz = nan", "gigahertz = nan has to be"),
        ("vector_bits = 128", 'vector_bits = "128"', "vector_bits = '128' has to be a positive whole"),
        ("vector_bits = 128", "vector_bits = true", "vector_bits = True has to be"),
        ("cpus = [0, 3, 4, 5]", "cpus = [0, 0]", "cluster[0].cpus = [0, 0] has to be a list of diff"),
        ("cpus = [0, 3, 4, 5]", "cpus = []", "cluster[0].cpus = []"),
        ("runs_network = false", "runs_network = 0", "cluster[1].runs_network = 0 has to be true or"),
        ('version = "2.27"', "version = 2.27", "abi[0].version = 2.27 has to be a version in quotes"),
        ('libc = "musl"', 'libc = "newlib"', "abi[1].libc = 'newlib' has to be one of glibc, musl"),
        ('features = ["+neon"', 'features = ["neon"', "has to be a list of LLVM attributes"),
        ("int8 = 8 }", "int4 = 8 }", "'cluster[0].macs_per_cycle.int4'; did you mean"),
        ("{ float32 = 4, int8 = 8 }", "{ float32 = 4 }", "int8 has to stand either in cluster cortex"),
        ("int8 = 8 }", "int8 = 8, float16 = 4 }", "float16 has to stand either in cluster cortex-a57"),
        ('default_precision = "float32"', 'default_precision = "float16"', "under [unsupported] too"),
        ("}\n\n# Denver2", "}\nruns_network = false\n# Denver2", "no cluster has runs_network = true"),
        ('"aarch64-unknown-linux-musl"', '"x86_64-unknown-linux-musl"', "different instruction sets"),
        ("memory_gib = 8", "memory_gib = ", "is not valid TOML"),
        ("memory_gib = 8", 'extends = "toaster"', "extends = 'toaster' is no board of graphopt's"),
        ("[[abi]]", "[[abis]]", "the key abi is missing ([[abi]] tables)"),
        ("[unsupported]", "[gpu]\nkind = 'cuda'\n[unsupported]", "the key gpu.arch is missing (a text)"),
    ],
)  # fmt: skip
def test_a_board_that_makes_no_sense_is_refused(
    tmp_path: Path, was: str, becomes: str, told: str
) -> None:
    assert was in TX2
    path = _own(tmp_path, TX2.replace(was, becomes))
    with pytest.raises(UsageError) as caught:
        target(path)
    assert str(caught.value).startswith(f"board file {path}")
    assert told in str(caught.value)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match="board file none.toml: No such file"):
        target("none.toml")


# --- the command line -------------------------------------------------------------------------


def test_the_list_has_every_board() -> None:
    done = run("targets")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    rows = {line.split()[0]: line for line in lines[1:-1]}
    assert list(rows) == list(TARGETS)
    assert "4× cortex-a57" in rows["tx2"]
    assert "Peaks in GMAC/s" in lines[-1]


def test_one_board_in_full_and_as_json(tmp_path: Path) -> None:
    shown = run("targets", "tx2").stdout
    assert "4× cortex-a57 (cpu 0, 3, 4, 5) at 2.035 GHz" in shown
    assert "refused: Cortex-A57 has no fp16 arithmetic" in shown
    (told,) = json.loads(run("targets", "tx2-gpu", "--json").stdout)
    assert told["gpu"]["arch"] == "sm_62"
    assert told["macs_per_second"]["float16"] == 666e9
    assert "mine, overclocked" in run("targets", _own(tmp_path, OWN)).stdout
    assert len(json.loads(run("targets", "--json").stdout)) == len(TARGETS)


def test_a_board_that_is_not_known_is_a_usage_error(tmp_path: Path) -> None:
    assert "did you mean tx2" in fails(tmp_path, "targets", "tx3", code=2)
