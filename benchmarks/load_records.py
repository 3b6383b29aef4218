"""What a client of a server has sent, and what came back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LOST = 0
"""The status of a request without an answer."""


@dataclass(frozen=True, eq=False)
class Records:
    """What was sent and what came back, a row per request.

    Attributes:
        number: the id that was sent.
        image: which of the requests' images.
        phase: the phase in which it was sent.
        sent, received: seconds of the machine's monotonic clock; NaN where nothing came back.
        status: the HTTP status; 0 where nothing came back.
        bodies: what came back.
        unasked: answers that came where none was waited for.
        cpu: processor seconds of the client.
    """

    number: Array
    image: Array
    phase: Array
    sent: Array
    received: Array
    status: Array
    bodies: tuple[bytes, ...]
    unasked: int
    cpu: float

    def save(self, file: Path) -> None:
        joined = np.frombuffer(b"".join(self.bodies), np.uint8)
        rows = {n: getattr(self, n) for n in ("number", "image", "phase", "sent", "received")}
        np.savez(
            file,
            **rows,
            status=self.status,
            joined=joined,
            lengths=np.array([len(body) for body in self.bodies], np.int64),
            more=np.array([self.unasked, self.cpu]),
        )

    @classmethod
    def load(cls, file: Path) -> Records:
        with np.load(file) as kept:
            told = {name: kept[name] for name in kept.files}
        joined = told.pop("joined").tobytes()
        ends = np.cumsum(told.pop("lengths")).tolist()
        unasked, cpu = told.pop("more").tolist()
        bodies = tuple(joined[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True))
        return cls(**told, bodies=bodies, unasked=int(unasked), cpu=cpu)

    @property
    def latency(self) -> Array:
        """Seconds, (N,)."""
        return self.received - self.sent

    def rows(self, *, phase: int | None = None, status: int | None = None) -> Array:
        """The rows of a phase with a status."""
        right = np.ones(len(self.number), bool)
        if phase is not None:
            right &= self.phase == phase
        if status is not None:
            right &= self.status == status
        return np.flatnonzero(right)

    def rate(self, seconds: float, *, phase: int = 0, warm: float = 0.5) -> float:
        """Answers per second of a phase of so many seconds, but for the first `warm` of them."""
        begin = self.sent[self.rows(phase=phase)].min()
        came = self.received[self.status == 200] - begin
        return float(((came >= warm) & (came < seconds)).sum() / (seconds - warm))

    def quantiles(self, rows: Array) -> dict[str, float]:
        """Latencies in milliseconds."""
        if not len(rows):
            return {}
        values = np.quantile(self.latency[rows], [0.5, 0.95, 0.99, 1.0]) * 1e3
        return dict(zip(("p50", "p95", "p99", "max"), np.round(values, 2).tolist(), strict=True))
