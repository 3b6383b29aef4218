"""From a result to a cascade on disk, and from a cascade to answers on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from understudy.deferral import scores_of
from understudy.ensemble import Ensemble, ensemble_of
from understudy.errors import (
    DataError,
    ModelError,
    TableError,
    listed,
    unknown,
)
from understudy.nn.cascade import Cascade
from understudy.nn.device import Images, usable_device
from understudy.nn.serialization import provenance_of, save_cascade
from understudy.nn.stage import Stage
from understudy.onnx.bundle import is_onnx_bundle
from understudy.onnx.cascade import OnnxCascade, load_onnx
from understudy.operating_point import operating_points_of
from understudy.result import Choice, Result
from understudy.runtime.answers import FAILED, Answers
from understudy.runtime.executor import Executor
from understudy.runtime.protocol import Runnable
from understudy.store import save_answers
from understudy.zoo.cascades import load_cascade
from understudy.zoo.data import DataSet, Progress, batches
from understudy.zoo.models import load_stages

PROVIDERS = {"cpu": ("CPUExecutionProvider",), "cuda": ("CUDAExecutionProvider",)}
"""Devices by the names of PyTorch -> what ONNX Runtime has for them."""


def load_runnable(folder: Path, device: str | None = None) -> Cascade | OnnxCascade:
    """What `build` or `export` wrote, ready to run.

    Args:
        folder: what was written.
        device: where to compute, as torch names it; by default an NVIDIA GPU if there is one, else
            the CPU. An exported cascade runs on `cpu`, its default, or `cuda`.

    Raises:
        ModelError: the folder is neither, or there is no such device.
        MissingExtra: it was exported, and ONNX Runtime is not installed.
    """
    if not is_onnx_bundle(folder):
        return load_cascade(folder).to(usable_device(device))
    if device not in (None, *PROVIDERS):
        raise ModelError(unknown("device", str(device), PROVIDERS, where="an exported cascade"))
    return load_onnx(folder, providers=PROVIDERS[device or "cpu"])


def scored_elsewhere(folder: Path, cascade: Runnable) -> list[str]:
    """A remark where a cascade was scored and certified on another kind of device than it runs on.

    Devices round differently, so a certificate is about the one it was made on.
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


def build_cascade(
    result: Result, into: Path, *, max_drop: float | None, specs: Mapping[str, str]
) -> tuple[Cascade, Choice]:
    """Load the models of the plans, check that they are those that were scored, and save them.

    Args:
        result: what a search found.
        into: the folder of the cascade.
        max_drop: the one budget whose plan is built; by default the plans of all budgets, between
            which the cascade can be dialled, set to the first.
        specs: exit name -> model spec, for exits that the table knows by name only.

    Raises:
        PolicyError: no choice for that budget.
        TableError: a spec for an exit that the result does not have.
        ModelError: a model that is missing, or other weights than those that were scored.
        UnderstudyError: the folder cannot be written.
    """
    choice = result.choice(max_drop)
    origins = {single.name: single.origin for single in result.singles}
    strangers = [name for name in specs if name not in origins]
    if strangers:
        raise TableError(unknown("exit", strangers[0], origins, where="this result"))
    plans = (choice,) if max_drop is not None else result.choices
    exits = dict.fromkeys(chain.from_iterable(plan.policy.exits for plan in (choice, *plans)))
    recipes = {name: found for name in exits if (found := ensemble_of(origins[name])) is not None}
    members = (recipes[name].exits if name in recipes else (name,) for name in exits)
    stages: dict[str, nn.Module | Ensemble] = _load_all(
        {
            name: {**origins[name], **({"spec": specs[name]} if name in specs else {})}
            for name in dict.fromkeys(chain.from_iterable(members))
        }
    )
    stages |= recipes
    learned = scores_of(result.table.get("provenance", {}))
    cascade = Cascade(
        stages,
        choice.policy,
        operating_points=[
            s for s in operating_points_of(result) if set(s.policy.exits) <= set(stages)
        ],
        scores={name: score for name, score in learned.items() if name in stages},
    )
    proof = None if choice.certificate is None else choice.certificate.to_dict()
    save_cascade(cascade, into, provenance={"certificate": proof, "table": dict(result.table)})
    return cascade, choice


@dataclass(frozen=True)
class Run:
    """What happened when a cascade answered a data set; `shares` says who answered how much.

    `samples` have an answer; `corrupt` could not be decoded, and of `failed` (image -> cause) no
    stage could make anything.
    """

    out: Path
    samples: int
    corrupt: tuple[str, ...]
    failed: Mapping[str, str]
    seconds: float
    shares: Mapping[str, float]
    accuracy: float | None

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.samples / self.seconds

    def to_dict(self) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "samples": self.samples,
            "corrupt": len(self.corrupt),
            "failed": len(self.failed),
            "seconds": self.seconds,
            "rate": self.rate,
            "shares": dict(self.shares),
            "accuracy": self.accuracy,
        }


def run_cascade(
    cascade: Runnable, data: DataSet, out: Path, *, batch: int, workers: int, on_progress: Progress
) -> Run:
    """Answer a data set and write the answers, one row per image that got one.

    Raises:
        DataError: no image that can be decoded and answered, class names or labels that are not
            the models'.
        UnderstudyError: `out` cannot be written.
    """
    feed = _Feed(data, batch=batch, workers=workers)
    answers: list[Answers] = []
    start, done = time.perf_counter(), 0
    for answered in Executor(cascade, max_batch=batch).map(feed.checked(cascade)):
        answers.append(answered)
        done += len(answered)
        on_progress("run", done, len(data))
    seconds = time.perf_counter() - start
    if not answers:
        raise DataError(f"no image of {data.spec!r} can be decoded: {listed(feed.corrupt, 1)}")
    said, positions, failed = _with_answers(answers, np.concatenate(feed.positions), data)
    if not len(said):
        raise DataError(f"no image of {data.spec!r} was answered: {listed(failed.values(), 1)}")
    label = None if data.labels is None else data.labels[positions]
    columns: dict[str, Any] = {
        "id": data.ids[positions].tolist(),
        "prediction": said.prediction,
        "confidence": said.confidence,
        "exit": said.exit_names(),
    }
    if data.classes is not None:
        columns["class"] = [data.classes[number] for number in said.prediction.tolist()]
    if label is not None:
        columns["label"] = label
    save_answers(out, columns)
    shares = np.bincount(said.exit, minlength=len(cascade.exits)) / len(said)
    return Run(
        out=out,
        samples=len(said),
        corrupt=tuple(feed.corrupt),
        failed=failed,
        seconds=seconds,
        shares={name: float(shares[cascade.exits.index(name)]) for name in cascade.policy.exits},
        accuracy=None if label is None else float((said.prediction == label).mean()),
    )


def _with_answers(
    answers: Sequence[Answers], positions: np.ndarray, data: DataSet
) -> tuple[Answers, np.ndarray, dict[str, str]]:
    """The rows that were answered as one, their positions, and why others were not, by image."""
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
    said = Answers(prediction[kept], confidence[kept], exit[kept], answers[0].exits)
    return said, positions[kept], failed


@dataclass
class _Feed:
    """Images for a cascade, with a note of where they stand and of those that are corrupt."""

    data: DataSet
    batch: int
    workers: int
    positions: list[np.ndarray] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)

    def checked(self, cascade: Runnable) -> Iterator[Images]:
        """The images, when the first of them has shown that the data's classes are the models'."""
        known = False
        for block in batches(self.data, size=self.batch, workers=self.workers):
            self.corrupt.extend(block.corrupt)
            if not len(block):
                continue
            known = known or check_data(self.data, cascade, block.images)
            self.positions.append(block.positions)
            yield block.images


def check_data(data: DataSet, cascade: Runnable, images: Images) -> bool:
    """Hold the classes of a data set to the models', on the first image that these can look at.

    False where they can look at none.

    Raises:
        DataError: class names or labels that are not the models'.
    """
    for row in range(len(images)):
        try:
            classes = cascade.runners[0].run(images[row : row + 1], {}).classes
        except ModelError:
            raise
        except Exception:  # noqa: BLE001
            continue  # the executor says what is wrong with it
        data.check_classes(classes)
        return True
    return False


def _load_all(origins: Mapping[str, Mapping[str, Any]]) -> dict[str, nn.Module | Ensemble]:
    """The stages of exits; a network that one of them is in is loaded once, with all its exits."""
    stages: dict[str, nn.Module | Ensemble] = {}
    for name, origin in origins.items():
        spec = origin.get("spec")
        if spec is None:
            raise ModelError(
                f"the table knows the exit {name!r} by its predictions only: name its model with "
                f"--model {name}=SPEC, for example timm:{name}"
            )
        if name not in stages:
            stages |= load_stages(str(spec), str(origin.get("root", name)))
        if name not in stages:
            raise ModelError(
                f"{spec!r} has no exit {name!r}, which the table was scored with: restore the "
                "folder, or score it again"
            )
        _check_scored(name, stages[name], origin)
    return stages


def _check_scored(name: str, stage: nn.Module | Ensemble, origin: Mapping[str, Any]) -> None:
    scored = origin.get("weights_hash")
    if isinstance(stage, Stage) and scored is not None and stage.weights_hash != scored:
        raise ModelError(
            f"{origin['spec']!r} has other weights than the model that was scored as {name!r} "
            f"({stage.weights_hash[:12]}, not {scored[:12]}): score it again or restore the weights"
        )
