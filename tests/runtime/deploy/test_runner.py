"""The runner: its command line, its files, its exit codes; nothing it reads makes it crash."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from bundles import ODD_NAMES, Bundles, Made, all_bundles  # noqa: F401
from test_library import RUN, SANITIZERS, built

from graphopt.runtime.deploy.build import SOURCES
from graphopt.runtime.native import read_manifest
from tests.runtime.cross import need

X = ODD_NAMES["x"]
HERE = Path(__file__).parent


def run(made: Made, *words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a bundle's runner; a signal fails the test."""
    done = subprocess.run(
        [made.folder / "run", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    assert done.returncode in (0, 1, 2, 3), f"{words}: {done.returncode} {done.stderr}"
    if done.returncode:
        assert done.stderr.splitlines()[-1].startswith("FAILED: ")
    else:
        assert done.stderr == ""
    return done


def test_files_in_and_out(bundles: Bundles, tmp_path: Path) -> None:
    made = bundles("small")
    for name, values in zip(("x", "rows"), made.feeds.values(), strict=True):
        np.save(tmp_path / f"{name}.npy", values)
    x, rows = tmp_path / "x.npy", tmp_path / "rows.npy"
    # By name, or in order.
    for k, words in enumerate(
        (
            ["--input", f"{X}={x}", "--input", f"rows={rows}", "--output", "b=b0.npy"],
            ["--input", x, "--input", rows, "--output", "b1.npy", "--output", "g=g.npy"],
            ["--input", f"rows={rows}", "--input", f"{X}={x}", "--output", "b=b2.npy"],
        )
    ):
        done = run(made, *words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert f"wrote b to b{k}.npy" in done.stdout
        found = np.load(tmp_path / f"b{k}.npy")
        np.testing.assert_allclose(found, made.expected["b"], rtol=1e-4, atol=1e-4)
    assert np.array_equal(np.load(tmp_path / "g.npy"), made.expected["g"])


def test_times_and_layers(bundles: Bundles) -> None:
    made = bundles("small")
    done = run(made, "--iters", 7, "--warmup", 2, "--threads", 2, "--cores", "0,1")
    assert re.search(
        r"^[0-9]+ layers, 2 threads, [012] of them bound to a core, 0.\d MB", done.stdout
    )
    assert re.search(
        r"latency: median \d+\.\d+ ms, mean .*, most .* \(7 runs after 2\)", done.stdout
    )
    done = run(made, "--profile", "--iters", 3, "--cores", "any")
    rows = [
        line.split() for line in done.stdout.splitlines() if line.endswith(("a", "b", "g", "most"))
    ]
    assert "mean of 3 runs" in done.stdout
    manifest = read_manifest(made.folder)
    assert len(rows) >= 4
    millions = sum(float(r[2]) for r in rows)
    assert millions == pytest.approx(manifest["macs"] / 1e6, rel=1e-3)


def test_the_check(bundles: Bundles) -> None:
    made = bundles("resnet20")
    done = run(made, "--check", "--threads", 2, "--iters", 3)
    assert done.returncode == 0
    assert re.search(r"check \S+: deviation \S+, may be 0.0002: ok", done.stdout)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--frobnicate"], 2, "there is no option --frobnicate"),
        (["--frobnicate", "1"], 2, "there is no option --frobnicate"),
        (["--iters"], 2, "there is no option --iters, or its value is missing"),
        (["--iters", "0"], 2, "'0' is no number from 1 to 1000000"),
        (["--iters", "9" * 30], 2, "is no number"),
        (["--warmup", "1e3"], 2, "'1e3' is no number from 0"),
        (["--threads", ""], 2, "'' is no number from 1 to 256"),
        (["--threads", "257"], 2, "'257' is no number"),
        (["--cores", "1,,2"], 2, "--cores needs numbers such as 0,3,4,5"),
        (["--cores", "a"], 2, "--cores needs numbers"),
        (["--cores", ",".join(["1"] * 400)], 2, "--cores needs numbers"),
        (["--check", "--input", "x.npy"], 2, "--check draws its own inputs"),
        (
            ["--input", "a.npy", "--input", "b.npy", "--input", "c.npy"],
            2,
            "no more than 2 of these",
        ),
        (["--input", "x.npy"] * 70, 2, "of these"),
        (["--input", "nowhere.npy"], 1, "cannot open nowhere.npy: No such file"),
        (["--input", "/"], 1, "/ is not an .npy file"),
        (["--output", "/nowhere/y.npy"], 1, "cannot write /nowhere/y.npy: No such file"),
        (["--weights", "nowhere"], 1, "cannot open the weights nowhere: No such file"),
        (["--weights", "/dev/null"], 1, "/dev/null is empty"),
    ],
)
def test_what_is_refused(
    words: list[str], code: int, told: str, bundles: Bundles, tmp_path: Path
) -> None:
    done = run(bundles("small"), *words, cwd=tmp_path)
    assert (done.returncode, told in done.stderr) == (code, True), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_help(bundles: Bundles) -> None:
    done = run(bundles("small"), "--iters", "3", "--help")
    assert done.stdout.startswith("usage: run [options]")


def test_arrays_that_do_not_fit(bundles: Bundles, tmp_path: Path) -> None:
    made = bundles("small")
    good = made.feeds[X]
    for values, told in (
        (good.astype(np.float64), r"its type is '<f8', and in .* needs '<f4'"),
        (good.astype(">f4"), r"its type is '>f4'"),
        (good[0], r"its shape is \(8, 24, 20\), and in .* needs \(1, 8, 24, 20\)"),
        (good[..., ::2], r"its shape is \(1, 8, 24, 10\)"),
        (np.asfortranarray(good), r"is in Fortran order; save np.ascontiguousarray"),
        (np.float32(3), r"its shape is \(\), and"),
        (np.zeros(3, [("a", "<f4")]), r"its header is damaged, or it is no plain array"),
    ):
        np.save(tmp_path / "x.npy", values)
        done = run(made, "--input", tmp_path / "x.npy")
        assert done.returncode == 1
        assert re.search(told, done.stderr), done.stderr
    rows = made.feeds["rows"]
    np.save(tmp_path / "rows.npy", rows)
    assert run(made, "--input", f"rows={tmp_path / 'rows.npy'}").returncode == 0


def header(text: str, *, version: int = 1, magic: bytes = b"\x93NUMPY") -> bytes:
    size = len(text).to_bytes(2 if version == 1 else 4, "little")
    return magic + bytes([version, 0]) + size + text.encode("latin-1")


GOOD = "{'descr': '<i2', 'fortran_order': False, 'shape': (2, 3), }"
HEADERS = {
    header(GOOD): "ok",
    header(GOOD, version=2): "ok",
    header(GOOD, version=3): "ok",
    header("{'shape':(2,3),'fortran_order':False,'descr':'<i2'}"): "ok",
    header(GOOD, version=4): "is not an .npy file",
    header(GOOD, magic=b"\x92NUMPY"): "is not an .npy file",
    header(GOOD[:20]): "its header is damaged",
    header(""): "its header is damaged",
    header(GOOD.replace("<i2", "|O")): "its type is '|O',",
    header(GOOD.replace("<i2", "<i20")): "its type is '<i20",
    header(GOOD.replace("False", "True")): "is in Fortran order",
    header(GOOD.replace("(2, 3)", "(2, -3)")): "its header is damaged",
    header(GOOD.replace("(2, 3)", "(2, 3")): "its header is damaged",
    header(GOOD.replace("(2, 3)", f"({'9' * 40}, 3)")): "its header is damaged",
    header(GOOD.replace("(2, 3)", f"({'1, ' * 40})")): "its header is damaged",
    header(GOOD.replace("(2, 3)", f"({'123456789012345678, ' * 32})")): "its shape is (123",
    header(GOOD.replace("(2, 3)", "(4294967298, 3)")): "its shape is (4294967298, 3)",
    header(GOOD.replace("shape", "shapes")): "its header is damaged",
    header("'descr'"): "its header is damaged",
    header("'descr': "): "its header is damaged",
    b"\x93NUMPY\x01\x00\xff\xff" + GOOD.encode(): "is not an .npy file",
    b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + GOOD.encode(): "is not an .npy file",
    b"": "is not an .npy file",
}


def test_garbled_files_are_read_without_harm(tmp_path: Path) -> None:
    need("cc")
    program = built(
        tmp_path / "npy",
        [HERE / "npy_test.c", SOURCES / "npy.c", HERE / "no_network.c"],
        *SANITIZERS["address and undefined"],
    )
    data = np.arange(6, dtype=np.int16).tobytes()
    contents = {head + data: told for head, told in HEADERS.items()}
    whole = header(GOOD) + data
    contents[whole[:-1]] = "less data than its shape says"
    contents[whole + b"0"] = "more data than its shape says"
    rng = np.random.default_rng(0)
    garbled = [whole[:n] for n in range(len(whole) - 1)]
    for _ in range(400):
        piece = bytearray(whole)
        for place in rng.integers(0, len(whole), rng.integers(1, 4)):
            piece[place] = rng.integers(0, 256)
        garbled.append(bytes(piece))
    paths = []
    for number, content in enumerate([*contents, *garbled]):
        paths.append(tmp_path / f"{number}.npy")
        paths[-1].write_bytes(content)
    done = subprocess.run(
        [program, tmp_path / "out.npy", *paths],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env={
            **RUN,
            "ASAN_OPTIONS": "max_allocation_size_mb=16",
        },  # what a header says is not believed
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) >= len(paths)  # a name of a type may hold a line's end
    for line, (content, wanted) in zip(told, contents.items(), strict=False):
        assert wanted in line, content
    np.save(tmp_path / "expected.npy", np.arange(6, dtype=np.int16).reshape(2, 3))
    good = tmp_path / "good.npy"
    good.write_bytes(whole)
    subprocess.run([program, tmp_path / "out.npy", good], check=True, env=RUN)
    assert (tmp_path / "out.npy").read_bytes() == (tmp_path / "expected.npy").read_bytes()


@pytest.mark.parametrize("sanitizer", ["address and undefined", "thread", "poisoned"])
def test_a_whole_network_under_sanitizers(sanitizer: str, bundles: Bundles, tmp_path: Path) -> None:
    """The support as the sanitizer compiles it, the network and its kernels as the bundle has them."""
    made = bundles("small")
    subprocess.run(["ar", "x", made.folder / "libmodel.a"], check=True, cwd=tmp_path)
    from graphopt.runtime.deploy.names import with_prefix

    for path in SOURCES.iterdir():
        (tmp_path / path.name).write_text(with_prefix(path.read_text(), "small"))
    (tmp_path / "expected.c").write_text(
        '#include "check.h"\nconst small_digest small_expected[1] = {{0}};\n'
        "const int small_expected_count = 0;\nconst double small_tolerance = 0;\n"
    )
    sources = [
        tmp_path / f"{n}.c" for n in ("model", "pool", "ports", "weights", "run", "npy", "check")
    ]
    objects = [tmp_path / "network.o", tmp_path / "kernels.o"]
    flags = SANITIZERS[sanitizer]
    program = built(
        tmp_path / "run", [*sources, tmp_path / "expected.c", *objects], *flags, f"-I{tmp_path}"
    )
    for name, values in zip(("x", "rows"), made.feeds.values(), strict=True):
        np.save(tmp_path / f"{name}.npy", values)
    options = ["--weights", made.folder / "model.weights", "--threads", "3", "--iters", "5"]
    files = ["--input", tmp_path / "x.npy", "--input", tmp_path / "rows.npy", "--profile"]
    files += ["--output", f"b={tmp_path / 'b.npy'}"]
    done = subprocess.run(
        [program, *options, *files],
        capture_output=True,
        text=True,
        check=False,
        env=RUN,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    np.testing.assert_allclose(
        np.load(tmp_path / "b.npy"), made.expected["b"], rtol=1e-4, atol=1e-4
    )
