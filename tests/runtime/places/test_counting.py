"""Instructions counted in an emulator, and the cycles they are estimated to take."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.errors import RunError
from graphopt.runtime.emulator import emulate
from graphopt.runtime.places import counting, cycles
from graphopt.runtime.places.emulated import counts_of
from graphopt.runtime.targets import target
from graphopt.runtime.toolchain.find import toolchain_for
from tests.runtime.cross import need
from tests.runtime.deploy.bundles import Bundles, all_bundles  # noqa: F401

# A loop that does not count; two sections: the same loop, 1000 turns with 3 instructions; then one of 10 with 600 additions, each of
# which waits for the one before, longer than a block of qemu's. A block counts as a whole where it
# begins, so sections begin with a jump, as the calls of kernels do.
PROGRAM = """
    .globl _start
loop:
    add x1, x1, #1
    subs x0, x0, #1
    b.ne loop
    ret
_start:
    mov x0, #500
    bl loop
    hint #120
    mov x0, #1000
    bl loop
    hint #121
    mov x0, #1000
2:  subs x0, x0, #1
    b.ne 2b
    hint #120
    b 0f
0:  mov x0, #10
3:  .rept 600
    add x1, x1, #1
    .endr
    subs x0, x0, #1
    b.ne 3b
    hint #121
    mov x0, #0
    mov x8, #93
    svc #0
"""


def counted(tmp_path: Path) -> tuple[list[dict[int, int]], dict[int, counting.Block]]:
    need("zig", "cc", "qemu")
    board = target("tx2")
    tools = toolchain_for(board, "linux-musl")
    source = tmp_path / "loops.s"
    source.write_text(PROGRAM)
    made = tools.compile(source, tmp_path / "loops.o")
    tools._run(
        "link", [*tools.cc, "-nostdlib", "-static", str(made), "-o", str(tmp_path / "loops")]
    )
    plugin = counting._plugin(tmp_path)
    counts = tmp_path / "counts"
    emulate(tmp_path / "loops", target=board, plugin=f"{plugin},out={counts}")
    return counting.read_counts(counts.read_text())


def test_counts_are_exact(tmp_path: Path) -> None:
    sections, blocks = counted(tmp_path)
    assert len(sections) == 2
    totals = [sum(n * len(blocks[b].code) for b, n in s.items()) for s in sections]
    assert totals[0] == pytest.approx(2 + 1000 * 3, abs=5)
    assert totals[1] == pytest.approx(1 + 10 * 602, abs=5)


def test_cycles_are_those_of_the_core(tmp_path: Path) -> None:
    need("mca")
    sections, blocks = counted(tmp_path)
    found = cycles.estimate(sections, blocks, target("tx2"))
    # A chain of additions is one a cycle; the short loop at most as many as it has instructions.
    assert found.cycles[1] == pytest.approx(6000, rel=0.03)
    assert 1000 <= found.cycles[0] <= 3000
    assert "cortex-a57" in found.by
    wider = cycles.estimate(sections, blocks, target("kirin990"))
    assert "neoverse-n1" in wider.by
    assert wider.cycles[1] == pytest.approx(6000, rel=0.03)


JUMPS = {
    "b": 0x14000001,
    "bl": 0x97FFFFFF,
    "b.ne": 0x54FFFFC1,
    "cbz w": 0x34000040,
    "cbnz x": 0xB5000040,
    "tbz": 0x36000040,
    "tbnz high": 0xB7F80040,
    "br": 0xD61F0000,
    "blr": 0xD63F0000,
    "ret": 0xD65F03C0,
}
OTHERS = {"add": 0x91000421, "fmla": 0x4E22CC20, "ldr q": 0x3DC00000, "nop": 0xD503201F}


@pytest.mark.parametrize("name", [*JUMPS, *OTHERS])
def test_what_ends_a_block(name: str) -> None:
    assert cycles._jumps({**JUMPS, **OTHERS}[name]) is (name in JUMPS)


FAR = {
    "br x17": 0xD61F0220,
    "blr x28": 0xD63F0380,
    "adrp x16": 0x90000010,
    "ldr x1, literal": 0x58000041,
}


@pytest.mark.parametrize("name", [*JUMPS, *OTHERS, *FAR])
def test_every_kind_of_instruction_is_read(name: str) -> None:
    need("mca")
    block = counting.Block(0x1000, (OTHERS["add"], {**JUMPS, **OTHERS, **FAR}[name]))
    found = cycles.estimate([{0: 10}], {0: block}, target("tx2"))
    assert 10 <= found.cycles[0] <= 100


def test_loops_that_were_not_found_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told = '{"CodeRegions": [{"Name": "", "SummaryView": {"TotalCycles": 100}}]}'
    monkeypatch.setattr(cycles, "_run", lambda *_: told)
    with pytest.raises(RunError, match="did not find the loops"):
        cycles._turns([("nop",)], target("tx2"), {"llvm-mca": "llvm-mca-17"})


def test_blocks_that_run_together_are_one() -> None:
    nop, jump = OTHERS["nop"], JUMPS["b"]
    blocks = {
        0: counting.Block(0x1000, (nop, nop)),
        1: counting.Block(0x1008, (nop, jump)),
        2: counting.Block(0x1010, (nop,)),  # another count: something jumps here
        3: counting.Block(0x1014, (nop,)),
    }
    chains = cycles._joined({0: 5, 1: 5, 2: 9, 3: 9}, blocks)
    assert sorted(chains) == [(0, 1), (2, 3)]
    assert sorted(cycles._joined({0: 5, 1: 6, 2: 6, 3: 9}, blocks)) == [(0,), (1,), (2,), (3,)]


def test_a_bundle_layer_by_layer(bundles: Bundles) -> None:
    need("cc", "qemu", "sysroot")
    made = bundles("small", "tx2")
    counts = counts_of(made.folder, target("tx2"))
    again = counts_of(made.folder, target("tx2"))
    names = [v.name for v in counts.layers]
    assert {"Conv_a", "Conv_b", "ArgMax_most"} <= set(names)
    for one, two in zip(counts.layers, again.layers, strict=True):
        assert one.instructions == pytest.approx(two.instructions, rel=0.01, abs=200)
    by_name = {v.name: v for v in counts.layers}
    # 24 * 20 * 16 * 16 * 9 products; Winograd needs fewer multiply-adds of four than the direct way.
    assert by_name["Conv_b"].macs == 1_106_000  # printed in thousands
    assert by_name["Conv_b"].limit == 1_106_000 / 4
    assert 1e4 < by_name["Conv_b"].instructions < 1.1e6
    assert counts.instructions == sum(v.instructions for v in counts.layers)
    if cycles.tools() is not None:
        assert counts.cycles == pytest.approx(sum(v.cycles or 0 for v in counts.layers))
        assert 0.3 < counts.cycles / counts.instructions < 3


def test_a_bundle_that_marks_no_layers_is_refused(
    bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("cc", "qemu", "sysroot")
    made = bundles("small", "tx2")
    monkeypatch.setattr(counting, "read_counts", lambda _: ([], {}))
    with pytest.raises(RunError, match="marks 0 layers of 13: compile it with this graphopt"):
        counts_of(made.folder, target("tx2"))


def test_without_llvm_only_instructions_are_told(
    bundles: Bundles, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("cc", "qemu", "sysroot")
    made = bundles("small", "tx2")
    monkeypatch.setattr("graphopt.runtime.places.emulated.tools", lambda: None)
    counts = counts_of(made.folder, target("tx2"))
    assert counts.cycles is None
    assert counts.instructions > 1e4
    assert "apt install llvm" in counts.estimator
