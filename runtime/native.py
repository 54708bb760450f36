"""Runs deploy bundles on this machine: their library in this process, or their runner in an emulator.

runner = open_bundle(Path("folder"))
outputs = runner.run({"images": array})
"""

from __future__ import annotations

import _ctypes
import ctypes
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import LoadError, RunError, UsageError
from graphopt.runtime.emulator import Finished, emulate
from graphopt.runtime.run import Feeds, Outputs
from graphopt.runtime.targets import target

_ERROR_SIZE = 512
_LONGEST_SECONDS = 3600.0
Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Layer:
    """What one step of a run took."""

    name: str
    ms: float
    macs: int


class NativeRunner:
    """A bundle's library in this process."""

    name = "graphopt"

    def __init__(
        self, folder: Path, *, threads: int | None = None, cores: Sequence[int] | None = None
    ) -> None:
        """Loads the library and its weights.

        Args:
            folder: the bundle.
            threads: how many compute; as many as the board has cores if not given.
            cores: processors they are bound to; the board's if not given, none if empty.

        Raises:
            LoadError: the folder is no bundle, or the library cannot be loaded here.
            RunError: the library refuses, in its words.
        """
        self.manifest = read_manifest(folder)
        self._prefix = str(self.manifest["prefix"])
        try:
            self._library = ctypes.CDLL(str((folder / "libmodel.so").resolve()))
        except OSError as error:
            raise LoadError(f"{folder}/libmodel.so cannot be loaded here: {error}") from error
        self._ports = {k: list(self.manifest[k]) for k in ("inputs", "outputs")}
        self._declare()
        self._handle = self._create(folder / "model.weights", threads, cores)

    def _declare(self) -> None:
        pointer, number = ctypes.c_void_p, ctypes.c_int
        text = ctypes.c_char_p
        for name, result, arguments in (
            ("create", pointer, [text, pointer, text, ctypes.c_size_t]),
            ("destroy", None, [pointer]),
            ("set_input", number, [pointer, number, pointer, ctypes.c_size_t]),
            ("get_output", number, [pointer, number, pointer, ctypes.c_size_t]),
            ("run", number, [pointer]),
            ("run_profiled", number, [pointer, pointer, number]),
            ("layer_count", number, []),
            ("error", text, [pointer]),
            ("thread_count", number, [pointer]),
            ("bound_count", number, [pointer]),
            ("memory", ctypes.c_size_t, [pointer]),
        ):
            function = self._function(name)
            function.restype, function.argtypes = result, arguments

    def _function(self, name: str) -> Any:
        return getattr(self._library, f"{self._prefix}_{name}")

    def _create(
        self, weights: Path, threads: int | None, cores: Sequence[int] | None
    ) -> int | None:
        numbers = (ctypes.c_int * len(cores or ()))(*(cores or ()))
        options = _Options(
            threads=threads or 0,
            cores=ctypes.cast(numbers, ctypes.c_void_p) if cores else None,
            core_count=len(cores or ()),
            unbound=int(cores is not None and not cores),
        )
        error = ctypes.create_string_buffer(_ERROR_SIZE)
        path = str(weights.resolve()).encode()
        handle = self._function("create")(path, ctypes.byref(options), error, len(error))
        if not handle:
            raise RunError(error.value.decode(errors="replace"))
        return int(handle)

    def run(self, feeds: Feeds) -> Outputs:
        """The outputs by name; RunError with the library's words when it refuses."""
        self._feed(feeds)
        self._must(self._function("run")(self._handle))
        return self._outputs()

    def profile(self, feeds: Feeds) -> tuple[Outputs, list[Layer]]:
        """The outputs, and what each step took."""
        count = self._function("layer_count")()
        layers = (_Layer * (count + 1))()
        self._feed(feeds)
        self._must(self._function("run_profiled")(self._handle, ctypes.byref(layers), count))
        found = [Layer(v.name.decode(errors="replace"), v.ms, v.macs) for v in layers[:count]]
        return self._outputs(), found

    @property
    def threads(self) -> int:
        """How many compute."""
        return int(self._function("thread_count")(self._handle))

    @property
    def bound(self) -> int:
        """How many of them the system agreed to bind to a processor."""
        return int(self._function("bound_count")(self._handle))

    def close(self) -> None:
        """Ends its threads and frees its memory."""
        if getattr(self, "_handle", None):
            self._function("destroy")(self._handle)
            self._handle = None
            # Else another library that comes to lie at this path would never be loaded.
            _ctypes.dlclose(self._library._handle)

    def __del__(self) -> None:
        self.close()

    def _feed(self, feeds: Feeds) -> None:
        arrays = checked_feeds(feeds, self._ports["inputs"])
        for index, array in enumerate(arrays):
            place = array.ctypes.data
            self._must(self._function("set_input")(self._handle, index, place, array.nbytes))

    def _outputs(self) -> Outputs:
        made: Outputs = {}
        for index, port in enumerate(self._ports["outputs"]):
            array = np.empty(port["shape"], port["dtype"])
            got = self._function("get_output")(self._handle, index, array.ctypes.data, array.nbytes)
            self._must(got)
            made[port["name"]] = array
        return made

    def _must(self, failed: int) -> None:
        if failed:
            raise RunError(self._function("error")(self._handle).decode(errors="replace"))


class ProgramRunner:
    """A bundle's runner as a program of its own, in qemu where it is for another machine.

    Every run loads the model anew.
    """

    def __init__(
        self,
        folder: Path,
        *,
        threads: int | None = None,
        cores: Sequence[int] | None = None,
        timeout: float = _LONGEST_SECONDS,
        plugin: str = "",
    ) -> None:
        """Takes the arguments of NativeRunner, the seconds after which it is killed, a plugin of qemu's.

        Raises:
            LoadError: the folder is no bundle.
            UsageError: it has no runner.
        """
        self.manifest = read_manifest(folder)
        self._program = folder / "run"
        if not self._program.exists():
            reason = self.manifest["left_out"].get("run", "the file is missing")
            raise UsageError(f"{folder} has no program to run it with: {reason}")
        self._target = target(str(self.manifest["target"]))
        self._is_host = is_for_this_machine(self.manifest)
        self.name = "its runner" if self._is_host else f"qemu as a {self._target.core}"
        self._timeout, self._plugin = timeout, plugin
        self._options: list[str] = ["--threads", str(threads)] if threads else []
        if cores is not None:
            self._options += ["--cores", ",".join(map(str, cores)) or "any"]

    def run(self, feeds: Feeds) -> Outputs:
        """The outputs by name; RunError with the runner's words when it fails."""
        arrays = checked_feeds(feeds, self.manifest["inputs"])
        with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
            words: list[str] = []
            for port, array in zip(self.manifest["inputs"], arrays, strict=True):
                path = Path(name) / f"in{len(words)}.npy"
                np.save(path, array)
                words += ["--input", f"{port['name']}={path}"]
            return self._outputs(Path(name), words)

    def check(self) -> Outputs:
        """The outputs for the inputs it draws; RunError where they are not what they should be."""
        with tempfile.TemporaryDirectory(prefix="graphopt-") as name:
            return self._outputs(Path(name), ["--check"])

    def execute(self, words: Sequence[str], *, check: bool = True) -> Finished:
        """Runs the program with these words on its command line."""
        words = [*self._options, *words]
        if not self._is_host:
            return emulate(
                self._program,
                words,
                target=self._target,
                timeout=self._timeout,
                check=check,
                plugin=self._plugin,
            )
        done = subprocess.run(
            [str(self._program.resolve()), *words],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=self._timeout,
        )
        if check and done.returncode:
            last = (done.stderr.strip() or f"it ended with {done.returncode}").splitlines()[-1]
            raise RunError(f"{self._program.name}: {last.removeprefix('FAILED: ')}")
        return Finished(done.returncode, done.stdout, done.stderr)

    def _outputs(self, folder: Path, words: Sequence[str]) -> Outputs:
        names = [str(p["name"]) for p in self.manifest["outputs"]]
        paths = [folder / f"out{k}.npy" for k in range(len(names))]
        for name, path in zip(names, paths, strict=True):
            words = [*words, "--output", f"{name}={path}"]
        self.execute(words)
        return {n: np.load(p, allow_pickle=False) for n, p in zip(names, paths, strict=True)}


def open_bundle(
    folder: Path, *, threads: int | None = None, cores: Sequence[int] | None = None
) -> NativeRunner | ProgramRunner:
    """What runs a bundle on this machine: its library, or its runner in qemu.

    Raises:
        LoadError, RunError, UsageError: see there.
    """
    manifest = read_manifest(folder)
    kind = NativeRunner if is_for_this_machine(manifest) else ProgramRunner
    return kind(folder, threads=threads, cores=cores)


def is_for_this_machine(manifest: Manifest) -> bool:
    """Whether a bundle runs here as it is: of the target host, or a GPU's for the ABI host."""
    return "host" in (manifest["target"], manifest["abi"])


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle.

    Raises:
        LoadError: there is none, or it is not one of graphopt's.
    """
    path = folder / "manifest.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoadError(f"{folder} is no bundle: {path.name}: {error.strerror}") from error
    except ValueError as error:
        raise LoadError(f"{path} is damaged: {error}") from error
    if not isinstance(found, dict) or found.get("format") != "graphopt-bundle":
        raise LoadError(f"{path} is not the manifest of a bundle")
    return found


def checked_feeds(feeds: Feeds, ports: Sequence[Mapping[str, Any]]) -> list[np.ndarray[Any, Any]]:
    """The inputs in order.

    Raises:
        UsageError: one is missing, strange, or has another type or shape.
    """
    known = [p["name"] for p in ports]
    for name in feeds:
        if name not in known:
            raise UsageError(f"the network has no input {name!r}; it has {', '.join(known)}")
    arrays = []
    for port in ports:
        if port["name"] not in feeds:
            raise UsageError(f"input {port['name']!r} was not given")
        array = np.ascontiguousarray(feeds[port["name"]])
        shape = tuple(port["shape"])
        # ascontiguousarray makes a vector of a scalar.
        if np.shape(feeds[port["name"]]) != shape or str(array.dtype) != port["dtype"]:
            raise UsageError(
                f"input {port['name']!r} is {port['dtype']}{list(shape)}, "
                f"not {array.dtype}{list(array.shape)}"
            )
        arrays.append(array)
    return arrays


class _Options(ctypes.Structure):
    _fields_ = (
        ("threads", ctypes.c_int),
        ("cores", ctypes.c_void_p),
        ("core_count", ctypes.c_int),
        ("unbound", ctypes.c_int),
    )


class _Layer(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("ms", ctypes.c_double), ("macs", ctypes.c_int64))
