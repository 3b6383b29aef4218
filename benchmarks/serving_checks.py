"""What a run against our server must keep: every answer once, its own, and of one policy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from load_records import LOST, Array, Records
from load_requests import DIGITS, Requests, tensor_requests

MODEL = "cascade"
INFER = f"/v2/models/{MODEL}/infer"
TOLERANCE = 1e-3
"""Confidences differ by rounding where batches differ."""


@dataclass(frozen=True, eq=False)
class Expected:
    """What a policy answers: (N,) exits, classes and confidences."""

    exit: Array
    prediction: Array
    confidence: Array


@dataclass(frozen=True)
class Told:
    """An answer of the server."""

    id: str
    request_id: str
    operating_point: str
    prediction: int
    confidence: float
    exit: str


def requests_of(images: Array) -> Requests:
    """One image per request as a binary tensor; the answer as JSON."""
    return tensor_requests(INFER, images, outputs=("prediction", "confidence", "exit"))


def told(body: bytes) -> Told:
    document = json.loads(body)
    parameters = document["parameters"]
    values = {output["name"]: output["data"][0] for output in document["outputs"]}
    return Told(document["id"], parameters["request_id"], parameters["operating_point"], **values)


def answered(records: Records) -> dict[int, Told]:
    """The answers by row."""
    return {int(row): told(records.bodies[row]) for row in records.rows(status=200)}


@dataclass(frozen=True)
class Tally:
    """How the requests of a run ended.

    Attributes:
        statuses: requests by HTTP status; 0 where no answer came.
        strange: answers with the id of another request.
        repeated: ids of the server that several answers have.
        unasked: answers that came where none was waited for.
    """

    statuses: dict[int, int]
    strange: int
    repeated: int
    unasked: int

    @property
    def lost(self) -> int:
        return self.statuses.get(LOST, 0)

    @property
    def twice(self) -> int:
        return self.strange + self.repeated + self.unasked


def tally(runs: Sequence[Records]) -> Tally:
    """The ends of all requests of some runs."""
    statuses: Counter[int] = Counter()
    names: Counter[str] = Counter()
    strange = unasked = 0
    for records in runs:
        statuses.update(records.status.tolist())
        unasked += records.unasked
        for row, one in answered(records).items():
            strange += one.id != f"{records.number[row]:0{DIGITS}d}"
            names[one.request_id] += 1
    repeated = sum(count - 1 for count in names.values())
    return Tally(dict(sorted(statuses.items())), strange, repeated, unasked)


def inconsistent(records: Records, expected: dict[str, Expected]) -> list[int]:
    """The rows whose exit, class or confidence is not that of the policy that the answer names."""
    wrong = []
    for row, one in answered(records).items():
        image = records.image[row]
        policy = expected[one.operating_point]
        confidence = policy.confidence[image]
        right = (one.exit, one.prediction) == (policy.exit[image], policy.prediction[image])
        near = abs(one.confidence - confidence) <= TOLERANCE * max(1.0, abs(confidence))
        if not (right and (near or np.isnan(confidence))):
            wrong.append(row)
    return wrong


def misplaced(records: Records, switches: Sequence[tuple[float, float, str]]) -> int:
    """Answers by another policy than the one that was set while their request was sent.

    Args:
        records: of the run.
        switches: when each change was asked for, when it was confirmed, and to what.
    """
    asked = np.array([one for one, _, _ in switches])
    done = np.array([one for _, one, _ in switches])
    wrong = 0
    for row, one in answered(records).items():
        last = int(np.searchsorted(done, records.sent[row])) - 1
        received = records.received[row]
        if last >= 0 and (last + 1 == len(asked) or received < asked[last + 1]):
            wrong += one.operating_point != switches[last][2]
    return wrong
