"""From a cascade on disk and a data set to answers on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.answer_files import check_format, save_answers
from understudy.errors import DataError, ModelError, UnderstudyError, listed
from understudy.files import behind_links, is_stream, make_folder, unwritable, writing
from understudy.json_codec import Stored, stored
from understudy.label_sets import is_right
from understudy.onnx.bundle import is_onnx_bundle
from understudy.onnx.cascade import OnnxCascade
from understudy.progress_bars import Advance
from understudy.runtime.executor import Executor
from understudy.runtime.protocol import FAILED, Answers, Runnable, class_names_of
from understudy.table_validation import NO_LABEL
from understudy.zoo.batches import Batch, array_batches, batches
from understudy.zoo.data import DataSet

if TYPE_CHECKING:
    from understudy.nn.cascade import Cascade

ROUNDING = ("torch", "torchvision", "timm", "pillow")
"""Libraries whose versions may change the last bits of a score, or of a decoded image."""


@dataclass(frozen=True)
class RunSummary(
    Stored, keys=("out", "samples", "corrupt", "failed", "seconds", "rate", "shares", "accuracy")
):
    """What a cascade answered on a data set.

    Attributes:
        out: the file of answers.
        samples: how many images have an answer.
        corrupt: why some images could not be decoded.
        failed: image -> why no stage could process it.
        seconds: wall time.
        shares: exit -> the share of images that it answered.
        accuracy: on the images that have an answer, if the data have labels.
    """

    out: Path = field(metadata=stored(pack=str))
    samples: int
    corrupt: tuple[str, ...] = field(metadata=stored(pack=len))
    failed: Mapping[str, str] = field(metadata=stored(pack=len))
    seconds: float
    shares: Mapping[str, float]
    accuracy: float | None

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.samples / self.seconds


def setting_warnings(folder: Path, cascade: Cascade | OnnxCascade) -> list[str]:
    """Warnings if a cascade was scored and certified on another kind of device than it runs on, or
    with other versions of libraries.

    They round differently, so a certificate holds for what it was made with.
    """
    if isinstance(cascade, OnnxCascade):
        return []
    from understudy.zoo.saved_cascades import provenance_of

    table = provenance_of(folder).get("table", {})
    scored = {run["device"] for run in runs_of(table) if "device" in run}
    here = cascade.runners[0].stage.device.type
    others = sorted(device for device in scored if device.partition(":")[0] != here)
    if not others:
        return library_warnings(table)
    return [
        f"this cascade was scored and certified on {listed(others)} and runs on {here}, which "
        f"rounds differently: score it with --device {here} to certify what runs",
        *library_warnings(table),
    ]


def decoding_warnings(folder: Path, data: DataSet) -> list[str]:
    """A warning if the images that a cascade was scored on were decoded otherwise than these."""
    if is_onnx_bundle(folder) or data.encoded is None:
        return []
    from understudy.zoo.saved_cascades import provenance_of

    provenance = provenance_of(folder).get("table", {}).get("provenance", {})
    scored = provenance.get("decoding")
    if scored is None or scored == data.encoded.decoding:
        return []
    return [
        f"the images that this cascade was scored and certified on were decoded by {scored}, these "
        f"are by {data.encoded.decoding}: give the data with "
        f"?orientation={scored.get('orientation')}"
    ]


def library_warnings(table: Mapping[str, Any]) -> list[str]:
    """A warning if models were scored with other versions of libraries than those installed.

    Args:
        table: what a result or a cascade records of its score table.

    >>> library_warnings({"provenance": {"runs": [{"libraries": {"torch": "1.0.1"}}]}})
    ['the models were scored with torch 1.0.1 ...: score them again to certify what runs']
    """
    from understudy.library_versions import installed_version

    differing: dict[str, str] = {}
    for run in runs_of(table):
        for name in ROUNDING:
            then, now = run.get("libraries", {}).get(name), installed_version(name)
            if then is not None and now is not None and _series(then) != _series(now):
                differing[name] = f"{name} {then} (here {now})"
    if not differing:
        return []
    return [
        f"the models were scored with {listed(differing.values())}, which may round or decode "
        "differently: score them again to certify what runs"
    ]


def runs_of(table: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The runs in which the exits of a table were scored: device, batch and libraries."""
    runs: Sequence[Mapping[str, Any]] = table.get("provenance", {}).get("runs", ())
    return runs


def _series(version: str) -> list[str]:
    """Major and minor number: later ones mend faults."""
    return version.split("+", maxsplit=1)[0].split(".")[:2]


def run_cascade(
    cascade: Runnable,
    data: DataSet,
    out: Path,
    *,
    batch: int,
    workers: int | None,
    on_progress: Advance,
) -> RunSummary:
    """Answer a data set and write the answers, one row per image that got one.

    Where that ends early, the answers so far are written next to `out`, as "NAME.partial.SUFFIX".

    Raises:
        DataError: no image that can be decoded and answered, class names or labels that are not
            the models'.
        MissingExtra: `out` is Parquet, and Polars is not installed.
        UnderstudyError: `out` cannot be written.
    """
    positions: list[np.ndarray] = []
    corrupt: list[str] = []
    answers: list[Answers] = []

    def images() -> Iterator[Any]:
        checked = False
        for block in batches_for(cascade, data, size=batch, workers=workers):
            corrupt.extend(block.corrupt)
            if len(block):
                checked = checked or check_data(data, cascade, block.images)
                positions.append(block.positions)
                yield block.images

    check_format(out)
    check_place(out)
    start, done = time.perf_counter(), 0
    try:
        for answered in Executor(cascade, max_batch=batch).map(images()):
            answers.append(answered)
            done += len(answered)
            on_progress("run", done, len(data))
    except BaseException as error:
        kept_in = _keep(answers, positions, data, out)
        if kept_in is None or not isinstance(error, UnderstudyError):
            raise
        raise DataError(f"{error}; the {done:,} answers before are in {kept_in!r}") from error
    seconds = time.perf_counter() - start
    if not answers:
        raise DataError(_none(data, "can be decoded", corrupt))
    kept, rows, failed = _join(answers, np.concatenate(positions), data)
    if not len(kept):
        raise DataError(_none(data, "was answered", list(failed.values())))
    _save(kept, rows, data, out)
    right = data.right_answers
    shares = np.bincount(kept.exit, minlength=len(cascade.exits)) / len(kept)
    return RunSummary(
        out=out,
        samples=len(kept),
        corrupt=tuple(corrupt),
        failed=failed,
        seconds=seconds,
        shares={name: float(shares[cascade.exits.index(name)]) for name in cascade.policy.exits},
        accuracy=None if right is None else float(is_right(kept.prediction, right[rows]).mean()),
    )


def _none(data: DataSet, done: str, causes: Sequence[str]) -> str:
    """The message where no image of a data set is of use; it has the first one's cause."""
    return f"no image of {data.spec!r} {done} ({len(causes):,} tried): {listed(causes[:1])}"


def batches_for(
    cascade: Runnable, data: DataSet, *, size: int, workers: int | None = None
) -> Iterator[Batch]:
    """The images of a data set as a cascade takes them: in the sizes of its stages as tensors, or
    as they are as arrays for an exported cascade."""
    if isinstance(cascade, OnnxCascade):
        return array_batches(data, size=size, workers=workers)
    from understudy.nn.cascade import Cascade
    from understudy.nn.stage import resizings_of

    if not isinstance(cascade, Cascade):
        return batches(data, size=size, workers=workers, resizings={None})
    resizings = resizings_of(runner.stage for runner in cascade.runners)
    return batches(data, size=size, workers=workers, resizings=resizings)


def check_place(out: Path) -> None:
    """Refuse a place where answers cannot be written, before there are any.

    Raises:
        UnderstudyError: a folder is there, or no file can be made.
    """
    if is_stream(out):
        return
    with writing(out):
        target = behind_links(out)
        if target.is_dir():
            raise unwritable(out, "a folder is there")
        make_folder(target.parent)
        with TemporaryFile(dir=target.parent):
            pass


def _keep(
    answers: Sequence[Answers], positions: Sequence[np.ndarray], data: DataSet, out: Path
) -> str | None:
    """Write the answers of a run that ended early next to `out`; where, or None without any."""
    if not answers or is_stream(out):
        return None
    place = behind_links(out).with_name(f"{out.stem}.partial{out.suffix}")
    kept, rows, _ = _join(answers, np.concatenate(positions[: len(answers)]), data)
    _save(kept, rows, data, place)
    return str(place)


def _save(kept: Answers, rows: np.ndarray, data: DataSet, out: Path) -> None:
    """Write answers to the images at these positions."""
    columns: dict[str, Any] = {
        "id": data.ids[rows].tolist(),
        "prediction": kept.prediction,
        "confidence": kept.confidence,
        "exit": kept.exit_names(),
    }
    named = kept if kept.classes is not None else replace(kept, classes=data.classes)
    if named.classes is not None:
        columns["class"] = named.class_names()
    if data.label_sets is not None:
        several = data.label_sets[rows].tolist()
        columns["label"] = [[one for one in answers if one != NO_LABEL] for answers in several]
    elif data.labels is not None:
        columns["label"] = data.labels[rows]
    save_answers(out, columns)


def check_data(data: DataSet, cascade: Runnable, images: Any) -> bool:
    """Check the classes of a data set against the models', on the first image that can be run.

    False where no image can.

    Raises:
        DataError: class names or labels that are not the models'.
    """
    for row in range(len(images)):
        try:
            classes = cascade.runners[0].run(images[row : row + 1], {}).classes
        except ModelError:
            raise
        except Exception:  # noqa: BLE001
            continue  # the executor reports what is wrong with it
        data.check_classes(classes, names=class_names_of(cascade))
        return True
    return False


def _join(
    answers: Sequence[Answers], positions: np.ndarray, data: DataSet
) -> tuple[Answers, np.ndarray, dict[str, str]]:
    """Answers of all batches without failed rows, their positions, image -> cause of failure."""
    prediction, confidence, exit = (
        np.concatenate([getattr(one, name) for one in answers])
        for name in ("prediction", "confidence", "exit")
    )
    starts = np.cumsum([0, *map(len, answers)]).tolist()
    failed = {
        str(data.ids[positions[start + row]]): cause
        for start, one in zip(starts, answers, strict=False)
        for row, cause in one.failed.items()
    }
    kept = exit != FAILED
    first = answers[0]
    joined = Answers(
        prediction[kept], confidence[kept], exit[kept], first.exits, classes=first.classes
    )
    return joined, positions[kept], failed
