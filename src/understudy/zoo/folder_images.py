"""Images in a folder: one folder per class, or images alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from understudy.errors import DataError, listed
from understudy.zoo.image_source import IMAGE_SUFFIXES, Array, ImageSource, named_classes
from understudy.zoo.spec import Spec

SPLITS = frozenset(("train", "val", "valid", "validation", "dev", "test"))
"""What folders of splits are called; as classes, they hold no folders."""


def open_folder(spec: Spec) -> ImageSource:
    """The images of the folder that a ``folder:`` spec names.

    Raises:
        DataError: no images, images beside the folders of classes, folders of splits, or folders
            that are not among the classes given.
    """
    root = Path(spec.target).expanduser()
    folders, loose = folders_in(root), images_in(root, deep=False)
    if folders and loose:
        raise DataError(
            f"either all images lie in a folder per class or none does, {str(root)!r} has "
            f"{len(folders)} folders and {len(loose)} images next to them "
            f"({listed([file.name for file in loose], 3)}): move those"
        )
    if not folders:
        return source_of(root, loose, None, None)
    if SPLITS.issuperset(folders) and all(_holds_classes(root / name) for name in folders):
        raise DataError(
            f"folder: takes the folders of one split, {str(root)!r} has those of "
            f"{listed(folders)}: name one, folder:{root / folders[-1]}"
        )
    classes, numbers = named_classes(folders, spec, what="folders")
    ordered = sorted(folders, key=numbers.__getitem__)
    by_class = [images_in(root / name, deep=True) for name in ordered]
    files = [file for inside in by_class for file in inside]
    labels = np.repeat([numbers[name] for name in ordered], [len(inside) for inside in by_class])
    return source_of(root, files, labels, classes)


def source_of(
    root: Path,
    files: Sequence[Path],
    labels: Array | None,
    classes: tuple[str, ...] | None,
    label_sets: Array | None = None,
) -> ImageSource:
    """Files below a folder as images, whose ids are their relative paths.

    Raises:
        DataError: there are none.
    """
    if not files:
        raise DataError(
            f"{str(root)!r} has no images ({', '.join(sorted(IMAGE_SUFFIXES))}): "
            "give a folder with one folder per class"
        )
    return ImageSource(
        ids=np.array([file.relative_to(root).as_posix() for file in files], object),
        labels=None if labels is None else labels.astype(np.int64),
        classes=classes,
        content=np.array([file.stat().st_size for file in files]),
        read=lambda index: files[index].read_bytes(),
        label_sets=label_sets,
    )


def _holds_classes(folder: Path) -> bool:
    return bool(folders_in(folder)) and not images_in(folder, deep=False)


def folders_in(root: Path) -> list[str]:
    """The names of the folders in a folder, without hidden ones."""
    with os.scandir(root) as entries:
        return sorted(one.name for one in entries if one.is_dir() and one.name[0] != ".")


def images_in(folder: Path, *, deep: bool) -> list[Path]:
    """The images in a folder, or also in those below it, in order."""
    return sorted(
        file
        for file in (folder.rglob("*") if deep else folder.iterdir())
        if file.suffix.lower() in IMAGE_SUFFIXES
        and not file.name.startswith(".")
        and file.is_file()
    )
