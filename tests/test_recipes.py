"""Recipes: what their files may say, that they run once and go on, and what they find out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from graphopt.cli import main
from graphopt.errors import UsageError
from graphopt.evaluate.decoders import decoder_for, decoder_named
from graphopt.evaluate.readers.shapes import Shapes
from graphopt.evaluate.readers.yolo import write
from graphopt.frontends.onnx_file import load, save
from graphopt.ir.cost import cost_of
from graphopt.recipes import Recipe, find_recipe, known_recipes, read_recipe, run_recipe
from graphopt.recipes import run as running
from graphopt.recipes.recipe import Claim
from graphopt.recipes.stage import Ground, alike
from graphopt.recipes.table import answers, cells, columns, spread
from graphopt.toml import read_value
from graphopt.zoo.trained import trained_example

TEXT = """
title = "A small one"
source = "nobody"
task = "detection"
metric = "ap50"

[network]
name = "yolov3-tiny"
width = "$width"
size = 64

[scale.small]
train = "shapes:train,count=16,size=64"
test = "shapes:test,count=8,size=64"
width = 0.125
training = "batch=8 workers=0 lr=0.01"

[[stage]]
name = "base"
text = "trained"
pass = [{ name = "train", labels = "$train", epochs = 1, recipe = "$training" }]

[[stage]]
name = "pruned"
from = "base"
pass = [{ name = "prune", macs = "60%", importance = "fpgm", data = "$images" }]

[[stage]]
name = "again"
text = "recovered"
from = "pruned"
teacher = "base"
[[stage.pass]]
name = "recover"
data = "$images"
epochs = 1
recipe = "$training"

[[claim]]
text = "recovering helps"
better = "again"
worse = "pruned"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(TEXT)
    return path


def run(file: Path, **more: Any) -> list[dict[str, Any]]:
    recipe = read_recipe(file, "small")
    return run_recipe(recipe, file.parent / "out", device="cpu", **more)


# --- reading ------------------------------------------------------------------------------------


def test_words_stand_for_the_settings_of_the_scale(file: Path) -> None:
    recipe = read_recipe(file, "small", train="shapes:train,count=4", settings={"width": 0.25})
    assert recipe.name == "mine"
    assert recipe.stages[0].network == {"name": "yolov3-tiny", "width": 0.25, "size": 64}
    assert recipe.stages[0].passes[0]["labels"] == "shapes:train,count=4"
    assert recipe.stages[1].passes[0]["data"] == "$images"


def test_words_inside_tables_are_replaced_and_their_options_checked(file: Path) -> None:
    """A pass may be given other passes' options as tables: rounds of pruning and training."""
    rounds = """
[[stage.pass]]
name = "prune-recover"
rounds = 2
data = "$images"
prune = { macs = "60%", importance = "fpgm" }
recover = { epochs = 1, labels = "$train", recipe = "$training" }
"""
    once = 'pass = [{ name = "prune", macs = "60%", importance = "fpgm", data = "$images" }]'
    file.write_text(TEXT.replace(once, rounds))
    table = read_recipe(file, "small").stages[1].passes[0]
    assert table["recover"]["labels"] == "shapes:train,count=16,size=64"
    assert table["recover"]["recipe"] == "batch=8 workers=0 lr=0.01"
    found = run(file, stages=["pruned"])[-1]
    assert len(found["training"]) == 2
    assert found["cost"]["macs"] < 0.62 * run(file, stages=["base"])[-1]["cost"]["macs"]
    file.write_text(TEXT.replace(once, rounds.replace("importance", "importence")))
    with pytest.raises(UsageError, match="importance"):
        read_recipe(file, "small")


def test_a_stage_needs_what_it_comes_from(file: Path) -> None:
    recipe = read_recipe(file, "small")
    assert [s.name for s in recipe.needed(["pruned"])] == ["base", "pruned"]
    assert [s.name for s in recipe.needed([])] == ["base", "pruned", "again"]
    with pytest.raises(UsageError, match="again"):
        recipe.needed(["agian"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('title = "A small one"', "", "title"),
        ('task = "detection"', 'task = "driving"', "driving"),
        ("[scale.small]", "[scales.small]", "scales"),
        ('width = "$width"', 'width = "$wdith"', "did you mean width"),
        ("width = 0.125", "width = 0.125\nunused = 3", "nothing uses the setting 'unused'"),
        ('from = "base"', 'from = "bsae"', "base"),
        ('name = "pruned"', 'name = "base"', "twice"),
        ('name = "pruned"', 'name = "../pruned"', "a-z"),
        ("epochs = 1,", "epochz = 1,", "epochz"),
        ('name = "prune"', 'name = "prnue"', "prune"),
        ('better = "again"', 'better = "agian"', "again"),
        ('train = "shapes:train,count=16,size=64"', "", "train = 'KIND:WHERE'"),
        ('[[claim]]\ntext = "recovering helps"', "[[claim]]", "text"),
        ('from = "pruned"', 'from = "pruned"\nnetwork = { width = 1.0 }', "choose"),
        ("size = 64\n\n", "size = 64\nhorses = 3\n\n", "horses"),
    ],
)
def test_what_cannot_be_meant_is_told_when_it_is_read(
    file: Path, old: str, new: str, message: str
) -> None:
    assert old in TEXT
    file.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(UsageError, match=message):
        read_recipe(file, "small")


def test_scales_and_settings_there_are_not(file: Path) -> None:
    with pytest.raises(UsageError, match="small"):
        read_recipe(file, "smal")
    with pytest.raises(UsageError, match="width"):
        read_recipe(file, "small", settings={"with": 1})


@pytest.mark.parametrize("name", known_recipes())
def test_the_published_ones_can_be_read_at_every_scale(name: str) -> None:
    for scale in ("smoke", "small", "full"):
        recipe = read_recipe(find_recipe(name), scale)
        assert recipe.name == name
        assert recipe.stages


def test_there_is_no_other_recipe() -> None:
    with pytest.raises(UsageError, match="hand-local-decay"):
        find_recipe("hand-local-decoy")


# --- running ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    path = tmp_path_factory.mktemp("recipe") / "mine.toml"
    path.write_text(TEXT)
    return path, run(path)


def test_every_stage_leaves_a_network_and_what_was_measured(
    ran: tuple[Path, list[dict[str, Any]]],
) -> None:
    path, results = ran
    assert [r["stage"] for r in results] == ["base", "pruned", "again"]
    for each in results:
        place = path.parent / "out" / "seed0" / each["stage"]
        cost = cost_of(load(place / "model.onnx"))
        assert each["cost"]["macs"] == cost.macs
        assert each["cost"]["parameters"] == cost.parameters
        assert 0 <= each["metrics"]["ap50"] <= 1
        assert json.loads((place / "result.json").read_text()) == each
    assert results[1]["cost"]["macs"] <= 0.6 * results[0]["cost"]["macs"]
    assert results[2]["cost"]["macs"] == results[1]["cost"]["macs"]
    assert any("pkd" in key for key in results[2]["training"][0])  # channels paired by the plan


def test_what_is_done_is_not_done_again(
    ran: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, results = ran
    monkeypatch.setattr(running, "run_stage", lambda *_: pytest.fail("was done already"))
    assert run(path) == results


def test_a_stage_that_changed_is_done_again_with_all_that_follows(
    ran: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, results = ran
    done: list[str] = []

    def noted(_: Any, stage: Any, __: Any) -> dict[str, Any]:
        done.append(stage.name)
        return next(dict(r) for r in results if r["stage"] == stage.name)

    monkeypatch.setattr(running, "run_stage", noted)
    monkeypatch.setattr(running, "write_result", lambda *_: None)
    changed = read_recipe(path, "small")
    text = path.read_text().replace('macs = "60%"', 'macs = "70%"')
    path.with_name("mine2.toml").write_text(text)
    changed = read_recipe(path.with_name("mine2.toml"), "small")
    run_recipe(changed, path.parent / "out")
    assert done == ["pruned", "again"]


def test_an_interrupted_stage_goes_on_to_the_same_end(
    ran: tuple[Path, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from graphopt.training import loop

    path, results = ran
    (tmp_path / "mine.toml").write_text(path.read_text())
    original = loop.Trainer._step

    def stops(self: Any, batches: Any) -> Any:
        if self.history.steps == 1:
            self.stop()
        return original(self, batches)

    monkeypatch.setattr(loop.Trainer, "_step", stops)
    for _ in range(2):  # once in either stage that trains
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "mine.toml")
        assert not (tmp_path / "out" / "seed0" / "again" / "result.json").exists()
        monkeypatch.setattr(loop.Trainer, "_step", original)
        again = run(tmp_path / "mine.toml", stages=["base"])
        monkeypatch.setattr(loop.Trainer, "_step", stops)
    monkeypatch.setattr(loop.Trainer, "_step", original)
    again = run(tmp_path / "mine.toml")
    for stage in ("base", "again"):
        files = [p / "out" / "seed0" / stage / "model.onnx" for p in (path.parent, tmp_path)]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert [r["metrics"] for r in again] == [r["metrics"] for r in results]


def test_a_network_may_say_what_decodes_its_outputs(file: Path) -> None:
    decoder = "yolov3-tiny{anchors=4x4|6x6|8x8|10x10|20x20|30x30}"
    file.write_text(TEXT.replace("size = 64\n", f'size = 64\ndecoder = "{decoder}"\n', 1))
    recipe = read_recipe(file, "small")
    ground = Ground(recipe, file.parent, 0, "cpu", lambda: None)
    graph = ground.beginning(recipe.stage("base").network)
    assert str(decoder_for(None, graph)) == str(decoder_named(decoder))


def test_a_training_with_other_settings_does_not_stumble_over_its_old_checkpoints(
    ran: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    path, _ = ran
    shutil.copytree(path.parent / "out", tmp_path / "out")
    text = path.read_text()
    (tmp_path / "mine.toml").write_text(text.replace("lr=0.01", "lr=0.02"))
    assert text != (tmp_path / "mine.toml").read_text()
    [base] = run(tmp_path / "mine.toml", stages=["base"])
    before, after = (p / "out" / "seed0" / "base" for p in (path.parent, tmp_path))
    assert (before / "model.onnx").read_bytes() != (after / "model.onnx").read_bytes()
    assert [p.name for p in (after / "runs").iterdir()] == [base["fingerprint"]]


def test_a_teacher_trained_on_from_the_same_network_has_its_channels(
    ran: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    path, _ = ran
    shutil.copytree(path.parent / "out", tmp_path / "out")
    longer = """
[[stage]]
name = "longer"
from = "base"
pass = [{ name = "train", labels = "$train", epochs = 1, recipe = "$training" }]
"""
    first, mark, rest = path.read_text().partition('\n[[stage]]\nname = "pruned"')
    text = first + longer + mark + rest.replace('teacher = "base"', 'teacher = "longer"')
    (tmp_path / "mine.toml").write_text(text)
    recipe = read_recipe(tmp_path / "mine.toml", "small")
    again = run_recipe(recipe, tmp_path / "out", stages=["again"], device="cpu")[-1]
    assert any("pkd" in key for key in again["training"][0])  # channels paired by the plan
    # one that lost channels itself has the channels of nobody before it
    ground = Ground(recipe, tmp_path / "out" / "seed0", 0, "cpu", lambda: None)
    assert alike(ground, "longer") == {"longer", "base"}
    assert alike(ground, "pruned") == {"pruned"}


UNLABELLED = """
title = "No labels"
source = "nobody"
task = "detection"
metric = "ap50"
network = { file = "$model" }

[scale.small]
train = "FOLDER"
test = "shapes:test,count=8"
model = "MODEL"

[[stage]]
name = "pruned"
pass = [{ name = "prune", macs = "60%", data = "$images" }]
"""


def test_a_file_and_a_folder_without_labels(tmp_path: Path) -> None:
    """The recipe starts from somebody's file; another file in its place is another recipe."""
    write(Shapes("train,count=8"), tmp_path / "set")
    save(trained_example(), tmp_path / "m.onnx")
    path = tmp_path / "mine.toml"
    text = UNLABELLED.replace("FOLDER", str(tmp_path / "set" / "images"))
    path.write_text(text.replace("MODEL", str(tmp_path / "m.onnx")))
    (first,) = run(path)
    assert first["cost"]["macs"] < 0.6 * cost_of(trained_example()).macs
    assert run(path) == [first]
    other = trained_example()
    other.nodes[0].name = "renamed"
    save(other, tmp_path / "m.onnx")
    (again,) = run(path)
    assert again["fingerprint"] != first["fingerprint"]


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").touch()
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(UsageError, match=r"result\.json cannot be read"):
        running.read_result(tmp_path)


# --- telling ------------------------------------------------------------------------------------


def result(stage: str, seed: int, share: float, **more: Any) -> dict[str, Any]:
    return {
        "stage": stage,
        "text": stage,
        "seed": seed,
        "ablation": False,
        "seconds": 3.0,
        "boards": {},
        "cost": {"parameters": 1000, "macs": 2e6, "file_bytes": 5e3},
        "metrics": {"ap50": share},
        **more,
    }


def test_a_table_of_means_and_spreads() -> None:
    on = {"boards": {"tx2": {"cycles": 1.5e6, "instructions": 3}}}
    results = [result("a", 0, 0.5, **on), result("a", 1, 0.6, **on), result("b", 0, 0.25)]
    assert columns(results, "ap50")[-2:] == [">tx2", ">s"]
    rows = cells(results, "ap50")
    assert rows[0][4:6] == ["55.0 ± 7.1", "1.5 M cycles"]
    assert rows[1][4:6] == ["25.0", ""]
    assert spread([12.34]) == "12.3"


def test_claims_are_answered_seed_by_seed() -> None:
    results = [result("a", 0, 0.5), result("a", 1, 0.6), result("b", 0, 0.4), result("b", 1, 0.6)]
    holds, fails = answers(results, [Claim("a", "a", "b"), Claim("b", "b", "a")], "ap50")
    assert holds["points"] == pytest.approx([10, 0])
    assert (holds["mean"], holds["holds"], holds["clear"]) == (pytest.approx(5), True, False)
    assert not fails["holds"]
    near, far = answers(results, [Claim("b", "b", "a", 6), Claim("b", "b", "a", 4)], "ap50")
    assert (near["holds"], far["holds"]) == (True, False)  # 5 points behind in the mean
    assert answers(results[:2], [Claim("a", "a", "b")], "ap50") == []


def test_the_command_runs_and_tells(
    ran: tuple[Path, list[dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, results = ran
    with pytest.raises(SystemExit) as done:
        main(["recipe", "run", str(path), "-o", str(path.parent / "out"), "--json"])
    assert done.value.code == 0
    assert json.loads(capsys.readouterr().out)["results"] == results
    with pytest.raises(SystemExit):
        main(["recipe", "run", str(path), "-o", str(path.parent / "out")])
    told = capsys.readouterr().out
    assert "recovered" in told
    assert "recovering helps" in told


def test_the_command_lists_and_refuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["recipe", "list", "--json"])
    assert {r["name"] for r in json.loads(capsys.readouterr().out)} == set(known_recipes())
    with pytest.raises(SystemExit) as refused:
        main(["recipe", "run", "hand-local-decay", "--set", "width"])
    assert refused.value.code != 0
    assert "NAME=VALUE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("1e-3", 1e-3),
        ("true", True),
        ("[]", []),
        ('["tx2", "kirin990"]', ["tx2", "kirin990"]),
        ("batch=16 lr=0.01", "batch=16 lr=0.01"),
        ("30%", "30%"),
        ("007", "007"),
        ("2026-11-23", "2026-11-23"),
        ("1\nother = 2", "1\nother = 2"),
        ("", ""),
    ],
)
def test_a_setting_is_read_as_toml_or_as_a_word(text: str, value: object) -> None:
    found = read_value(text)
    assert (found, type(found)) == (value, type(value))


def test_one_board_needs_no_list() -> None:
    path = find_recipe("any-onnx")
    for given, wanted in (("tx2", ("tx2",)), (["tx2", "host"], ("tx2", "host")), ([], ())):
        recipe = read_recipe(path, "small", settings={"tx2": given})
        assert recipe.stage("given").boards == wanted


# --- the pages ----------------------------------------------------------------------------------


def test_every_recipe_has_a_page_and_its_tables_are_made_from_results() -> None:
    from benchmarks.recipes import PAGES, RESULTS, body

    for name in known_recipes():
        assert f"graphopt recipe run {name}" in (PAGES / f"{name}.md").read_text("utf-8")
        assert f"[{name}]({name}.md)" in (PAGES / "README.md").read_text("utf-8")
    files = sorted(RESULTS.glob("*.json"))
    assert files
    for path in files:
        content = json.loads(path.read_text("utf-8"))
        recipe = read_recipe(find_recipe(content["recipe"]), content["scale"])
        page = (PAGES / f"{recipe.name}.md").read_text("utf-8")
        assert body(recipe, content, path.stem) in page
        assert path.with_suffix(".svg").exists()


def test_a_peer_prunes_anew_what_was_trained_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks import recipe_peers

    pruned = []

    def prune(source: Path, made: Path, *_: object, **__: object) -> None:
        pruned.append(source.read_text("utf-8"))
        made.write_text(pruned[-1], "utf-8")

    def trained(recipe: Recipe, *_: object, **__: object) -> list[dict[str, object]]:
        [stage] = recipe.stages
        return [{"file": Path(str(stage.network["file"])).read_text("utf-8")}]

    monkeypatch.setattr(recipe_peers, "prune", prune)
    monkeypatch.setattr(recipe_peers, "run_recipe", trained)
    recipe = read_recipe(find_recipe("retinanet-recovery"), "small")
    base = tmp_path / "seed0" / "base"
    base.mkdir(parents=True)
    found = []
    for content in ("first", "first", "second"):
        (base / "model.onnx").write_text(content, "utf-8")
        (base / "result.json").write_text(json.dumps({"fingerprint": content}), "utf-8")
        found += recipe_peers.run_peers(recipe, tmp_path, [0], lambda: None, lambda _: None)
    assert [f["file"] for f in found] == ["first", "first", "second"]
    assert pruned == ["first", "second"]
