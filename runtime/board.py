"""What is known about a board: cores, caches, peaks, ABIs.

Figures are peaks. `Target.seconds` is the roofline bound they give: no program is faster, and one
that is limited by neither arithmetic nor memory does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from graphopt.errors import UsageError

PRECISIONS = ("float32", "float16", "int8")
LIBCS = ("glibc", "musl", "bionic", "system")


@dataclass(frozen=True)
class Abi:
    """What a program links against on a board.

    Attributes:
        name: as written on the command line: linux-gnu, linux-musl, android.
        triple: LLVM's name of it.
        libc: glibc, musl, bionic (Android), or system (not Linux).
        version: of the C library, "2.27", or Android's API level, "29"; empty where it does not
            matter. Anything built for it loads there and on all later ones.
    """

    name: str
    triple: str
    libc: str
    version: str = ""

    @property
    def arch(self) -> str:
        """The instruction set: aarch64, x86_64."""
        return self.triple.split("-", 1)[0]

    def __str__(self) -> str:
        """For messages: "linux-gnu (glibc 2.27)"."""
        word = "API" if self.libc == "bionic" else self.libc
        return f"{self.name} ({word} {self.version})" if self.version else self.name


@dataclass(frozen=True)
class Cluster:
    """Equal cores of a board.

    Attributes:
        core: LLVM's name.
        cpus: the operating system's numbers of them.
        gigahertz: their highest clock.
        macs_per_cycle: multiply-accumulates of one core, by precision.
        l1d_bytes: of each core.
        l2_bytes: of each core, or of all together where `l2_shared`.
        runs_network: whether networks are computed here; other cores stay free.
    """

    core: str
    cpus: tuple[int, ...]
    gigahertz: float
    macs_per_cycle: Mapping[str, int]
    l1d_bytes: int
    l2_bytes: int
    l2_shared: bool = False
    runs_network: bool = True

    def peak(self, precision: str) -> float:
        """Multiply-accumulates a second of all its cores; 0 without arithmetic in `precision`."""
        return len(self.cpus) * self.gigahertz * 1e9 * self.macs_per_cycle.get(precision, 0)


@dataclass(frozen=True)
class Gpu:
    """The graphics processor that computes a target's networks.

    Attributes:
        kind: cuda or opencl.
        arch: what its compiler calls it: sm_62, mali-g76.
        cores: as its maker counts them.
        gigahertz: their clock.
        gigaflops: peaks by precision; a multiply-accumulate is two.
    """

    kind: str
    arch: str
    cores: int
    gigahertz: float
    gigaflops: Mapping[str, float]


@dataclass(frozen=True)
class OnnxReader:
    """Who reads ONNX files on a board, where that is not ONNX Runtime.

    Attributes:
        name: for messages: TensorRT 8.2.
        opset: the latest it knows.
        without: operators of that opset which it does not know.
    """

    name: str
    opset: int
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """A board, or the part of it that computes a network.

    Attributes:
        name: as written on the command line.
        cpu: LLVM's name of the core (-mcpu).
        tune_cpu: the core whose timing LLVM schedules for, where it knows none for `cpu`.
        features: LLVM's attributes, "+dotprod".
        abis: the first is what is built if nothing else is said.
        unsupported: by precision, why the hardware cannot compute in it, and what to use.
        memory_bytes: of the board; None where boards differ.
        efficiency: the share of the peak in float32 that kernels reach, by kind (`efficiency.KINDS`).
    """

    name: str
    description: str
    cpu: str
    tune_cpu: str
    features: tuple[str, ...]
    vector_registers: int
    vector_bits: int
    gigabytes_per_second: float
    default_precision: str
    unsupported: Mapping[str, str]
    abis: tuple[Abi, ...]
    clusters: tuple[Cluster, ...]
    l3_bytes: int = 0
    memory_bytes: int | None = None
    gpu: Gpu | None = field(default=None)
    onnx: OnnxReader | None = field(default=None)
    efficiency: Mapping[str, float] = field(default_factory=dict)

    @property
    def arch(self) -> str:
        """The instruction set: aarch64, x86_64."""
        return self.abis[0].arch

    @property
    def triple(self) -> str:
        """LLVM's name of the default ABI."""
        return self.abis[0].triple

    @property
    def emulated_abi(self) -> str | None:
        """The first ABI whose programs run in an emulator, which Android's do not."""
        return next((a.name for a in self.abis if a.libc != "bionic"), None)

    @cached_property
    def computing(self) -> tuple[Cluster, ...]:
        """The clusters that run networks, the fastest first."""
        ours = [c for c in self.clusters if c.runs_network]
        return tuple(sorted(ours, key=lambda c: -c.peak("float32") / len(c.cpus)))

    @property
    def core(self) -> str:
        """The fastest core that runs networks."""
        return self.computing[0].core

    @property
    def cores(self) -> int:
        """How many run networks: the number of threads worth starting."""
        return sum(len(c.cpus) for c in self.computing)

    @property
    def precisions(self) -> tuple[str, ...]:
        """What the hardware computes in."""
        return tuple(p for p in PRECISIONS if p not in self.unsupported)

    @property
    def macs_per_second(self) -> float:
        """The peak in float32."""
        return self.peak("float32")

    def has(self, feature: str) -> bool:
        """Whether LLVM's attribute, such as dotprod, is there."""
        return f"+{feature}" in self.features

    def peak(self, precision: str) -> float:
        """Multiply-accumulates a second of all that compute; see `precision` for what it raises."""
        precision = self.precision(precision)
        if self.gpu is not None:
            return self.gpu.gigaflops[precision] / 2 * 1e9
        return sum(c.peak(precision) for c in self.computing)

    def seconds(self, macs: float, bytes_moved: float, precision: str = "float32") -> float:
        """max(macs / peak, bytes / bandwidth): the roofline bound on one operator, in seconds."""
        return max(macs / self.peak(precision), bytes_moved / (self.gigabytes_per_second * 1e9))

    def precision(self, wanted: str | None = None) -> str:
        """`wanted`, or the board's own choice.

        Raises:
            UsageError: there is no such precision, or the hardware cannot compute in it.
        """
        if wanted is None:
            return self.default_precision
        if wanted not in PRECISIONS:
            raise UsageError(f"no precision is called {wanted!r}; known: {', '.join(PRECISIONS)}")
        if wanted in self.unsupported:
            raise UsageError(f"{self.name} cannot do {wanted}: {self.unsupported[wanted]}")
        return wanted

    def abi(self, wanted: str | None = None) -> Abi:
        """The ABI called `wanted`, or the board's own.

        Raises:
            UsageError: the board does not run programs for it.
        """
        if wanted is None:
            return self.abis[0]
        for abi in self.abis:
            if abi.name == wanted:
                return abi
        known = ", ".join(a.name for a in self.abis)
        raise UsageError(f"{self.name} has no ABI called {wanted!r}; it has {known}")
