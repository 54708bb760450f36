"""Runs a bundle on a board through its ssh server: the runner and its weights, nothing else is needed.

Everything goes there in one connection, into a folder of its own that is removed afterwards.
"""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from graphopt.errors import RunError, UsageError
from graphopt.runtime.deploy.build import RUNNER, WEIGHTS
from graphopt.runtime.native import read_manifest
from graphopt.runtime.places.figures import Times
from graphopt.runtime.places.runner_output import times_in

_LONGEST_SECONDS = 3600
_MARK = "==== graphopt"  # between what two runs print
_DIFFERS = 3  # the runner's exit code when --check fails


def times_over_ssh(bundle: Path, address: str, *, iters: int, threads: int | None = None) -> Times:
    """Checks the bundle's outputs on the board and times it there.

    Args:
        bundle: the folder.
        address: USER@ADDRESS or USER@ADDRESS:PORT, as ssh knows it.
        iters: timed runs, after five that are not.
        threads: how many compute; the board's own choice if not given.

    Raises:
        LoadError: the folder is no bundle.
        UsageError: it has no runner; there is no ssh here.
        RunError: the board cannot be reached, the runner fails, or its outputs are not those of
            ONNX Runtime.
    """
    manifest = read_manifest(bundle)
    if RUNNER not in manifest["files"]:
        reason = manifest["left_out"].get(RUNNER, "it was left out")
        raise UsageError(f"{bundle} has no program to run on a board: {reason}")
    done = _ssh(address, _script(iters, threads), _packed(bundle))
    first, mark, second = done.stdout.partition(_MARK)
    if done.returncode or not mark:
        raise RunError(f"{address}: {_reason(done)}")
    return times_in(first, profile=second)


def _script(iters: int, threads: int | None) -> str:
    words = f" --threads {threads}" if threads else ""
    warm = f"--warmup 5{words}"
    return (
        'd=$(mktemp -d) || exit 1; trap \'rm -rf "$d"\' EXIT; cd "$d" && tar -xf - && '
        f"./{RUNNER} --check --iters {iters} {warm} && echo '{_MARK}' && "
        f"./{RUNNER} --profile --iters {max(1, iters // 4)} {warm}"
    )


def _packed(bundle: Path) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in (RUNNER, WEIGHTS):
            archive.add(bundle / name, name)
    return made.getvalue()


def _ssh(address: str, script: str, data: bytes) -> subprocess.CompletedProcess[str]:
    host, _, port = address.partition(":")
    command = ["ssh", "-o", "BatchMode=yes", *(["-p", port] if port else []), "--", host, script]
    try:
        done = subprocess.run(
            command, input=data, capture_output=True, check=False, timeout=_LONGEST_SECONDS
        )
    except FileNotFoundError as error:
        raise UsageError("there is no ssh here (apt install openssh-client)") from error
    except subprocess.TimeoutExpired as error:
        raise RunError(f"{address} did not finish within {_LONGEST_SECONDS} s") from error
    texts = (t.decode("utf-8", errors="replace") for t in (done.stdout, done.stderr))
    return subprocess.CompletedProcess(command, done.returncode, *texts)


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    lines = [v for v in done.stderr.strip().splitlines() if v.strip()]
    if done.returncode == _DIFFERS:
        differing = [v for v in done.stdout.splitlines() if "DIFFERS" in v]
        return "; ".join(differing) or "the outputs are not those of ONNX Runtime"
    if done.returncode == 255:  # ssh's own
        return f"ssh: {lines[-1] if lines else 'it could not connect'}"
    last = lines[-1].removeprefix("FAILED: ") if lines else f"it ended with {done.returncode}"
    return f"the runner failed: {last}"
