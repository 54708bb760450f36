"""Bundles: what they compute, on this machine and on boards; what they say; that they are all or nothing."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from bundles import ODD_NAMES, Bundles, all_bundles, assert_equal, small  # noqa: F401

from graphopt.errors import LoadError, RunError, ToolchainError, UnsupportedError, UsageError
from graphopt.runtime.compile import compile_graph
from graphopt.runtime.deploy.build import FUNCTIONS
from graphopt.runtime.deploy.bundle import drawn_inputs, make_bundle
from graphopt.runtime.deploy.names import prefix_of, quoted
from graphopt.runtime.elf import loads_on, read_elf
from graphopt.runtime.native import NativeRunner, ProgramRunner, open_bundle, read_manifest
from graphopt.runtime.run import open_graph
from graphopt.runtime.targets import target
from graphopt.runtime.toolchain.find import toolchain_for
from tests.runtime.cross import need

HOST, TX2, KIRIN = (target(n) for n in ("host", "tx2", "kirin990"))


@pytest.mark.parametrize(
    "name", ["small", "resnet20", "mobilenetv3", "yolov3-tiny", "yolov3-tiny-decoded"]
)
def test_a_library_computes_what_onnx_runtime_does(name: str, bundles: Bundles) -> None:
    made = bundles(name)
    runner = NativeRunner(made.folder, threads=2)
    first = runner.run(made.feeds)
    assert_equal(first, made.expected)
    again = runner.run(made.feeds)  # nothing of a run is left to the next
    assert all(np.array_equal(first[k], again[k]) for k in first)


@pytest.mark.parametrize("name", ["small", "mobilenetv3", "yolov3-tiny"])
def test_threads_change_no_bit(name: str, bundles: Bundles) -> None:
    made = bundles(name)
    alone = NativeRunner(made.folder, threads=1).run(made.feeds)
    for threads in (2, 3, 7):
        runner = NativeRunner(made.folder, threads=threads)
        assert runner.threads == threads
        for _ in range(3):
            found = runner.run(made.feeds)
            assert all(found[k].tobytes() == alone[k].tobytes() for k in alone)


@pytest.mark.parametrize(
    ("name", "board", "abi"),
    [
        ("small", "tx2", None),
        ("mobilenetv3", "tx2", None),
        ("yolov3-tiny-decoded", "kirin990", "linux-gnu"),
        # zig builds the C library first.
        pytest.param("small", "kirin990", "linux-musl", marks=pytest.mark.slow),
    ],
)
def test_a_board_computes_what_onnx_runtime_does(
    name: str, board: str, abi: str | None, bundles: Bundles
) -> None:
    need("zig", "qemu", "sysroot")
    made = bundles(name, board, abi)
    runner = open_bundle(made.folder, threads=2)
    assert isinstance(runner, ProgramRunner)
    assert_equal(runner.run(made.feeds), made.expected)
    runner.check()
    manifest = read_manifest(made.folder)
    chosen = target(board).abi(abi)
    for file in ("libmodel.so", "run"):
        assert loads_on(read_elf(made.folder / file), chosen) == []
    assert manifest["triple"] == chosen.triple


def test_what_another_program_sees_of_a_library(bundles: Bundles) -> None:
    elf = read_elf(bundles("small").folder / "libmodel.so")
    assert set(elf.exports) == {f"small_{f}" for f in FUNCTIONS}
    header = (bundles("small").folder / "model.h").read_text(encoding="utf-8")
    declared = set(re.findall(r"^\w[\w *]*?\b(small_\w+)\(", header, re.M))
    assert declared == set(elf.exports)
    assert "nn_" not in header


def test_two_models_in_one_program(bundles: Bundles, tmp_path: Path) -> None:
    folders = [bundles(n).folder for n in ("small", "resnet20")]
    calls = "".join(
        f'{n}_model *{n} = {n}_create("{f}/model.weights", NULL, NULL, 0); if ({n} == NULL) return 1;\n'
        for n, f in zip(("small", "resnet20"), folders, strict=True)
    )
    includes = "".join(f'#include "{f}/model.h"\n' for f in folders)
    text = f"{includes}int main(void) {{ {calls} small_destroy(small); resnet20_destroy(resnet20); return 0; }}"
    source = tmp_path / "both.c"
    source.write_text(text, encoding="utf-8")
    archives = [f / "libmodel.a" for f in folders]
    flags = ["-Wall", "-Wextra", "-Werror", "-Wl,--fatal-warnings"]
    subprocess.run(
        ["cc", *flags, source, *archives, "-lpthread", "-lm", "-o", tmp_path / "both"], check=True
    )
    subprocess.run([tmp_path / "both"], check=True)


def test_the_readmes_program_builds_with_cmake_and_runs(bundles: Bundles, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("no cmake here")
    folder = bundles("small").folder
    readme = (folder / "README.md").read_text(encoding="utf-8")
    code = readme.split("```c\n")[1].split("```")[0].replace('"model.weights"', "words[1]")
    arrays = "static float x0[3840], y0[7680], y2[6]; static long x1[2], y1[480];"
    (tmp_path / "app.c").write_text(
        f'#include "model.h"\n#include <stdio.h>\nint main(int count, char **words) {{\n{arrays}\n'
        f'{code}\nprintf("%d %f\\n", count, y0[7]);\nreturn 0; }}\n',
        encoding="utf-8",
    )
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.10)\nproject(app C)\nadd_executable(app app.c)\n"
        f"include({folder}/graphopt-model.cmake)\ntarget_link_libraries(app PRIVATE graphopt::small)\n",
        encoding="utf-8",
    )
    for words in (["-S", ".", "-B", "build"], ["--build", "build"]):
        done = subprocess.run(
            ["cmake", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    program = [tmp_path / "build" / "app", folder / "model.weights"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    feeds = {ODD_NAMES["x"]: np.zeros((1, 8, 24, 20), np.float32), "rows": np.zeros(2, np.int64)}
    expected = NativeRunner(folder, threads=1).run(feeds)["b"].reshape(-1)[7]
    assert float(done.stdout.split()[1]) == pytest.approx(expected, abs=1e-5)


def test_a_library_for_android_needs_nothing_android_has_not(bundles: Bundles) -> None:
    need("zig")
    made = bundles("small", "kirin990", "android")
    elf = read_elf(made.folder / "libmodel.so")
    assert loads_on(elf, KIRIN.abi("android")) == []
    assert set(elf.needed) <= {"libc.so", "libm.so"}
    assert not [i.name for i in elf.imports if "TVM" in i.name or "GLIBC" in i.version]
    manifest = read_manifest(made.folder)
    assert set(manifest["left_out"]) == {"libmodel.a", "run"}
    assert {p.name for p in made.folder.iterdir()} == {
        *("README.md", "graphopt-model.cmake", "libmodel.so", "manifest.json"),
        *("model.h", "model.weights"),
    }
    readme = (made.folder / "README.md").read_text(encoding="utf-8")
    assert "There is no `run`: without an NDK" in readme
    assert "./run" not in readme
    assert "SHARED IMPORTED" in (made.folder / "graphopt-model.cmake").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="has no program to run it with: without an NDK"):
        open_bundle(made.folder)


def test_what_a_bundle_says(bundles: Bundles) -> None:
    folder = bundles("small").folder
    found = read_manifest(folder)
    assert found["target"] == "host"
    assert [p["name"] for p in found["inputs"]] == [ODD_NAMES["x"], "rows"]
    assert [(p["dtype"], p["shape"]) for p in found["outputs"]] == [
        ("float32", [1, 16, 24, 20]),
        ("int64", [1, 24, 20]),
        ("float32", [2, 3]),
    ]
    for name, each in found["files"].items():
        data = (folder / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (each["bytes"], each["sha256"])
    assert set(found["files"]) == {
        *("libmodel.so", "libmodel.a", "model.h", "model.weights", "run")
    }
    memory = found["memory"]
    assert memory["arena"] >= memory["arena_lower_bound"] > 0
    assert memory["lasting"] > 0
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for figure in (found["macs"], memory["arena"], memory["weights"]):
        assert f"{figure:,}" in readme
    assert "\"y1.npy'" not in readme
    assert "--output 'arg=max/ü=y1.npy'" in readme


def test_the_same_model_makes_the_same_bytes(tmp_path: Path) -> None:
    need("cc")
    compiled = [compile_graph(small(), HOST) for _ in range(2)]
    for k, each in enumerate(compiled):
        make_bundle(each, tmp_path / f"b{k}", name="same")
    files = sorted(p.name for p in (tmp_path / "b0").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "b1").iterdir())
    for name in files:
        assert (tmp_path / "b0" / name).read_bytes() == (tmp_path / "b1" / name).read_bytes(), name


def test_without_a_reference_there_is_nothing_to_check(tmp_path: Path) -> None:
    need("cc")
    make_bundle(compile_graph(small(), HOST), tmp_path / "b", name="blind")
    runner = ProgramRunner(tmp_path / "b")
    done = runner.execute(["--check"], check=False)
    assert done.returncode == 2
    assert "made without a reference" in done.stderr


def test_a_network_that_computes_something_else_fails_its_check(tmp_path: Path) -> None:
    need("cc")
    compiled = compile_graph(small(scale=1.5), HOST)
    reference = open_graph(small()).run(drawn_inputs(compiled.program))
    make_bundle(compiled, tmp_path / "b", name="wrong", reference=reference)
    done = ProgramRunner(tmp_path / "b").execute(["--check"], check=False)
    assert done.returncode == 3
    assert re.search(r"check b: deviation \S+, may be 0.0002: DIFFERS", done.stdout)
    assert re.search(r"check g: deviation \S+, may be 0.0002: ok", done.stdout)
    with pytest.raises(RunError, match="the outputs are not those of ONNX Runtime"):
        ProgramRunner(tmp_path / "b").check()


# --- all or nothing ----------------------------------------------------------------------------


def test_a_bundle_that_is_there_stays_or_is_replaced_as_a_whole(tmp_path: Path) -> None:
    need("cc")
    compiled = compile_graph(small(), HOST)
    make_bundle(compiled, tmp_path / "b", name="first")
    with pytest.raises(UsageError, match="b exists; --force replaces it"):
        make_bundle(compiled, tmp_path / "b", name="second")
    assert read_manifest(tmp_path / "b")["prefix"] == "first"

    def refuse(draft: Path) -> str:
        assert NativeRunner(draft).run(drawn_inputs(compiled.program))
        raise RunError("not good enough")

    with pytest.raises(RunError, match="not good enough"):
        make_bundle(compiled, tmp_path / "b", name="second", replace=True, judge=refuse)
    assert read_manifest(tmp_path / "b")["prefix"] == "first"
    (tmp_path / "b" / "stale").touch()
    make_bundle(compiled, tmp_path / "b", name="second", replace=True, judge=lambda _: "well")
    assert read_manifest(tmp_path / "b")["prefix"] == "second"
    assert "| well |" in (tmp_path / "b" / "README.md").read_text(encoding="utf-8")
    assert not (tmp_path / "b" / "stale").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_places_that_are_refused(tmp_path: Path) -> None:
    compiled = compile_graph(small(), HOST)
    (tmp_path / "file").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    for place, told in (
        ("file", "file is a file; a bundle is a folder"),
        ("mine", "mine is no bundle and holds files"),
        ("none/b", "none does not exist"),
    ):
        with pytest.raises(UsageError, match=told):
            make_bundle(compiled, tmp_path / place, name="x", replace=True)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "mine", "thesis.tex"]


def test_a_failing_toolchain_leaves_nothing(tmp_path: Path) -> None:
    need("cc")
    tools = toolchain_for(HOST)
    with pytest.raises(ToolchainError, match="could not compile"):
        make_bundle(
            compile_graph(small(), HOST), tmp_path / "b", name="x", tools=tools, flags=["-Dint=;"]
        )
    assert list(tmp_path.iterdir()) == []


def test_types_the_library_has_not_are_refused(tmp_path: Path) -> None:
    need("cc")
    compiled = compile_graph(small(), HOST)
    port = compiled.program.inputs[1]
    object.__setattr__(port, "dtype", "float16")
    with pytest.raises(UnsupportedError, match="'rows' has type float16, which compiled networks"):
        make_bundle(compiled, tmp_path / "b", name="x")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_bundle(tmp_path: Path, bundles: Bundles) -> None:
    with pytest.raises(LoadError, match="is no bundle: manifest.json: No such file"):
        open_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(LoadError, match="manifest.json is damaged"):
        open_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text("[]", encoding="utf-8")
    with pytest.raises(LoadError, match="is not the manifest of a bundle"):
        open_bundle(tmp_path)
    shutil.copy(bundles("small").folder / "manifest.json", tmp_path)
    with pytest.raises(LoadError, match="libmodel.so cannot be loaded here"):
        open_bundle(tmp_path)


# --- names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "prefix"),
    [
        ("YOLOv3-tiny 416", "yolov3_tiny_416"),
        ("3d.net", "net_3d_net"),
        ("pthread", "net_pthread"),
        ("net", "net_model"),
        ("модель", "net_model"),
        ("a" * 99, "a" * 40),
    ],
)
def test_names_of_c(name: str, prefix: str) -> None:
    assert prefix_of(name) == prefix


def test_strings_of_c() -> None:
    assert quoted('a"b\\??/\nü') == '"a\\042b\\134\\077\\077/\\012\\303\\274"'
    assert json.dumps("plain") == quoted("plain")
