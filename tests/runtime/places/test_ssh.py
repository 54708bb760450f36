"""Bundles over ssh, with a stand-in for ssh that runs the script on this machine."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from graphopt.errors import LoadError, RunError, UsageError
from graphopt.runtime.places.ssh import times_over_ssh
from tests.runtime.deploy.bundles import Bundles, all_bundles  # noqa: F401

# Writes down its words, and runs the last in a folder of its own as ssh's server would.
SSH = """#!/bin/sh
printf '%s\\n' "$@" > "{log}"
for last; do :; done
TMPDIR="{tmp}" exec sh -c "$last"
"""


@pytest.fixture(name="board")
def fake_board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of a board that can be reached; its temporary files are beside it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "tmp").mkdir()
    _program(tmp_path, SSH.format(log=tmp_path / "log", tmp=tmp_path / "tmp"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "log"


def _program(folder: Path, text: str) -> None:
    path = folder / "bin" / "ssh"
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_times_and_layers_come_back(bundles: Bundles, board: Path) -> None:
    made = bundles("small")
    times = times_over_ssh(made.folder, "pi@board:2222", iters=7, threads=2)
    assert (times.runs, times.threads) == (7, 2)
    assert 0 < times.least <= times.median
    assert {"Conv_a", "Conv_b"} <= {v.name for v in times.layers}
    words = board.read_text().splitlines()
    assert words[: words.index("--")] == ["-o", "BatchMode=yes", "-p", "2222"]
    assert words[words.index("--") + 1] == "pi@board"
    assert "./run --check --iters 7 --warmup 5 --threads 2 &&" in words[-1]
    assert list((board.parent / "tmp").iterdir()) == []  # nothing stays on the board


def test_outputs_are_checked_there(bundles: Bundles, board: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for file in bundles("resnet20").folder.iterdir():
        (wrong / file.name).write_bytes(file.read_bytes())
        (wrong / file.name).chmod(file.stat().st_mode)
    runner = wrong / "run"
    runner.write_text("#!/bin/sh\necho 'check y: deviation 1, may be 0.0002: DIFFERS'; exit 3\n")
    with pytest.raises(RunError, match="pi: check y: deviation 1, may be 0.0002: DIFFERS"):
        times_over_ssh(wrong, "pi", iters=3)
    runner.write_text("#!/bin/sh\necho 'FAILED: out of memory' >&2; exit 1\n")
    with pytest.raises(RunError, match="pi: the runner failed: out of memory"):
        times_over_ssh(wrong, "pi", iters=3)
    assert list((board.parent / "tmp").iterdir()) == []


def test_a_board_that_is_not_there(bundles: Bundles, board: Path) -> None:
    said = "ssh: connect to host pi port 22: Connection refused"
    _program(board.parent, f"#!/bin/sh\necho '{said}' >&2; exit 255\n")
    with pytest.raises(RunError, match="pi: ssh: .*Connection refused"):
        times_over_ssh(bundles("small").folder, "pi", iters=3)


def test_what_cannot_be_sent(bundles: Bundles, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(LoadError, match="is no bundle"):
        times_over_ssh(tmp_path, "pi", iters=3)
    android = bundles("small", "kirin990", "android").folder
    with pytest.raises(UsageError, match="has no program to run on a board"):
        times_over_ssh(android, "pi", iters=3)
    folder = bundles("small").folder
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="there is no ssh here"):
        times_over_ssh(folder, "pi", iters=3)
