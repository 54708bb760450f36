"""Writes a bundle: into a hidden folder beside its place, which is renamed when all went well."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from graphopt.errors import SaveError, UsageError
from graphopt.runtime.compile import Compiled
from graphopt.runtime.deploy import documents
from graphopt.runtime.deploy.build import build
from graphopt.runtime.deploy.digest import digest_of, draw
from graphopt.runtime.deploy.names import prefix_of
from graphopt.runtime.gpu.compile import GpuCompiled
from graphopt.runtime.lower.program import Program
from graphopt.runtime.run import Feeds, Outputs
from graphopt.runtime.toolchain.find import toolchain_for
from graphopt.runtime.toolchain.toolchain import Toolchain

CHECK_TOLERANCE = 2e-4


def drawn_inputs(program: Program) -> Feeds:
    """The inputs a bundle's runner draws when it is given none."""
    return {port.name: draw(port, index) for index, port in enumerate(program.inputs)}


def make_bundle(
    compiled: Compiled | GpuCompiled,
    folder: Path,
    *,
    name: str,
    tools: Toolchain | None = None,
    reference: Outputs | None = None,
    tolerance: float = CHECK_TOLERANCE,
    model: Mapping[str, Any] | None = None,
    judge: Callable[[Path], str] | None = None,
    replace: bool = False,
    flags: Sequence[str] = (),
) -> documents.Manifest:
    """Writes the bundle of a compiled network and returns its manifest.

    Args:
        compiled: the network.
        folder: the bundle; what it is called while it is written nobody needs to know.
        name: of the model; the library's functions start with it.
        tools: for an ABI of its target; found for the first if not given.
        reference: what the network's outputs for `drawn_inputs` should be, for the runner's --check.
        tolerance: how far a board's outputs may be from these.
        model: what the manifest says about the model: name, sha256.
        judge: tries the bundle out before it gets its name; what it returns is written into it.
        replace: whether a bundle that is there may be replaced.
        flags: added to the C compiler's.

    Raises:
        UsageError: the folder exists; there is no toolchain.
        ToolchainError, UnsupportedError: see `build`.
        SaveError: it cannot be written; nothing is left.
    """
    tools = tools or toolchain_for(compiled.target)
    prefix = prefix_of(name)
    digests = {}
    if reference is not None:
        digests = {p.name: digest_of(reference[p.name]) for p in compiled.program.outputs}
    with _beside(folder, replace=replace) as draft:
        built = build(
            compiled,
            draft,
            prefix,
            tools,
            digests=list(digests.values()),
            tolerance=tolerance,
            flags=flags,
        )
        found = documents.manifest(
            compiled,
            built,
            draft,
            prefix=prefix,
            tools=tools,
            model=model or {"name": name},
            digests=digests,
            tolerance=tolerance,
        )
        _write(draft, found)
        if judge is not None:
            found["verified"] = judge(draft)
            _write(draft, found)
    return found


def _write(folder: Path, found: documents.Manifest) -> None:
    texts = {
        "manifest.json": json.dumps(found, indent=2, ensure_ascii=False) + "\n",
        "graphopt-model.cmake": documents.cmake(found),
        "README.md": documents.readme(found),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def check_place(folder: Path, *, replace: bool) -> None:
    """Refuses a folder a bundle cannot be written to, before any work.

    Raises:
        UsageError: it exists and must not be replaced, or its parent does not exist.
    """
    if not folder.absolute().parent.is_dir():
        raise UsageError(f"{folder.parent} does not exist; create the folder first")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not folder.is_dir():
        raise UsageError(f"{folder} is a file; a bundle is a folder")
    if not (folder / "manifest.json").exists():
        raise UsageError(f"{folder} is no bundle and holds files; name another folder")
    if not replace:
        raise UsageError(f"{folder} exists; --force replaces it")


@contextmanager
def _beside(folder: Path, *, replace: bool) -> Iterator[Path]:
    check_place(folder, replace=replace)
    folder = folder.resolve()  # a link stays, and what it names is replaced
    try:
        hidden = Path(tempfile.mkdtemp(prefix=".graphopt-", dir=folder.parent))
    except OSError as error:
        raise SaveError(f"cannot write in {folder.parent}: {error.strerror}") from error
    try:
        draft = hidden / "new"
        draft.mkdir()
        yield draft
        _put(draft, folder, hidden / "old")
    except OSError as error:
        raise SaveError(f"cannot write {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _put(draft: Path, folder: Path, old: Path) -> None:
    if folder.exists():
        os.replace(folder, old)
    try:
        os.replace(draft, folder)
    except OSError:
        if old.exists():
            os.replace(old, folder)
        raise
