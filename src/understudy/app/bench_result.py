"""The result of a benchmark: throughput, latency and memory of a cascade and its contestants."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from understudy.documents import read_document
from understudy.errors import DataError
from understudy.json_codec import Stored, stored

LARGE, LITTLE, NAIVE = "large model alone", "first stage alone", "batch by batch"
EXECUTOR, IDEAL = "executor", "ideal"
FORMAT, VERSION = "understudy.bench", 1
REMEDY = "run the benchmark again"
_SLOWER = "The cascade does not pay in time"


@dataclass(frozen=True)
class ClientLoad(Stored):
    """Closed-loop clients: each sends its next image when the last one is answered.

    Attributes:
        clients: the number of clients.
        requests: images per round.
        seconds: per round, for all requests.
        ms: the latencies p50, p95 and p99 of the median round.
    """

    clients: int
    requests: int
    seconds: tuple[float, ...]
    ms: Mapping[str, float]

    @property
    def rate(self) -> float:
        """Images per second, by the median round."""
        return self.requests / statistics.median(self.seconds)


@dataclass(frozen=True)
class Bench(
    Stored,
    what="a benchmark",
    error=DataError,
    remedy="run the benchmark again",
    keys=("images", "batch", "large", "reached", "seconds", "online", "ideal_online"),
):
    """Seconds per round of a cascade and its contestants on the same images.

    The ideal is the time of every stage on the rows that reach it, in full batches prepared before.

    Attributes:
        images: images per round.
        batch: rows per batch of every stage.
        seconds: contestant -> seconds per round.
        reached: stage -> the number of images that reach it.
        ideal_online: the ideal seconds per round in batches of the size of the clients.
        online: contestant -> throughput and latency with clients; empty without clients.
        large: the name of the large model.
        accuracy: contestant -> accuracy on these images; empty without labels.
        memory: contestant -> peak memory in bytes of a process that runs it on the images alone;
            empty if not measured.
    """

    images: int
    batch: int
    seconds: Mapping[str, tuple[float, ...]]
    reached: Mapping[str, int]
    large: str
    online: Mapping[str, ClientLoad] = field(default_factory=dict)
    ideal_online: tuple[float, ...] = ()
    accuracy: Mapping[str, float] = field(default_factory=dict, metadata=stored(optional=True))
    memory: Mapping[str, int] = field(default_factory=dict, metadata=stored(optional=True))

    def rate(self, contestant: str) -> float:
        """Images per second: the executor's by its median round, and all others in ratio to it, so
        that rates and ratios agree."""
        executor = self.images / statistics.median(self.seconds[EXECUTOR])
        return executor * self.ratio(contestant, EXECUTOR)

    def ratio(self, one: str, other: str) -> float:
        """The throughput of a contestant over that of another.

        Each is the median over the rounds of its throughput over the executor's in the same round:
        what slows the machine for a while slows both.
        """
        return self._of_executor(one) / self._of_executor(other)

    def _of_executor(self, contestant: str) -> float:
        return statistics.median(self._ratios(contestant))

    def _ratios(self, contestant: str) -> list[float]:
        """The throughput of a contestant over the executor's, round by round."""
        return [
            executor / own
            for executor, own in zip(self.seconds[EXECUTOR], self.seconds[contestant], strict=True)
        ]

    @property
    def of_ideal(self) -> float:
        """The executor's throughput as a share of the ideal one."""
        return self.ratio(EXECUTOR, IDEAL)

    @property
    def online_of_ideal(self) -> float:
        """The same with clients, against the ideal in batches of the size of the clients."""
        return _ratio(self.ideal_online, self.online[EXECUTOR].seconds)

    @property
    def online_words(self) -> str:
        """How near the cascade comes with clients to what its stages could; none without them."""
        if not self.online or self.one_stage:
            return ""
        clients = self.online[EXECUTOR].clients
        share = (
            f"{100 * self.online_of_ideal:.0f} % of"
            if self.online_of_ideal <= 1
            else "all, within the noise, of"
        )
        return (
            f"With {clients:,} {'client' if clients == 1 else 'clients'} the cascade reaches "
            f"{share} what its stages by themselves could in batches of {clients:,}."
        )

    @property
    def speedup(self) -> float:
        """The executor's throughput against the large model's."""
        return self.ratio(EXECUTOR, LARGE)

    @property
    def verdict(self) -> str:
        """Whether the cascade pays in time, what its stages could, and what to use instead."""
        if self.one_stage:
            return (
                f"This cascade is {self.large} alone, so there is no time to be saved: build one "
                "of several stages, or select another budget."
            )
        return f"{self._outcome}{self._ideal}{self._dominated}"

    @property
    def one_stage(self) -> bool:
        """Whether the large model is the only stage."""
        return tuple(self.reached) == (self.large,)

    @property
    def _outcome(self) -> str:
        ends = sorted(1 / ratio for ratio in self._ratios(LARGE))
        if ends[0] < 1 < ends[-1]:
            return (
                f"The cascade is as fast as {self.large} alone, within the noise of these rounds "
                f"({ends[0]:.2f} × to {ends[-1]:.2f} × as many images per second)."
            )
        if self.speedup >= 1:
            return (
                f"The cascade answers {self.speedup:.2f} × as many images per second as "
                f"{self.large} alone."
            )
        return (
            f"{_SLOWER}: use {self.large} alone, which answers "
            f"{1 / self.speedup:.2f} × as many images per second."
        )

    @property
    def _ideal(self) -> str:
        """What the stages could without anything between them."""
        ideal = self.ratio(IDEAL, LARGE)
        if ideal < 1 and self._outcome.startswith(_SLOWER):
            return (
                f" No executor could change that: its stages by themselves answer {ideal:.2f} × as "
                f"many as {self.large}. Search with --unit ms@{self.batch}, so that time is what "
                "is saved."
            )
        if self.of_ideal > 1:
            return (
                f" Its stages by themselves, in full batches, were timed at {ideal:.2f} × as many "
                f"as {self.large}, fewer than the cascade: the difference is noise, and all that "
                "they could is reached."
            )
        return (
            f" Its stages by themselves, in full batches, could answer {ideal:.2f} × as many as "
            f"{self.large}: {100 * self.of_ideal:.0f} % of that is reached."
        )

    @property
    def _dominated(self) -> str:
        """A sentence where the first stage alone is as accurate and faster."""
        if (
            self.little == self.large
            or LITTLE not in self.accuracy
            or self.accuracy[LITTLE] < self.accuracy[EXECUTOR]
        ):
            return ""
        faster = self.ratio(LITTLE, EXECUTOR)
        if faster <= 1:
            return ""
        return (
            f" On these images {self.little} alone is as accurate "
            f"({100 * self.accuracy[LITTLE]:.2f} %, the cascade {100 * self.accuracy[EXECUTOR]:.2f}"
            f" %) and answers {faster:.2f} × as many: use it."
        )

    @property
    def little(self) -> str:
        """The name of the first stage."""
        return next(iter(self.reached), self.large)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: what was measured, and the figures derived from it."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "verdict": self.verdict,
            "of_ideal": self.of_ideal,
            "speedup": self.speedup,
            "images_per_second": {name: self.rate(name) for name in self.seconds},
            "accuracy": dict(self.accuracy),
            "peak_memory_bytes": dict(self.memory),
            "online_of_ideal": self.online_of_ideal if self.online else None,
            "online_images_per_second": {name: load.rate for name, load in self.online.items()},
            "measured": super().to_dict(),
        }

    @staticmethod
    def load(path: str | Path) -> Bench:
        """Read what `understudy bench --out` wrote.

        Raises:
            DataError: another file, a damaged one, or one that a newer understudy wrote.
        """
        data = read_document(
            path,
            kind=FORMAT,
            newest=VERSION,
            what="a benchmark",
            error=DataError,
            remedy=REMEDY,
        )
        rest = {"accuracy": data.get("accuracy", {}), "memory": data.get("peak_memory_bytes", {})}
        try:
            return Bench.from_dict(data["measured"] | rest)
        except (KeyError, TypeError) as error:
            raise DataError(f"{str(path)!r} is damaged ({error!r}): {REMEDY}") from error


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))
