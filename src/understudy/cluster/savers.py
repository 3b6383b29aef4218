"""The steps of `searching.saver_lines` by actors on Ray, cut by little and by large model."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import ray

from understudy.cluster.connection import ClusterError, cause_of
from understudy.errors import UnderstudyError
from understudy.lazy_table import LazyTable
from understudy.progress_bars import Advance
from understudy.searching.promising_pairs import Array, PromisingPairs
from understudy.searching.right_bits import RightBits
from understudy.searching.saver_lines import SaverLine, SaverLines, counted
from understudy.searching.search_spec import SearchSpec
from understudy.store import open_table

Item = TypeVar("Item")
_MODELS = 8  # of one task
_TASKS = 2  # that an actor has at a time
_RETRIES = 3  # of a task whose actor ended
_PATIENCE = 600  # seconds without an answer from any actor


class SaverActor:
    """A process that does steps, from its own copy of the table's folder.

    Args:
        path: the folder, absolute.
        fingerprint: what it has to have (`LazyTable`).
        bigs, spec: as in `SaverLines`.
    """

    def __init__(
        self, path: str, fingerprint: str, bigs: tuple[str, ...], spec: SearchSpec
    ) -> None:
        self._path = path
        self._fingerprint = fingerprint
        self._search = bigs, spec
        self._lines: SaverLines | None = None
        self._pairs: PromisingPairs | None = None

    def ends(self, bits: RightBits, unlabelled: Array, littles: Sequence[int]) -> list[Array]:
        """`PromisingPairs.ends_of` of some little models."""
        if self._pairs is None:
            tune = self._opened().parts["tune"]
            self._pairs = PromisingPairs(tune, *self._search, bits, unlabelled)
        return [self._pairs.ends_of(little) for little in littles]

    def lines(self, pairs: Sequence[tuple[str, Sequence[str]]]) -> list[tuple[SaverLine, ...]]:
        """`SaverLines.lines_of` of some large models."""
        return [self._opened().lines_of(big, littles) for big, littles in pairs]

    def _opened(self) -> SaverLines:
        if self._lines is None:
            self._lines = SaverLines(self._table(), *self._search)
        return self._lines

    def _table(self) -> LazyTable:
        node = ray.util.get_node_ip_address()
        try:
            table = open_table(self._path)
        except UnderstudyError as error:
            raise ClusterError(
                f"every node reads the table, {node} cannot ({error}): put it where all nodes find "
                "it by the same path"
            ) from error
        if table.fingerprint != self._fingerprint:
            raise ClusterError(
                f"every node reads the same table, {node} has another one at {self._path!r}: put "
                "it where all nodes find it by the same path"
            )
        return table


@contextmanager
def savers_on_ray(path: str | Path, lines: SaverLines) -> Iterator[SaversOnRay]:
    """The steps by an actor per core of the cluster, while this process is `connected`.

    An actor that ends is started again, and its tasks with it.

    Args:
        path: the table's folder, which every node reads.
        lines: what is searched, of that table.

    Raises:
        ClusterError: a node cannot read the table, or has another one; actors end or are silent.
    """
    cores = int(ray.cluster_resources().get("CPU", 0))
    if not cores:
        raise ClusterError("actors need a node with cores, this cluster has none: add one")
    actor = ray.remote(SaverActor).options(num_cpus=1, max_restarts=-1, max_task_retries=_RETRIES)
    about = str(Path(path).resolve()), lines.table.fingerprint, lines.bigs, lines.spec
    tasks = -(-len(lines.table.exits) // _MODELS)
    actors = [actor.remote(*about) for _ in range(min(cores, tasks))]
    try:
        yield SaversOnRay(lines, actors)
    finally:
        for one in actors:
            ray.kill(one)


@dataclass(frozen=True)
class SaversOnRay:
    """The steps, handed out to actors.

    Attributes:
        steps: what is searched.
        actors: `SaverActor`s.
    """

    steps: SaverLines
    actors: Sequence[Any]

    def promising(self, advance: Advance) -> Mapping[str, Sequence[str]]:
        pairs, models = self.steps.pairs, len(self.steps.table.exits)
        shared = ray.put(pairs.bits), ray.put(pairs.unlabelled)
        tasks = [(*shared, some) for some in _batches(range(models))]
        ends = chain.from_iterable(self._answers("ends", tasks))
        return pairs.best(counted(ends, models, "pairs", advance))

    def lines(
        self, pairs: Mapping[str, Sequence[str]], advance: Advance
    ) -> Iterable[tuple[SaverLine, ...]]:
        tasks = [(some,) for some in _batches([*pairs.items()])]
        lines = chain.from_iterable(self._answers("lines", tasks))
        return counted(lines, len(pairs), "sequences", advance)

    def _answers(self, method: str, tasks: Sequence[tuple[Any, ...]]) -> Iterator[list[Any]]:
        """What the actors answer to the tasks, in order."""
        idle = deque([*self.actors] * _TASKS)
        asked: dict[Any, tuple[int, Any]] = {}
        found: dict[int, list[Any]] = {}
        started = 0
        for wanted in range(len(tasks)):
            while wanted not in found:
                while idle and started < len(tasks):
                    actor = idle.popleft()
                    asked[getattr(actor, method).remote(*tasks[started])] = started, actor
                    started += 1
                for call in self._ready(list(asked)):
                    number, actor = asked.pop(call)
                    found[number] = self._answer(call)
                    idle.append(actor)
            yield found.pop(wanted)

    def _ready(self, calls: list[Any]) -> list[Any]:
        ready, _ = ray.wait(calls, num_returns=1, timeout=_PATIENCE)
        if not ready:
            raise ClusterError(
                f"some actor answers within {_PATIENCE} seconds, none of {len(self.actors)} does: "
                "look at `ray status`, and free cores"
            )
        return list(ready)

    def _answer(self, call: Any) -> list[Any]:
        try:
            answer: list[Any] = ray.get(call)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, UnderstudyError):
                raise error.cause from None
            raise ClusterError(
                f"actors do what this process does, one cannot ({cause_of(error)}): try without "
                "--ray, which shows where"
            ) from error
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"a task is done by one of {_RETRIES + 1} processes, all ended ({cause_of(error)}):"
                " see whether memory runs out on the nodes"
            ) from error
        return answer


def _batches(items: Sequence[Item]) -> list[Sequence[Item]]:
    return [items[start : start + _MODELS] for start in range(0, len(items), _MODELS)]
