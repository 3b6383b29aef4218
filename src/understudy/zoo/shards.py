"""The files of data in several shards: a file, a folder, a pattern with ``*`` or braces."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection
from itertools import product
from pathlib import Path

from understudy.errors import DataError, listed
from understudy.zoo.spec import existing

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})")
MOST = 100_000
"""Files that a pattern may name."""


def shard_files(target: str, suffixes: Collection[str], *, scheme: str) -> list[Path]:
    """The files that a target names, in order; each is there.

    Args:
        target: a file, a folder with files of these suffixes, or a pattern: ``*`` in the last part
            of a path, and braces anywhere, as in ``train-{000..009}.tar`` and ``{a,b}.tar``.
        suffixes: as ``.tar``; hidden files do not count.
        scheme: for messages.

    Raises:
        DataError: there are none; a file of braces that is not there; shards of several sets; or
            shards that lack some by their own numbers.
    """
    place = existing(target)
    if place is not None and place.is_file():
        return [place]
    if place is not None:
        found = _inside(place, "*", suffixes)
    elif _BRACES.search(target):
        return _all_there([Path(name).expanduser() for name in expanded(target)], scheme)
    elif "*" in target:
        pattern = Path(target).expanduser()
        found = _inside(pattern.parent, pattern.name, suffixes)
    else:
        found = []
    if not found:
        raise DataError(
            f"{scheme}: names {' or '.join(suffixes)} files (a file, a folder of them, or a "
            f"pattern), {target!r} is none: check the path"
        )
    _check_whole_set(found, target, scheme)
    return found


def expanded(pattern: str) -> list[str]:
    """A pattern with its braces expanded, as a shell does it.

    >>> expanded("{a,b}-{08..10}.tar")
    ['a-08.tar', 'a-09.tar', 'a-10.tar', 'b-08.tar', 'b-09.tar', 'b-10.tar']

    Raises:
        DataError: more than 100,000 names.
    """
    parts = _BRACES.split(pattern)
    choices = [[part] if place % 2 == 0 else _choices(part) for place, part in enumerate(parts)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST:
        raise DataError(
            f"a pattern names at most {MOST:,} files, {pattern!r} names {count:,}: check its ranges"
        )
    return ["".join(names) for names in product(*choices)]


def _choices(inside: str) -> list[str]:
    """What a pair of braces stands for."""
    ends = _RANGE.fullmatch(inside)
    if not ends:
        return inside.split(",")
    first, last = int(ends[1]), int(ends[2])
    if abs(last - first) >= MOST:
        raise DataError(
            f"a pattern names at most {MOST:,} files, {{{inside}}} names {abs(last - first) + 1:,}:"
            " check its ranges"
        )
    step = 1 if first <= last else -1
    padded = "0" in (ends[1][0], ends[2][0]) and len(ends[1]) == len(ends[2])
    width = len(ends[1]) if padded else 0
    return [f"{number:0{width}}" for number in range(first, last + step, step)]


def _inside(folder: Path, pattern: str, suffixes: Collection[str]) -> list[Path]:
    return sorted(
        file
        for file in folder.glob(pattern)
        if file.suffix.lower() in suffixes and not file.name.startswith(".") and file.is_file()
    )


def _all_there(files: list[Path], scheme: str) -> list[Path]:
    gone = [str(file) for file in files if not file.is_file()]
    if gone:
        raise DataError(
            f"every shard that {scheme}: names is there, {len(gone)} of {len(files)} are not "
            f"({listed(map(repr, gone), 3)}): check the path and the range"
        )
    return files


def _check_whole_set(files: list[Path], target: str, scheme: str) -> None:
    """Refuse shards named ``SET-00000-of-00005`` of several sets, or of which some are missing."""
    sets: dict[tuple[str, int], set[int]] = defaultdict(set)
    for file in files:
        if numbered := _NUMBERED.fullmatch(file.stem):
            sets[numbered[1], int(numbered[3])].add(int(numbered[2]))
    names = sorted({name for name, _ in sets})
    if len(names) > 1:
        raise DataError(
            f"data are one set, {target!r} has shards of {len(names)} ({listed(names)}): name one, "
            f"{scheme}:{Path(target) / names[0]}-*{files[0].suffix}"
        )
    for (name, count), found in sets.items():
        missing = sorted(set(range(count)) - found)
        if missing:
            raise DataError(
                f"all shards of a set are there, {target!r} lacks {len(missing)} of {count} of "
                f"{name!r} ({listed(f'{number:05}' for number in missing)}): fetch them, or name "
                "the files with braces"
            )
