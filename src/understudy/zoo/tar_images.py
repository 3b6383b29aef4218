"""Images in tar files, as WebDataset has them: the files of a sample share a name up to its dot."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from understudy.errors import DataError, listed
from understudy.zoo.image_source import IMAGE_SUFFIXES, Array, ImageSource, named_classes
from understudy.zoo.shards import shard_files
from understudy.zoo.spec import Spec

SUFFIXES = (".tar",)
_CLASS, _JSON, _LABEL = "cls", "json", "label"
_MOST_BYTES = 2**24  # of a label


@dataclass(frozen=True)
class _Place:
    """Where a file stands in a tar file."""

    tar: Path
    start: int
    size: int

    def read(self) -> bytes:
        with self.tar.open("rb") as file:
            file.seek(self.start)
            return file.read(self.size)


@dataclass(frozen=True)
class _Sample:
    """The files of a sample by their endings."""

    name: str
    files: Mapping[str, _Place]


def open_tars(spec: Spec) -> ImageSource:
    """The images of the tar files that a ``wds:`` spec names; they are read in any order, each by
    its place in its file.

    Raises:
        DataError: no tar file, one that ends early, samples without an image or a label, or none.
    """
    files = shard_files(spec.target, SUFFIXES, scheme="wds")
    samples = [sample for file in files for sample in _samples(file)]
    ending = spec.options.get("image")
    images = [_image_of(sample, ending) for sample in samples]
    lacking = [sample.name for sample, image in zip(samples, images, strict=True) if image is None]
    if lacking:
        kinds = sorted({kind for sample in samples for kind in sample.files})
        raise DataError(
            f"every sample has an image, {len(lacking)} of {len(samples)} in {spec.target!r} have "
            f"none ({listed(map(repr, lacking), 3)}; its files end in {listed(kinds, 12)}): leave "
            "them out, or name the ending, ?image=ENDING"
        )
    found = [image for image in images if image is not None]
    labels, classes = _labels(samples, spec)
    return ImageSource(
        ids=np.array([sample.name for sample in samples], object),
        labels=labels,
        classes=classes,
        content=np.array([(image.start, image.size) for image in found], np.int64),
        read=lambda index: found[index].read(),
    )


def _samples(file: Path) -> list[_Sample]:
    """The samples of a tar file in order, called SHARD/NAME."""
    samples: dict[str, dict[str, _Place]] = {}
    for name, place in _members(file):
        folder, _, base = name.rpartition("/")
        stem, _, ending = base.partition(".")
        if not stem or not ending:
            continue  # hidden files, and those of no sample
        key = f"{file.stem}/{folder}/{stem}" if folder else f"{file.stem}/{stem}"
        files = samples.setdefault(key.replace("/./", "/"), {})
        if ending.lower() in files:
            raise DataError(
                f"samples of a tar file have names of their own, {str(file)!r} has {name!r} twice: "
                "make the file again"
            )
        files[ending.lower()] = place
    if not samples:
        raise DataError(f"{str(file)!r} has no samples (NAME.jpg, NAME.cls): check the file")
    return [_Sample(name, files) for name, files in samples.items()]


def _members(file: Path) -> Iterator[tuple[str, _Place]]:
    """The names and places of the files in a tar file.

    Raises:
        DataError: no tar file, a compressed one, or one that ends early.
    """
    size, end = file.stat().st_size, 0
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if end > size:
                    break
                if member.isfile() and not member.issparse():
                    yield member.name, _Place(file, member.offset_data, member.size)
        whole = end + tarfile.BLOCKSIZE <= size and _zeros_at(file, end)
    except tarfile.ReadError as error:
        if not end:
            raise DataError(
                f"wds: takes tar files that are not compressed, {str(file)!r} is none ({error}): "
                "unpack it, and make it again with tar"
            ) from error
        whole = False
    except OSError as error:
        raise DataError(
            f"tar files can be read, {str(file)!r} cannot ({error.strerror}): check the path"
        ) from error
    if not whole:
        raise DataError(
            f"a tar file ends with blocks of zeros, {str(file)!r} ends early, at byte {size:,}: "
            "fetch or make it again"
        )


def _zeros_at(file: Path, place: int) -> bool:
    with file.open("rb") as opened:
        opened.seek(place)
        return not any(opened.read(tarfile.BLOCKSIZE))


def _image_of(sample: _Sample, ending: str | None) -> _Place | None:
    if ending is not None:
        return sample.files.get(ending.lower())
    names = (name for name in sample.files if f".{name.rpartition('.')[2]}" in IMAGE_SUFFIXES)
    name = next(names, None)
    return None if name is None else sample.files[name]


def _labels(samples: Sequence[_Sample], spec: Spec) -> tuple[Array | None, tuple[str, ...] | None]:
    """Class numbers, and the names of the classes where labels are names."""
    option = spec.options.get("label")
    name = option or next(
        (one for one in (_CLASS, _JSON) if any(one in sample.files for sample in samples)), None
    )
    if name is None:
        return None, None
    key = None
    if not any(name in sample.files for sample in samples):
        name, key = _JSON, option
    elif name == _JSON:
        key = _LABEL
    found = [_label(sample, name, key) for sample in samples]
    if option is None and key is not None and all(one is None for one in found):
        return None, None  # their JSON holds other things
    lacking = [sample.name for sample, one in zip(samples, found, strict=True) if one is None]
    if lacking:
        what = f"a label in .{name}" if key is None else f"a label {key!r} in .{name}"
        raise DataError(
            f"every sample has {what}, {len(lacking)} of {len(samples)} in {spec.target!r} have "
            f"none ({listed(map(repr, lacking), 3)}): name another, ?label=ENDING or a key of "
            "their JSON"
        )
    words = [str(one) for one in found]
    if all(word.isascii() and word.isdigit() for word in words):
        return np.array([int(word) for word in words], np.int64), None
    classes, numbers = named_classes(sorted(set(words)), spec, what="labels")
    return np.array([numbers[word] for word in words], np.int64), classes


def _label(sample: _Sample, ending: str, key: str | None) -> str | int | None:
    """The label of a sample: a text, or what its JSON has under a key; None where it has none."""
    place = sample.files.get(ending)
    if place is None or place.size > _MOST_BYTES:
        return None
    try:
        text = place.read().decode()
        found: Any = text.strip() if key is None else json.loads(text).get(key)
    except (ValueError, AttributeError, RecursionError):
        return None
    return found if type(found) is int or (isinstance(found, str) and found) else None
