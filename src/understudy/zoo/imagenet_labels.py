"""Files that label images of ImageNet's validation set: Kaggle's, the development kit's, ReaL's,
and lists of numbers or WordNet ids."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.errors import DataError, listed
from understudy.extras import needing
from understudy.zoo.image_source import text_of
from understudy.zoo.imagenet_classes import CLASSES, real_labels, wnids

REAL = "real"
"""As ``?labels=``: the ReaL labels that timm brings."""

KNOWN_FILES = ("LOC_val_solution.csv", "ILSVRC2012_validation_ground_truth.txt")
"""Label files that are found beside the images."""

META = "meta.mat"
_NUMBER = re.compile(r"_(\d{8})$")  # of an image, as in ILSVRC2012_val_00000001

Answers = Sequence[int]
"""The right answers of an image."""


@dataclass(frozen=True)
class ImageLabels:
    """The right answers of images, by name or in order.

    Attributes:
        file: where they were found, for messages.
        by_name: the stem of an image's name -> its answers; empty where they stand in order.
        in_order: answers by the images' numbers, or by their places where they have none.
        sets: whether an image may have several answers, or none.
    """

    file: str
    by_name: Mapping[str, Answers]
    in_order: Sequence[Answers]
    sets: bool

    def of(self, files: Sequence[Path]) -> list[Answers]:
        """The answers of some images.

        Raises:
            DataError: images that have none here, or as many lines as there are no images.
        """
        stems = [file.stem for file in files]
        if self.by_name:
            lacking = [stem for stem in stems if stem not in self.by_name]
            self._check_none(lacking, stems)
            return [self.by_name[stem] for stem in stems]
        numbers = [_NUMBER.search(stem) for stem in stems]
        if all(numbers):
            places = [int(number[1]) - 1 for number in numbers if number]
            known = range(len(self.in_order))
            lacking = [stem for stem, at in zip(stems, places, strict=True) if at not in known]
            self._check_none(lacking, stems)
            return [self.in_order[at] for at in places]
        if len(files) != len(self.in_order):
            raise DataError(
                f"labels without names are one per image, {self.file!r} has {len(self.in_order):,} "
                f"for {len(files):,} images: write a name before each label"
            )
        return list(self.in_order)

    def _check_none(self, lacking: Sequence[str], stems: Sequence[str]) -> None:
        if lacking:
            raise DataError(
                f"every image has a label, {self.file!r} has none for {len(lacking):,} of "
                f"{len(stems):,} images ({listed(map(repr, lacking), 3)}): give those of "
                "these images"
            )


def read_labels(target: str) -> ImageLabels:
    """The labels in a file; ``real`` are the ReaL labels that timm brings.

    A file is one of: Kaggle's ``LOC_val_solution.csv``; the development kit's
    ``ILSVRC2012_validation_ground_truth.txt``, whose numbers are translated by the ``meta.mat``
    beside it; JSON, a list of lists of class numbers (ReaL's ``real.json``); or text with a class
    number or a WordNet id per line, the name of the image before it or not.

    Raises:
        DataError: none of these.
    """
    if target == REAL:
        return _sets_of(real_labels(), target)
    file = Path(target).expanduser()
    text = text_of(file)
    if file.suffix.lower() == ".json":
        return _sets_of(_parsed(text, file), str(file))
    rows = [line.replace(",", " ").split() for line in text.splitlines() if line.strip()]
    if rows and rows[0][:2] == ["ImageId", "PredictionString"]:
        rows = [row[:2] for row in rows[1:]]  # a box follows, and more of them
    widths = {len(row) for row in rows}
    if len(widths) != 1 or not widths <= {1, 2}:
        raise DataError(
            f"a label file has a label per line, after an image's name or without, {str(file)!r} "
            f"has lines of {listed(sorted(widths)) or 'no'} words: check the file"
        )
    answers = [[number] for number in _class_numbers([row[-1] for row in rows], file)]
    if widths == {1}:
        return ImageLabels(str(file), {}, answers, sets=False)
    stems = [Path(row[0]).stem for row in rows]
    named = dict(zip(stems, answers, strict=True))
    if len(named) < len(rows):
        raise DataError(
            f"every image has one label, {str(file)!r} has {len(rows) - len(named)} names twice: "
            "leave one of each"
        )
    return ImageLabels(str(file), named, (), sets=False)


def _class_numbers(words: Sequence[str], file: Path) -> list[int]:
    """Class numbers of numbers or WordNet ids."""
    if all(word.isascii() and word.isdigit() for word in words):
        numbers = [int(word) for word in words]
        if min(numbers) >= 1 and max(numbers) == CLASSES:
            return _of_development_kit(numbers, file)
        known = [number for number in numbers if number < CLASSES]
    else:
        places = {wnid: number for number, wnid in enumerate(wnids())}
        numbers = [places.get(word, CLASSES) for word in words]
        known = [number for number in numbers if number < CLASSES]
    if len(known) < len(words):
        strange = [word for word, n in zip(words, numbers, strict=True) if n >= CLASSES]
        raise DataError(
            f"labels are class numbers from 0 to {CLASSES - 1} or WordNet ids of ImageNet-1k, "
            f"{str(file)!r} has {len(strange)} others ({listed(map(repr, strange), 3)}): check the "
            "file"
        )
    return numbers


def _of_development_kit(numbers: Sequence[int], file: Path) -> list[int]:
    """ILSVRC2012's own numbers, from 1 to 1,000 in an order of their own, as class numbers."""
    meta = file.with_name(META)
    if not meta.is_file():
        raise DataError(
            f"labels from 1 to {CLASSES} have ILSVRC2012's own order of classes, which only the "
            f"development kit's {META} tells, {str(file)!r} has none beside it: put {META} there, "
            "or give LOC_val_solution.csv"
        )
    with needing(f"reading {META}"):
        from scipy.io import loadmat
    try:
        rows = loadmat(meta, squeeze_me=True, variable_names=["synsets"])["synsets"]
        own = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows}
        places = {wnid: number for number, wnid in enumerate(wnids())}
        return [places[own[number]] for number in numbers]
    except Exception as error:
        raise DataError(
            f"{META} holds the classes of ILSVRC2012, {str(meta)!r} does not "
            f"({type(error).__name__}: {error}): take that of ILSVRC2012_devkit_t12"
        ) from error


def _parsed(text: str, file: Path) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{str(file)!r} is no JSON ({error}): fetch it again") from error


def _sets_of(found: Any, file: str) -> ImageLabels:
    """A list of class numbers, or of lists of them."""
    rows = [[row] if type(row) is int else row for row in found] if type(found) is list else None
    if not rows or not all(
        type(row) is list and all(type(one) is int and 0 <= one < CLASSES for one in row)
        for row in rows
    ):
        raise DataError(
            f"labels in JSON are a list with the class numbers of every image, each from 0 to "
            f"{CLASSES - 1}, {file!r} is none: check the file"
        )
    unique = [list(dict.fromkeys(row)) for row in rows]
    return ImageLabels(file, {}, unique, sets=True)
