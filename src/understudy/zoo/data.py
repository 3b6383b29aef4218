"""Data specs (``folder:DIR``, ``parquet:FILE``, ``digits:``) become labelled images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from understudy.errors import DataError, UnderstudyError, listed
from understudy.extras import needing
from understudy.split import uniform
from understudy.zoo.data_specs import PARTS, parse_data_spec
from understudy.zoo.decoding import FOLLOW
from understudy.zoo.encoded import EncodedImages
from understudy.zoo.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.nn.preprocess import Image, Resizing

Array = npt.NDArray[Any]
T = TypeVar("T")
IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
)
_DIGITS_TRAIN = 897  # of 1,797; the other 900 are held out


@dataclass(frozen=True, eq=False)
class DataSet:
    """Images with ids, and labels where there are any; an image is decoded when it is read.

    Attributes:
        spec: the text it was opened by.
        ids: (N,) unique names: relative paths, a key column, or row numbers.
        labels: (N,) class numbers, or None.
        classes: the names of the classes by number, or None where they are not known.
        fingerprint: SHA-256 over ids, labels and sizes: the same for the same data elsewhere.
        read: returns the image at a position, an array uint8 (C, H, W), in any layout; may raise
            any exception.
        groups: N names of what must share a split (a patient, a video), or None.
        encoded: the files of the images; None where there are pixels alone.
        label_sets: (N, K) class numbers padded with -1, where images have several right answers;
            `labels` are then the first of each row.

    >>> digits = open_data("digits:heldout")
    >>> len(digits), tuple(digits.image(0).shape)
    (900, (1, 8, 8))
    """

    spec: str
    ids: Array
    labels: Array | None
    classes: tuple[str, ...] | None
    fingerprint: str
    read: Callable[[int], Array]
    groups: tuple[str, ...] | None = None
    encoded: EncodedImages | None = None
    label_sets: Array | None = None

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

    @property
    def right_answers(self) -> Array | None:
        """The right answers of every image, (N, K) padded with -1; None without labels."""
        if self.label_sets is not None:
            return self.label_sets
        return None if self.labels is None else self.labels[:, None]

    def array(self, index: int) -> Array:
        """The image at a position as a contiguous array, uint8 (C, H, W); PyTorch is not needed.

        Raises:
            DataError: it cannot be decoded; the message names its id.
        """
        return self._decoded(index, np.ascontiguousarray)

    def image(self, index: int) -> Tensor:
        """The image at a position as a tensor, uint8 (C, H, W).

        Raises:
            DataError: it cannot be decoded; the message names its id.
        """
        import torch

        return torch.from_numpy(self.array(index))

    def resized(self, index: int, resizings: Collection[Resizing | None]) -> Image:
        """The image at a position in the sizes that models take; see `resized_image`.

        Raises:
            DataError: it cannot be decoded, or is too thin; the message names its id.
        """
        import torch

        from understudy.nn.preprocess import resized_image

        return self._decoded(
            index, lambda pixels: resized_image(torch.from_numpy(pixels), resizings)
        )

    def _decoded(self, index: int, then: Callable[[Array], T]) -> T:
        try:
            return then(self.read(index))
        except UnderstudyError:
            raise
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise DataError(
                f"images can be decoded, {self.ids[index]!r} of {self.spec!r} cannot ({reason}): "
                "mend or remove it"
            ) from error

    def check_classes(self, count: int) -> None:
        """Refuse class names or labels that do not fit models of `count` classes.

        Raises:
            DataError: another number of names, or labels out of range.
        """
        check_class_names(self.classes, count, data=repr(self.spec))
        check_labels(self.labels, count, data=repr(self.spec))


def check_class_names(names: Sequence[str] | None, count: int, *, data: str) -> None:
    """Refuse class names of another number than the models' classes.

    Raises:
        DataError: the message has both numbers.
    """
    if names is not None and len(names) != count:
        raise DataError(
            f"class numbers follow the classes' names, {data} has {len(names)} names where the "
            f"models have {count} classes: give one name (one folder) per class"
        )


def check_labels(labels: Array | None, count: int, *, data: str) -> None:
    """Refuse labels outside 0 to `count` - 1.

    Raises:
        DataError: the message counts them and has their range.
    """
    if labels is None or not len(labels):
        return
    wrong = int(((labels < 0) | (labels >= count)).sum())
    if wrong:
        raise DataError(
            f"labels are class numbers from 0 to {count - 1}, {wrong} of {len(labels)} in {data} "
            f"lie outside (found {labels.min()} to {labels.max()}): check the label column and the "
            "models' classes"
        )


def open_data(spec: str) -> DataSet:
    """The images that a spec names.

    ``folder:DIR`` has one folder per class, whose sorted names are the classes (or images alone,
    without labels). ``parquet:FILE`` has encoded images in a column, and labels; ``?image=COLUMN``,
    ``&label=``, ``&key=`` and ``&group=`` name columns that are not called `image`, `label`, `name`
    (or `key`, `id`, `file_name`). ``digits:`` are scikit-learn's 1,797 digits, ``digits:train`` and
    ``digits:heldout`` two fixed halves of them (897 and 900).

    Images in files are decoded by `decode_image`; ``?orientation=ignore`` does not turn them as
    their EXIF orientation says. Changes of files are noticed by the hashes of 256 of them, or of
    all with ``?fingerprint=all``. A folder or Parquet file that is there needs no scheme.

    Raises:
        DataError: no such data, or data that break these rules.
    """
    parsed = parse_data_spec(spec)
    return _OPENERS[parsed.scheme](parsed)


def _folder(spec: Spec) -> DataSet:
    root = Path(spec.target).expanduser()
    classes = sorted(d.name for d in root.iterdir() if d.is_dir() and not d.name.startswith("."))
    loose = _images_in(root, deep=False)
    if classes and loose:
        raise DataError(
            f"either all images lie in a folder per class or none does, {str(root)!r} has "
            f"{len(classes)} folders and {len(loose)} images next to them "
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
        **_files(spec, lambda index: files[index].read_bytes(), len(files)),
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
    from understudy.zoo.parquet_images import open_parquet

    table = open_parquet(spec)
    return DataSet(
        spec=spec.text,
        ids=table.ids,
        labels=table.labels,
        classes=table.classes,
        fingerprint=_fingerprint(table.ids, table.labels, table.footer),
        groups=table.groups,
        **_files(spec, table.image_bytes, len(table.ids), table.image_bytes.block_rows),
    )


def _files(spec: Spec, read: Callable[[int], bytes], count: int, block: int = 1) -> dict[str, Any]:
    """How images in files are read, by the options of a spec."""
    orientation = spec.options.get("orientation", FOLLOW)
    hash_all = spec.options.get("fingerprint") == "all"
    files = EncodedImages(read, count, orientation, hash_all, block)
    return {
        "read": lambda index: files.decode(index).transpose(2, 0, 1),
        "encoded": files,
    }


def _digits(spec: Spec) -> DataSet:
    with needing("`digits:` data"):
        from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    ids = np.array([f"{number:04}" for number in range(len(pixels))], object)
    order = np.argsort(uniform(ids, salt=b"digits"), kind="stable")
    whole, train, heldout = PARTS
    halves = {whole: order, train: order[:_DIGITS_TRAIN], heldout: order[_DIGITS_TRAIN:]}
    rows = np.sort(halves[spec.target])
    labels = bunch.target[rows].astype(np.int64)
    return DataSet(
        spec=spec.text,
        ids=ids[rows],
        labels=labels,
        classes=tuple(map(str, bunch.target_names)),
        fingerprint=_fingerprint(ids[rows], labels, pixels[rows]),
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
