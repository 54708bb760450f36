"""Compiled networks on the ARM instruction set, beside ncnn, MNN and ONNX Runtime, in one run.

    python -m benchmarks.arm [--only NAME] [--precision float32,float16] [--memory]
                             [--json FILE] [--markdown FILE]
    python -m benchmarks.arm --load FILE ... --markdown FILE

No board is involved: programs run in an emulator that counts what they execute, and llvm-mca says how
many cycles a Cortex-A57 (TX2) or Cortex-A76 (Kirin 990) would take for it with all data in its first
cache; one thread. With --memory a model of the caches adds what misses cost. Layout conversions are
in all figures. These are estimates for comparing programs, not times on a board. The test bed in
../shared/tools/armbed does the counting; run its setup.sh once.

In int8 (--precision int8) networks are quantized by graphopt, for ONNX Runtime with the rules for its ARM
kernels and for our compiler with those of the core; ncnn has single convolutions only, in its own form,
because its tools that quantize networks come with no package, and MNN's converter quantizes weights only.
Inputs and outputs are float; in a single layer rounding these is a large part of ours and of ONNX
Runtime's, and ncnn's rounds its inputs only. Weights are untrained and calibrated on noise, which is why
errors are large, everyone's. What our quantizer expects to be slower in integers stays in the precision
that `graphopt compile` takes for the board, float32 on the A57 and float16 on the A76.

Without --memory a kernel's weights cost nothing to read, and with it they do: for small images of many
channels ours takes the Winograd transform with fewer weights, which needs more cycles and less time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.arm_models import CASES, prepared
from benchmarks.markdown import as_markdown
from graphopt.errors import GraphoptError
from graphopt.frontends.onnx_file import load, save
from graphopt.pipeline import Pipeline
from graphopt.quantize import quantizing
from graphopt.registry import LOWERING, pass_class
from graphopt.report.terminal import console, print_rows
from graphopt.runtime.compile import compile_graph
from graphopt.runtime.deploy.build import ARCHIVE, HEADER, WEIGHTS, build
from graphopt.runtime.targets import target
from graphopt.runtime.toolchain.find import toolchain_for

BED = Path(__file__).resolve().parents[2] / "shared" / "tools" / "armbed"
BOARDS = {"a57": "tx2", "a76": "kirin990"}
PEERS = ("ort", "ncnn", "mnn")
HALVES = ("ncnn", "mnn")  # peers with float16 kernels
INTEGERS = ("ort", "ncnn")  # and those that get whole layers of integers
PEAKS = {"float32": "mac32", "float16": "mac16", "int8": "mac8"}  # names of the test bed
# Static programs need no libraries in the emulator.
ABI = "linux-musl"

PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include "{header}"
int main(int count, char **path) {{
    char error[256];
    const bench_options one = {{.threads = 1, .unbound = 1}};
    bench_model *model = bench_create(path[1], &one, error, sizeof error);
    if (count != 4 || model == NULL) {{ puts(error); return 1; }}
    const size_t in = bench_input(0)->size, out = bench_output(0)->size;
    char *given = malloc(in), *made = malloc(out);
    FILE *file = fopen(path[2], "rb");
    if (fread(given, 1, in, file) != in) return 1;
    for (int run = 0; run < 2; run++) {{
        if (bench_set_input(model, 0, given, in)) return 1;
        if (run) __asm__ volatile("hint #120" ::: "memory");
        if (bench_run(model)) return 1;
        if (run) __asm__ volatile("hint #121" ::: "memory");
        if (bench_get_output(model, 0, made, out)) return 1;
    }}
    return fwrite(made, 1, out, fopen(path[3], "wb")) != out;
}}
"""


@dataclass(frozen=True)
class Row:
    """One engine on one network and core; `failure` is empty when it ran.

    Attributes:
        limit: multiply-accumulates of the direct algorithm, over the cycles the core needs for them.
        memory_ms: milliseconds with the cache model.
    """

    case: str
    core: str
    precision: str
    engine: str
    error: float = 0.0
    instructions: float = 0.0
    cycles: float = 0.0
    limit: float = 0.0
    memory_ms: float = 0.0
    failure: str = ""


def main() -> None:
    """Runs the comparison and prints one table per core and precision."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--precision", default="float32,float16,int8", help="comma-separated")
    parser.add_argument("--engines", default="graphopt," + ",".join(PEERS), help="comma-separated")
    parser.add_argument("--memory", action="store_true", help="also the model of the caches")
    parser.add_argument("--json", type=Path, help="write the rows here as they come")
    parser.add_argument("--load", type=Path, nargs="*", default=[], help="rows of earlier runs")
    parser.add_argument("--markdown", type=Path, help="write the page here")
    args = parser.parse_args()
    rows = [Row(**r) for path in args.load for r in json.loads(path.read_text())]
    for row in measured(args) if not args.load else ():
        rows.append(row)
        if args.json:
            args.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
    for title, cells in tables(rows):
        console().print(title)
        print_rows(console(), cells[0], cells[1:])
    if args.markdown:
        args.markdown.write_text(page(rows))


def measured(args: argparse.Namespace) -> Iterator[Row]:
    """A row for every engine, core and precision of every case."""
    if not (BED / "compare.py").exists():
        sys.exit(f"the test bed is not at {BED}")
    sys.path.insert(0, str(BED))
    import bed  # type: ignore[import-not-found]

    if not Path(bed.HOME, "build", "libarmbed.so").exists():
        sys.exit(f"the test bed is not set up; run {BED}/setup.sh once")
    for name in (n for n in CASES if args.only in n):
        with tempfile.TemporaryDirectory() as folder:
            model = prepared(name, Path(folder))
            for engine in args.engines.split(","):
                for row in _engine(name, engine, model, args):
                    console().print(
                        f"{row.case} {row.core} {row.precision} {row.engine}: {_short(row)}"
                    )
                    yield row


def _engine(name: str, engine: str, model: Path, args: argparse.Namespace) -> Iterator[Row]:
    x, wanted, macs = reference(model)
    for precision in args.precision.split(","):
        for core in BOARDS:
            if not _has(engine, core, precision, name):
                continue
            head = (name, core, precision, engine)
            counts = model.parent / f"{engine}.{core}.{precision}"
            try:
                path = _model(engine, core, precision, model)
                if engine == "graphopt":
                    made = _ours(Path(path), core, precision, x, counts, memory=args.memory)
                else:
                    made = _peer(engine, path, core, precision, x, counts, args.memory)
                yield _row(head, made.reshape(-1), wanted, macs, counts)
            except (RuntimeError, GraphoptError, ValueError) as error:
                yield Row(*head, failure=str(error).strip().splitlines()[-1][:120])


def _has(engine: str, core: str, precision: str, case: str) -> bool:
    """Whether an engine computes in a precision on a core at all."""
    if precision == "float16":
        return core != "a57" and engine in (*HALVES, "graphopt")
    if precision == "int8" and engine == "ncnn":
        return case.startswith(("conv", "depthwise"))
    return precision != "int8" or engine in (*INTEGERS, "graphopt")


def _model(engine: str, core: str, precision: str, model: Path) -> str:
    """The file an engine reads."""
    if precision == "int8":
        if engine == "ncnn":
            return _ncnn_integers(model)
        rules = core if engine == "graphopt" else "onnxruntime-arm"
        return str(_quantized(model, rules))
    return str(model) if engine == "graphopt" else _converted(engine, model)


@cache
def _quantized(model: Path, rules: str) -> Path:
    graph = load(model)
    shape = (4, *graph.inputs[0].shape[1:])
    images = model.with_name("images.npy")
    np.save(images, np.random.default_rng(0).standard_normal(shape).astype(np.float32))
    # Everything, as the peers do: this is about speed.
    whole = {"first": True, "last": True, "floor": 0.0}
    passes = quantizing(str(images), repair="", target=rules, **whole)
    path = model.with_name(f"{model.stem}.{rules}.onnx")
    save(Pipeline(passes).run(graph).graph, path)
    return path


@cache
def _ncnn_integers(model: Path) -> str:
    from int8_models import ncnn_conv  # type: ignore[import-not-found]

    base = str(model.with_name(f"{model.stem}.ncnn8"))
    if not ncnn_conv(str(model), base):
        raise RuntimeError("ncnn has no such layer in int8")
    return base


def reference(model: Path) -> tuple[Any, Any, float]:
    """(input, ONNX Runtime's first output on this machine, multiply-accumulates)."""
    import onnxruntime as ort
    from make_models import macs  # type: ignore[import-not-found]

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    port = session.get_inputs()[0]
    x = np.random.default_rng(1).standard_normal(port.shape).astype(np.float32)
    return x, session.run(None, {port.name: x})[0], float(macs(str(model)))


@cache
def _converted(engine: str, model: Path) -> str:
    import compare  # type: ignore[import-not-found]

    folder = model.parent / engine
    folder.mkdir(exist_ok=True)
    found: dict[str | None, str] = compare.convert(engine, str(model), str(folder))
    return found[None]


def _peer(
    engine: str, path: str, core: str, precision: str, x: Any, counts: Path, memory: bool
) -> Any:
    import bed

    given, made = counts.with_suffix(".in.npy"), counts.with_suffix(".out.npy")
    np.save(given, x)
    options = {"fp16": 1} if precision == "float16" else {}
    bed.run(core, engine, path, str(given), str(made), str(counts), cache=memory, **options)
    return np.load(made)


def _ours(model: Path, core: str, precision: str, x: Any, counts: Path, *, memory: bool) -> Any:
    board = target(BOARDS[core])
    given = board.precision() if precision == "int8" else precision
    graph = Pipeline([pass_class(n)() for n in LOWERING]).run(load(model)).graph
    compiled = compile_graph(graph, board, precision=given)
    tools = toolchain_for(board, ABI)
    folder = counts.parent / f"bundle.{core}.{precision}"
    folder.mkdir()
    build(compiled, folder, "bench", tools)
    source = folder / "bench.c"
    source.write_text(PROGRAM.format(header=HEADER))
    tools.compile(source, folder / "bench.o")
    program = tools.executable(
        [folder / "bench.o", folder / ARCHIVE], folder / "bench", static=True
    )
    given, made = counts.with_suffix(".in"), counts.with_suffix(".out")
    x.tofile(given)
    _emulated([str(program), str(folder / WEIGHTS), str(given), str(made)], core, counts, memory)
    return np.fromfile(made, np.float32)


def _emulated(command: Sequence[str], core: str, counts: Path, memory: bool) -> None:
    import bed

    plugin = f"{bed.HOME}/build/libarmbed.so,out={counts}{',cache=1' if memory else ''}"
    full = ["qemu-aarch64", "-cpu", f"cortex-{core}", "-plugin", plugin, *command]
    done = subprocess.run(full, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"our program ended with {done.returncode}: {done.stdout}{done.stderr}")


def _row(head: tuple[str, str, str, str], made: Any, wanted: Any, macs: float, counts: Path) -> Row:
    import cycles  # type: ignore[import-not-found]

    if made.size != wanted.size:
        return Row(*head, failure=f"{made.size} values instead of {wanted.size}")
    found = cycles.analyze(str(counts), head[1], macs)
    peak = cycles.CORES[head[1]][PEAKS[head[2]]]
    return Row(
        *head,
        error=float(np.abs(made - wanted.reshape(-1)).max() / np.abs(wanted).max()),
        instructions=found["insns"],
        cycles=found["cycles"],
        limit=macs / peak / found["cycles"],
        memory_ms=found.get("ms_mem", 0.0),
    )


def _short(row: Row) -> str:
    return row.failure or f"{row.cycles / 1e6:.2f} M cycles, error {row.error:.1e}"


Table = list[list[str]]


def tables(rows: list[Row]) -> Iterator[tuple[str, Table]]:
    """(title, header and rows) per core and precision."""
    engines = list(dict.fromkeys(r.engine for r in rows))
    for core, precision in dict.fromkeys((r.core, r.precision) for r in rows):
        some = [r for r in rows if (r.core, r.precision) == (core, precision)]
        head = [
            "network",
            *(f">{e}, M cycles" for e in engines),
            ">best peer / ours",
            ">of the limit",
        ]
        yield f"{core}, {precision}", [head, *_lines(some, engines)]


def _lines(rows: list[Row], engines: list[str]) -> Iterator[list[str]]:
    for case in dict.fromkeys(r.case for r in rows):
        found = {r.engine: r for r in rows if r.case == case}
        ours = found.get("graphopt")
        peers = [r for r in found.values() if r.engine != "graphopt" and not r.failure]
        cells = [_cell(found.get(e)) for e in engines]
        ratio = limit = ""
        if ours and not ours.failure:
            limit = f"{100 * ours.limit:.0f} %"
            if peers:
                ratio = f"{min(p.cycles for p in peers) / ours.cycles:.2f}"
        yield [case, *cells, ratio, limit]


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    if row.failure:
        return "failed"
    return f"{row.cycles / 1e6:.2f}" + (f" ({row.memory_ms:.2f} ms)" if row.memory_ms else "")


def page(rows: list[Row]) -> str:
    """The page of docs/."""
    text = [
        "# Compiled networks on ARM, side by side",
        "",
        "`python -m benchmarks.arm --memory --markdown docs/arm-benchmark.md` makes this page anew.",
        "",
        *"\n\n".join((__doc__ or "").strip().split("\n\n")[2:]).splitlines(),
        "",
        "In brackets, where --memory was given: milliseconds with the model of the caches, which is not",
        "calibrated on a board.",
        "The limit is that of the direct algorithm: one vector multiply-accumulate after another.",
        "Winograd's algorithm needs fewer, so figures above 100 % are possible.",
    ]
    for title, cells in tables(rows):
        text += ["", f"## {title}", "", as_markdown(cells[0], cells[1:])]
    failed = [r for r in rows if r.failure]
    if failed:
        text += ["", "## Failures", ""]
        text += [f"- {r.engine}, {r.case}, {r.core}, {r.precision}: {r.failure}" for r in failed]
    text += ["", "## Largest error, relative to the largest value", ""]
    ran = [r for r in rows if not r.failure]
    worst = {(r.engine, r.precision): 0.0 for r in ran}
    for r in ran:
        worst[r.engine, r.precision] = max(worst[r.engine, r.precision], r.error)
    errors = [[e, p, f"{v:.1e}"] for (e, p), v in worst.items()]
    text.append(as_markdown(["engine", "precision", ">error"], errors))
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
