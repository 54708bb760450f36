"""A C compiler, a linker and an archiver that build for one ABI.

What they make depends on their inputs only: no times, no paths, no build ids, nothing of the order
in which files were found. Results are written beside the target and renamed, and whatever a board
would load is looked into first: a library that asks for a newer C library than the board has fails
here and not there.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from graphopt.errors import ToolchainError, UsageError
from graphopt.runtime.board import Abi
from graphopt.runtime.elf import loads_on, read_elf
from graphopt.runtime.toolchain import bionic

# The first program zig links for a C library waits until zig has built that library: a minute or two.
_LONGEST_SECONDS = 900
_MOST_COMPLAINTS = 3

_COMPILE = ("-c", "-O2", "-g0", "-fPIC", "-ffunction-sections", "-fdata-sections", "-std=gnu11")
_LINK = ("-s", "-Wl,--build-id=none", "-Wl,--gc-sections", "-Wl,-z,defs")


@dataclass(frozen=True)
class Toolchain:
    """Builds for one ABI. `find.toolchain_for` makes them.

    Attributes:
        name: for messages and manifests: "zig 0.17.1".
        abi: what it builds for.
        cc: the compiler's command line up to and with what selects the ABI.
        ar: the archiver's.
        without_libc: whether there is no C library of the ABI to link with, only its names.
        no_programs: why no program can be linked; empty if it can.
        no_static: why no static program can be linked; empty if it can.
    """

    name: str
    abi: Abi
    cc: tuple[str, ...]
    ar: tuple[str, ...]
    without_libc: bool = False
    no_programs: str = ""
    no_static: str = ""

    def compile(self, source: Path, output: Path, flags: Sequence[str] = ()) -> Path:
        """Compiles one C (or assembler) file to an object file.

        Args:
            source: the file.
            output: the object file.
            flags: added to the compiler's, as "-DNAME=1" or "-Iinclude".

        Raises:
            ToolchainError: the compiler refuses it; its first complaints are quoted.
        """
        includes = ["-isystem", str(bionic.HEADERS)] if self.without_libc else []
        here = f"-ffile-prefix-map={source.parent}/="
        with _beside(output) as made:
            self._run(
                f"compile {source.name}",
                [*self.cc, *_COMPILE, here, *includes, *flags, str(source), "-o", str(made)],
            )
        return output

    def shared(
        self,
        objects: Sequence[Path],
        output: Path,
        *,
        exports: Sequence[str] | None = None,
        libraries: Sequence[str] = ("m", "pthread"),
    ) -> Path:
        """Links a shared library that loads under the ABI.

        Args:
            objects: object files and static libraries.
            output: the library; it is called so (soname).
            exports: the symbols others may see; None: all that are not hidden.
            libraries: what comes with the C library and is used: m, pthread, dl.

        Raises:
            ToolchainError: undefined symbols, or the result would not load.
        """
        with _beside(output) as made:
            flags = ["-shared", f"-Wl,-soname,{output.name}"]
            if exports is not None:
                script = made.with_name("exports.map")
                names = " ".join(f"{name};" for name in exports)
                script.write_text(f"{{ global: {names} local: *; }};\n", encoding="utf-8")
                flags.append(f"-Wl,--version-script={script}")
            self._link(objects, made, output.name, flags, libraries)
        return output

    def executable(
        self,
        objects: Sequence[Path],
        output: Path,
        *,
        static: bool | None = None,
        libraries: Sequence[str] = ("m", "pthread"),
    ) -> Path:
        """Links a program that runs under the ABI.

        Args:
            objects: object files and static libraries.
            output: the program.
            static: whether it holds its C library; None: only where that is musl, which few boards
                have.
            libraries: as for `shared`.

        Raises:
            UsageError: this toolchain has no C library for it; says which has.
            ToolchainError: undefined symbols, or the result would not run.
        """
        static = self.abi.libc == "musl" if static is None else static
        refusal = self.no_programs or (self.no_static if static else "")
        if refusal:
            raise UsageError(refusal)
        with _beside(output) as made:
            self._link(objects, made, output.name, ["-static"] if static else [], libraries)
        return output

    def static_library(self, objects: Sequence[Path], output: Path) -> Path:
        """Puts object files into an archive.

        Raises:
            ToolchainError: the archiver refuses it.
        """
        with _beside(output) as made:
            # D: no times and owners. q: two files of one name both stay.
            self._run(f"archive {output.name}", [*self.ar, "qcsD", str(made), *map(str, objects)])
        return output

    def _link(
        self,
        objects: Sequence[Path],
        made: Path,
        name: str,
        flags: Sequence[str],
        libraries: Sequence[str],
    ) -> None:
        inputs = [*map(str, objects), *self._libraries(made.parent, libraries)]
        self._run(f"link {name}", [*self.cc, *_LINK, *flags, *inputs, "-o", str(made)])
        problems = loads_on(read_elf(made), self.abi)
        if problems:
            raise ToolchainError(
                f"{name}, linked by {self.name}, does not load under {self.abi}: it "
                f"{'; it '.join(problems)}"
            )

    def _libraries(self, folder: Path, libraries: Sequence[str]) -> list[str]:
        """The linker's words for the C library, made here where there is only its names."""
        if self.abi.libc == "bionic":
            libraries = [name for name in libraries if name != "pthread"]  # is part of libc there
        if not self.without_libc:
            return ["-Wl,--as-needed", *(f"-l{name}" for name in libraries)]
        return ["-nostdlib", "-Wl,--as-needed", *self._stubs(folder, [*libraries, "c"])]

    def _stubs(self, folder: Path, libraries: Sequence[str]) -> list[str]:
        """Libraries with the names of Android's and no code, given to the linker as files.

        As -lm, zig would look for a C library of its own, and it has none.
        """
        made = []
        for name in dict.fromkeys(libraries):
            if name not in bionic.functions():
                raise ToolchainError(
                    f"-l{name}: without an NDK only Android's libc, libm and libdl are known; "
                    "give one with ANDROID_NDK_HOME"
                )
            source, stub = folder / f"{name}.s", folder / f"lib{name}.so"
            source.write_text(bionic.stub(name), encoding="utf-8")
            flags = ["-shared", "-nostdlib", f"-Wl,-soname,{stub.name}"]
            self._run(f"make {stub.name}", [*self.cc, *flags, str(source), "-o", str(stub)])
            made.append(str(stub))
        return made

    def _run(self, what: str, command: Sequence[str]) -> None:
        environment = {**os.environ, "LC_ALL": "C", "SOURCE_DATE_EPOCH": "0", "ZERO_AR_DATE": "1"}
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                stdin=subprocess.DEVNULL,
                env=environment,
                timeout=_LONGEST_SECONDS,
            )
        except OSError as error:
            raise ToolchainError(
                f"{self.name} could not {what}: {command[0]}: {error.strerror}"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise ToolchainError(f"{self.name} could not {what} in {_LONGEST_SECONDS} s") from error
        if done.returncode:
            told = complaints(done.stderr or done.stdout) or f"it ended with {done.returncode}"
            raise ToolchainError(f"{self.name} could not {what}: {told}")


def complaints(stderr: str) -> str:
    """The lines of a compiler's or linker's output that say what is wrong, the first few."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower() or "undefined" in line]
    chosen = (errors or lines)[:_MOST_COMPLAINTS]
    return "; ".join(line[:300] for line in chosen)


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """A path in a temporary folder beside `output`, renamed to it when all went well."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=".graphopt-", dir=output.parent)
    except OSError as error:
        raise ToolchainError(f"cannot write {output}: {error.strerror}") from error
    with folder as name:
        made = Path(name) / output.name
        yield made
        try:
            made.replace(output)
        except OSError as error:
            raise ToolchainError(f"cannot write {output}: {error.strerror}") from error
