"""Cycles a core would take for what was counted, estimated by llvm-mca.

Every block of code is given to llvm-mca as the body of a loop; its cycles for one turn times the turns
are summed. So all data is in the first cache, all branches are foreseen, and a block overlaps with its
neighbours as well as with itself: a lower estimate of the core's own work, for comparing programs. It
is no time on a board.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from graphopt.errors import RunError
from graphopt.runtime.board import Target
from graphopt.runtime.places.counting import Block

# Older ones have no model of Neoverse-N1, which stands for the A76.
_VERSIONS = range(30, 16, -1)
_ATTRIBUTES = "+v8.2a,+fullfp16,+dotprod,+aes,+sha2,+lse,+rdm"
# LLVM's model of the A76's sibling dispatches eight operations a cycle; the A76 has four.
_DISPATCH = {"cortex-a76": 4}
_TOOLS = ("llvm-mc", "llvm-objdump", "llvm-mca")
# Blocks that execute this share of all instructions are estimated; the rest runs as fast as they do.
_COVERED = 0.997
_LONGEST_BODY = 6000
_PIECE = 200  # blocks given to llvm-mca at once

_JUMP = re.compile(r"(b|bl|br|blr|ret|cbn?z|tbn?z|b\.\w+)( |$)")
_ADDRESS = re.compile(r"(?<!\w)(0x[0-9a-f]+|#?-?\d+)$")  # not the number of a register
# What llvm-mca has no figures for, and never is where time goes.
_STRANGE = re.compile(r"(<unknown>|mrs|msr|svc|dmb|dsb|isb|hint|brk|udf|dc|ic|clrex|yield|bti)\b")


def tools() -> Mapping[str, str] | None:
    """Paths of LLVM's tools by name; None where not all are there."""
    for version in _VERSIONS:
        found = {t: shutil.which(f"{t}-{version}") for t in _TOOLS}
        if all(found.values()):
            return {t: str(path) for t, path in found.items()}
    return None


INSTALL = "apt install llvm-19, or any other from 17 on, estimates cycles"


@dataclass(frozen=True)
class Estimate:
    """Cycles of sections, and what estimated them."""

    cycles: Sequence[float]
    by: str


def estimate(
    sections: Sequence[Mapping[int, int]], blocks: Mapping[int, Block], board: Target
) -> Estimate:
    """The cycles of every section.

    Args:
        sections: executions by block.
        blocks: by number.
        board: whose core.

    Raises:
        RunError: LLVM's tools are missing, or refuse.
    """
    found = tools()
    if found is None:
        raise RunError(INSTALL)
    total: Counter[int] = Counter()
    for section in sections:
        total.update(section)
    chains = _joined(total, blocks)
    important = _important(chains, total, blocks)
    texts = _disassembled({w for c in important for n in c for w in blocks[n].code}, found)
    bodies = [tuple(texts[w] for n in c for w in blocks[n].code) for c in important]
    per_chain = dict(zip(important, _turns(bodies, board, found), strict=True))
    return Estimate(
        [_section(s, per_chain, blocks) for s in sections],
        f"{Path(found['llvm-mca']).name}, {_cpu(board)}",
    )


def _joined(total: Mapping[int, int], blocks: Mapping[int, Block]) -> list[tuple[int, ...]]:
    """Blocks that lie one after another and always run together are one; qemu cuts long ones."""
    at: dict[int, list[int]] = defaultdict(list)
    for number in total:
        at[blocks[number].address].append(number)
    ends = {n: blocks[n].address + 4 * len(blocks[n].code) for n in total}
    follower: dict[int, int] = {}
    for number, times in total.items():
        same = [n for n in at.get(ends[number], ()) if total[n] == times]
        if len(same) == 1 and not _jumps(blocks[number].code[-1]):
            follower[number] = same[0]
    chains = []
    for first in total.keys() - set(follower.values()):
        chain, size = [first], len(blocks[first].code)
        while (after := follower.get(chain[-1])) is not None:
            size += len(blocks[after].code)
            if size > _LONGEST_BODY:
                chains.append(tuple(chain))
                chain, size = [], len(blocks[after].code)
            chain.append(after)
        chains.append(tuple(chain))
    return chains


def _jumps(word: int) -> bool:
    """Whether an instruction word of A64 is a branch (the encodings of group "branches")."""
    return (
        word >> 26 in (0b000101, 0b100101)  # B, BL
        or word >> 24 in (0x54, 0x34, 0x35, 0xB4, 0xB5, 0x36, 0x37, 0xB6, 0xB7)
        or word >> 25 == 0b1101011  # BR, BLR, RET
    )


def _important(
    chains: Iterable[tuple[int, ...]], total: Mapping[int, int], blocks: Mapping[int, Block]
) -> list[tuple[int, ...]]:
    work = {c: total[c[0]] * sum(len(blocks[n].code) for n in c) for c in chains}
    wanted = _COVERED * sum(work.values())
    chosen: list[tuple[int, ...]] = []
    for chain in sorted(work, key=lambda c: -work[c]):
        if wanted <= 0:
            break
        chosen.append(chain)
        wanted -= work[chain]
    return chosen


def _section(
    section: Mapping[int, int],
    per_chain: Mapping[tuple[int, ...], float],
    blocks: Mapping[int, Block],
) -> float:
    known = instructions = cycles = 0.0
    everything = sum(times * len(blocks[n].code) for n, times in section.items())
    for chain, turn in per_chain.items():
        times = section.get(chain[0], 0)
        if times:
            cycles += times * turn
            known += times * sum(len(blocks[n].code) for n in chain)
    instructions = max(0.0, everything - known)
    # One instruction a cycle for what is too rare to be looked at, where nothing else is known.
    return cycles + instructions * (cycles / known if known else 1.0)


def _disassembled(words: Iterable[int], found: Mapping[str, str]) -> dict[int, str]:
    """Instruction words as text that llvm-mca takes."""
    ordered = sorted(words)
    with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
        source, made = Path(name) / "a.s", Path(name) / "a.o"
        source.write_text(
            ".text\n" + "".join(f".inst {w:#010x}\n" for w in ordered), encoding="ascii"
        )
        triple = "-triple=aarch64-linux-gnu"
        _run([found["llvm-mc"], triple, "-filetype=obj", "-o", str(made), str(source)])
        told = _run(
            [found["llvm-objdump"], "-d", "--no-show-raw-insn", f"--mattr={_ATTRIBUTES}", str(made)]
        )
    lines = re.findall(r"^ *[0-9a-f]+: +\s*(.*)$", told, re.MULTILINE)
    if len(lines) != len(ordered):
        raise RunError(f"llvm-objdump made {len(lines)} instructions of {len(ordered)}")
    return dict(zip(ordered, map(_for_mca, lines), strict=True))


def _for_mca(line: str) -> str:
    text = re.sub(r"\s*(<[^>]*>|//.*)$", "", line).replace("\t", " ").strip() or "<unknown>"
    operation = text.split(None, 1)[0]
    if _STRANGE.match(text):
        return "nop"
    if _JUMP.match(text):  # where to does not matter, but has to be near
        return _ADDRESS.sub("#8", text)
    if operation == "adrp":
        return re.sub(r", *\S+$", ", #4096", text)
    if operation == "adr" or (operation.startswith(("ldr", "prfm")) and "[" not in text):
        return re.sub(r", *\S+$", ", #8", text)
    return text


def _turns(
    bodies: Sequence[tuple[str, ...]], board: Target, found: Mapping[str, str]
) -> list[float]:
    """Cycles of a turn of every loop."""
    made = []
    for start in range(0, len(bodies), _PIECE):
        made += _piece(bodies[start : start + _PIECE], board, found)
    return made


def _piece(
    bodies: Sequence[tuple[str, ...]], board: Target, found: Mapping[str, str]
) -> list[float]:
    turns = 20 if max(map(len, bodies)) > 150 else 100
    command = [
        found["llvm-mca"],
        "-mtriple=aarch64-linux-gnu",
        f"-mcpu={_cpu(board)}",
        f"-mattr={_ATTRIBUTES}",
        f"-iterations={turns}",
        "-json",
        "-skip-unsupported-instructions=any",
        *([f"-dispatch={_DISPATCH[board.core]}"] if board.core in _DISPATCH else []),
        "-",
    ]
    text = "".join(
        f"# LLVM-MCA-BEGIN {i}\n" + "\n".join(body) + "\n# LLVM-MCA-END\n"
        for i, body in enumerate(bodies)
    )
    told = _run(command, text)
    regions: list[Any] = json.loads(told[told.index("{") :])["CodeRegions"]
    if any(not r["Name"].isdigit() for r in regions):  # it still ends with 0
        raise RunError(f"{command[0]} did not find the loops it was given")
    cycles = {int(r["Name"]): r["SummaryView"]["TotalCycles"] / turns for r in regions}
    # A body of nothing but what it does not know has no region.
    return [cycles.get(i, float(len(body))) for i, body in enumerate(bodies)]


def _cpu(board: Target) -> str:
    return board.tune_cpu or board.cpu


def _run(command: Sequence[str], text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RunError(f"{Path(command[0]).name}: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout
