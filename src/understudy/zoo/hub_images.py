"""Data sets of Hugging Face's `datasets`: of the hub, or saved in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from understudy.errors import DataError, brief, listed, unknown
from understudy.extras import needing
from understudy.zoo.hub_access import offline_if_unreachable
from understudy.zoo.image_source import KEYS, Array, ImageSource, named_classes
from understudy.zoo.spec import Spec, existing

SAVED = ("state.json", "dataset_dict.json")
"""What `save_to_disk` writes."""

_LABELS = ("label", "labels")


def open_hub(spec: Spec) -> ImageSource:
    """The images of the data set that an ``hf:`` spec names.

    The image column is found by its type, and so are the labels; class names are kept. No code of
    a data set is run: `datasets` 4 and later have no such thing.

    Raises:
        DataError: no such data set or split, one that cannot be reached, or no column of images.
        MissingExtra: `datasets` is not installed.
    """
    with needing("`hf:` data"):
        import datasets
    table = _one_split(_loaded(datasets, spec), spec)
    image = _column(table.features, spec, "image", datasets.Image)
    if image is None:
        raise DataError(
            f"data sets have a column of images, {spec.text!r} has {listed(table.features, 12)}: "
            "name one that holds encoded images, ?image=COLUMN"
        )
    label = _column(table.features, spec, "label", datasets.ClassLabel) or next(
        (name for name in _LABELS if name in table.features), None
    )
    key = spec.options.get("key", next((name for name in KEYS if name in table.features), None))
    group = spec.options.get("group")
    for name in (key, group):
        _check_column(name, table.features, spec)
    labels, classes = (None, None) if label is None else _labels(table, label, spec)
    encoded = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    return ImageSource(
        ids=np.array(list(map(str, table[key] if key else range(len(table)))), object),
        labels=labels,
        classes=classes,
        groups=None if group is None else tuple(map(str, table[group])),
        content=_sizes(encoded, image),
        read=lambda index: _encoded(encoded[index][image]),
    )


def _loaded(datasets: Any, spec: Spec) -> Any:
    """The data set, or its splits by name."""
    place = existing(spec.target)
    try:
        if place is not None and any((place / name).is_file() for name in SAVED):
            return datasets.load_from_disk(str(place))
        config = spec.options.get("config")
        if place is not None:
            return datasets.load_dataset(str(place), name=config)
        with offline_if_unreachable():
            revision = spec.options.get("revision")
            return datasets.load_dataset(spec.target, name=config, revision=revision)
    except KeyboardInterrupt:
        raise
    except Exception as error:
        way = (
            "check the name; without a connection give a folder that `save_to_disk` wrote, hf:DIR, "
            "or parquet:DIR"
            if place is None
            else "give what `save_to_disk` wrote, or a folder of images as `imagefolder` takes it"
        )
        raise DataError(
            f"hf: loads a data set of Hugging Face, {spec.target!r} cannot be loaded "
            f"({brief(error)}): {way}"
        ) from error


def _one_split(found: Any, spec: Spec) -> Any:
    """The split that the spec names, or the only one."""
    wanted = spec.options.get("split")
    if not isinstance(found, Mapping):
        if wanted is not None and str(found.split) != wanted:
            raise DataError(unknown("split", wanted, [str(found.split)], where=repr(spec.text)))
        return found
    if wanted is None and len(found) == 1:
        return next(iter(found.values()))
    if wanted is None:
        raise DataError(
            f"data are one split, {spec.text!r} has {listed(found, 12)}: name one, "
            f"?split={next(iter(found))}"
        )
    if wanted not in found:
        raise DataError(unknown("split", wanted, found, where=repr(spec.text)))
    return found[wanted]


def _column(features: Mapping[str, Any], spec: Spec, option: str, kind: type) -> str | None:
    """The column that an option names, or the only one of a type; None where there is none."""
    wanted = spec.options.get(option)
    if wanted is not None:
        _check_column(wanted, features, spec)
        return wanted
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if len(found) > 1:
        raise DataError(
            f"data have one column of the type {kind.__name__}, {spec.text!r} has "
            f"{listed(found, 12)}: name one, ?{option}={found[0]}"
        )
    return found[0] if found else None


def _check_column(name: str | None, features: Mapping[str, Any], spec: Spec) -> None:
    if name is not None and name not in features:
        raise DataError(unknown("column", name, features, where=repr(spec.text)))


def _labels(table: Any, column: str, spec: Spec) -> tuple[Array | None, tuple[str, ...] | None]:
    """Class numbers, and the names of the classes where they are known; no numbers where all are
    -1, as the hub has them in test sets without labels."""
    values = list(table[column])
    names = getattr(table.features[column], "names", None)
    known = None if names is None else tuple(names)
    if all(type(one) is int for one in values):
        missing = sum(one < 0 for one in values)
        if missing == len(values):
            return None, known
        if missing:
            raise DataError(
                f"every image has a label, {missing} in column {column!r} of {spec.text!r} are "
                "below 0: leave those rows out"
            )
        if known is None or "classes" not in spec.options:
            return np.array(values, np.int64), known
        values = [known[one] for one in values]
    if not all(isinstance(one, str) for one in values):
        raise DataError(
            f"labels are class numbers or names, column {column!r} of {spec.text!r} holds "
            f"{table.features[column]}: name another, ?label=COLUMN"
        )
    found = sorted(set(values)) if known is None else list(known)
    classes, numbers = named_classes(found, spec, what=f"labels of column {column!r}")
    return np.array([numbers[one] for one in values], np.int64), classes


def _sizes(encoded: Any, image: str) -> Array:
    """The sizes of the images in bytes, without reading them; -1 for an empty cell."""
    import pyarrow.compute as arrow

    cells = encoded.with_format("arrow")[:].column(image)
    sizes = arrow.binary_length(arrow.struct_field(cells, "bytes")).fill_null(-1).to_numpy().copy()
    paths = arrow.struct_field(cells, "path")
    for row in np.flatnonzero(sizes < 0).tolist():
        path = paths[row].as_py()
        file = None if path is None else existing(path)
        sizes[row] = -1 if file is None else file.stat().st_size
    return np.asarray(sizes, np.int64)


def _encoded(cell: Any) -> bytes:
    """The encoded image of a cell: its bytes, or the file that it names."""
    if cell is not None and cell.get("bytes") is not None:
        return bytes(cell["bytes"])
    path = None if cell is None else cell.get("path")
    file = None if path is None else existing(path)
    if file is None or not file.is_file():
        raise ValueError("the cell is empty" if path is None else f"its file {path!r} is not there")
    return file.read_bytes()
