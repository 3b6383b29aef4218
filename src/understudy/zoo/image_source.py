"""What every source of images gives: names, labels and the files of the images, whatever holds
them; and how names of classes become numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import DataError, listed, unknown
from understudy.zoo.spec import Spec

Array = npt.NDArray[Any]

IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
)
"""What files of images are called; how they are decoded, their content decides."""

KEYS = ("name", "key", "id", "file_name")
"""Columns that hold the ids of images, unless another is named."""


@dataclass(frozen=True, eq=False)
class ImageSource:
    """The images that a spec names, without a pixel of them.

    Attributes:
        ids: (N,) unique names.
        labels: (N,) class numbers, or None.
        classes: the names of the classes by number, or None where they are not known.
        content: what tells these images from others, besides ids and labels, such as their sizes.
        read: returns the encoded image at a position; may raise any exception.
        groups: N names of what must share a split, or None.
        label_sets: (N, K) int32, all right answers of every image, padded with -1; or None.
        block: how many images are read together.
        left_out: how many images are not among these because they have no right answer.
    """

    ids: Array
    labels: Array | None
    classes: tuple[str, ...] | None
    content: Array
    read: Callable[[int], bytes]
    groups: tuple[str, ...] | None = None
    label_sets: Array | None = None
    block: int = 1
    left_out: int = 0

    def limited(self, most: int) -> ImageSource:
        """At most so many of the images, in the same order, taken in turn from the classes.

        The first of every class, then the second, and so on; without labels the first images. So
        the images of a smaller limit are among those of a larger one.
        """
        kept = in_turn(self.labels, len(self.ids), most)
        return replace(
            self,
            ids=self.ids[kept],
            labels=None if self.labels is None else self.labels[kept],
            content=self.content[kept],
            read=lambda index: self.read(int(kept[index])),
            groups=None if self.groups is None else tuple(self.groups[row] for row in kept),
            label_sets=None if self.label_sets is None else self.label_sets[kept],
        )


def in_turn(labels: Array | None, count: int, most: int) -> Array:
    """The positions of at most `most` of `count` images, taken in turn from the classes; sorted.

    >>> in_turn(np.array([0, 0, 0, 1, 1, 2]), 6, 4).tolist()
    [0, 1, 3, 5]
    """
    if labels is None or most >= count:
        return np.arange(min(most, count))
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    place = np.empty(count, np.int64)
    place[order] = np.arange(count) - np.searchsorted(ordered, ordered)
    return np.sort(np.lexsort((labels, place))[:most])


def named_classes(
    names: Sequence[str], spec: Spec, *, what: str
) -> tuple[tuple[str, ...], dict[str, int]]:
    """The classes of some names, and the number of each: by ``?classes=FILE`` where it is given,
    else in order, all-digit names by their number.

    Args:
        names: as found, each once.
        spec: the spec with the option.
        what: what has these names, for the message.

    >>> from understudy.zoo.spec import parse_spec
    >>> spec = parse_spec("folder:val", {"folder": []}, what="data")
    >>> named_classes(["10", "9"], spec, what="folders")
    (('9', '10'), {'9': 0, '10': 1})

    Raises:
        DataError: a name that the file lacks, or a file that breaks a rule.
    """
    file = spec.options.get("classes")
    classes = in_order(names) if file is None else class_names_of(Path(file).expanduser())
    numbers = {name: number for number, name in enumerate(classes)}
    strange = [name for name in names if name not in numbers]
    if strange:
        near = unknown("class", strange[0], classes, where=repr(file))
        raise DataError(
            f"{what} are called as the classes in {file!r} are, {len(strange)} of {len(names)} are "
            f"not ({listed(map(repr, strange), 3)}; {near}): rename them, or give the names of "
            "these classes"
        )
    return classes, numbers


def in_order(names: Sequence[str]) -> tuple[str, ...]:
    """Names in order; where all are digits, by their numbers.

    >>> in_order(["10", "9", "0"]), in_order(["b", "10", "9"])
    (('0', '9', '10'), ('10', '9', 'b'))
    """
    if all(name.isascii() and name.isdigit() for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


def class_names_of(file: Path) -> tuple[str, ...]:
    """The names of classes in a text file, one per line in the order of their numbers.

    Raises:
        DataError: a file that is no text, has no names, or has one twice.
    """
    names = tuple(line.strip() for line in text_of(file).splitlines() if line.strip())
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if not names or twice:
        found = f"{listed(map(repr, twice), 3)} twice" if twice else "none"
        raise DataError(
            f"a file of classes has one name per line, each once, {str(file)!r} has {found}: "
            "write them in the order of the models' classes"
        )
    return names


def text_of(file: Path) -> str:
    """The text of a file that a spec names.

    Raises:
        DataError: it cannot be read, or is no UTF-8.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8"
        raise DataError(
            f"labels and names of classes stand in text files, {str(file)!r} cannot be read as one "
            f"({reason}): check the path"
        ) from error
