"""Toolchains: what they build runs on the boards, always the same bytes; what is wrong is said."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from cross import LIBRARY, LOADER, PROGRAM, SYSROOT, need, written

from graphopt.errors import ToolchainError, UsageError
from graphopt.runtime.elf import loads_on, read_elf
from graphopt.runtime.emulator import emulate
from graphopt.runtime.targets import target
from graphopt.runtime.toolchain import bionic, find
from graphopt.runtime.toolchain.find import toolchain_for
from graphopt.runtime.toolchain.toolchain import Toolchain, complaints

TX2, KIRIN, PI, HOST = (target(n) for n in ("tx2", "kirin990", "rpi5", "host"))


def build(tools: Toolchain, folder: Path) -> dict[str, Path]:
    """Every kind of file a toolchain makes, from the same two sources."""
    library = tools.compile(written(folder, "library.c", LIBRARY), folder / "library.o")
    main = tools.compile(written(folder, "main.c", PROGRAM), folder / "main.o")
    archive = tools.static_library([library], folder / "library.a")
    shared = tools.shared([library], folder / "liblibrary.so", exports=["answer"])
    program = tools.executable([main, archive], folder / "program")
    return {"object": library, "archive": archive, "shared": shared, "program": program}


def compiled(tools: Toolchain, folder: Path, text: str) -> Path:
    return tools.compile(written(folder, "it.c", text), folder / "it.o")


@pytest.mark.parametrize(
    ("board", "abi", "use", "static"),
    [
        ("tx2", "linux-gnu", "zig", False),
        ("rpi5", "linux-gnu", "gcc", False),
        ("rpi5", "linux-gnu", "gcc", True),
        ("kirin990", "linux-gnu", "zig", False),
        # zig builds the C library first.
        pytest.param("tx2", "linux-musl", "zig", True, marks=pytest.mark.slow),
        pytest.param("kirin990", "linux-musl", "zig", True, marks=pytest.mark.slow),
    ],
)
def test_what_is_built_runs(board: str, abi: str, use: str, static: bool, tmp_path: Path) -> None:
    need(use, "qemu", "sysroot")
    tools = toolchain_for(target(board), abi, use=use)
    made = build(tools, tmp_path)
    program = made["program"]
    if static:
        objects = [tmp_path / "main.o", made["archive"]]
        program = tools.executable(objects, tmp_path / "static", static=True)
        assert read_elf(program).needed == ()
    assert loads_on(read_elf(program), target(board).abi(abi)) == []
    assert emulate(program, ["hi"], target=target(board)).stdout == "42 2.718 hi\n"
    assert read_elf(made["shared"]).exports == ("answer",)


@pytest.mark.parametrize("use", ["zig", "gcc"])
def test_a_shared_library_loads_and_runs(use: str, tmp_path: Path) -> None:
    need(use, "qemu", "sysroot")
    tools = toolchain_for(PI, use=use)
    made = build(tools, tmp_path)
    loader = compiled(tools, tmp_path, LOADER)
    program = tools.executable([loader], tmp_path / "loader", libraries=["dl"])
    assert emulate(program, [made["shared"]], target=PI).stdout == "42\n"


def test_this_machine_builds_for_itself(tmp_path: Path) -> None:
    need("cc")
    import ctypes

    made = build(toolchain_for(HOST, use="cc"), tmp_path)
    assert ctypes.CDLL(str(made["shared"])).answer() == 42


def test_an_android_library_without_an_ndk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built against bionic's names; run against glibc under bionic's names for its libraries."""
    need("zig", "qemu", "sysroot")
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    monkeypatch.delenv("ANDROID_NDK_ROOT", raising=False)
    tools = toolchain_for(KIRIN)
    assert tools.name.startswith("zig")
    library = tools.compile(written(tmp_path, "library.c", LIBRARY), tmp_path / "library.o")
    shared = tools.shared([library], tmp_path / "liblibrary.so")
    elf = read_elf(shared)
    assert set(elf.needed) == {"libc.so", "libm.so"}
    assert {i.name for i in elf.imports if not i.weak} == {"pthread_create", "pthread_join", "expf"}

    linux = toolchain_for(KIRIN, "linux-gnu", use="zig")
    loader = compiled(linux, tmp_path, LOADER)
    program = linux.executable([loader], tmp_path / "loader", libraries=["dl"])
    alias = tmp_path / "alias"
    alias.mkdir()
    for name in ("libc.so", "libm.so"):
        (alias / name).symlink_to(SYSROOT / "lib" / f"{name}.6")
    where = {"LD_LIBRARY_PATH": str(alias)}
    assert emulate(program, [shared], target=KIRIN, environment=where).stdout == "42\n"


@pytest.mark.parametrize(
    ("board", "abi", "use"),
    [("tx2", "linux-gnu", "zig"), ("rpi5", "linux-gnu", "gcc"), ("host", None, "cc")],
)
def test_the_same_sources_make_the_same_bytes(
    board: str, abi: str | None, use: str, tmp_path: Path
) -> None:
    need(use)
    tools = toolchain_for(target(board), abi, use=use)
    found = []
    for name in ("one", "another_folder"):
        folder = tmp_path / name
        folder.mkdir()
        made = build(tools, folder)
        found.append({kind: path.read_bytes() for kind, path in made.items()})
    for kind, data in found[0].items():
        assert data == found[1][kind], f"{kind} differs"
        assert str(tmp_path).encode() not in data
        if kind in ("shared", "program"):
            assert b".symtab" not in data
            assert b".debug_info" not in data


@pytest.mark.parametrize("use", ["zig", "gcc"])
def test_two_objects_of_one_name_both_stay_in_an_archive(use: str, tmp_path: Path) -> None:
    need(use)
    tools = toolchain_for(PI, use=use)
    objects = []
    for n in range(2):
        folder = tmp_path / str(n)
        folder.mkdir()
        objects.append(compiled(tools, folder, f"int f{n}(void) {{ return {n}; }}"))
    archive = tools.static_library(objects, tmp_path / "both.a")
    again = tools.static_library(objects, tmp_path / "both.a")  # anew, and not added to
    shared = tools.shared(
        [compiled(tools, tmp_path, "int f0(void); int f1(void); int s(void) { return f0() + f1(); }"), archive],
        tmp_path / "s.so",
        exports=["s"],
    )  # fmt: skip
    assert read_elf(shared).exports == ("s",)
    assert again.read_bytes().count(b"it.o") == 2


# --- which one ---------------------------------------------------------------------------------


def _without_zig(name: str) -> str:
    raise PackageNotFoundError(name)


def test_gcc_is_refused_where_its_glibc_is_too_new(monkeypatch: pytest.MonkeyPatch) -> None:
    need("gcc")
    monkeypatch.setattr(find, "version", _without_zig)
    with pytest.raises(UsageError) as caught:
        toolchain_for(TX2)
    told = str(caught.value)
    assert told.startswith(
        "no C compiler for tx2, linux-gnu (glibc 2.27): ziglang is not installed"
    )
    assert "(pip install ziglang)" in told
    assert re.search(r"aarch64-linux-gnu-gcc, does not load .* needs GLIBC_2\.3\d for", told)
    assert toolchain_for(PI).name == "aarch64-linux-gnu-gcc"


def test_nothing_there_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "version", _without_zig)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    monkeypatch.delenv("ANDROID_NDK_ROOT", raising=False)
    for board, told in (
        (TX2, r"pip install ziglang\); aarch64-linux-gnu-gcc .*apt install gcc-aarch64-linux-gnu"),
        (KIRIN, r"no NDK was given \(ANDROID_NDK_HOME\); ziglang .*pip install ziglang"),
        (HOST, r"no cc or gcc or clang here \(apt install gcc\); .*pip install ziglang"),
    ):
        with pytest.raises(UsageError, match=told):
            toolchain_for(board)


def test_zig_comes_before_gcc_and_after_this_machines_own(monkeypatch: pytest.MonkeyPatch) -> None:
    need("zig", "cc")
    assert toolchain_for(PI).name.startswith("zig")
    assert toolchain_for(HOST).name == "cc"
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    assert toolchain_for(HOST).name.startswith("zig")
    monkeypatch.setenv("CC", "no-such-cc -m64")
    with pytest.raises(UsageError, match="no no-such-cc here"):
        toolchain_for(HOST, use="cc")


def test_the_users_own_compiler_is_taken_with_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    need("cc")
    monkeypatch.setenv("CC", "cc -DMINE=1")
    assert toolchain_for(HOST).cc[1] == "-DMINE=1"


def test_only_what_builds_for_the_board_can_be_asked_for() -> None:
    with pytest.raises(UsageError, match=r"'ndk' does not build for linux-gnu .*may: zig, gcc"):
        toolchain_for(TX2, use="ndk")
    with pytest.raises(UsageError, match="tx2 has no ABI called 'android'"):
        toolchain_for(TX2, "android")


def test_an_ndk_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "android-ndk-r26d"
    bin_ = folder / "toolchains/llvm/prebuilt/linux-x86_64/bin"
    bin_.mkdir(parents=True)
    written(bin_, "clang", "")
    monkeypatch.setenv("ANDROID_NDK_HOME", str(folder))
    tools = toolchain_for(KIRIN)
    assert tools.name == "NDK android-ndk-r26d"
    assert tools.cc[1:] == (
        "--target=aarch64-linux-android29",
        "-mcpu=cortex-a76",
        "-mtune=neoverse-n1",
    )
    assert tools.ar == (str(bin_ / "llvm-ar"),)
    with pytest.raises(UsageError, match=r"is no Android NDK: no toolchains/llvm/prebuilt/"):
        toolchain_for(KIRIN, ndk=tmp_path)


# --- what can go wrong -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zig() -> Toolchain:
    need("zig")
    return toolchain_for(TX2, use="zig")


def _fails(folder: Path, action: Callable[[], object], match: str) -> None:
    """The action raises ToolchainError and leaves nothing behind."""
    before = sorted(folder.rglob("*"))
    with pytest.raises(ToolchainError, match=match):
        action()
    assert sorted(folder.rglob("*")) == before


def test_the_compilers_first_complaint_is_quoted(zig: Toolchain, tmp_path: Path) -> None:
    source = written(tmp_path, "bad.c", "int good(void);\nint bad( {\n")
    told = r"zig \S+ could not compile bad.c: .*bad.c:2:10: error: expected parameter declarator"
    _fails(tmp_path, lambda: zig.compile(source, tmp_path / "bad.o"), told)
    missing = tmp_path / "none.c"
    _fails(tmp_path, lambda: zig.compile(missing, tmp_path / "none.o"), "could not compile none.c")


def test_undefined_symbols_are_named(zig: Toolchain, tmp_path: Path) -> None:
    made = compiled(zig, tmp_path, "int nowhere(int); int f(int x) { return nowhere(x); }")
    told = r"could not link f.so: .*undefined symbol: nowhere"
    _fails(tmp_path, lambda: zig.shared([made], tmp_path / "f.so"), told)


def test_what_bionic_has_not_is_found_when_linking(tmp_path: Path) -> None:
    need("zig")
    android = toolchain_for(KIRIN, use="zig")
    text = "int backtrace(void **, int); int f(void) { void *a[9]; return backtrace(a, 9); }"
    made = compiled(android, tmp_path, text)
    told = r"could not link f.so: .*undefined symbol: backtrace"
    _fails(tmp_path, lambda: android.shared([made], tmp_path / "f.so"), told)
    told = "-lcamera: without an NDK only Android's libc, libm and libdl"
    share = lambda: android.shared([made], tmp_path / "f.so", libraries=["camera"])  # noqa: E731
    _fails(tmp_path, share, told)


def test_programs_that_cannot_be_linked_are_refused(zig: Toolchain, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="zig has no static glibc: .* for the ABI linux-musl"):
        zig.executable([], tmp_path / "p", static=True)
    android = toolchain_for(KIRIN, use="zig")
    with pytest.raises(UsageError, match="without an NDK no program can be linked for Android"):
        android.executable([], tmp_path / "p")


def test_a_compiler_that_is_none(tmp_path: Path) -> None:
    source = written(tmp_path, "f.c", "int f(void) { return 1; }")
    out = tmp_path / "f.o"
    for command, told in (
        ("/nowhere/cc", "broken could not compile f.c: /nowhere/cc: No such file or directory"),
        ("/bin/false", "broken could not compile f.c: it ended with 1"),
        ("/bin/true", "cannot write .*f.o: No such file"),
    ):
        broken = Toolchain("broken", TX2.abi(), cc=(command,), ar=(command,))
        _fails(tmp_path, lambda b=broken: b.compile(source, out), told)  # type: ignore[misc]
    nowhere = tmp_path / "none" / "f.o"
    _fails(tmp_path, lambda: broken.compile(source, nowhere), "cannot write .*none/f.o")


def test_what_would_not_load_is_not_made(tmp_path: Path) -> None:
    need("cc")
    wrong = Toolchain("wrong", TX2.abi(), cc=("cc",), ar=("ar",))
    made = compiled(wrong, tmp_path, "int f(void) { return 1; }")
    told = r"f.so, linked by wrong, does not load under linux-gnu \(glibc 2.27\): it is for x86_64"
    if HOST.arch == "x86_64":
        _fails(tmp_path, lambda: wrong.shared([made], tmp_path / "f.so"), told)


def test_complaints_are_the_lines_that_matter() -> None:
    assert complaints("In file x:\na.c:1: error: one\n  int\na.c:2: error: two\n") == (
        "a.c:1: error: one; a.c:2: error: two"
    )
    assert complaints("warm\nluke\n\ncool\ncold") == "warm; luke; cool"
    assert complaints("") == ""


# --- bionic ------------------------------------------------------------------------------------

SIZES = """
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <time.h>
_Static_assert(sizeof(pthread_attr_t) == 56, "attr");
_Static_assert(sizeof(pthread_mutex_t) == 40, "mutex");
_Static_assert(sizeof(pthread_cond_t) == 48, "cond");
_Static_assert(sizeof(pthread_t) == 8, "thread");
_Static_assert(sizeof(cpu_set_t) == 128, "cpu_set");
_Static_assert(sizeof(struct timespec) == 16, "timespec");
int has(cpu_set_t *set) { CPU_ZERO(set); CPU_SET(70, set); return CPU_ISSET(70, set); }
"""


def test_the_headers_compile_and_have_bionics_sizes(tmp_path: Path) -> None:
    need("zig")
    android = toolchain_for(KIRIN, use="zig")
    names = [p.relative_to(bionic.HEADERS) for p in sorted(bionic.HEADERS.rglob("*.h"))]
    text = "".join(f"#include <{n}>\n" for n in [*names, *reversed(names)])
    flags = ["-Wall", "-Werror", "-Wno-unused-parameter"]
    source = written(tmp_path, "all.c", text + SIZES)
    assert android.compile(source, tmp_path / "all.o", flags).exists()


def test_every_declaration_is_in_a_stub() -> None:
    texts = [h.read_text(encoding="utf-8") for h in bionic.HEADERS.rglob("*.h")]
    lines = [line for text in texts for line in text.splitlines() if "(" in line]
    lines = [line for line in lines if not line.startswith(("#", "/*"))]
    assert all(line.endswith(";") for line in lines), "one declaration a line"
    declared = len(lines)
    listed = [n for names in bionic.functions().values() for n in names]
    assert (
        len(listed) == len(set(listed)) == declared + 3
    )  # what compilers call of their own accord
    assert {
        "malloc",
        "__errno",
        "sched_setaffinity",
        "expf",
        "dlopen",
        "stdout",
    } <= bionic.symbols()
    for library, names in bionic.functions().items():
        assert all(f"\n{name}: ret\n" in bionic.stub(library) for name in names)
    assert bionic.variables() == ("stderr", "stdin", "stdout")
    assert "stdout: .xword" in bionic.stub("c")
    assert "stdout" not in bionic.stub("m")
