"""Data specs: ``folder:DIR``, ``parquet:FILE``, ``digits:`` become labelled images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from understudy.errors import DataError, UnderstudyError, listed, unknown
from understudy.split import uniform
from understudy.zoo.decode import decode_image
from understudy.zoo.parquet import open_parquet
from understudy.zoo.spec import Spec, parse_spec

Array = npt.NDArray[Any]
SCHEMES: Mapping[str, Sequence[str]] = MappingProxyType(
    {"folder": (), "parquet": ("image", "label", "key", "group"), "digits": ()}
)
IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
)
_DIGITS_TRAIN = 897  # of 1,797; the other 900 are held out


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images with names, and labels where there are any; nothing is decoded before it is asked for.

    Attributes:
        spec: the text it was opened by.
        ids: (N,) unique names: relative paths, a key column, or row numbers.
        labels: (N,) class numbers, or None.
        classes: the names behind the numbers, or None where they are not known.
        fingerprint: SHA-256 over names, labels and sizes: the same for the same data elsewhere.
        read: the image at a position, uint8 (C, H, W); raises whatever its decoder raises.
        groups: N names of what must share a split (a patient, a video), or None.

    >>> digits = open_data("digits:heldout")
    >>> len(digits), tuple(digits.image(0).shape)
    (900, (1, 8, 8))
    """

    spec: str
    ids: Array
    labels: Array | None
    classes: tuple[str, ...] | None
    fingerprint: str
    read: Callable[[int], Tensor]
    groups: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        ids = self.ids.tolist()
        if not ids:
            raise DataError(f"data have at least one image, {self.spec!r} has none")
        if len(set(ids)) < len(ids):
            seen: set[str] = set()
            repeats = [i for i in ids if i in seen or seen.add(i)]  # type: ignore[func-returns-value]
            raise DataError(
                f"ids are unique, {len(repeats)} in {self.spec!r} repeat ({listed(repeats)}): "
                "name another column with ?key=COLUMN"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> Tensor:
        """The image at a position, uint8 (C, H, W).

        Raises:
            DataError: it cannot be decoded; the message names its id.
        """
        try:
            return self.read(index)
        except UnderstudyError:
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise DataError(
                f"images can be decoded, {self.ids[index]!r} of {self.spec!r} cannot ({reason}): "
                "mend or remove it"
            ) from error


def open_data(spec: str) -> DataSet:
    """The images that a spec names.

    ``folder:DIR`` has one folder per class, whose sorted names are the classes (or images alone,
    without labels). ``parquet:FILE`` has encoded images in a column, and labels; ``?image=COLUMN``,
    ``&label=``, ``&key=`` and ``&group=`` name columns that are not called `image`, `label`, `name`
    (or `key`, `id`, `file_name`). ``digits:`` are scikit-learn's 1,797 digits, ``digits:train`` and
    ``digits:heldout`` two fixed halves of them (897 and 900).

    Raises:
        DataError: no such data, or data that break these rules.
    """
    parsed = parse_spec(spec, SCHEMES, what="data", error=DataError)
    return _OPENERS[parsed.scheme](parsed)


def _folder(spec: Spec) -> DataSet:
    root = Path(spec.target).expanduser()
    if not spec.target or not root.is_dir():
        raise DataError(
            f"folder: names a folder of images, {spec.target!r} is none: check the path"
        )
    classes = sorted(d.name for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
    loose = _images_in(root, deep=False)
    if classes and loose:
        raise DataError(
            f"either all images lie in a folder per class or none does, {str(root)!r} has "
            f"{len(classes)} folders and {len(loose)} images beside them "
            f"({listed([file.name for file in loose], 3)}): move those"
        )
    by_class = [_images_in(root / name, deep=True) for name in classes]
    files = [file for files in by_class for file in files] or loose
    if not files:
        raise DataError(
            f"{str(root)!r} has no images ({', '.join(sorted(IMAGE_SUFFIXES))}): "
            "give a folder with one folder per class"
        )
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in by_class])
    ids = np.array([file.relative_to(root).as_posix() for file in files], object)
    return DataSet(
        spec=spec.text,
        ids=ids,
        labels=labels if classes else None,
        classes=tuple(classes) or None,
        fingerprint=_fingerprint(
            ids, labels if classes else None, np.array([file.stat().st_size for file in files])
        ),
        read=lambda index: decode_image(files[index].read_bytes()),
    )


def _images_in(folder: Path, *, deep: bool) -> list[Path]:
    return sorted(
        file
        for file in (folder.rglob("*") if deep else folder.iterdir())
        if file.suffix.lower() in IMAGE_SUFFIXES
        and not file.name.startswith(".")
        and file.is_file()
    )


def _parquet(spec: Spec) -> DataSet:
    table = open_parquet(spec)
    return DataSet(
        spec=spec.text,
        ids=table.ids,
        labels=table.labels,
        classes=table.classes,
        fingerprint=_fingerprint(table.ids, table.labels, table.footer),
        read=lambda index: decode_image(table.image_bytes(index)),
        groups=table.groups,
    )


def _digits(spec: Spec) -> DataSet:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))
    ids = np.array([f"{number:04}" for number in range(len(pixels))], object)
    order = np.argsort(uniform(ids, salt=b"digits"), kind="stable")
    halves = {"": order, "train": order[:_DIGITS_TRAIN], "heldout": order[_DIGITS_TRAIN:]}
    if spec.target not in halves:
        raise DataError(unknown("part", spec.target, halves, where="digits:"))
    rows = np.sort(halves[spec.target])
    labels = bunch.target[rows].astype(np.int64)
    return DataSet(
        spec=spec.text,
        ids=ids[rows],
        labels=labels,
        classes=tuple(map(str, bunch.target_names)),
        fingerprint=_fingerprint(ids[rows], labels, pixels[rows].numpy()),
        read=lambda index: pixels[int(rows[index])][None],
    )


_OPENERS: Mapping[str, Callable[[Spec], DataSet]] = MappingProxyType(
    {"folder": _folder, "parquet": _parquet, "digits": _digits}
)


def _fingerprint(ids: Array, labels: Array | None, content: Array) -> str:
    digest = hashlib.sha256("\0".join(ids.tolist()).encode())
    digest.update(b"\0no labels" if labels is None else labels.astype("<i8").tobytes())
    digest.update(np.ascontiguousarray(content).tobytes())
    return digest.hexdigest()
