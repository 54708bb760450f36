"""The rooms: who imports whom, what loads when, what is called what, what is shipped."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import graphopt
from graphopt import registry
from graphopt.pass_base import Pass

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "tvm", "onnx", "onnxruntime", "onnx_graphsurgeon", "onnxscript", "numpy", "rich")


def _modules_loaded_by(code: str) -> set[str]:
    probe = f"import sys\n{code}\nprint(' '.join(m for m in sys.modules if '.' not in m))"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("code", ["import graphopt", "import graphopt.cli", "import graphopt.zoo"])
def test_importing_loads_nothing_heavy(code: str) -> None:
    assert not set(HEAVY) & _modules_loaded_by(code)


def test_the_import_probe_can_fail() -> None:
    assert "torch" in _modules_loaded_by("import torch")


def test_loading_and_running_a_pass_needs_no_torch() -> None:
    code = "import graphopt\ngraphopt.default_passes()\nimport graphopt.optimize"
    assert not {"torch", "tvm"} & _modules_loaded_by(code)


def test_public_names_exist() -> None:
    for name in graphopt.__all__:
        assert getattr(graphopt, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = graphopt.nonsense


# Room -> the rooms it may import from (its own is always allowed).
ALLOWED = {
    "errors": set(),
    "cache": set(),
    "ir": {"errors"},
    "pass_base": {"errors", "ir", "named"},
    "channels": {"errors", "ir"},
    "evaluate": {"data", "errors", "frontends", "ir", "named", "runtime"},
    "data": {"errors", "ir", "named", "runtime"},
    "fx": {"errors", "ir", "named"},
    "training": {"errors", "pass_base", "named"},
    "tasks": {"data", "errors", "evaluate", "ir", "pass_base", "named", "runtime"},
    "passes": {
        *("channels", "data", "errors", "ir", "named", "oracle", "pass_base", "registry"),
        *("cache", "evaluate", "frontends", "fx", "runtime", "samples", "tasks", "training"),
    },
    "runtime": {"errors", "ir", "named", "toml"},
    "frontends": {"channels", "errors", "ir", "runtime"},
    "samples": {"errors", "ir", "runtime"},
    "oracle": {"errors", "ir", "runtime", "samples"},
    "pipeline": {"errors", "ir", "pass_base", "oracle", "runtime"},
    "named": {"errors"},
    "processes": set(),
    "registry": {"errors", "named", "pass_base", "toml"},
    "toml": {"errors"},
    "zoo": {"errors", "frontends", "ir"},
    "report": {"__init__", "errors", "ir", "optimize", "pipeline", "processes"},
}


def _room(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return parts[0] if parts[0] in ("passes", "runtime") else parts[1].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("graphopt"):
            rest = node.module.split(".")[1:]
            found |= {rest[0]} if rest else {a.name for a in node.names} & set(ALLOWED)
            if not rest and any(a.name.startswith("__") for a in node.names):
                found.add("__init__")
    return found


def _sources() -> list[Path]:
    return [
        p for folder in ("graphopt", "passes", "runtime") for p in (ROOT / folder).rglob("*.py")
    ]


@pytest.mark.parametrize("path", _sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_what_they_may(path: Path) -> None:
    room = _room(path)
    if room not in ALLOWED:
        assert room in (
            "__init__",
            "__main__",
            "bench",
            "cli",
            "compare",
            "compile",
            "distill",
            "export_onnx",
            "judge",
            "optimize",
            "optimize_for",
            "prune",
            "quantize",
            "recipes",
            "run",
            "train",
            "tune",
        ), f"{room} has no rule"
        return
    assert _imports(path) <= ALLOWED[room] | {room}


@pytest.mark.parametrize("name", registry.PASSES)
def test_a_pass_is_called_the_same_everywhere(name: str) -> None:
    each = registry.pass_class(name)
    module = each.__module__.rsplit(".", 1)[-1]
    assert each.name == name
    assert module == name.replace("-", "_")
    assert each.__name__ == "".join(w.capitalize() for w in name.split("-"))
    assert (ROOT / "tests" / "passes" / f"test_{module}.py").exists()


@pytest.mark.parametrize("name", registry.PASSES)
def test_a_pass_says_what_it_does(name: str) -> None:
    each = registry.pass_class(name)
    assert len(each.summary()) > 20
    assert len((sys.modules[each.__module__].__doc__ or "").split()) > 20
    for other in [*each.before, *each.after]:
        assert other in registry.PASSES, f"{name} is ordered against {other}, which does not exist"


def test_the_default_pipeline_respects_its_own_order() -> None:
    passes = registry.default_passes()
    assert len(passes) > 3
    assert all(isinstance(p, Pass) for p in passes)
    graphopt.Pipeline(passes)


def test_every_package_on_disk_is_listed() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^packages = \[(.*?)\]", text, re.S | re.M)
    assert block is not None
    listed = set(re.findall(r'"([\w.]+)"', block[1]))
    on_disk = set()
    for path in _sources():
        if path.name == "__init__.py":
            dotted = ".".join(path.parent.relative_to(ROOT).parts)
            on_disk.add(dotted if dotted.startswith("graphopt") else f"graphopt.{dotted}")
    assert listed == on_disk | {"graphopt.recipes.published"}  # the files of examples/recipes


def test_files_stay_small() -> None:
    long = {str(p.relative_to(ROOT)): n for p in _sources() if (n := _lines(p)) > 400}
    assert not long, f"split these: {long}"


def _lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")
