"""What a recipe is, and how its file is read.

    title = "YOLOv3, pruned by gamma and distilled"
    source = "Chen and Zhao, Proc. SPIE 12712, 2023"
    task = "detection"
    metric = "ap50"

    [network]                       # where stages without `from` begin: a network of the zoo, with
    name = "yolov3"                 # weights to train from, or `file`: a trained ONNX file
    width = "$width"
    size = "$size"

    [scale.small]                   # what $words stand for; one table per scale
    train = "shapes:train"
    test = "shapes:test"
    width = 0.25
    size = 160
    epochs = 20

    [[stage]]
    name = "base"
    text = "trained"
    pass = [{ name = "train", labels = "$train", epochs = "$epochs" }]

    [[stage]]
    name = "distilled"
    from = "pruned"
    teacher = "base"                # whom passes that train learn from
    pass = [{ name = "recover", labels = "$train", epochs = 10 }]

    [[claim]]
    text = "distillation over fine-tuning"
    better = "distilled"
    worse = "finetuned"
    within = 0                      # points that `better` may be behind and the claim holds

A value "$word" is replaced as a whole, in lists and in the tables of `prune-recover` too; `$images` are
the images of the training set without their labels. A stage may have a `network` of its own in place of
some of these keys (a narrower student), name `boards` it is compiled for, and say `ablation = true` when it
is there to be compared with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from graphopt.errors import UsageError
from graphopt.evaluate.examples import TASKS
from graphopt.named import unknown
from graphopt.pass_base import Pass
from graphopt.registry import default_passes, pass_class
from graphopt.toml import read_toml

_PUBLISHED = "graphopt.recipes.published"
_TOP = ("title", "source", "task", "metric", "network", "scale", "stage", "claim", "preprocess")
_STAGE = ("name", "text", "from", "teacher", "network", "pass", "boards", "ablation")
_NETWORK = ("name", "width", "size", "anchors", "classes", "decoder", "file")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
SETTINGS = ("train", "test")  # what every scale has to say
IMAGES = "$images"


@dataclass(frozen=True)
class Stage:
    """A step of a recipe: passes on the network of an earlier stage.

    Attributes:
        name: also of its folder.
        text: what a reader of the table is told.
        source: the stage whose network it takes; none: a new one.
        network: where it begins if it takes no stage's.
        teacher: the stage whose network passes that train learn from.
        passes: their names and options, `$words` replaced.
        boards: what its network is compiled for and counted on.
        ablation: it is there to be compared with.
    """

    name: str
    text: str
    source: str | None
    teacher: str | None
    network: Mapping[str, Any]
    passes: tuple[Mapping[str, Any], ...]
    boards: tuple[str, ...] = ()
    ablation: bool = False

    def made(self, more: Mapping[str, Any]) -> list[Pass]:
        """The passes; `more` are options for those that have them and are not given them."""
        found: list[Pass] = []
        for table in self.passes:
            given = {k: v for k, v in table.items() if k != "name"}
            if table["name"] == "default" and not given:
                found += default_passes()
                continue
            kind = pass_class(str(table["name"]))
            have = {n.replace("_", "-") for n in kind.__dataclass_fields__}
            extra = {k: v for k, v in more.items() if k in have and k not in given}
            found.append(kind.with_options({**given, **extra}))
        return found


@dataclass(frozen=True)
class Claim:
    """What the paper says: one stage does better than another, or at most so many points worse."""

    text: str
    better: str
    worse: str
    within: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """A recipe at one scale.

    Attributes:
        name: of the file.
        title, source: what it is, and whose.
        task: "detection" or "classification".
        metric: which figure of `graphopt.evaluate` counts.
        scale: which of its scales.
        train, test: labelled images, KIND:WHERE.
        preprocess: how images become inputs.
        settings: what `$words` stand for.
        stages: in order; each comes after those it refers to.
        claims: what is checked in the end.
    """

    name: str
    title: str
    source: str
    task: str
    metric: str
    scale: str
    train: str
    test: str
    preprocess: str
    settings: Mapping[str, Any]
    stages: tuple[Stage, ...]
    claims: tuple[Claim, ...]

    def stage(self, name: str) -> Stage:
        """The stage called so.

        Raises:
            UsageError: there is none.
        """
        for each in self.stages:
            if each.name == name:
                return each
        raise UsageError(unknown(f"stage of {self.name}", name, [s.name for s in self.stages]))

    def needed(self, wanted: Sequence[str]) -> list[Stage]:
        """The stages called so and all they come from, in order; all when none is named."""
        if not wanted:
            return list(self.stages)
        names: set[str] = set()
        stack = [self.stage(name) for name in wanted]
        while stack:
            each = stack.pop()
            names.add(each.name)
            stack += [self.stage(n) for n in (each.source, each.teacher) if n and n not in names]
        return [s for s in self.stages if s.name in names]


def known_recipes() -> dict[str, Path]:
    """The recipes that come with graphopt, by name."""
    folder = resources.files(_PUBLISHED)
    files = [Path(str(f)) for f in folder.iterdir() if f.name.endswith(".toml")]
    return {f.stem: f for f in sorted(files)}


def find_recipe(name: str) -> Path:
    """The file of a recipe: one that comes with graphopt, or a path.

    Raises:
        UsageError: there is none.
    """
    if name.endswith(".toml"):
        return Path(name)
    known = known_recipes()
    if name not in known:
        raise UsageError(f"{unknown('recipe', name, known)} (or give the path of a .toml file)")
    return known[name]


def read_recipe(
    path: Path,
    scale: str,
    *,
    train: str | None = None,
    test: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe in a file.

    Args:
        path: a TOML file.
        scale: which of its [scale.*] tables counts.
        train: labelled images in place of those of the scale.
        test: likewise.
        settings: values in place of those of the scale, by name.

    Raises:
        UsageError: it cannot be read, or something in it cannot be meant, with the place.
    """
    tables = read_toml(path, "recipe")
    where = f"recipe {path}"
    _only(tables, _TOP, where)
    scales = tables.get("scale")
    if not isinstance(scales, dict) or not scales:
        raise UsageError(f"{where} needs [scale.NAME] tables")
    if scale not in scales:
        raise UsageError(f"{where}: {unknown('scale', scale, scales)}")
    chosen = {"train": train, "test": test}
    values = {**scales[scale], **{k: v for k, v in chosen.items() if v is not None}}
    for name, value in (settings or {}).items():
        if name not in values:
            raise UsageError(f"{where}: {unknown('setting', name, values)}")
        values[name] = value
    for name in SETTINGS:
        if not isinstance(values.get(name), str):
            raise UsageError(f"{where}: [scale.{scale}] needs {name} = 'KIND:WHERE'")
    reader = _Reader(where, values, tables.get("network"))
    stages = reader.stages(tables.get("stage"))
    made = Recipe(
        name=path.stem,
        title=reader.text(tables, "title"),
        source=reader.text(tables, "source"),
        task=reader.text(tables, "task"),
        metric=reader.text(tables, "metric"),
        scale=scale,
        train=values["train"],
        test=values["test"],
        preprocess=str(reader.replaced(tables.get("preprocess", ""))),
        settings=values,
        stages=stages,
        claims=reader.claims(tables.get("claim", []), stages),
    )
    if made.task not in TASKS:
        raise UsageError(f"{where}: {unknown('task', made.task, TASKS)}")
    for stage in made.stages:
        stage.made({})  # options that cannot be are told of before hours of work
    reader.must_have_used_all()
    return made


class _Reader:
    """Checks tables and replaces $words."""

    def __init__(self, where: str, values: Mapping[str, Any], network: Any) -> None:
        self.where, self.values = where, values
        self.used: set[str] = set(SETTINGS)
        self._network = self._network_of(network, "[network]")

    def replaced(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.replaced(v) for v in value]
        if isinstance(value, dict):
            return {k: self.replaced(v) for k, v in value.items()}
        if not (isinstance(value, str) and value.startswith("$")) or value == IMAGES:
            return value
        name = value[1:]
        if name not in self.values:
            raise UsageError(f"{self.where}: {unknown('setting', name, self.values)}")
        self.used.add(name)
        return self.values[name]

    def must_have_used_all(self) -> None:
        for name in self.values:
            if name not in self.used:
                raise UsageError(f"{self.where}: nothing uses the setting {name!r} of its scale")

    def text(self, table: Mapping[str, Any], key: str) -> str:
        value = table.get(key)
        if not isinstance(value, str) or not value:
            raise UsageError(f"{self.where} needs {key} = '...'")
        return value

    def _network_of(self, table: Any, what: str) -> Mapping[str, Any]:
        if not isinstance(table, dict):
            raise UsageError(f"{self.where} needs {what} with a name of the zoo, or a file")
        _only(table, _NETWORK, f"{self.where}: {what}")
        return {k: self.replaced(v) for k, v in table.items()}

    def stages(self, tables: Any) -> tuple[Stage, ...]:
        if not isinstance(tables, list) or not tables:
            raise UsageError(f"{self.where} needs [[stage]] tables")
        found: list[Stage] = []
        for table in tables:
            found.append(self._stage(table, [s.name for s in found]))
        return tuple(found)

    def _stage(self, table: Mapping[str, Any], earlier: Sequence[str]) -> Stage:
        name = self.text(table, "name")
        where = f"{self.where}: stage {name!r}"
        _only(table, _STAGE, where)
        if not _NAME.fullmatch(name):
            raise UsageError(f"{where}: names are made of a-z, 0-9 and -")
        if name in earlier:
            raise UsageError(f"{where} is there twice")
        for key in ("from", "teacher"):
            if key in table and table[key] not in earlier:
                raise UsageError(f"{where}: {unknown('earlier stage', str(table[key]), earlier)}")
        passes = table.get("pass", [])
        if not isinstance(passes, list) or not all(
            isinstance(p, dict) and "name" in p for p in passes
        ):
            raise UsageError(f"{where}: pass is a list of tables, each with a name")
        own = self._network_of(table.get("network", {}), f"stage {name!r}: network")
        if own and "from" in table:
            raise UsageError(f"{where} has a network and takes one `from` another stage: choose")
        return Stage(
            name=name,
            text=str(table.get("text", name)),
            source=table.get("from"),
            teacher=table.get("teacher"),
            network={**self._network, **own},
            passes=tuple({k: self.replaced(v) for k, v in p.items()} for p in passes),
            boards=_several(self.replaced(table.get("boards", []))),
            ablation=bool(table.get("ablation", False)),
        )

    def claims(self, tables: Any, stages: Sequence[Stage]) -> tuple[Claim, ...]:
        names = [s.name for s in stages]
        found = []
        for table in tables:
            _only(table, ("text", "better", "worse", "within"), f"{self.where}: [[claim]]")
            for key in ("better", "worse"):
                if table.get(key) not in names:
                    raise UsageError(
                        f"{self.where}: claim: {unknown('stage', str(table.get(key)), names)}"
                    )
            within = self.replaced(table.get("within", 0))
            if not isinstance(within, int | float) or within < 0:
                raise UsageError(f"{self.where}: claim: within={within!r} is no number of points")
            text = self.text(table, "text")
            found.append(Claim(text, table["better"], table["worse"], float(within)))
        return tuple(found)


def _several(given: Any) -> tuple[str, ...]:
    """A list of names, or the only one."""
    return (given,) if isinstance(given, str) else tuple(given)


def _only(table: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for key in table:
        if key not in known:
            raise UsageError(f"{where}: {unknown('key', key, known)}")
