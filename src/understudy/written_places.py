"""What understudy wrote at a path, known by the names of its files: nothing is read or imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from understudy.errors import ModelError, PolicyError

CASCADE, EXPORTED = "cascade.json", "onnx.json"
_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "table.json": "a score table",
        CASCADE: "a cascade",
        EXPORTED: "an exported cascade",
        "exits.json": "a folder of exits",
        "saver.json": "a folder of a taught model",
    }
)
_TO_CASCADE: Mapping[str, str] = MappingProxyType(
    {
        "a score table": "`understudy search` it and `understudy build` the result first",
        "an exported cascade": "name what it was exported from",
        "a folder of exits": "`understudy score` it, search the table and build the result first",
        "a file": "`understudy build` it first if it is a search result",
    }
)
_TO_RESULT: Mapping[str, str] = MappingProxyType(
    {
        "a score table": "`understudy search` it first",
        "a folder of exits": "`understudy score` it and search the table first",
    }
)


def check_cascade(path: str | Path) -> None:
    """Refuse what is no folder of a cascade that can be read or built upon.

    >>> check_cascade(".")
    Traceback (most recent call last):
    understudy.errors.ModelError: a cascade is a folder that `understudy build` wrote, '.' is a
    folder of something else: check the path

    Raises:
        ModelError: the message has what is there instead.
    """
    _check(path, CASCADE)


def check_runnable(path: str | Path) -> None:
    """Refuse what is neither a cascade nor one that was exported.

    Raises:
        ModelError: the message has what is there instead.
    """
    _check(path, CASCADE, EXPORTED)


def check_result(path: str | Path) -> None:
    """Refuse a folder, where a search result is a file.

    Raises:
        PolicyError: the message has which folder it is.
    """
    if Path(path).is_dir():
        found = _found(Path(path))
        raise PolicyError(
            f"a search result is a file that `understudy search --out` wrote, {str(path)!r} is "
            f"{found}: {_TO_RESULT.get(found, 'name the file')}"
        )


def _check(path: str | Path, *marks: str) -> None:
    place = Path(path)
    if not any((place / mark).is_file() for mark in marks):
        found = _found(place)
        is_found = "does not exist" if found == "nothing" else f"is {found}"
        raise ModelError(
            f"a cascade is a folder that `understudy build` wrote, {str(path)!r} {is_found}: "
            f"{_TO_CASCADE.get(found, 'check the path')}"
        )


def _found(place: Path) -> str:
    """What is at a path, in words."""
    if not place.exists():
        return "nothing"
    if not place.is_dir():
        return "a file"
    kinds = (kind for mark, kind in _KINDS.items() if (place / mark).is_file())
    return next(kinds, "a folder of something else")
