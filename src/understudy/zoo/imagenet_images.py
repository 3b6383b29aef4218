"""ImageNet and the sets that share its classes, in the layouts in which they come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from understudy.errors import DataError, listed
from understudy.label_sets import padded_sets
from understudy.zoo.data_specs import SPLITS
from understudy.zoo.folder_images import folders_in, images_in, source_of
from understudy.zoo.image_source import Array, ImageSource, in_order
from understudy.zoo.imagenet_classes import CLASSES, class_names, is_wnid, wnids
from understudy.zoo.imagenet_labels import KNOWN_FILES, read_labels
from understudy.zoo.spec import Spec

PARENTS = (".", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC")
"""Where the folders of the splits lie; the last two as Kaggle has them."""


def open_imagenet(spec: Spec) -> ImageSource:
    """The images of the folder that an ``imagenet:`` spec names; labels are ImageNet's numbers.

    The folder has one of: ``val/`` or ``train/``; folders called by WordNet ids (all classes, or
    some of them as in ImageNet-A, -R and -Sketch); folders called by class numbers (ImageNet-V2);
    or the validation images alone, with a label file.

    Raises:
        DataError: none of these, or labels that do not fit the images.
        MissingExtra: timm, which has the list of classes, is not installed.
    """
    top = Path(spec.target).expanduser()
    root = _split_of(top, spec)
    folders, loose = in_order(folders_in(root)), images_in(root, deep=False)
    if folders and loose:
        raise DataError(
            f"images of ImageNet lie in a folder per class or all in one, {str(root)!r} has "
            f"{len(folders)} folders and {len(loose)} images next to them "
            f"({listed([file.name for file in loose], 3)}): move those"
        )
    numbers = _class_of_folders(root, folders)
    by_class = [images_in(root / name, deep=True) for name in folders]
    files = [file for inside in by_class for file in inside] or loose
    labels = np.repeat(np.array(numbers, np.int64), [len(inside) for inside in by_class])
    if not files:
        return source_of(root, files, None, None)
    given = spec.options.get("labels") or (None if folders else _label_file(top, root))
    if given is None:
        return source_of(root, files, labels, class_names())
    found = read_labels(given)
    answers = found.of(files)
    if not found.sets:
        first = np.array([one[0] for one in answers], np.int64)
        if folders:
            _check_same(first, labels, files, found.file)
        return source_of(root, files, first, class_names())
    clear = [(file, one) for file, one in zip(files, answers, strict=True) if len(one)]
    every = [number for _, one in clear for number in one]
    sets = padded_sets(every, [len(one) for _, one in clear]).astype(np.int32)
    known = [file for file, _ in clear]
    source = source_of(root, known, sets[:, :1].ravel(), class_names(), sets)
    return replace(source, left_out=len(files) - len(known))


def _split_of(top: Path, spec: Spec) -> Path:
    """The folder of the images: that of the split where there are several, else the one given."""
    there = {
        name: top / parent / name
        for parent in reversed(PARENTS)
        for name in SPLITS
        if (top / parent / name).is_dir()
    }
    wanted = spec.options.get("split")
    if not there and wanted is None:
        return top
    found = there.get(wanted or SPLITS[0])
    if found is None:
        way = "name one, ?split=train" if wanted is None else "leave ?split= out or name another"
        raise DataError(
            f"imagenet: takes val/ unless another split is named, {str(top)!r} has "
            f"{listed([f'{name}/' for name in sorted(there)]) or 'no splits'} and not "
            f"{wanted or SPLITS[0]}/: {way}"
        )
    return found


def _class_of_folders(root: Path, folders: Sequence[str]) -> list[int]:
    """The class numbers of folders called by WordNet ids, or by numbers."""
    if all(name.isascii() and name.isdigit() and int(name) < CLASSES for name in folders):
        return [int(name) for name in folders]
    places = {wnid: number for number, wnid in enumerate(wnids())}
    strange = [name for name in folders if name not in places]
    if strange:
        alien = " (WordNet ids of other classes)" if all(map(is_wnid, strange)) else ""
        raise DataError(
            f"folders of ImageNet are called by the WordNet ids or the numbers of its {CLASSES:,} "
            f"classes, {len(strange)} of {len(folders)} in {str(root)!r} are not "
            f"({listed(map(repr, strange), 3)}){alien}: leave them out, or take folder: for other "
            "classes"
        )
    return [places[name] for name in folders]


def _label_file(top: Path, root: Path) -> str:
    """The label file of images that lie in no folders, where it is beside them under its name.

    Raises:
        DataError: there is none.
    """
    for folder in (top, root.parent, root):
        for name in KNOWN_FILES:
            if (folder / name).is_file():
                return str(folder / name)
    raise DataError(
        f"images of ImageNet that lie in no folders have a label file, {str(root)!r} has none of "
        f"{listed(KNOWN_FILES)}: name one, ?labels=FILE, or ?labels=real for the ReaL labels"
    )


def _check_same(found: Array, folders: Array, files: Sequence[Path], where: str) -> None:
    """Refuse a label file that contradicts the folders."""
    wrong = np.flatnonzero(found != folders).tolist()
    if len(wrong):
        shown = listed([f"{files[row].name}: {found[row]} in a folder of {folders[row]}"
                        for row in wrong], 3)  # fmt: skip
        raise DataError(
            f"a label file agrees with the folders, {where!r} differs on {len(wrong):,} of "
            f"{len(found):,} images ({shown}): leave ?labels= out, or give the right file"
        )
