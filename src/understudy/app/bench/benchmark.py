"""A cascade and all that it competes with, in turns over the same images, in one run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from understudy.app.bench.result import EXECUTOR, IDEAL, LARGE, LITTLE, NAIVE, Bench, ClientLoad
from understudy.errors import DataError
from understudy.policy import Policy
from understudy.runtime.buffer import RowBatch
from understudy.runtime.executor import Executor
from understudy.runtime.protocol import Array, Runnable, RunnerOutput, StageRunner

KEPT = 4
"""Full batches of each stage that the ideal is timed on, again and again."""

Progress = Callable[[str, int, int], None]


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
    >>> from understudy.nn.cascade import Cascade
    >>> from understudy.policy import Policy
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
        LARGE: lambda: _timed(lambda: _alone(cascade.runners[-1], images, batch)),
        LITTLE: lambda: _timed(lambda: _alone(cascade.runners[0], images, batch)),
        NAIVE: lambda: _timed(lambda: _naive(cascade.runners, images, batch)),
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
        large=cascade.runners[-1].name,
        online={name: _load(clients, told[online[name]]) for name in served if name != IDEAL},
        ideal_online=seconds[online[IDEAL]] if served else (),
        accuracy={} if labels is None else _accuracies(cascade, images, labels, batch),
    )


def run_alone(cascade: Runnable, images: Any, *, contestant: str, batch: int) -> Array:
    """The predictions of a contestant, (N,): the executor, or the large or first stage alone."""
    if contestant == EXECUTOR:
        return _mapped(cascade, images, batch)
    return _alone(cascade.runners[-1 if contestant == LARGE else 0], images, batch)


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

    def __init__(self, runner: StageRunner, size: int) -> None:
        self._judge, self._size = runner, size
        self.rows = 0
        self.kept: list[tuple[Any, Mapping[str, Any]]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._judge, name)

    def run_stage(self, images: Any, state: Mapping[str, Any]) -> RunnerOutput:
        self.rows += len(images)
        full = len(images) == self._size
        if (full and len(self.kept) < KEPT) or not self.kept:
            if full and self.kept and len(self.kept[0][0]) < self._size:
                self.kept.clear()
            everything = np.arange(len(images))
            copy = RowBatch(images, state, everything).select(everything, self._judge)
            self.kept.append((copy.images, copy.state))
        return self._judge.run_stage(images, state)

    def seconds(self) -> float:
        """What all its rows take, in full batches: the kept ones, again and again."""
        asked, start = 0, perf_counter()
        for images, state in cycle(self.kept):
            self._judge.run_stage(images, state)
            asked += len(images)
            if asked >= self.rows:
                return (perf_counter() - start) * self.rows / asked
        return 0.0  # no row came here


@dataclass(frozen=True)
class _Watching:
    """A cascade whose judges are watched."""

    exits: tuple[str, ...]
    policy: Policy
    runners: tuple[StageRunner, ...]


class LastStage:
    """The last stage of a cascade alone, which answers everything from the images."""

    def __init__(self, cascade: Runnable) -> None:
        self.runners = cascade.runners[-1:]
        self.exits = cascade.exits
        self.policy = Policy.single(self.runners[0].name)


def _watched(cascade: Runnable, images: Any, size: int) -> dict[str, _Watch]:
    watches = tuple(_Watch(runner, size) for runner in cascade.runners)
    runners: Any = watches
    watching = _Watching(cascade.exits, cascade.policy, runners)
    _mapped(watching, images, size)
    return {watch.name: watch for watch in watches}


def _ideal(watches: Mapping[str, _Watch]) -> _Turn:
    return _Turn(sum(watch.seconds() for watch in watches.values()))


def _parts(images: Any, size: int) -> Iterator[Any]:
    return (images[start : start + size] for start in range(0, len(images), size))


def _alone(runner: StageRunner, images: Any, batch: int) -> Array:
    return np.concatenate([runner.run_stage(part, {}).prediction for part in _parts(images, batch)])


def _naive(runners: Sequence[StageRunner], images: Any, batch: int) -> None:
    """Every batch goes through all stages by itself, and gets smaller and smaller."""
    for part in _parts(images, batch):
        rows = RowBatch(part, {}, np.arange(len(part)))
        for runner, following in zip(runners, (*runners[1:], None), strict=True):
            said = runner.run_stage(rows.images, rows.state)
            if following is None or not len(said.left):
                break
            rows = RowBatch(said.images, said.state, rows.ids).select(said.left, following)


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


def _load(clients: int, turns: Sequence[_Turn]) -> ClientLoad:
    middle = sorted(turns, key=lambda turn: turn.seconds)[len(turns) // 2].latencies
    ms = {f"p{n}": float(np.percentile(middle, n)) for n in (50, 95, 99)}
    return ClientLoad(clients, len(middle), tuple(turn.seconds for turn in turns), ms)


def _timed(work: Callable[[], Any]) -> _Turn:
    start = perf_counter()
    work()
    return _Turn(perf_counter() - start)
