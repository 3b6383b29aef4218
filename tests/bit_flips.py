"""Single bits of stored files, flipped one at a time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path


def bit_flips(folder: Path, count: int) -> Iterator[tuple[str, int]]:
    """Flip bits of the files in a folder, half of them near an end; each is restored.

    A line break that becomes another one, in the log of looks, changes nothing and is left out; so
    is the README of a cascade, which nothing but a person reads.
    """
    draw = random.Random(0)
    found = (path for path in folder.rglob("*") if path.is_file())
    files = sorted(path for path in found if path.name != "README.md")
    for number in range(count):
        file = files[number % len(files)]
        whole = file.read_bytes()
        near = draw.randrange(min(len(whole), 500))
        place = draw.choice([draw.randrange(len(whole)), near, len(whole) - 1 - near])
        damaged = bytearray(whole)
        damaged[place] ^= 1 << draw.randrange(8)
        if not (chr(whole[place]).isspace() and chr(damaged[place]).isspace()):
            file.write_bytes(damaged)
            yield file.relative_to(folder).as_posix(), place
            file.write_bytes(whole)
