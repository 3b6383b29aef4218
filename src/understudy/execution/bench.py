"""How close a cascade comes to its ideal time: everything that competes, in turns, in one run."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from understudy.errors import DataError
from understudy.execution.executor import Executor
from understudy.execution.protocol import Array, Judge, Runnable, Said
from understudy.files import check_version, read_json
from understudy.policy import Policy

LARGE, LITTLE, NAIVE = "large model alone", "first stage alone", "batch by batch"
EXECUTOR, IDEAL = "executor", "ideal"
FORMAT, VERSION = "understudy.bench", 1
KEPT = 4
"""Full batches of each stage that the ideal is timed on, per round."""

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Load:
    """Clients that each send their next image when the last is answered.

    Attributes:
        clients: how many there are.
        requests: how many images a round answers.
        seconds: per round, of all requests together.
        ms: the latencies p50, p95 and p99 of the round in the middle.
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
class Bench:
    """What was measured: seconds per round for all that competed over the same images.

    The ideal is the time of every stage on the rows that reach it, in full batches that lie ready.

    Attributes:
        images: how many images a round answers.
        batch: rows per batch of every stage.
        seconds: contestant -> seconds per round.
        reached: stage -> how many of the images it was asked about.
        ideal_online: the ideal seconds per round in batches of as many as there are clients.
        online: contestant -> clients at work; empty where none was asked for.
        large: the name of the last stage.
        accuracy: contestant -> the share of these images that it gets right; empty where there are
            no labels.
        memory: contestant -> the most bytes of a process that runs it and holds nothing else but
            the images; empty where that was not measured.
    """

    images: int
    batch: int
    seconds: Mapping[str, tuple[float, ...]]
    reached: Mapping[str, int]
    large: str
    online: Mapping[str, Load] = field(default_factory=dict)
    ideal_online: tuple[float, ...] = ()
    accuracy: Mapping[str, float] = field(default_factory=dict)
    memory: Mapping[str, int] = field(default_factory=dict)

    def rate(self, contestant: str) -> float:
        """Images per second, by the median round."""
        return self.images / statistics.median(self.seconds[contestant])

    def ratio(self, one: str, other: str) -> float:
        """How many times the throughput of another a contestant has: the median over rounds."""
        return _ratio(self.seconds[other], self.seconds[one])

    @property
    def of_ideal(self) -> float:
        """The executor's throughput as a share of the ideal one."""
        return self.ratio(EXECUTOR, IDEAL)

    @property
    def online_of_ideal(self) -> float:
        """The same for the clients, against the ideal at batches of as many as there are."""
        return _ratio(self.ideal_online, self.online[EXECUTOR].seconds)

    @property
    def speedup(self) -> float:
        """The executor's throughput against the large model's."""
        return self.ratio(EXECUTOR, LARGE)

    @property
    def verdict(self) -> str:
        """Whether the cascade pays in time, and what to use where it does not."""
        if self.speedup >= 1:
            words = f"The cascade answers {self.speedup:.2f} x as many images as {self.large} alone"
        else:
            words = (
                f"The cascade does not pay in time: use {self.large} alone, which answers "
                f"{1 / self.speedup:.2f} x as many images"
            )
        words += f", {100 * self.of_ideal:.0f} % of what its stages could."
        if self.ratio(IDEAL, LARGE) < 1:
            words += (
                " No executor could change that: its stages together take longer than the large "
                f"model. Search with --unit ms@{self.batch}, so that time is what is saved."
            )
        return words + self._dominated

    @property
    def _dominated(self) -> str:
        """Whether the first stage alone is as accurate and faster, in words."""
        alone = self.little == self.large
        if alone or not self.accuracy or self.accuracy[LITTLE] < self.accuracy[EXECUTOR]:
            return ""
        faster = self.ratio(LITTLE, EXECUTOR)
        if faster <= 1:
            return ""
        return (
            f" On these images {self.little} alone is as accurate "
            f"({100 * self.accuracy[LITTLE]:.2f} %, the cascade {100 * self.accuracy[EXECUTOR]:.2f}"
            f" %) and answers {faster:.2f} x as many: use it."
        )

    @property
    def little(self) -> str:
        """The name of the first stage."""
        return next(iter(self.reached), self.large)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON: what was measured, and what follows from it."""
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
            "measured": {
                "images": self.images,
                "batch": self.batch,
                "large": self.large,
                "reached": dict(self.reached),
                "seconds": {name: list(times) for name, times in self.seconds.items()},
                "online": {
                    name: {
                        "clients": load.clients,
                        "requests": load.requests,
                        "seconds": list(load.seconds),
                        "ms": dict(load.ms),
                    }
                    for name, load in self.online.items()
                },
                "ideal_online": list(self.ideal_online),
            },
        }

    @staticmethod
    def load(path: str | Path) -> Bench:
        """Read what `understudy bench --out` wrote.

        Raises:
            DataError: another file, a damaged one, or one that a newer understudy wrote.
        """
        file = Path(path)
        data = read_json(file, DataError, "a benchmark")
        check_version(data, kind=FORMAT, newest=VERSION, path=file, error=DataError)
        try:
            told = data["measured"]
            return Bench(
                images=told["images"],
                batch=told["batch"],
                large=told["large"],
                reached=told["reached"],
                seconds={name: tuple(times) for name, times in told["seconds"].items()},
                online={
                    name: Load(one["clients"], one["requests"], tuple(one["seconds"]), one["ms"])
                    for name, one in told["online"].items()
                },
                ideal_online=tuple(told["ideal_online"]),
                accuracy=data.get("accuracy", {}),
                memory=data.get("peak_memory_bytes", {}),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{str(file)!r} is damaged ({error!r}): run the benchmark again"
            ) from error


def bench(
    cascade: Runnable,
    images: Any,
    *,
    batch: int = 256,
    rounds: int = 5,
    clients: int = 0,
    max_wait_ms: float | Mapping[str, float] | None = None,
    labels: Array | None = None,
    on_progress: Progress | None = None,
) -> Bench:
    """Measure a cascade against its parts on the same images, in turns.

    One round that is not counted goes before the others.

    Args:
        cascade: what runs; its policy is not switched.
        images: an array or tensor (N, ...) as the stages take them, on the host.
        batch: rows per batch of every stage.
        rounds: how often each contestant is timed.
        clients: how many clients wait for answers at the same time; 0 leaves latencies out.
        max_wait_ms: how long rows wait for company while there are clients, as for `Executor`.
        labels: the true class of each image, (N,), for the accuracies.
        on_progress: told what runs, how many turns are done, and of how many.

    >>> import torch
    >>> from understudy import Cascade, Policy
    >>> tiny, big = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
    >>> cascade = Cascade({"tiny": tiny, "big": big}, Policy.pair("tiny", "big", 0.4))
    >>> bench(cascade, torch.rand(64, 4), batch=16, rounds=1).reached["tiny"]
    64

    Raises:
        DataError: no image, no round, or a batch below 1.
    """
    if not len(images) or rounds < 1 or batch < 1 or clients < 0:
        raise DataError(
            "a benchmark has images, rounds and rows in a batch, found "
            f"{len(images)} images, {rounds} rounds, batches of {batch} and {clients} clients"
        )
    seen = _watched(cascade, images, batch)
    ways: dict[str, Callable[[], _Turn]] = {
        LARGE: lambda: _timed(lambda: _alone(cascade.judges[-1], images, batch)),
        LITTLE: lambda: _timed(lambda: _alone(cascade.judges[0], images, batch)),
        NAIVE: lambda: _timed(lambda: _naive(cascade.judges, images, batch)),
        EXECUTOR: lambda: _timed(lambda: _mapped(cascade, images, batch)),
        IDEAL: lambda: _ideal(seen),
    }
    served: dict[str, Callable[[], _Turn]] = {}
    if clients:
        few, alone = _watched(cascade, images, clients), LastStage(cascade)
        served = {
            LARGE: lambda: asyncio.run(_served(alone, images, clients, None)),
            EXECUTOR: lambda: asyncio.run(_served(cascade, images, clients, max_wait_ms)),
            IDEAL: lambda: _ideal(few),
        }
    online = {name: f"{name}, {clients} clients" for name in served}
    told = _in_turns(
        ways | {online[name]: way for name, way in served.items()}, rounds, on_progress
    )
    seconds = {name: tuple(turn.seconds for turn in turns) for name, turns in told.items()}
    return Bench(
        images=len(images),
        batch=batch,
        seconds={name: seconds[name] for name in ways},
        reached={name: watch.rows for name, watch in seen.items()},
        large=cascade.judges[-1].name,
        online={name: _load(clients, told[online[name]]) for name in served if name != IDEAL},
        ideal_online=seconds[online[IDEAL]] if served else (),
        accuracy={} if labels is None else _accuracies(cascade, images, labels, batch),
    )


def run_alone(cascade: Runnable, images: Any, *, contestant: str, batch: int) -> Array:
    """The predictions of a contestant, (N,): the executor, or the large or first stage alone."""
    if contestant == EXECUTOR:
        return _mapped(cascade, images, batch)
    return _alone(cascade.judges[-1 if contestant == LARGE else 0], images, batch)


def _accuracies(cascade: Runnable, images: Any, labels: Array, batch: int) -> dict[str, float]:
    return {
        name: float((run_alone(cascade, images, contestant=name, batch=batch) == labels).mean())
        for name in (LARGE, LITTLE, EXECUTOR)
    }


class _Turn(NamedTuple):
    """Seconds, and the ms that every request waited where there are requests."""

    seconds: float
    latencies: Array = np.empty(0)


def _in_turns(
    ways: Mapping[str, Callable[[], _Turn]], rounds: int, on_progress: Progress | None
) -> dict[str, list[_Turn]]:
    """Each in every round, forwards and backwards by turns; a first round is not counted."""
    told: dict[str, list[_Turn]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        order = list(ways)[:: 1 if number % 2 else -1]
        for place, name in enumerate(order, start=1):
            turn = ways[name]()
            told[name] += [turn] if number else []
            if on_progress is not None:
                on_progress("bench", number * len(ways) + place, (rounds + 1) * len(ways))
    return told


class _Watch:
    """A judge that counts its rows and keeps some full batches of what it was asked."""

    def __init__(self, judge: Judge, size: int) -> None:
        self._judge, self._size = judge, size
        self.rows = 0
        self.kept: list[tuple[Any, Mapping[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._judge, name)

    def ask(self, images: Any, state: Mapping[str, Any]) -> Said:
        self.rows += len(images)
        full = len(images) == self._size
        if (full and len(self.kept) < KEPT) or not self.kept:
            if full and self.kept and len(self.kept[0][0]) < self._size:
                self.kept.clear()
            self.kept.append((self._copy(images), {k: self._copy(v) for k, v in state.items()}))
        return self._judge.ask(images, state)

    def seconds(self) -> float:
        """What all its rows take, in full batches: the kept ones, again and again."""
        asked, start = 0, perf_counter()
        for images, state in cycle(self.kept):
            self._judge.ask(images, state)
            asked += len(images)
            if asked >= self.rows:
                return (perf_counter() - start) * self.rows / asked
        return 0.0  # no row came here

    def _copy(self, value: Any) -> Any:
        if isinstance(value, list):
            return list(value)
        copy = self._judge.buffer(len(value), value)
        self._judge.gather(value, np.arange(len(value)), copy)
        return copy


@dataclass(frozen=True)
class _Watching:
    """A cascade whose judges are watched."""

    exits: tuple[str, ...]
    policy: Policy
    judges: tuple[Judge, ...]


class LastStage:
    """The last stage of a cascade alone, which answers everything from the images."""

    def __init__(self, cascade: Runnable) -> None:
        self.judges = cascade.judges[-1:]
        self.exits = cascade.exits
        self.policy = Policy.single(self.judges[0].name)


def _watched(cascade: Runnable, images: Any, size: int) -> dict[str, _Watch]:
    watches = tuple(_Watch(judge, size) for judge in cascade.judges)
    judges: Any = watches
    watching = _Watching(cascade.exits, cascade.policy, judges)
    _mapped(watching, images, size)
    return {watch.name: watch for watch in watches}


def _ideal(watches: Mapping[str, _Watch]) -> _Turn:
    return _Turn(sum(watch.seconds() for watch in watches.values()))


def _parts(images: Any, size: int) -> Iterator[Any]:
    return (images[start : start + size] for start in range(0, len(images), size))


def _alone(judge: Judge, images: Any, batch: int) -> Array:
    return np.concatenate([judge.ask(part, {}).prediction for part in _parts(images, batch)])


def _naive(judges: Sequence[Judge], images: Any, batch: int) -> None:
    """Every batch goes through all stages by itself, and gets smaller and smaller."""
    for part in _parts(images, batch):
        rows, state = part, dict[str, Any]()
        for judge, following in zip(judges, (*judges[1:], None), strict=True):
            said = judge.ask(rows, state)
            if following is None or not len(said.left):
                break
            rows = _left(following, said.images, said.left)
            state = {name: _left(following, v, said.left) for name, v in said.state.items()}


def _left(judge: Judge, value: Any, rows: Array) -> Any:
    if isinstance(value, list):
        return [value[row] for row in rows.tolist()]
    target = judge.buffer(len(rows), value)
    judge.gather(value, rows, target)
    return target


def _mapped(cascade: Runnable, images: Any, batch: int) -> Array:
    with Executor(cascade, max_batch=batch) as executor:
        answered = executor.map(_parts(images, batch))
        return np.concatenate([answers.prediction for answers in answered])


async def _served(
    cascade: Runnable, images: Any, clients: int, wait: float | Mapping[str, float] | None
) -> _Turn:
    """Seconds until all images are answered, and how long each waited, in ms."""
    waiting = iter(range(len(images)))
    latencies = np.zeros(len(images))

    async def client() -> None:
        for number in waiting:
            start = perf_counter()
            await executor.answer(images[number])
            latencies[number] = 1000 * (perf_counter() - start)

    async with Executor(cascade, max_batch=clients, max_wait_ms=wait) as executor:
        start = perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        return _Turn(perf_counter() - start, latencies)


def _load(clients: int, turns: Sequence[_Turn]) -> Load:
    middle = sorted(turns, key=lambda turn: turn.seconds)[len(turns) // 2].latencies
    ms = {f"p{n}": float(np.percentile(middle, n)) for n in (50, 95, 99)}
    return Load(clients, len(middle), tuple(turn.seconds for turn in turns), ms)


def _timed(work: Callable[[], Any]) -> _Turn:
    start = perf_counter()
    work()
    return _Turn(perf_counter() - start)


def _ratio(above: Sequence[float], below: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))
