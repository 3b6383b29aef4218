"""Data specs (``folder:DIR``, ``imagenet:DIR``, ``parquet:FILE``, ...) become labelled images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
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
from understudy.zoo.folder_images import open_folder
from understudy.zoo.image_source import ImageSource
from understudy.zoo.imagenet_classes import CLASSES, expected_wnids, is_wnid
from understudy.zoo.spec import Spec

if TYPE_CHECKING:
    from torch import Tensor

    from understudy.nn.preprocess import Image, Resizing

Array = npt.NDArray[Any]
T = TypeVar("T")
ONE_NAME_EACH = "give one name (one folder) per class"
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
        label_sets: (N, K) int32, all right answers of every image, padded with -1, where images
            have several; `labels` are the first of each row. Else None.
        left_out: how many images are not among these because they have no right answer.

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
    left_out: int = 0

    def __post_init__(self) -> None:
        ids = self.ids.tolist()
        if not ids:
            raise DataError(f"data have at least one image, {self.spec!r} has none")
        if len(set(ids)) < len(ids):
            seen: set[str] = set()
            repeats = [i for i in ids if i in seen or seen.add(i)]  # type: ignore[func-returns-value]
            raise DataError(
                f"ids are unique, {len(repeats)} in {self.spec!r} repeat ({listed(repeats)}): "
                f"{self._way_to_ids()}"
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

    def check_classes(self, count: int, *, names: Sequence[str] | None = None) -> None:
        """Refuse class names or labels that do not fit models of `count` classes.

        Args:
            count: of the models.
            names: the models' class names by number, where they are known.

        Raises:
            DataError: another number of names, the models' names in another order, or labels out
                of range.
        """
        data = repr(self.spec)
        check_class_names(self.classes, count, data=data, way=self._way_to_classes(count))
        check_wnids(self.classes, count, data=data)
        check_class_order(self.classes, names, data=data)
        highest = self.labels if self.label_sets is None else self.label_sets.max(axis=1)
        check_labels(highest, count, data=data)

    def _way_to_ids(self) -> str:
        """What to do where ids repeat."""
        if self.spec.startswith("wds:"):
            return "give the tar files names of their own"
        return "name another column with ?key=COLUMN"

    def _way_to_classes(self, count: int) -> str:
        """What to do where the data have another number of classes than the models."""
        names = self.classes or ()
        if self.spec.startswith("imagenet:"):
            return f"take models whose last layer has ImageNet's {CLASSES:,} classes"
        if len(names) == 1 and self.spec.startswith("folder:"):
            return (
                f"one folder alone is no label, so go one further, folder:DIR/{names[0]}, or give "
                "one folder per class"
            )
        if count == CLASSES and all(is_wnid(name) or name.isdigit() for name in names):
            return "write imagenet:DIR, which numbers folders as ImageNet does, also some of them"
        if len(names) < count and not self.spec.startswith("digits:"):
            return (
                "number them as the models do, ?classes=FILE with all names of the models' classes,"
                " one per line"
            )
        return ONE_NAME_EACH


def check_class_names(
    names: Sequence[str] | None, count: int, *, data: str, way: str = ONE_NAME_EACH
) -> None:
    """Refuse class names of another number than the models' classes.

    Raises:
        DataError: the message has both numbers, and ends with the way out.
    """
    if names is not None and len(names) != count:
        found = "the one name" if len(names) == 1 else f"{len(names)} names"
        raise DataError(
            f"class numbers follow the classes' names, {data} has {found} ({listed(names, 3)}) "
            f"where the models have {count} classes: {way}"
        )


def check_class_order(
    names: Sequence[str] | None, known: Sequence[str] | None, *, data: str
) -> None:
    """Refuse class names that models have under other numbers.

    Names that the models lack may be spelt otherwise, and say nothing.

    Raises:
        DataError: the message has the first class that differs.
    """
    if names is None or known is None:
        return
    often = Counter(known)  # two classes of ImageNet are called "crane"
    places = {name: number for number, name in enumerate(known) if often[name] == 1}
    moved = [number for number, name in enumerate(names) if places.get(name, number) != number]
    if moved:
        raise DataError(
            f"classes of the data are numbered as the models', {len(moved)} of {len(names)} in "
            f"{data} are not: {names[moved[0]]!r} is class {moved[0]}, and class "
            f"{places[names[moved[0]]]} of the models: number them as the models do, ?classes=FILE "
            "with one name per line"
        )


def check_wnids(names: Sequence[str] | None, count: int, *, data: str) -> None:
    """Refuse 1,000 WordNet ids that are not those of ImageNet-1k, of data for 1,000 classes.

    Raises:
        DataError: the message has the ids of other classes.
    """
    expected = expected_wnids(names or (), count)
    strange = [] if names is None or expected is None else sorted(set(names) - set(expected))
    if strange:
        raise DataError(
            f"1,000 classes called by WordNet ids are those of ImageNet-1k, {len(strange)} in "
            f"{data} are not ({listed(strange, 3)}): give the names of the models' classes with "
            "?classes=FILE, or the images of ImageNet's classes"
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

    ``folder:DIR`` has one folder per class, whose sorted names are the classes, all-digit names by
    their numbers (or images alone, without labels). ``imagenet:DIR`` is ImageNet, or a set with its
    classes, in one of the usual layouts, with labels from 0 to 999; ``?labels=FILE`` labels images
    that lie in no folders, or gives several right answers (ReaL). ``parquet:FILE`` has encoded
    images in a column, and labels; ``?image=COLUMN``, ``&label=``, ``&key=`` and ``&group=`` name
    columns that are not called `image`, `label`, `name` (or `key`, `id`, `file_name`).
    ``wds:FILE.tar`` are samples as WebDataset has them. For both a folder or a pattern names
    several files. ``hf:NAME`` is a data set of Hugging Face. ``digits:`` are scikit-learn's 1,797
    digits, ``digits:train`` and ``digits:heldout`` two fixed halves of them (897 and 900).

    ``?classes=FILE`` numbers classes as models do: the file has one name per line. ``?limit=N``
    takes N images of a folder in turn from its classes. Images in files are decoded by
    `decode_image`; ``?orientation=ignore`` does not turn them as their EXIF orientation says.
    Changes of files are noticed by the hashes of 256 of them, or of all with ``?fingerprint=all``.
    A folder or file that is there needs no scheme.

    >>> data = open_data("digits:heldout")
    >>> len(data), tuple(data.image(0).shape)
    (900, (1, 8, 8))

    Raises:
        DataError: no such data, or data that break these rules.
    """
    parsed = parse_data_spec(spec)
    return _OPENERS[parsed.scheme](parsed)


def _opened(spec: Spec, source: ImageSource) -> DataSet:
    """Images in files, limited and decoded by the options of a spec."""
    if "limit" in spec.options:
        source = source.limited(int(spec.options["limit"]))
    files = EncodedImages(
        source.read,
        len(source.ids),
        orientation=spec.options.get("orientation", FOLLOW),
        hash_all=spec.options.get("fingerprint") == "all",
        block=source.block,
    )
    return DataSet(
        spec=spec.text,
        ids=source.ids,
        labels=source.labels,
        classes=source.classes,
        fingerprint=_fingerprint(source.ids, source.labels, source.content, source.label_sets),
        read=lambda index: files.decode(index).transpose(2, 0, 1),
        groups=source.groups,
        encoded=files,
        label_sets=source.label_sets,
        left_out=source.left_out,
    )


def _folder(spec: Spec) -> DataSet:
    return _opened(spec, open_folder(spec))


def _imagenet(spec: Spec) -> DataSet:
    from understudy.zoo.imagenet_images import open_imagenet

    return _opened(spec, open_imagenet(spec))


def _parquet(spec: Spec) -> DataSet:
    from understudy.zoo.parquet_images import open_parquet

    return _opened(spec, open_parquet(spec))


def _tars(spec: Spec) -> DataSet:
    from understudy.zoo.tar_images import open_tars

    return _opened(spec, open_tars(spec))


def _hub(spec: Spec) -> DataSet:
    from understudy.zoo.hub_images import open_hub

    return _opened(spec, open_hub(spec))


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
    {
        "folder": _folder,
        "imagenet": _imagenet,
        "parquet": _parquet,
        "wds": _tars,
        "hf": _hub,
        "digits": _digits,
    }
)


def _fingerprint(
    ids: Array, labels: Array | None, content: Array, label_sets: Array | None = None
) -> str:
    digest = hashlib.sha256("\0".join(ids.tolist()).encode())
    digest.update(b"\0no labels" if labels is None else labels.astype("<i8").tobytes())
    digest.update(np.ascontiguousarray(content).tobytes())
    if label_sets is not None:
        digest.update(b"\0label sets" + np.ascontiguousarray(label_sets, "<i4").tobytes())
    return digest.hexdigest()
