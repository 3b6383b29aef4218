"""From a result to a cascade on disk, and from a cascade to answers on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from understudy.average import Average, average_of
from understudy.deferral import scores_of
from understudy.errors import DataError, ModelError, TableError, listed, unknown
from understudy.nn import Answers, Cascade, Stage, answer_stream, save_cascade
from understudy.nn.images import Images
from understudy.result import Choice, Result
from understudy.scoring.exam import check_classes, check_labels
from understudy.scoring.job import Progress
from understudy.store import save_answers
from understudy.zoo import DataSet, batches, load_stage


def build_cascade(
    result: Result, into: Path, *, max_drop: float | None, specs: Mapping[str, str]
) -> tuple[Cascade, Choice]:
    """Load the models of a chosen plan, check that they are those that were scored, and save them.

    Args:
        result: what a search found.
        into: the folder of the cascade.
        max_drop: the budget whose plan is built; by default the first.
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
    recipes = {
        name: recipe
        for name in choice.policy.exits
        if (recipe := average_of(origins[name])) is not None
    }
    members = (recipes[n].exits if n in recipes else (n,) for n in choice.policy.exits)
    stages: dict[str, nn.Module | Average] = {
        name: _load(name, specs.get(name) or origins[name].get("spec"), origins[name])
        for name in dict.fromkeys(chain.from_iterable(members))
    }
    stages |= recipes
    learned = scores_of(result.table.get("provenance", {}))
    scores = {name: score for name, score in learned.items() if name in stages}
    frontier = [p.to_dict() for p in result.frontier if set(p.policy.exits) <= set(stages)]
    cascade = Cascade(stages, choice.policy, frontier=frontier, scores=scores)
    proof = None if choice.certificate is None else choice.certificate.to_dict()
    save_cascade(cascade, into, provenance={"certificate": proof, "table": dict(result.table)})
    return cascade, choice


@dataclass(frozen=True)
class Run:
    """What happened when a cascade answered a data set; `shares` says who answered how much."""

    out: Path
    samples: int
    corrupt: tuple[str, ...]
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
            "seconds": self.seconds,
            "rate": self.rate,
            "shares": dict(self.shares),
            "accuracy": self.accuracy,
        }


def run_cascade(
    cascade: Cascade, data: DataSet, out: Path, *, batch: int, workers: int, on_progress: Progress
) -> Run:
    """Answer a data set and write the answers, one row per image that can be decoded.

    Raises:
        DataError: no image that can be decoded, class names or labels that are not the models'.
        UnderstudyError: `out` cannot be written.
    """
    feed = _Feed(data, batch=batch, workers=workers)
    answers: list[Answers] = []
    start, done = time.perf_counter(), 0
    for answered in answer_stream(cascade, feed.checked(cascade), batch=batch):
        answers.append(answered)
        done += len(answered)
        on_progress("run", done, len(data))
    seconds = time.perf_counter() - start
    if not answers:
        raise DataError(f"no image of {data.spec!r} can be decoded: {listed(feed.corrupt, 1)}")
    positions = np.concatenate(feed.positions)
    exits = np.concatenate([one.exit.numpy() for one in answers])
    prediction = np.concatenate([one.prediction.numpy() for one in answers])
    label = None if data.labels is None else data.labels[positions]
    columns: dict[str, Any] = {
        "id": data.ids[positions].tolist(),
        "prediction": prediction,
        "confidence": np.concatenate([one.confidence.numpy() for one in answers]),
        "exit": [cascade.exits[number] for number in exits.tolist()],
    }
    if data.classes is not None:
        columns["class"] = [data.classes[number] for number in prediction.tolist()]
    if label is not None:
        columns["label"] = label
    save_answers(out, columns)
    shares = np.bincount(exits, minlength=len(cascade.exits)) / done
    return Run(
        out=out,
        samples=done,
        corrupt=tuple(feed.corrupt),
        seconds=seconds,
        shares={name: float(shares[cascade.exits.index(name)]) for name in cascade.policy.exits},
        accuracy=None if label is None else float((prediction == label).mean()),
    )


@dataclass
class _Feed:
    """Images for a cascade, with a note of where they stand and of those that are corrupt."""

    data: DataSet
    batch: int
    workers: int
    positions: list[np.ndarray] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)

    def checked(self, cascade: Cascade) -> Iterator[Images]:
        """The images, when the first of them has shown that the data's classes are the models'."""
        for block in batches(self.data, size=self.batch, workers=self.workers):
            self.corrupt.extend(block.corrupt)
            if not len(block):
                continue
            if not self.positions:
                classes = int(cascade(block.images[:1]).shape[1])
                check_classes(self.data.classes, classes, data=repr(self.data.spec))
                check_labels(self.data.labels, classes, data=repr(self.data.spec))
            self.positions.append(block.positions)
            yield block.images


def _load(name: str, spec: str | None, origin: Mapping[str, Any]) -> Stage:
    if spec is None:
        raise ModelError(
            f"the table knows the exit {name!r} by its predictions only: name its model with "
            f"--model {name}=SPEC, for example timm:{name}"
        )
    stage = load_stage(spec)
    scored = origin.get("weights_hash")
    if scored is not None and stage.weights_hash != scored:
        raise ModelError(
            f"{spec!r} has other weights than the model that was scored as {name!r} "
            f"({stage.weights_hash[:12]}, not {scored[:12]}): score it again or restore the weights"
        )
    return stage
