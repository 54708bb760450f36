"""The hand-written C: clean under warnings and sanitizers, refuses what it must, trusts no file."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundles import Bundles, all_bundles  # noqa: F401

from graphopt.errors import RunError, UsageError
from graphopt.runtime.deploy.build import SOURCES
from graphopt.runtime.deploy.digest import digest_of, draw
from graphopt.runtime.deploy.weights import HEADER_SIZE, write_weights
from graphopt.runtime.lower.program import Place, Port
from graphopt.runtime.native import NativeRunner, read_manifest
from tests.runtime.cross import need

HERE = Path(__file__).parent
STRICT = [
    "-std=gnu11",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wshadow",
    "-Wconversion",
    "-Werror",
    "-g",
    "-O1",
]
LIBRARY = [SOURCES / n for n in ("model.c", "pool.c", "ports.c", "weights.c")]
SANITIZERS = {
    "none": [],
    "address and undefined": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
    "poisoned": ["-DNN_POISON"],
}
RUN = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1", "TSAN_OPTIONS": "halt_on_error=1"}


def built(output: Path, sources: list[Path], *flags: str) -> Path:
    """A program, or a skip where the compiler has not the sanitizer."""
    need("cc")
    probe = subprocess.run(
        ["cc", *flags, "-x", "c", "-", "-o", output],
        input=b"int main(void) { return 0; }",
        check=False,
    )
    if probe.returncode:
        pytest.skip(f"no {flags} here")
    command = ["cc", *STRICT, *flags, f"-I{SOURCES}", *sources, "-o", output, "-lm", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return output


def damaged(good: Path) -> dict[Path, str]:
    """Weights files that are wrong, with what is said of them."""
    data = good.read_bytes()
    at = HEADER_SIZE + 100
    cases = {
        "empty": (b"", "is empty"),
        "short": (data[:40], "is not a weights file of graphopt"),
        "other": (b"\x7fELF" + data[4:], "is not a weights file of graphopt"),
        "newer": (
            data[:8] + b"\x02" + data[9:],
            "has version 2 of the format; this library reads 1",
        ),
        "cut": (data[:-64], f"has {len(data) - 64} bytes and should have {len(data)}"),
        "long": (data + b"0", f"has {len(data) + 1} bytes and should have {len(data)}"),
        "foreign": (data[:24] + b"\0" * 8 + data[32:], "is not of this model, or damaged"),
        "flipped": (data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], "its checksum differs"),
        "swapped": (
            data[:64] + data[72:80] + data[64:72] + data[80:],
            "is damaged (its checksum differs)",
        ),
    }
    found = {}
    for name, (content, told) in cases.items():
        path = good.with_name(f"{name}.weights")
        path.write_bytes(content)
        found[path] = told
    return {**found, good.with_name("none"): "No such file", good.parent: "cannot read the weights"}


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_the_library(sanitizer: str, tmp_path: Path) -> None:
    values = (7 * np.arange(1000) % 50).astype(np.int32)
    weights = write_weights([values], tmp_path / "good.weights")
    program = built(
        tmp_path / "test",
        [HERE / "library_test.c", *LIBRARY],
        *SANITIZERS[sanitizer],
        f"-DWEIGHTS_SIZE={weights.size}u",
        f"-DWEIGHTS_CHECKSUM={weights.checksum}u",
    )
    bad = damaged(tmp_path / "good.weights")
    done = subprocess.run(
        [program, tmp_path / "good.weights", *bad],
        capture_output=True,
        text=True,
        check=False,
        env=RUN,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *refused, last = done.stdout.splitlines()
    assert last == "passed"
    for line, (path, told) in zip(refused, bad.items(), strict=True):
        assert str(path) in line
        assert told in line


def test_the_header_is_also_cpp(tmp_path: Path) -> None:
    need("cc")
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    (tmp_path / "it.cpp").write_text(
        '#include "model.h"\nint main() { return nn_layer_count(); }\n'
    )
    flags = ["-fsyntax-only", "-Wall", "-Wextra", "-Werror", f"-I{SOURCES}"]
    subprocess.run(["c++", *flags, tmp_path / "it.cpp"], check=True)


# --- from Python -------------------------------------------------------------------------------


def test_wrong_inputs_are_refused(bundles: Bundles) -> None:
    made = bundles("small")
    runner = NativeRunner(made.folder, threads=1)
    (x, rows) = made.feeds
    for feeds, told in (
        ({x: made.feeds[x]}, "input 'rows' was not given"),
        ({**made.feeds, "z": made.feeds[x]}, "has no input 'z'; it has in"),
        (
            {**made.feeds, x: made.feeds[x][..., :5]},
            r"float32\[1, 8, 24, 20\], not float32\[1, 8, 24, 5\]",
        ),
        ({**made.feeds, rows: np.zeros(2, np.int32)}, r"int64\[2\], not int32\[2\]"),
    ):
        with pytest.raises(UsageError, match=told):
            runner.run(feeds)
    runner.run(made.feeds)


def test_memory_that_is_not_row_major_is_taken(bundles: Bundles) -> None:
    made = bundles("small")
    x = next(iter(made.feeds))
    turned = {**made.feeds, x: np.asfortranarray(made.feeds[x])}
    runner = NativeRunner(made.folder, threads=1)
    expected, found = runner.run(made.feeds), runner.run(turned)
    assert all(np.array_equal(found[k], expected[k]) for k in expected)


def test_damaged_weights_of_a_bundle(bundles: Bundles, tmp_path: Path) -> None:
    folder = tmp_path / "b"
    shutil.copytree(bundles("small").folder, folder)
    other = bundles("resnet20").folder / "model.weights"
    path = folder / "model.weights"
    data = bytearray(path.read_bytes())
    shutil.copy(other, path)
    with pytest.raises(RunError, match="is not of this model, or damaged"):
        NativeRunner(folder)
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(RunError, match="model.weights is damaged .its checksum differs.; copy"):
        NativeRunner(folder)
    path.unlink()
    with pytest.raises(RunError, match="cannot open the weights .*: No such file"):
        NativeRunner(folder)


def test_the_profile_names_layers_and_adds_up(bundles: Bundles) -> None:
    made = bundles("small")
    runner = NativeRunner(made.folder, threads=2)
    outputs, layers = runner.profile(made.feeds)
    again = runner.run(made.feeds)
    assert all(np.array_equal(outputs[k], again[k]) for k in again)
    manifest = read_manifest(made.folder)
    assert len(layers) == manifest["steps"]
    assert sum(v.macs for v in layers) == manifest["macs"] == 24 * 20 * 9 * (8 * 16 + 16 * 16)
    assert all(v.ms >= 0 and v.name for v in layers)


def test_threads_are_bound_where_asked(bundles: Bundles) -> None:
    made = bundles("small")
    mine = os.sched_getaffinity(0)
    runner = NativeRunner(made.folder, threads=2, cores=[min(mine), 99999])
    assert (runner.threads, runner.bound) == (2, 1)
    runner.run(made.feeds)
    assert os.sched_getaffinity(0) == mine  # the caller's thread is put back
    assert NativeRunner(made.folder, threads=2, cores=[]).bound == 0


# --- what a board checks itself with ---------------------------------------------------------------


def test_the_same_numbers_are_drawn_in_c_and_python(bundles: Bundles, tmp_path: Path) -> None:
    """The digest in the bundle was made in Python, from outputs for inputs drawn in Python."""
    made = bundles("small")
    for options in ([], ["--check", "--output", f"b={tmp_path / 'b.npy'}"]):
        done = subprocess.run(
            [made.folder / "run", "--threads", "1", *options],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    manifest = read_manifest(made.folder)
    ports = [
        Port(p["name"], tuple(p["shape"]), p["dtype"], Place(None)) for p in manifest["inputs"]
    ]
    feeds = {p.name: draw(p, k) for k, p in enumerate(ports)}
    found = NativeRunner(made.folder, threads=1).run(feeds)["b"]
    assert np.array_equal(found, np.load(tmp_path / "b.npy"))
    values = next(iter(feeds.values()))
    assert 0 <= values.min() < 0.01
    assert 0.99 < values.max() < 1
    assert abs(values.mean() - 0.5) < 0.02


CHECK = """
#include "check.h"
#include "internal.h"
#include <stdio.h>
const nn_digest nn_expected[1];
const double nn_tolerance = 0;
int main(int count, char **words) {
    static unsigned char data[1 << 16];
    FILE *file = fopen(words[1], "rb");
    int64_t shape[] = {0};
    nn_tensor tensor = {"t", (nn_type)(count - 1), 1, shape, 0};
    tensor.size = fread(data, 1, sizeof data, file);
    fclose(file);
    nn_digest d = nn_digest_of(&tensor, data);
    printf("%lld %lld %.17g %.17g %.17g %.17g %.17g\\n", (long long)d.count, (long long)d.finite, d.mean,
           d.rms, d.least, d.most, d.projection);
    return 0;
}
"""
TYPES = [
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
]


def test_digests_are_the_same_in_c_and_python(tmp_path: Path) -> None:
    (tmp_path / "main.c").write_text(CHECK, encoding="utf-8")
    sources = [
        tmp_path / "main.c",
        SOURCES / "check.c",
        SOURCES / "weights.c",
        HERE / "no_network.c",
    ]
    program = built(tmp_path / "check", sources)
    rng = np.random.default_rng(0)
    for number, dtype in enumerate(TYPES, 1):
        values = (rng.standard_normal(700) * 50).astype(dtype)
        if dtype.startswith("float"):
            values[[3, 5, 8]] = np.nan, np.inf, -np.inf
        values.tofile(tmp_path / "data")
        words = [str(tmp_path / "data")] * number
        text = subprocess.run([program, *words], capture_output=True, text=True, check=True).stdout
        want = digest_of(values)
        wanted = [
            want.count,
            want.finite,
            want.mean,
            want.rms,
            want.least,
            want.most,
            want.projection,
        ]
        assert [float(v) for v in text.split()] == pytest.approx(wanted, rel=1e-12), dtype


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda a: a, False),
        (lambda a: a * np.float32(1.00001), False),
        (lambda a: a * np.float32(1.001), True),
        (lambda a: a[::-1], True),
        (lambda a: np.where(a == a.max(), np.nan, a), True),
        (lambda a: np.where(a == a.max(), 0, a), True),
        (lambda a: a + np.float32(0.01), True),
    ],
)
def test_what_a_digest_sees(change: Callable[[np.ndarray], np.ndarray], seen: bool) -> None:  # type: ignore[type-arg]
    values = np.random.default_rng(0).standard_normal(100_000).astype(np.float32)
    good, found = digest_of(values), digest_of(change(values))
    scale = max(abs(good.least), abs(good.most))
    worst = max(
        abs(found.mean - good.mean) / good.rms,
        abs(found.rms - good.rms) / good.rms,
        abs(found.projection - good.projection) / good.rms,
        abs(found.least - good.least) / scale,
        abs(found.most - good.most) / scale,
    )
    assert (worst > 2e-4 or found.finite != good.finite) == seen
