from __future__ import annotations

import copy
import errno
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from graphopt import oracle
from graphopt.errors import SaveError
from graphopt.report.html import grouped, render, write_report

HOSTILE = "</script></style></title><img src=x onerror=\"alert(1)\"><b a='{{ 7 * 7 }}'>&amp;"
VOID = {"meta", "br", "img", "link", "input", "hr"}


def layer(name: str, op: str, macs: int = 0, parameters: int = 0) -> dict[str, Any]:
    return {
        "name": name,
        "op": op,
        "shape": ["batch", 8, None, 6],
        "parameters": parameters,
        "macs": macs,
        "activation_bytes": 1152,
    }


def cost(nodes: int, parameters: int) -> dict[str, int]:
    return {
        "nodes": nodes,
        "parameters": parameters,
        "macs": 2_782_480_896,
        "weight_bytes": 4 * parameters,
        "activation_bytes": 62_043_144,
    }


def model(path: str, nodes: int, parameters: int, operators: dict[str, int]) -> dict[str, Any]:
    return {
        "path": path,
        "file_bytes": 4 * parameters + 500,
        "sha256": f"{nodes:064x}",
        "opset": 20,
        **cost(nodes, parameters),
        "operators": operators,
        "layers": [layer("conv_1", "Conv", 2_000_000, 448), layer("relu_1", "Relu")],
    }


def pass_row(name: str, status: str, **other: Any) -> dict[str, Any]:
    return {
        "name": name,
        "text": name,
        "numerics": "close(1e-05)",
        "status": status,
        "detail": "",
        "error": None,
        "tolerance": None,
        "before": cost(169, 8_860_442),
        "after": cost(169, 8_860_442),
        "rewrites": [],
        "refusals": [],
        "ms": 12.34,
        "verify_ms": 250.0,
        **other,
    }


@pytest.fixture
def content() -> dict[str, Any]:
    """A report as `graphopt optimize` makes it, small enough to read."""
    return {
        "schema": 1,
        "tool": {"name": "graphopt", "version": "0.1.0", "packages": {"onnx": "1.23.2"}},
        "machine": "x86_64, Linux",
        "before": model("/models/net.onnx", 169, 8_860_442, {"Conv": 13, "BatchNormalization": 11}),
        "after": model("/models/net.opt.onnx", 56, 7_850_890, {"Conv": 13, "Split": 2}),
        "passes": [
            pass_row("merge-casts", "unchanged"),
            pass_row(
                "fuse-conv-bn{deep=true}",
                "verified",
                error=1.5e-4,
                tolerance=8.3e-4,
                after=cost(56, 7_850_890),
                rewrites=[{"where": "bn_1", "what": "folded into Conv conv_1"}],
                refusals=[{"where": f"pad_{i}", "what": "it pads by edge"} for i in range(9)],
            ),
        ],
        "verification": {
            "executor": "onnxruntime",
            "samples": ["sample 0 (standard normal)", "sample 1 (uniform in [-128, 255])"],
            "error": 2.1e-5,
            "tolerance": 9.9e-5,
            "output": "predictions",
        },
        "latency": {"before_ms": 51.8, "after_ms": 33.4, "ratio": 0.64, "runs": 37, "threads": 2},
        "operator_shares": {"Conv": 0.925, "MaxPool": 0.0337, "Exp": 0.0001},
        "notes": ["Mish takes 20% of the running time"],
        "seconds": {"load": 0.1624, "passes": 1.02},
    }


class Page(HTMLParser):
    """The tags and the text of a page; fails on a tag that is closed wrongly."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice in {tag}"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        """What a reader sees, with plain spaces and minus signs."""
        text = " ".join("".join(self.pieces).split())
        return text.replace("\N{NARROW NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every such tag."""
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.mark.parametrize(
    "fact",
    [
        "net.onnx",
        "Outputs proven equal: worst error 2.1e-05 ≤ tolerance 9.9e-05 over 2 samples in onnxruntime (optimizations off)",
        "56 -66.9 %",
        "before 169",
        "7.85 M -11.4 %",
        "unchanged · 5.56 GFLOPs",
        "33.4 ms ratio 0.64",
        "before 51.8 ms · ONNX Runtime on this machine, 2 threads, medians of 37 runs in turn",
        "fuse-conv-bn{deep=true}",
        "169 → 56",
        "8.86 M → 7.85 M",
        "1.5e-04 ≤ 8.3e-04",
        "1 rewrite, 9 refusals",
        "folded into Conv conv_1",
        "it pads by edge",
        "pad_0 and 8 more",
        "Mish takes 20% of the running time",
        "92.5 %",
        "< 0.1 %",
        "1 of 2 layers multiply",
        "batch×8×?×6",
        "predictions",
        "sample 1 (uniform in [-128, 255])",
        "graphopt0.1.0, with onnx 1.23.2",
        "x86_64, Linux",
        f"{56:064x}",
        "load 162 ms, passes 1.02 s",
        "schema 1",
    ],
)
def test_the_page_tells_the_facts(content: dict[str, Any], fact: str) -> None:
    assert fact in Page(render(content)).text


def test_every_operator_of_either_model_has_its_row(content: dict[str, Any]) -> None:
    rows = re.findall(
        r'<th scope="row">(\w+)</th><td class="number">(\d+)</td><td class="number">(\d+)</td>',
        render(content),
    )
    assert rows == [("Conv", "13", "13"), ("BatchNormalization", "11", "0"), ("Split", "0", "2")]


def test_the_page_loads_and_runs_nothing(content: dict[str, Any]) -> None:
    page = render(content)
    parsed = Page(page)
    assert not re.search(r"https?://|//\w+\.\w+|url\(|@import", page)
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in parsed.tags}
    policy = next(m for m in parsed.all("meta") if m.get("http-equiv"))
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert [a["href"] for a in parsed.all("a")] == ["report.json"]


def hostile(value: Any) -> Any:
    """The document with hostile text in every string and every key that comes from a model."""
    if isinstance(value, dict):
        return {k: hostile(v) for k, v in value.items()}
    if isinstance(value, list):
        return [hostile(v) for v in value]
    return value + HOSTILE if isinstance(value, str) else value


def test_hostile_names_stay_text(content: dict[str, Any]) -> None:
    bad = hostile(content)
    for side in ("before", "after"):
        bad[side]["operators"][HOSTILE] = 3
    bad["operator_shares"][HOSTILE] = 0.5
    bad["passes"][0]["status"] = "rolled-back" + HOSTILE
    page = render(bad)
    parsed = Page(page)
    assert "<img" not in page
    assert not {"script", "img"} & {tag for tag, _ in parsed.tags}
    assert not any(
        name == "a" or name.startswith("on") for _, attrs in parsed.tags for name in attrs
    )
    assert HOSTILE in parsed.text


def test_names_cannot_turn_the_text_around_or_break_the_page(content: dict[str, Any]) -> None:
    content["after"]["layers"][0]["name"] = "a\x00\x1b\u202eb\ud800"
    page = render(content)
    assert "a\N{REPLACEMENT CHARACTER}" in page
    assert not re.search("[\x00\x1b\u202e\ud800]", page)
    page.encode("utf-8")


def test_no_speed_is_claimed_that_was_not_measured(content: dict[str, Any]) -> None:
    content |= {"latency": None, "operator_shares": {}}
    text = Page(render(content)).text
    assert "not measured nothing is claimed about speed" in text
    assert "ratio" not in text
    assert "Time per operator Not measured." in text


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ({"executor": None, "samples": [], "error": None, "tolerance": None}, "Not verified"),
        ({"error": None, "tolerance": None}, "Outputs changed on purpose"),
        ({"error": 0.5}, "Outputs differ: worst error 5.0e-01 > tolerance 9.9e-05"),
        ({"error": math.inf}, "Outputs differ: worst error inf >"),
        ({"error": math.nan}, "Outputs differ: worst error nan >"),
    ],
)
def test_what_is_not_proven_is_not_called_proven(
    content: dict[str, Any], change: dict[str, Any], title: str
) -> None:
    content["verification"] |= change
    text = Page(render(content)).text
    assert title in text
    assert "proven equal" not in text


def test_a_rolled_back_pass_stands_out_with_its_reason(content: dict[str, Any]) -> None:
    content["passes"].append(pass_row("mine", "rolled-back", detail="broke its contract exact"))
    parsed = Page(render(content))
    assert "rolled back" in parsed.text
    assert "This pass broke its contract exact. Its changes were undone." in parsed.text
    assert [t["class"] for t in parsed.all("tbody") if t.get("class")] == [
        "unchanged",
        "verified",
        "rolled-back",
    ]


def test_an_empty_report_is_a_page_too(content: dict[str, Any]) -> None:
    content |= {"passes": [], "notes": [], "operator_shares": {}, "seconds": {}}
    for side in ("before", "after"):
        content[side] |= {"operators": {}, "layers": []}
        content[side] |= dict.fromkeys(cost(0, 0), 0)
    text = Page(render(content)).text
    assert "No pass was run." in text
    assert "The result has no layers." in text
    assert "Neither model has operators." in text


def test_layers_without_parameters_can_be_plotted(content: dict[str, Any]) -> None:
    content["after"]["layers"] = [layer("matmul", "MatMul", macs=1)]
    assert "1 of 1 layers multiply" in Page(render(content)).text


def test_two_thousand_layers_fit_into_three_megabytes(content: dict[str, Any]) -> None:
    content["after"]["layers"] = [
        layer(f"/model.{i}/cv1/conv/Conv", "Conv", 10_000 * i + 1, i) for i in range(2000)
    ]
    page = render(content)
    assert len(page.encode()) < 3_000_000
    assert page.count('<path class="hit"') == 4000


def test_tables_and_plots_are_labelled(content: dict[str, Any]) -> None:
    parsed = Page(render(content))
    assert all(th.get("scope") in ("row", "col") for th in parsed.all("th"))
    plots = [svg["aria-label"] or "" for svg in parsed.all("svg")]
    assert [p.split(" of ")[0] for p in plots] == ["MACs", "parameters"]
    ids = [attrs["id"] for _, attrs in parsed.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    named = {attrs["aria-labelledby"] for _, attrs in parsed.tags if "aria-labelledby" in attrs}
    assert named <= set(ids)


def test_the_same_document_makes_the_same_page(content: dict[str, Any]) -> None:
    before = copy.deepcopy(content)
    assert render(content) == render(json.loads(json.dumps(content)))
    assert content == before


def test_notes_with_one_text_become_one_group() -> None:
    notes = [{"where": w, "what": t} for w, t in [("a", "x"), ("b", "y"), ("c", "y")]]
    assert grouped(notes) == [("y", ["b", "c"]), ("x", ["a"])]


def test_the_page_explains_the_error_as_the_oracle_measures_it(content: dict[str, Any]) -> None:
    page = Page(render(content)).text
    for words in ("|a - b| / (|a| + floor)", "at least 1e-3", "one unit in the last place"):
        assert words in " ".join((oracle.__doc__ or "").split())
        assert words in page


def test_both_files_are_written_and_old_ones_replaced(
    content: dict[str, Any], tmp_path: Path
) -> None:
    folder = tmp_path / "new" / "report"
    for _ in range(2):
        assert write_report(content, folder) == folder / "report.html"
    assert sorted(p.name for p in folder.iterdir()) == ["report.html", "report.json"]
    stored = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert stored == content
    assert (folder / "report.html").read_text(encoding="utf-8") == render(stored)


def test_a_path_that_is_no_utf8_can_be_reported(content: dict[str, Any], tmp_path: Path) -> None:
    content["before"]["path"] = "/models/\udcff.onnx"
    write_report(content, tmp_path)
    assert json.loads((tmp_path / "report.json").read_bytes()) == content


def test_a_file_in_the_way_is_named(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SaveError, match=r"file is a file, not a folder$"):
        write_report(content, tmp_path / "file")
    with pytest.raises(SaveError, match="Not a directory"):
        write_report(content, tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_in_the_way_is_named(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(SaveError, match=r"report\.html is a folder; move it away"):
        write_report(content, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("call", ["fsync", "replace", "mkdir"])
def test_a_failed_write_leaves_the_old_report(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    (tmp_path / "report.json").write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(SaveError, match=os.strerror(code)) as caught:
            write_report(content, tmp_path)
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    assert (tmp_path / "report.json").read_text() == "old"
