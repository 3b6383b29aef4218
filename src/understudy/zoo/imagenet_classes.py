"""The 1,000 classes of ImageNet-1k, read from the files of timm without importing it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from understudy.errors import MissingExtra

CLASSES = 1000


@cache
def wnids() -> tuple[str, ...]:
    """The WordNet ids of the classes in the order that models have them.

    >>> wnids()[0], len(wnids())
    ('n01440764', 1000)

    Raises:
        MissingExtra: timm is not installed.
    """
    return tuple(_text("imagenet_synsets.txt").split())


@cache
def class_names() -> tuple[str, ...]:
    """The names of the classes, each once: WordNet's words for them; where two classes have the
    same, with the id behind them.

    >>> class_names()[0], class_names()[517]
    ('tench, Tinca tinca', 'crane (n03126707)')

    Raises:
        MissingExtra: timm is not installed.
    """
    rows = (line.split("\t", 1) for line in _text("imagenet_synset_to_lemma.txt").splitlines())
    words = dict(row for row in rows if len(row) == 2)
    names = [words.get(wnid, wnid) for wnid in wnids()]
    return tuple(
        name if names.count(name) == 1 else f"{name} ({wnid})"
        for name, wnid in zip(names, wnids(), strict=True)
    )


def real_labels() -> Any:
    """The ReaL labels of the 50,000 validation images (Beyer et al. 2020, arXiv 2006.07159), in the
    order of their numbers; plain JSON.

    Raises:
        MissingExtra: timm is not installed.
    """
    return json.loads(_text("imagenet_real_labels.json"))


def is_wnid(name: str) -> bool:
    """Whether a name reads like a WordNet id.

    >>> is_wnid("n01440764"), is_wnid("nest")
    (True, False)
    """
    return len(name) == 9 and name[0] == "n" and name[1:].isdigit()


def expected_wnids(names: Sequence[str], count: int) -> tuple[str, ...] | None:
    """The classes of ImageNet-1k in order, where names are as many WordNet ids and so are models'
    classes; None where they are not, or the list is not there."""
    if not len(names) == count == CLASSES or not all(map(is_wnid, names)):
        return None
    try:
        return wnids()
    except MissingExtra:
        return None


def _text(name: str) -> str:
    """A file that timm brings."""
    found = find_spec("timm")  # which does not import it
    roots = [] if found is None else list(found.submodule_search_locations or ())
    for root in roots:
        file = Path(root, "data", "_info", name)
        if file.is_file():
            return file.read_text(encoding="utf-8")
    raise MissingExtra("the list of ImageNet's classes", "zoo")
