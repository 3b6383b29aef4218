"""The codec: exact round trips, and a wrong field is named with its path."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from understudy.documents import read_document
from understudy.errors import DataError, PolicyError, UnderstudyError
from understudy.files import read_json
from understudy.json_codec import Stored, StoredFile, decode, encode, stored


@dataclass(frozen=True)
class Leaf:
    """A plain dataclass: its fields are its keys."""

    value: float | None
    count: int = 3

    def __post_init__(self) -> None:
        if self.count == 9:
            raise PolicyError("a count is not 9, found 9")


@dataclass(frozen=True)
class Tree(
    StoredFile,
    what="a tree",
    error=DataError,
    remedy="plant it again",
    keys=("all", "name", "size", "named"),
    ignored=("height",),
    format="understudy.tree",
):
    """Every way in which a form in JSON may differ from the fields."""

    name: str
    leaves: tuple[Leaf, ...] = field(metadata=stored(key="all"))
    named: Mapping[str, Leaf] = field(
        default_factory=dict,
        metadata=stored(
            shape=tuple[str, ...],
            pack=tuple,
            unpack=lambda names: {name: Leaf(None) for name in names},
        ),
    )
    extra: Mapping[str, Any] = field(default_factory=dict, metadata=stored(optional=True))

    @property
    def size(self) -> int:
        return len(self.leaves)


TREE = Tree("oak", (Leaf(1.0), Leaf(math.inf, 4), Leaf(None)), {"left": Leaf(None)})
JSON = {
    "format": "understudy.tree",
    "version": 1,
    "all": [
        {"value": 1.0, "count": 3},
        {"value": "inf", "count": 4},
        {"value": None, "count": 3},
    ],
    "name": "oak",
    "size": 3,
    "named": ["left"],
}


def test_keys_stand_in_order_and_come_back(tmp_path: Path) -> None:
    assert json.dumps(TREE.to_dict()) == json.dumps(JSON)
    assert Tree.from_dict(JSON) == TREE
    assert Tree.from_dict(JSON | {"height": 7, "extra": {"any": ["thing"]}}).extra["any"]
    TREE.save(tmp_path / "tree.json")
    assert Tree.load(tmp_path / "tree.json") == TREE
    assert decode(encode((TREE,)), tuple[Tree, ...], what="trees", error=DataError) == (TREE,)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("all", 1, "value"), "abc", r"a tree has a number at $.all[1].value, found 'abc'"),
        (("all", 1, "value"), True, r"a number at $.all[1].value, found True"),
        (("all", 1, "value"), 10**400, r"a number at $.all[1].value, found 1000"),
        (("all", 1, "count"), 1.0, r"a whole number at $.all[1].count, found 1.0"),
        (("all", 1, "count"), False, r"a whole number at $.all[1].count, found False"),
        (
            ("all", 0, "count"),
            9,
            r"a tree is damaged at $.all[0] (a count is not 9, found 9): plant it",
        ),
        (("all", 0, "more"), 1, r"the fields value, count at $.all[0], found 'more'"),
        (("all", 2), [], r"an object at $.all[2], found []"),
        (("all",), "abc", r"a list at $.all, found 'abc'"),
        (("name",), 3, r"a text at $.name, found 3"),
        (("named",), [1], r"a text at $.named[0], found 1"),
        (("extra",), [1], r"an object at $.extra, found [1]"),
        (("format",), "understudy.bush", None),
    ],
)
def test_a_wrong_field_is_named(
    path: tuple[str | int, ...], value: object, words: str | None
) -> None:
    data: Any = deepcopy(JSON)
    place = data
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    if words is None:
        assert Tree.from_dict(data) == TREE
        return
    with pytest.raises(DataError) as raised:
        Tree.from_dict(data)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("key", ["name", "all", "named"])
def test_a_missing_field_is_named(key: str) -> None:
    data = {name: value for name, value in JSON.items() if name != key}
    with pytest.raises(DataError, match=rf"the field '{key}' at \$, found none: plant it again"):
        Tree.from_dict(data)


def test_something_else_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a tree has an object at \$, found \[1\]"):
        Tree.from_dict([1])
    (tmp_path / "tree.json").write_text(json.dumps(JSON | {"version": 2}))
    with pytest.raises(DataError, match="reads up to 1: upgrade"):
        Tree.load(tmp_path / "tree.json")


def test_a_class_without_a_layout_raises_the_root_error() -> None:
    @dataclass(frozen=True)
    class Bare(Stored):
        pass

    with pytest.raises(UnderstudyError, match="a record has an object"):
        Bare.from_dict(3)


def test_a_document_carries_the_hash_of_its_content(tmp_path: Path) -> None:
    file = tmp_path / "tree.json"
    TREE.save(file)
    written = json.loads(file.read_text())
    file.write_text(json.dumps(dict(reversed(written.items())), indent=7))
    assert Tree.load(file) == TREE
    assert Tree.from_dict(written) == TREE
    file.write_text(json.dumps(written | {"name": "elm"}))
    with pytest.raises(DataError, match=r"is a tree that was changed \(.*\): plant it again"):
        Tree.load(file)
    del written["content_hash"]
    file.write_text(json.dumps(written))
    assert Tree.load(file) == TREE, "version 1 had no hash"
    file.write_text(json.dumps(written | {"format": "understudy.cascade", "version": 3}))
    with pytest.raises(DataError, match="its content_hash is None"):
        read_document(
            file, kind="understudy.cascade", newest=3, what="a tree", error=DataError, remedy="x"
        )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' twice"),
        ('{"a": NaN}', "'NaN' where JSON has finite numbers"),
        ("[-Infinity]", "'-Infinity' where"),
        ("[1e999]", "'1e999' where"),
        (f"[{'9' * 5000}]", "numbers of 64 bits"),
        (f"[{2**64}]", "numbers of 64 bits"),
        ('["\\ud800"]', "surrogates not allowed"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ("\ufeff{}", "is not"),
        ("", "is not"),
    ],
)
def test_json_is_strict(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words) as raised:
        read_json(tmp_path / "x.json", DataError, "x")
    assert "\n" not in str(raised.value)
