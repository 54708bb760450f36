"""Things known by name: globs, near misses, options, classes of one's own."""

from __future__ import annotations

import pytest

from graphopt.errors import UsageError
from graphopt.named import (
    Classes,
    is_named,
    matching,
    read_named,
    read_options,
    split_named,
    unknown,
    write_options,
)

TENSORS = ["model/conv[0]", "model/conv[1]", "head.a", "head.b", "head.a"]


def test_names_keep_their_order_and_stand_once() -> None:
    assert matching("tensor", ["head.*", "model/*"], TENSORS) == TENSORS[:4]
    assert matching("tensor", [], TENSORS) == []


def test_a_name_is_itself_whatever_it_is_made_of() -> None:
    """As a glob "conv[0]" stands for "conv0"."""
    assert matching("tensor", ["model/conv[0]"], TENSORS) == ["model/conv[0]"]
    assert is_named("a[0]", "a[0]")
    assert is_named("a0", "a[0]")
    assert not is_named("A0", "a?")


def test_what_stands_for_nothing_is_told_with_near_misses() -> None:
    with pytest.raises(UsageError, match=r"no tensor is called 'haed.a'; did you mean head.a"):
        matching("tensor", ["head.b", "haed.a"], TENSORS)


def test_a_thousand_names_are_not_all_listed() -> None:
    text = unknown("tensor", "~", [f"t{k}" for k in range(1000)])
    assert text.endswith("t49 and 950 more")
    assert unknown("tensor", "~", ["x", "y"]).endswith("known: x, y")


def test_a_name_with_options() -> None:
    assert read_named(" kl ", "loss") == ("kl", {})
    assert read_named("mine.py:Loss", "loss") == ("mine.py:Loss", {})
    assert read_named("kl{a=1 b-c=2|3}", "loss") == ("kl", {"a": "1", "b-c": "2|3"})
    for text in ("", "kl{a=1", "kl}", "two names", "kl+mse", "kl{a}"):
        with pytest.raises(UsageError, match="cannot read"):
            read_named(text, "loss")


QUOTED: dict[str, dict[str, object]] = {
    "a b=2": {"a": "a, b=2"},
    "{x} @ y": {"terms": "kl{t=2} @ heads; mse @ a"},
    "": {"a": "", "b": "it's", "c": 'say "no"', "d": 3},
}


@pytest.mark.parametrize("text", QUOTED)
def test_values_in_quotes_are_one_whatever_is_in_them(text: str) -> None:
    wanted = {**QUOTED[text], "text": text}
    written = write_options(wanted)
    assert read_options(written, "kl") == {k: str(v) for k, v in wanted.items()}
    items = split_named(f"first, kl{{{written}}} , last")
    assert [i.split("{")[0] for i in items] == ["first", "kl", "last"]
    assert read_named(items[1], "loss") == ("kl", {k: str(v) for k, v in wanted.items()})


def test_quotes_read() -> None:
    assert read_options("a='x y', b=\"1,2\" c=it's", "kl") == {"a": "x y", "b": "1,2", "c": "it's"}
    with pytest.raises(UsageError, match="cannot read option 'y' of 'kl'"):
        read_options("a='x y", "kl")


class Drum:
    name = "drum"


def test_classes_are_imported_when_they_are_looked_for() -> None:
    kinds: Classes[object] = Classes(
        "instrument", {"order": "collections:OrderedDict", "no": "no:No"}
    )
    assert kinds.find("order").__name__ == "OrderedDict"
    with pytest.raises(UsageError, match=r"no instrument is called 'odrer'; did you mean order\?"):
        kinds.find("odrer")
    with pytest.raises(ModuleNotFoundError):
        kinds.find("no")


def test_a_class_of_ones_own_does_not_take_the_name_of_another() -> None:
    kinds: Classes[object] = Classes("instrument", {"flute": "music:Flute"})
    assert kinds.register(Drum) is kinds.register(Drum)
    assert kinds.find("drum") is Drum
    for taken in ("drum", "flute"):
        with pytest.raises(
            UsageError, match=f"an instrument named '{taken}' is registered already"
        ):
            kinds.register(type("Other", (), {"name": taken}))
