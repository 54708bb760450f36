"""Reads boards from TOML: those that come with graphopt (boards/) and the user's own.

`extends = "tx2"` starts from a board that comes with graphopt; a key or table given replaces that
board's. docs/targets.md describes every key.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from graphopt.errors import UsageError
from graphopt.runtime.board import LIBCS, PRECISIONS, Abi, Cluster, Gpu, OnnxReader, Target
from graphopt.runtime.efficiency import KINDS
from graphopt.toml import read_toml

BOARDS = Path(__file__).parent / "boards"

_T = TypeVar("_T")
_KIB, _GIB = 1 << 10, 1 << 30


def read_board(path: Path) -> Target:
    """The board a file describes; it is called as the file.

    Raises:
        UsageError: the file cannot be read, or a key is unknown, missing or senseless.
    """
    table = _Table(_with_base(path), path)
    target = Target(
        name=path.stem,
        description=table.text("description"),
        cpu=(cpu := table.text("cpu")),
        tune_cpu=table.text("tune_cpu", cpu),
        features=tuple(table.features("features")),
        vector_registers=table.whole("vector_registers"),
        vector_bits=table.whole("vector_bits"),
        gigabytes_per_second=table.number("gigabytes_per_second"),
        default_precision=table.one_of("default_precision", PRECISIONS),
        unsupported=table.by_precision("unsupported", _Table.text, {}),
        abis=tuple(_abi(t) for t in table.tables("abi")),
        clusters=tuple(_cluster(t) for t in table.tables("cluster")),
        l3_bytes=_KIB * table.whole("l3_kib", 0),
        memory_bytes=_bytes(table.number("memory_gib", 0)),
        gpu=_gpu(table.table("gpu")) if "gpu" in table else None,
        onnx=_onnx(table.table("onnx")) if "onnx" in table else None,
        efficiency=_efficiency(table.table("efficiency", {})),
    )
    table.close()
    _check(target, path)
    return target


def _with_base(path: Path) -> dict[str, Any]:
    values = read_toml(path, "board file")
    base = values.pop("extends", None)
    if base is None:
        return values
    known = sorted(p.stem for p in BOARDS.glob("*.toml"))
    if base not in known:
        raise UsageError(
            f"board file {path}: extends = {base!r} is no board of graphopt's: {', '.join(known)}"
        )
    return {**_with_base(BOARDS / f"{base}.toml"), **values}


def _abi(table: _Table) -> Abi:
    return table.closed(
        Abi(
            name=table.text("name"),
            triple=table.text("triple"),
            libc=table.one_of("libc", LIBCS),
            version=table.version("version"),
        )
    )


def _cluster(table: _Table) -> Cluster:
    return table.closed(
        Cluster(
            core=table.text("core"),
            cpus=tuple(table.cpus("cpus")),
            gigahertz=table.number("gigahertz"),
            macs_per_cycle=table.by_precision("macs_per_cycle", _Table.whole),
            l1d_bytes=_KIB * table.whole("l1d_kib"),
            l2_bytes=_KIB * table.whole("l2_kib"),
            l2_shared=table.flag("l2_shared", False),
            runs_network=table.flag("runs_network", True),
        )
    )


def _gpu(table: _Table) -> Gpu:
    return table.closed(
        Gpu(
            kind=table.one_of("kind", ("cuda", "opencl")),
            arch=table.text("arch"),
            cores=table.whole("cores"),
            gigahertz=table.number("gigahertz"),
            gigaflops=table.by_precision("gigaflops", _Table.number),
        )
    )


def _onnx(table: _Table) -> OnnxReader:
    return table.closed(
        OnnxReader(
            name=table.text("reader"),
            opset=table.whole("opset"),
            without=tuple(table.names("without")),
        )
    )


def _efficiency(table: _Table) -> dict[str, float]:
    return table.closed({kind: table.number(kind) for kind in KINDS if kind in table})


def _bytes(gib: float) -> int | None:
    return round(gib * _GIB) or None


def _check(target: Target, path: Path) -> None:
    """Refuses figures that contradict each other."""
    if not target.computing:
        raise UsageError(f"board file {path}: no cluster has runs_network = true")
    if target.default_precision in target.unsupported:
        raise UsageError(f"board file {path}: default_precision stands under [unsupported] too")
    if len({a.arch for a in target.abis}) > 1:
        raise UsageError(f"board file {path}: the triples of abi name different instruction sets")
    units: list[tuple[str, Mapping[str, float]]] = (
        [("gpu.gigaflops", target.gpu.gigaflops)]
        if target.gpu is not None
        else [(f"cluster {c.core}: macs_per_cycle", c.macs_per_cycle) for c in target.computing]
    )
    for where, peaks in units:
        for precision in PRECISIONS:
            if (precision in peaks) == (precision in target.unsupported):
                raise UsageError(
                    f"board file {path}: {precision} has to stand either in {where} or, with a "
                    "reason, under [unsupported]"
                )


_NEEDED: Any = object()


class _Table:
    """One table of a board file. Whatever is wrong with a key names the file and the key."""

    def __init__(self, values: dict[str, Any], path: Path, where: str = "") -> None:
        self._values, self._path, self._where = values, path, where
        self._asked: list[str] = []

    def __contains__(self, key: str) -> bool:
        self._asked.append(key)
        return key in self._values

    def text(self, key: str, default: str = _NEEDED) -> str:
        return self._get(key, "a text", lambda v: isinstance(v, str) and bool(v), default)

    def flag(self, key: str, default: bool = _NEEDED) -> bool:
        return self._get(key, "true or false", lambda v: isinstance(v, bool), default)

    def number(self, key: str, default: float = _NEEDED) -> float:
        def fits(v: Any) -> bool:
            return isinstance(v, int | float) and not isinstance(v, bool) and 0 < v < 1e9

        return float(self._get(key, "a positive number", fits, default))

    def whole(self, key: str, default: int = _NEEDED) -> int:
        return self._get(key, "a positive whole number", lambda v: _is_int(v) and v > 0, default)

    def version(self, key: str) -> str:
        def fits(v: Any) -> bool:
            return isinstance(v, str) and all(part.isdigit() for part in v.split("."))

        return self._get(key, 'a version in quotes such as "2.27"', fits, "")

    def features(self, key: str) -> list[str]:
        def fits(v: Any) -> bool:
            return isinstance(v, list) and all(
                isinstance(f, str) and f[:1] in ("+", "-") and f[1:] for f in v
            )

        return self._get(key, 'a list of LLVM attributes such as ["+neon"]', fits)

    def names(self, key: str) -> list[str]:
        def fits(v: Any) -> bool:
            return isinstance(v, list) and all(isinstance(n, str) and n for n in v)

        return self._get(key, 'a list of texts such as ["Mod"]', fits, [])

    def cpus(self, key: str) -> list[int]:
        def fits(v: Any) -> bool:
            whole = isinstance(v, list) and all(_is_int(n) and n >= 0 for n in v)
            return whole and 0 < len(v) == len(set(v))

        return self._get(key, "a list of different processor numbers such as [0, 1]", fits)

    def one_of(self, key: str, choices: tuple[str, ...]) -> str:
        return self._get(key, f"one of {', '.join(choices)}", lambda v: v in choices)

    def table(self, key: str, default: dict[str, Any] = _NEEDED) -> _Table:
        values = self._get(key, "a table", lambda v: isinstance(v, dict), default)
        return _Table(values, self._path, f"{self._where}{key}.")

    def tables(self, key: str) -> list[_Table]:
        def fits(v: Any) -> bool:
            return isinstance(v, list) and bool(v) and all(isinstance(t, dict) for t in v)

        found = self._get(key, f"[[{key}]] tables", fits)
        return [_Table(t, self._path, f"{key}[{n}].") for n, t in enumerate(found)]

    def by_precision(
        self, key: str, read: Callable[[_Table, str], _T], default: dict[str, Any] = _NEEDED
    ) -> dict[str, _T]:
        table = self.table(key, default)
        return table.closed({p: read(table, p) for p in PRECISIONS if p in table})

    def closed(self, made: _T) -> _T:
        """`made`, once it is sure that nothing in the table was left unread."""
        self.close()
        return made

    def close(self) -> None:
        for key in self._values:
            if key not in self._asked:
                from graphopt.named import unknown

                raise UsageError(self._about(unknown("key", self._where + key, self._known())))

    def _known(self) -> list[str]:
        return [self._where + k for k in self._asked]

    def _get(self, key: str, what: str, fits: Callable[[Any], bool], default: Any = _NEEDED) -> Any:
        self._asked.append(key)
        if key not in self._values:
            if default is _NEEDED:
                near = difflib.get_close_matches(key, self._values, n=1)
                hint = f"; is {near[0]!r} meant to be it?" if near else ""
                raise UsageError(
                    self._about(f"the key {self._where}{key} is missing ({what}){hint}")
                )
            return default
        value = self._values[key]
        if not fits(value):
            raise UsageError(self._about(f"{self._where}{key} = {value!r} has to be {what}"))
        return value

    def _about(self, what: str) -> str:
        return f"board file {self._path}: {what}"


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
