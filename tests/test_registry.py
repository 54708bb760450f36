"""Pipelines as text and TOML: what can be written, and what is said about what cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from graphopt.errors import UsageError
from graphopt.passes.fuse.merge_sibling_convs import MergeSiblingConvs
from graphopt.registry import DEFAULT, PASSES, default_passes, parse_passes, read_pipeline, select


def test_text() -> None:
    passes = parse_passes(" simplify, merge-sibling-convs{max-channels=8} ,fuse-conv-bn")
    assert [p.name for p in passes] == ["simplify", "merge-sibling-convs", "fuse-conv-bn"]
    assert passes[1] == MergeSiblingConvs(max_channels=8)


def test_text_round_trip() -> None:
    assert str(MergeSiblingConvs(max_channels=12)) == "merge-sibling-convs{max-channels=12}"
    assert parse_passes(str(MergeSiblingConvs(max_channels=12))) == [
        MergeSiblingConvs(max_channels=12)
    ]


def test_default_stands_for_the_default_pipeline() -> None:
    assert [p.name for p in parse_passes("default, simplify")] == [*DEFAULT, "simplify"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fuse-conv-nb", "no pass is called 'fuse-conv-nb'; did you mean fuse-conv-bn"),
        ("simplify,,fuse-conv-bn", "empty pass name"),
        ("", "empty pass name"),
        ("merge-sibling-convs{max=8}", "no option 'max'; its options: max-channels"),
        ("merge-sibling-convs{max-channels=many}", "'many' is not a int"),
        ("merge-sibling-convs{max-channels}", "write option=value"),
        ("simplify{a=1", "cannot read"),
        ("no.such.module:Pass", "cannot be imported"),
        ("graphopt.errors:UsageError", "not a subclass of graphopt.Pass"),
    ],
)
def test_mistakes_in_text(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("{", r"\{")):
        parse_passes(text)


def test_a_pass_that_cannot_be_imported_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of ours too, where a package is broken."""
    monkeypatch.setitem(PASSES, "simplify", "no.such.module:Simplify")
    with pytest.raises(UsageError, match="pass 'simplify' cannot be imported"):
        parse_passes("simplify")


def test_toml(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.toml"
    file.write_text(
        '[[pass]]\nname = "simplify"\n[[pass]]\nname = "merge-sibling-convs"\nmax-channels = 4\n'
    )
    assert read_pipeline(file)[1] == MergeSiblingConvs(max_channels=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[pass", "not valid TOML"),
        ("passes = 3", r"needs \[\[pass\]\] tables"),
        ("[[pass]]\nnme = 'simplify'", "each with a name"),
    ],
)
def test_mistakes_in_toml(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_pipeline(file)


def test_a_missing_pipeline_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_pipeline(tmp_path / "none.toml")


def test_select() -> None:
    passes = default_passes()
    assert "fuse-conv-bn" not in [p.name for p in select(passes, skip=["fuse-conv-*"])]
    assert {p.name for p in select(passes, only=["simplify"])} == {"simplify"}


@pytest.mark.parametrize("key", ["skip", "only"])
def test_a_selector_that_matches_nothing_is_an_error(key: str) -> None:
    with pytest.raises(UsageError, match="'simplfy'; did you mean simplify"):
        select(default_passes(), **{key: ["simplfy"]})
