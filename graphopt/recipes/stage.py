"""One stage of a recipe: a network in, passes, a network out with what was measured of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from graphopt.channels.plan import Plan
from graphopt.channels.plan import save as save_plan
from graphopt.data import Samples, load_samples
from graphopt.data.images import METADATA as PREPROCESS
from graphopt.evaluate import evaluate
from graphopt.evaluate.decoders import METADATA as DECODER
from graphopt.frontends.onnx_file import load, save
from graphopt.ir.cost import cost_of
from graphopt.ir.graph import Graph
from graphopt.pipeline import Pipeline, Progress
from graphopt.prune import PREPARATION
from graphopt.recipes.boards import on_boards
from graphopt.recipes.recipe import IMAGES, Recipe, Stage
from graphopt.registry import parse_passes
from graphopt.tasks import unlabelled_samples
from graphopt.train import fitted_decoder, untrained
from graphopt.zoo import spec
from graphopt.zoo.trained import NAME as TRAINED
from graphopt.zoo.trained import trained_example

MODEL, RESULT, PLAN, SINCE = "model.onnx", "result.json", "plan.json", "since.json"
RUNS = "runs"
_TOLD = ("torch", "onnxruntime", "numpy", "graphopt")


@dataclass
class Ground:
    """What the stages of one run share.

    Attributes:
        recipe: at one scale.
        folder: of this seed.
        seed: of weights, order, augmentation.
        device: of training.
        watch: makes what is shown training runs.
    """

    recipe: Recipe
    folder: Path
    seed: int
    device: str
    watch: Callable[[], Any]
    _images: Samples | None = field(default=None, repr=False)

    def place(self, stage: str) -> Path:
        """The folder of a stage."""
        return self.folder / stage

    def left_by(self, stage: str) -> Graph:
        """The network a stage left."""
        return load(self.place(stage) / MODEL)

    def beginning(self, how: Mapping[str, Any]) -> Graph:
        """A network to begin with: of the zoo with weights to train from, or a trained file.

        What its exporter left of shapes is worked out, so that channels can be removed.
        """
        graph = self._new(how)
        return Pipeline(parse_passes(PREPARATION)).run(graph, strict=True).graph

    def _new(self, how: Mapping[str, Any]) -> Graph:
        if how.get("file"):
            return load(Path(str(how["file"])))
        name = str(how["name"])
        if name == TRAINED:
            return trained_example()
        size = int(how.get("size", spec(name).input_shape[1]))
        width = float(how.get("width", 1.0))
        graph = untrained(name, self.recipe.train, how.get("classes"), width, size, self.seed)
        if self.recipe.preprocess:
            graph.metadata[PREPROCESS] = self.recipe.preprocess
        if how.get("decoder"):
            graph.metadata[DECODER] = str(how["decoder"])
        elif how.get("anchors", "fitted") == "fitted":
            found = fitted_decoder(name, self.recipe.train, size, self.seed)
            if "decoder" in found:
                graph.metadata[DECODER] = found["decoder"]
        return graph

    def images(self, graph: Graph) -> Samples:
        """The images of the training set without their labels; `train` may be a folder without any."""
        if self._images is None and Path(self.recipe.train).exists():
            self._images = load_samples(self.recipe.train, graph, preprocess=self.recipe.preprocess)
        if self._images is None:
            self._images = unlabelled_samples(self.recipe.train, graph, self.recipe.task)
        return self._images


def stage_print(ground: Ground, stage: Stage) -> str:
    """What tells whether a stage was done as it is written now."""
    recipe = ground.recipe
    parents = [
        stage_print(ground, recipe.stage(name)) for name in (stage.source, stage.teacher) if name
    ]
    about: list[Any] = [list(map(dict, stage.passes)), stage.boards, parents, ground.seed]
    about += [recipe.task, recipe.train, recipe.test, recipe.preprocess]
    if stage.source is None:
        about.append(dict(stage.network))
        if stage.network.get("file"):
            about.append(hashlib.sha256(Path(str(stage.network["file"])).read_bytes()).hexdigest())
    text = json.dumps(about, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_stage(ground: Ground, stage: Stage, progress: Progress) -> dict[str, Any]:
    """Runs the passes of a stage, writes its network, and tells what is to be told of it."""
    started = time.perf_counter()
    place = ground.place(stage.name)
    place.mkdir(parents=True, exist_ok=True)
    runs = _runs(ground, stage)
    graph = ground.left_by(stage.source) if stage.source else ground.beginning(stage.network)
    teacher = ground.left_by(stage.teacher) if stage.teacher else None
    plan = _plan_since(ground, stage)
    outcome = Pipeline(_passes(ground, stage, graph, runs)).run(
        graph,
        seed=ground.seed,
        strict=True,
        teacher=teacher,
        known={} if plan is None else {"since_teacher": plan},
        progress=progress,
    )
    save(outcome.graph, place / MODEL)
    facts: dict[str, Any] = {}
    for result in outcome.results:
        facts |= result.facts
    _keep_plan(facts, place, stage.source if plan is None else stage.teacher)
    trained = round(time.perf_counter() - started, 1)
    progress(f"{stage.name}: evaluating")
    found = evaluate(place / MODEL, ground.recipe.test, ground.recipe.task)
    boards = on_boards(place / MODEL, stage.boards, place, progress) if stage.boards else {}
    return {
        "recipe": ground.recipe.name,
        "scale": ground.recipe.scale,
        "seed": ground.seed,
        "stage": stage.name,
        "text": stage.text,
        "from": stage.source,
        "ablation": stage.ablation,
        "passes": [str(r.text) for r in outcome.results],
        "did": [note.what for r in outcome.results for note in r.rewrites][:20],
        "cost": _cost(outcome.graph, place / MODEL),
        "metrics": {k: v for k, v in found.items() if _is_figure(v) and k != "seconds"},
        "images": found["images"],
        "boards": boards,
        "training": facts.get("training", {}).get("rows", []),
        "seconds": trained,
        "versions": dict(_versions()),
    }


def _runs(ground: Ground, stage: Stage) -> Path:
    """Where its trainings keep checkpoints; those of the stage as it was written before are deleted."""
    runs = ground.place(stage.name) / RUNS
    mark = stage_print(ground, stage)
    for other in runs.glob("*"):
        if other.name != mark:
            shutil.rmtree(other)
    return runs / mark


def _passes(ground: Ground, stage: Stage, graph: Graph, runs: Path) -> list[Any]:
    """The passes, shown to the user, with a folder for their checkpoints and images where they ask."""
    tables = [
        {k: ground.images(graph) if v == IMAGES else v for k, v in table.items()}
        for table in stage.passes
    ]
    made = []
    for number, table in enumerate(tables):
        more = {
            "watch": ground.watch(),
            "device": ground.device,
            "folder": str(runs / f"pass{number}"),
        }
        made += dataclasses.replace(stage, passes=(table,)).made(more)
    return made


def _plan_since(ground: Ground, stage: Stage) -> Plan | None:
    """What the stage's network lost of its teacher's: the plans on the way, one after another."""
    if stage.teacher is None:
        return None
    way: list[Plan] = []
    ends = alike(ground, stage.teacher)
    name = stage.source
    while name is not None and name not in ends:
        place = ground.place(name)
        since = ground.recipe.stage(name).source
        if (place / PLAN).exists():
            way.append(Plan.load(place / PLAN))
            since = json.loads((place / SINCE).read_text("utf-8"))
        name = since
    if name is None:
        return None  # the teacher is of another line: nothing is known of its channels
    found: Plan | None = None
    for plan in reversed(way):
        found = plan if found is None else found.then(plan)
    return found


def alike(ground: Ground, teacher: str) -> set[str]:
    """The teacher and what it was trained on from: one after another, with the same channels."""
    found, name = {teacher}, teacher
    while not (ground.place(name) / PLAN).exists():
        source = ground.recipe.stage(name).source
        if source is None:
            break
        found.add(source)
        name = source
    return found


def _keep_plan(facts: Mapping[str, Any], place: Path, since: str | None) -> None:
    """The plan of this stage beside its network, and the stage whose network it is about."""
    plan = facts.get("since_teacher")
    if isinstance(plan, Plan):
        (place / SINCE).write_text(json.dumps(since), "utf-8")
        save_plan(plan, place / PLAN)
    else:
        (place / PLAN).unlink(missing_ok=True)


def _is_figure(value: Any) -> bool:
    """A number; that of objects of a size there are none of is NaN, which JSON does not have."""
    return isinstance(value, float) and math.isfinite(value)


def _cost(graph: Graph, path: Path) -> dict[str, float]:
    cost = asdict(cost_of(graph))
    return {
        "parameters": cost["parameters"],
        "macs": cost["macs"],
        "file_bytes": path.stat().st_size,
    }


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", platform.python_version()
    for name in _TOLD:
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
