"""From a cascade on disk and a data set to answers on disk."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from understudy.errors import DataError, ModelError, UnderstudyError, listed, unknown
from understudy.json_codec import Stored, stored
from understudy.nn.cascade import Cascade
from understudy.nn.preprocess import Resizing
from understudy.nn.stage import Images, resizings_of, usable_device
from understudy.onnx.bundle import is_onnx_bundle
from understudy.onnx.cascade import OnnxCascade, load_onnx
from understudy.runtime.executor import Executor
from understudy.runtime.protocol import FAILED, Answers, Runnable
from understudy.store import save_answers
from understudy.zoo.data import DataSet, Progress, batches
from understudy.zoo.saved_cascades import load_cascade, provenance_of

PROVIDERS = {"cpu": ("CPUExecutionProvider",), "cuda": ("CUDAExecutionProvider",)}
"""Device, as torch names it -> execution providers of ONNX Runtime."""


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


def load_runnable(
    folder: Path, device: str | None = None, *, allow_code: Collection[str] = ()
) -> Cascade | OnnxCascade:
    """Load what `build` or `export` wrote, ready to run.

    Args:
        folder: what was written.
        device: where to compute, as torch names it; by default an NVIDIA GPU if there is one, else
            the CPU. An exported cascade runs on `cpu`, its default, or `cuda`.
        allow_code: the modules that specs of the folder may import; an exported cascade has none.

    Raises:
        ModelError: the folder is neither, there is no such device, or a spec names a module that
            was not allowed.
        MissingExtra: it was exported, and ONNX Runtime is not installed.
    """
    if not is_onnx_bundle(folder):
        return load_cascade(folder, allow_code=allow_code).to(usable_device(device))
    if device not in (None, *PROVIDERS):
        raise ModelError(unknown("device", str(device), PROVIDERS, where="an exported cascade"))
    return load_onnx(folder, providers=PROVIDERS[device or "cpu"])


def device_warnings(folder: Path, cascade: Runnable) -> list[str]:
    """A warning if a cascade was scored and certified on another kind of device than it runs on.

    Devices round differently, so a certificate holds for the kind of device it was made on.
    """
    if not isinstance(cascade, Cascade):
        return []
    provenance = provenance_of(folder).get("table", {}).get("provenance", {})
    scored = {run["device"] for run in provenance.get("runs", ())}
    here = cascade.runners[0].stage.device.type
    others = sorted(device for device in scored if device.partition(":")[0] != here)
    if not others:
        return []
    return [
        f"this cascade was scored and certified on {listed(others)} and runs on {here}, which "
        f"rounds differently: score it with --device {here} to certify what runs"
    ]


def run_cascade(
    cascade: Runnable, data: DataSet, out: Path, *, batch: int, workers: int, on_progress: Progress
) -> RunSummary:
    """Answer a data set and write the answers, one row per image that got one.

    Where that ends early, the answers so far are written next to `out`, as "NAME.partial.SUFFIX".

    Raises:
        DataError: no image that can be decoded and answered, class names or labels that are not
            the models'.
        UnderstudyError: `out` cannot be written.
    """
    positions: list[np.ndarray] = []
    corrupt: list[str] = []
    answers: list[Answers] = []

    def images() -> Iterator[Images]:
        checked = False
        for block in batches(data, size=batch, workers=workers, resizings=resizings_in(cascade)):
            corrupt.extend(block.corrupt)
            if len(block):
                checked = checked or check_data(data, cascade, block.images)
                positions.append(block.positions)
                yield block.images

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
        raise DataError(f"no image of {data.spec!r} can be decoded: {listed(corrupt, 1)}")
    kept, rows, failed = _join(answers, np.concatenate(positions), data)
    if not len(kept):
        raise DataError(f"no image of {data.spec!r} was answered: {listed(failed.values(), 1)}")
    _save(kept, rows, data, out)
    label = None if data.labels is None else data.labels[rows]
    shares = np.bincount(kept.exit, minlength=len(cascade.exits)) / len(kept)
    return RunSummary(
        out=out,
        samples=len(kept),
        corrupt=tuple(corrupt),
        failed=failed,
        seconds=seconds,
        shares={name: float(shares[cascade.exits.index(name)]) for name in cascade.policy.exits},
        accuracy=None if label is None else float((kept.prediction == label).mean()),
    )


def check_place(out: Path) -> None:
    """Refuse a place where answers cannot be written, before there are any.

    Raises:
        UnderstudyError: a folder is there, or no file can be made.
    """
    if out.is_dir():
        raise UnderstudyError(
            f"answers are written to a file, {str(out)!r} is a folder and cannot be written: name "
            "a file in it"
        )
    try:
        if not out.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=out.parent):
                pass
    except OSError as error:
        raise UnderstudyError(
            f"{str(out)!r} cannot be written ({error.strerror}): choose another place"
        ) from error


def _keep(
    answers: Sequence[Answers], positions: Sequence[np.ndarray], data: DataSet, out: Path
) -> str | None:
    """Write the answers of a run that ended early next to `out`; where, or None without any."""
    if not answers or (out.exists() and not out.is_file()):
        return None
    place = out.with_name(f"{out.stem}.partial{out.suffix}")
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
    if data.classes is not None:
        columns["class"] = [data.classes[number] for number in kept.prediction.tolist()]
    if data.labels is not None:
        columns["label"] = data.labels[rows]
    save_answers(out, columns)


def resizings_in(cascade: Runnable) -> frozenset[Resizing | None]:
    """How the stages of a policy resize images; an exported cascade takes them as they are."""
    if not isinstance(cascade, Cascade):
        return frozenset({None})
    return resizings_of(runner.stage for runner in cascade.runners)


def check_data(data: DataSet, cascade: Runnable, images: Images) -> bool:
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
        data.check_classes(classes)
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
    joined = Answers(prediction[kept], confidence[kept], exit[kept], answers[0].exits)
    return joined, positions[kept], failed
