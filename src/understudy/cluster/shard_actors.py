"""The actors that score shards: as many as a cluster has room for, asked in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from time import monotonic, sleep
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError

from understudy.cluster.connection import ClusterError, cause_of, check_versions, head_answers
from understudy.cluster.remote_scoring import RemoteScoring
from understudy.cluster.shard_actor import ShardActor
from understudy.cluster.shard_news import Failed, News, Started, Task
from understudy.errors import DataError, ModelError, UnderstudyError

PATIENCE = 300  # seconds without a word from any actor, after which a run ends
_HEADLESS = 20  # seconds without the cluster's head; after 60 Ray ends the whole process
_KINDS = {one.__name__: one for one in (ModelError, DataError)}
_MOMENT = 1.0  # seconds after which actors that were lost are asked again, and room is looked for


class ShardActors:
    """Actors that score shards, one per GPU, or per as many cores as PyTorch has threads.

    There is one more than there is room for, so that a cluster that grows by itself grows. An actor
    that dies is started again by Ray, wherever there is room. The first one starts at once: it
    takes seconds, in which the process that asks has work of its own.

    Args:
        device: on which they run models, as torch names it.
        threads: of PyTorch in each.
        patience: seconds.

    Raises:
        ClusterError: no node has so many cores, or no GPU.
    """

    def __init__(self, device: str, threads: int, *, patience: float = PATIENCE) -> None:
        self._needs = {"CPU": threads} if device == "cpu" else {"CPU": 1, "GPU": 1}
        self._actor = ray.remote(ShardActor).options(
            max_restarts=-1, max_task_retries=0, **_options(self._needs)
        )
        self._scoring: Any = None
        self._most = 1
        self._patience = patience
        self._actors: dict[str, Any] = {}
        self._calls: dict[Any, str] = {}
        self._lost: dict[str, float] = {}
        self._looked = self._heard = monotonic()
        self._headless: float | None = None  # since when
        self._grow()

    @property
    def room(self) -> int:
        """How many of them fit on all nodes."""
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return sum(
            int(min(one.get(name, 0) // count for name, count in self._needs.items()))
            for one in alive
        )

    def begin(self, scoring: RemoteScoring, *, most: int) -> None:
        """Let them open the data, where none has begun.

        Args:
            scoring: what is scored.
            most: actors, at most.
        """
        self._scoring = ray.put(scoring)
        self._most = most
        self._heard = monotonic()
        for worker in self._actors:
            self._begin(worker)
        self._grow()

    def ask(self, worker: str, tasks: Sequence[Task]) -> None:
        """Give an actor further tasks, and wait for its news."""
        self._calls[self._actors[worker].work.remote(list(tasks))] = worker

    def answers(self) -> Iterator[tuple[str, list[News] | None]]:
        """What actors have answered within a moment; None of one that was lost, which is asked
        again when Ray has started it anew.

        Raises:
            ClusterError: no actor can be started, none has answered for a long time, or the head of
                the cluster is gone.
        """
        if monotonic() - self._looked > _MOMENT and self._has_head():
            self._grow()
            for worker in [one for one, until in self._lost.items() if until < monotonic()]:
                del self._lost[worker]
                self._begin(worker)
        if not self._calls:
            sleep(_MOMENT)
            return
        ready, _ = ray.wait(list(self._calls), num_returns=1, timeout=_MOMENT)
        for call in ready:
            worker = self._calls.pop(call)
            news = self._answer(call)
            if news is None:
                self._lost[worker] = monotonic() + _MOMENT
            else:
                self._heard = monotonic()
            yield worker, news
        if monotonic() - self._heard > self._patience:
            raise ClusterError(
                f"some actor answers within {self._patience:.0f} seconds, none of "
                f"{len(self._actors)} does (they need {_words(self._needs)} each): look at `ray "
                "status`; what is scored is kept, and the same command goes on"
            )

    def leave(self, *stay: str) -> None:
        """End all other actors; those that wait for room first."""
        if self._given_up:
            return  # they end by themselves
        for other in [one for one in reversed(self._actors) if one not in stay]:
            ray.kill(self._actors.pop(other), no_restart=True)
            self._lost.pop(other, None)
        self._calls = {call: one for call, one in self._calls.items() if one in stay}
        self._most = len(stay)

    def _answer(self, call: Any) -> list[News] | None:
        try:
            news: list[News] = ray.get(call)
        except ActorDiedError as error:
            raise ClusterError(
                f"actors start on every node with room, one did not ({cause_of(error)}): install "
                "understudy with the `ray` extra there; what is scored is kept"
            ) from error
        except RayTaskError as error:
            raise ClusterError(
                f"actors send back what they scored, one cannot ({cause_of(error)}): make room on "
                "its node; what is scored is kept, and the same command goes on"
            ) from error
        except (RayActorError, RayError):
            return None
        return news

    def _has_head(self) -> bool:
        """Whether the head of the cluster answers; without it all that asks Ray waits.

        Raises:
            ClusterError: it has not for long.
        """
        if head_answers():
            self._headless = None
            return True
        self._looked = monotonic()
        self._headless = self._headless or self._looked
        if self._given_up:
            raise ClusterError(
                "a cluster's head answers as long as work goes on, that of this one has not for "
                f"{_HEADLESS} seconds: start the cluster again; what is scored is kept, and the "
                "same command goes on"
            )
        return False

    @property
    def _given_up(self) -> bool:
        """Whether the head of the cluster has not answered for long."""
        return self._headless is not None and monotonic() - self._headless > _HEADLESS

    def _grow(self) -> None:
        """Make further actors where the cluster has room for more of them than there are."""
        self._looked = monotonic()
        room = self.room
        if not room and not self._actors:
            raise ClusterError(
                f"an actor needs {_words(self._needs)} of one node, no node has so much: give "
                "fewer --threads, or another --device"
            )
        for _ in range(len(self._actors), min(room + 1, self._most)):
            worker = f"{len(self._actors)}"
            self._actors[worker] = self._actor.remote()
            if self._scoring is not None:
                self._begin(worker)

    def _begin(self, worker: str) -> None:
        """Let an actor that was started, or started anew, open the data."""
        self._actors[worker].begin.remote(self._scoring)
        self.ask(worker, [])


def _options(needs: Mapping[str, int]) -> dict[str, int]:
    return {f"num_{name.lower()}s": count for name, count in needs.items()}


def _words(needs: Mapping[str, int]) -> str:
    return " and ".join(f"{count} {name}" for name, count in needs.items())


def check(news: News) -> None:
    """Raise what has failed in an actor, and refuse one with other libraries.

    Raises:
        ModelError, DataError: as the actor did; where its node is the cause, that is named.
        ClusterError: its node has other libraries.
    """
    if isinstance(news, Started):
        check_versions(news.versions, news.node)
    if isinstance(news, Failed):
        where = f"on {news.node}: " if news.starting else ""
        raise _KINDS.get(news.kind, UnderstudyError)(f"{where}{news.message}")
