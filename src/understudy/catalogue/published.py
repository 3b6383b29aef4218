"""Published results joined to the catalogue: the accuracies and times of timm's CSV files."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from understudy.catalogue.models import CatalogueModel
from understudy.errors import DataError, brief

_Key = tuple[str, int]  # a name and the side of the image
_ACCURACIES = ("model", "img_size", "top1")
_TIMES = ("model", "infer_img_size", "infer_samples_per_sec")
_DIFFERENCE = "top1_diff"  # to ImageNet: a column of results on other images


@dataclass(frozen=True)
class PublishedResults:
    """What result files publish of models, by name and side of the image.

    Attributes:
        top1: accuracy in percent by ``NAME.TAG``.
        ms: time of one image in milliseconds, in batches, by architecture.
        other_images: whether the accuracies are of other images than ImageNet's validation set.
    """

    top1: Mapping[_Key, float]
    ms: Mapping[_Key, float]
    other_images: bool


def read_published(files: Sequence[str | Path]) -> PublishedResults:
    """The results in CSV files as timm publishes them: at most one of accuracies, and one of times.

    Files of accuracies (results-imagenet.csv) have the columns model, img_size and top1; files of
    times (benchmark-infer-*.csv) have model, infer_img_size and infer_samples_per_sec.

    Raises:
        DataError: a file that is neither, cannot be read, or is the second of its kind.
    """
    found: dict[tuple[str, ...], dict[_Key, float]] = {}
    other_images = False
    for file in files:
        columns, rows = _read(Path(file))
        if columns in found:
            what = "accuracies" if columns == _ACCURACIES else "times"
            raise DataError(
                f"models have one accuracy and one time, {str(file)!r} is the second file of "
                f"{what}: give one of a kind"
            )
        found[columns] = {_key(row, columns, file): _figure(row, columns, file) for row in rows}
        other_images |= bool(rows) and _DIFFERENCE in rows[0]
    speeds = found.get(_TIMES, {})
    return PublishedResults(
        top1=found.get(_ACCURACIES, {}),
        ms={key: 1000 / speed for key, speed in speeds.items()},
        other_images=other_images,
    )


def join_published(
    models: Iterable[CatalogueModel], published: PublishedResults
) -> tuple[CatalogueModel, ...]:
    """Models with what is published of them at their input size; the rest stays as it is.

    Models of torchvision have the time of the architecture of timm with the same number of
    parameters and MACs. Accuracies that the catalogue has are of ImageNet's validation set, and
    left out where other images are published.
    """
    rows = tuple(models)
    times = {model.spec: _of(model, published.ms) for model in rows if model.hub == "timm"}
    same = {_definition(model): times[model.spec] for model in rows if times.get(model.spec)}
    return tuple(
        replace(
            model,
            top1=_of(model, published.top1) or (None if published.other_images else model.top1),
            ms=times.get(model.spec) or same.get(_definition(model)),
        )
        for model in rows
    )


def _of(model: CatalogueModel, results: Mapping[_Key, float]) -> float | None:
    """The result of a model of timm: of its weights, or of an architecture without weights."""
    height, width = model.input_size
    if model.hub != "timm" or height != width:
        return None
    return results.get((model.name, height)) or results.get((model.architecture, height))


def _definition(model: CatalogueModel) -> tuple[object, ...]:
    return model.parameters, model.macs, model.input_size, model.classes


def _read(file: Path) -> tuple[tuple[str, ...], list[dict[str, str]]]:
    """The columns that a file is read by, and its rows.

    Raises:
        DataError: it cannot be read, or has other columns.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = csv.DictReader(lines)
            head = tuple(rows.fieldnames or ())
            for columns in (_ACCURACIES, _TIMES):
                if set(columns) <= set(head):
                    return columns, list(rows)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"published results are a CSV file, {str(file)!r} cannot be read ({brief(error)}): "
            "check the path"
        ) from error
    raise DataError(
        f"published results have the columns {', '.join(_ACCURACIES)} or {', '.join(_TIMES)}, "
        f"{str(file)!r} has {', '.join(_shown(head)) or 'none'}: give a result file of timm"
    )


def _shown(head: Sequence[str]) -> Iterator[str]:
    yield from (name[:40] for name in head[:6])
    if len(head) > 6:
        yield "..."


def _key(row: Mapping[str, str], columns: Sequence[str], file: str | Path) -> _Key:
    name, side, _ = columns
    return row[name], int(_number(row, side, file))


def _figure(row: Mapping[str, str], columns: Sequence[str], file: str | Path) -> float:
    return _number(row, columns[2], file)


def _number(row: Mapping[str, str], column: str, file: str | Path) -> float:
    """A positive number of a row.

    Raises:
        DataError: it is none.
    """
    try:
        number = float(row[column].replace(",", ""))
    except (AttributeError, ValueError):  # a short row has None
        number = 0.0
    if not 0 < number < float("inf"):
        raise DataError(
            f"published figures are positive numbers, {str(file)!r} has {row[column]!r} as "
            f"{column} of {row['model']!r}: correct the file"
        )
    return number
