"""What can be pruned, and is it right: graphopt, torch-pruning and onnxsim on patterns and networks.

    python -m benchmarks.prune_coverage [NAME...] [--json out/bench/prune_coverage.json]

Half of every group's channels go. Exact: the pruned network equals the original with the removed
channels' contributions zero. Refused: nothing was removed. Reached: layers that lost outputs.
Every peer runs in an environment of its own under out/bench, made at the first run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from rich.console import Console
from rich.table import Table

from benchmarks.environments import python_of
from benchmarks.markdown import as_markdown
from benchmarks.models import ASSETS, CACHE
from benchmarks.patterns import Pattern, patterns
from benchmarks.prune_peers import PEERS, TOLERANCE
from graphopt.channels.groups import KEPT_UNIT, Channels
from graphopt.channels.labels import Vector
from graphopt.channels.masking import masked
from graphopt.channels.removal import remove
from graphopt.frontends.normal_form import normalize
from graphopt.frontends.torch_module import to_onnx
from graphopt.ir.cost import cost_of
from graphopt.ir.graph import Graph
from graphopt.oracle import errors_of
from graphopt.pipeline import Pipeline
from graphopt.prune import PREPARATION
from graphopt.registry import parse_passes
from graphopt.runtime.run import open_graph
from graphopt.samples import dim_choices, draw

ROOT = Path(__file__).resolve().parents[1]
BENCH = ROOT / "out" / "bench"
NETWORKS = (
    "yolov3-tiny", "yolov3", "yolov3-spp", "yolov4", "yolov3-mobilenetv3", "retinanet-r50-fpn",
    "resnet50", "mobilenetv2", "mobilenetv3-large",
)  # fmt: skip
SIZE = 224
Answer = dict[str, Any]


def main() -> None:
    """Prints the table and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only what contains one of these")
    parser.add_argument("--patterns", action="store_true", help="leave out the networks")
    parser.add_argument("--json", type=Path, default=BENCH / "prune_coverage.json")
    parser.add_argument("--markdown", type=Path, help="write the table as a page")
    parser.add_argument("--load", action="store_true", help="show the results in --json again")
    given = parser.parse_args()
    if given.load:
        _tell(json.loads(given.json.read_text(encoding="utf-8")), given.markdown)
        return
    rows: dict[str, dict[str, Answer]] = {}
    jobs: dict[str, list[Answer]] = {name: [] for name in PEERS}
    for name, graph, per_peer in _subjects(given.names, networks=not given.patterns):
        answer, outputs = _ours(graph)
        rows[name] = {"graphopt": answer}
        for peer, job in per_peer.items():
            jobs[peer].append({"name": name, "keep": outputs, **job})
    for peer, asked in jobs.items():
        for answer in _answers(peer, asked):
            rows[answer["name"]][peer] = answer
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    _tell(rows, given.markdown)


def _tell(rows: dict[str, dict[str, Answer]], markdown: Path | None) -> None:
    _show(rows)
    if markdown is not None:
        markdown.write_text(page(rows), encoding="utf-8")


def page(rows: dict[str, dict[str, Answer]]) -> str:
    """The table as Markdown: outcome, layers reached, parameters removed."""
    tools = ["graphopt", *PEERS]
    lines = []
    for outcome in ("exact", "refused", "wrong", "crash", "unclear"):
        counts = [sum(_is(r.get(t), outcome) for r in rows.values()) for t in tools]
        lines.append([f"**{outcome}**", *(f"**{c}**" for c in counts)])
    plain = re.compile(r"\[/?[a-z]*\]")  # colours are for the terminal
    lines += [
        [name, *(plain.sub("", _cell(row.get(t))) for t in tools)] for name, row in rows.items()
    ]
    text = " ".join((__doc__ or "").split("\n\n")[2].split())
    head = ["# Pruning coverage side by side", "", "`python -m benchmarks.prune_coverage`", ""]
    return "\n".join([*head, text, "", as_markdown(["what", *tools], lines), ""])


# --- what is pruned ---------------------------------------------------------------------------


def _subjects(only: list[str], *, networks: bool) -> Iterator[tuple[str, Graph, dict[str, Answer]]]:
    """Name, graph, and the job for each peer that can take it."""
    for pattern in patterns():
        if _wanted(pattern.name, only):
            file = _file_of(pattern)
            jobs: dict[str, Answer] = {"onnxsim": {"file": str(file)}}
            if pattern.build is not None:
                jobs["torch-pruning"] = {"pattern": pattern.name}
            yield pattern.name, normalize(onnx.load(file)), jobs
    if not networks:
        return
    for network in NETWORKS:
        file = CACHE / f"{network}-raw-torchscript-{SIZE}.onnx"
        if _wanted(network, only) and file.exists():
            peers = {
                "onnxsim": {"file": str(file)},
                "torch-pruning": {"network": network, "size": SIZE},
            }
            yield network, normalize(onnx.load(file)), peers
    for file in sorted(ASSETS.glob("models/*.onnx")):
        if _wanted(file.stem, only):
            yield file.stem, normalize(onnx.load(file)), {"onnxsim": {"file": str(file)}}


def _wanted(name: str, only: list[str]) -> bool:
    return not only or any(o in name for o in only)


def _file_of(pattern: Pattern) -> Path:
    """The pattern as an ONNX file; the weights its text leaves open are drawn."""
    path = BENCH / "patterns" / f"{''.join(c if c.isalnum() else '-' for c in pattern.name)}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    if pattern.text:
        text = f'<ir_version: 10, opset_import: ["": {pattern.opset}]> g {pattern.text}'
        model = onnx.parser.parse_model(text)
        _draw_weights(model.graph)
    else:
        model = to_onnx(pattern.module(), pattern.example(), exporter="torchscript")
    onnx.save(model, path)
    return path


def _draw_weights(graph: onnx.GraphProto) -> None:
    rng = np.random.default_rng(0)
    made = {o for n in graph.node for o in n.output} | {t.name for t in graph.initializer}
    for info in [v for v in graph.value_info if v.name not in made]:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        values = rng.standard_normal(shape) / max(1.0, float(np.prod(shape[1:])) ** 0.5)
        values = np.abs(values) + 0.5 if info.name.startswith("var") else values
        graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), info.name))


# --- graphopt ---------------------------------------------------------------------------------


def _ours(graph: Graph) -> tuple[Answer, list[str]]:
    """The answer, and the names of the modules that make the model's outputs."""
    graph = Pipeline(parse_passes(PREPARATION)).run(graph).graph
    channels = Channels(graph)
    sites = [s for s in channels.sweep.findings.sites if s.role == "output"]
    layers = {id(s.node) for s in sites}
    reached = {id(s.node) for s in sites if _can_lose(channels.units_of(s.labels))}
    outputs = [
        h.layer.strip("/").split("/")[-2]
        for h in channels.held()
        if "is an output" in h.reason.what and h.layer.count("/") > 1
    ]
    units = _half(channels)
    expected, before = masked(channels, units), cost_of(graph).parameters
    remove(channels, units)
    feeds = draw(graph, next(iter(dim_choices(graph)))[0], np.random.default_rng(0))
    worst = max(errors_of(open_graph(expected).run(feeds), open_graph(graph).run(feeds)).values())
    share = 1 - cost_of(graph).parameters / max(before, 1)
    outcome = "refused" if not len(units) else "exact" if worst <= TOLERANCE else "wrong"
    answer = {
        "outcome": outcome,
        "layers": len(layers),
        "reached": len(reached),
        "parameters": share,
    }
    return {**answer, "detail": f"error {worst:.1g}"}, outputs


def _can_lose(units: Vector) -> bool:
    return len(set(units.tolist()) - {KEPT_UNIT}) > 1


def _half(channels: Channels) -> Vector:
    rng = np.random.default_rng(0)
    halves = [rng.choice(g.units, g.size // 2, replace=False) for g in channels.groups]
    return np.concatenate([np.zeros(0, np.int64), *halves])


# --- peers ------------------------------------------------------------------------------------


def _answers(peer: str, jobs: Iterable[Answer]) -> Iterator[Answer]:
    """Runs the jobs one after the other; after a process that dies the rest goes to a new one."""
    waiting = list(jobs)
    while waiting:
        asked = "\n".join(json.dumps(j) for j in waiting)
        command = [str(python_of(peer)), "-m", "benchmarks.prune_peers", peer]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command,
            input=asked,
            capture_output=True,
            text=True,
            env=environment,
            cwd=ROOT,
            check=False,
        )
        lines = [x for x in done.stdout.splitlines() if x.startswith("ANSWER ")]
        yield from (json.loads(x.removeprefix("ANSWER ")) for x in lines)
        waiting = waiting[len(lines) :]
        if waiting:
            yield {"name": waiting.pop(0)["name"], "outcome": "crash", "detail": done.stderr[-160:]}


# --- the table --------------------------------------------------------------------------------


def _show(rows: dict[str, dict[str, Answer]]) -> None:
    tools = ["graphopt", *PEERS]
    table = Table("", *tools, title="outcome, layers reached, parameters removed at one half")
    for name, answers in rows.items():
        table.add_row(name, *(_cell(answers.get(tool)) for tool in tools))
    table.add_section()
    for outcome in ("exact", "refused", "wrong", "crash", "unclear"):
        counts = Counter(t for a in rows.values() for t in tools if _is(a.get(t), outcome))
        table.add_row(outcome, *(str(counts[t]) for t in tools))
    Console(width=130).print(table)


def _is(answer: Answer | None, outcome: str) -> bool:
    return answer is not None and answer["outcome"] == outcome


def _cell(answer: Answer | None) -> str:
    if answer is None:
        return "-"
    if "layers" not in answer:
        return f"[red]{answer['outcome']}[/]"
    colour = {"exact": "green", "wrong": "red"}.get(answer["outcome"], "yellow")
    reach = f"{answer['reached']}/{answer['layers']}, {answer['parameters']:.0%}"
    return f"[{colour}]{answer['outcome']}[/] {reach}"


if __name__ == "__main__":
    main()
