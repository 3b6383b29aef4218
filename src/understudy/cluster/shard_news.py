"""What an actor that scores shards is asked to do, and what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from understudy.cluster.shard_queue import GroupTask
from understudy.scoring.probing import Probe
from understudy.sitting import Sitting


@dataclass(frozen=True)
class Started:
    """An actor has opened the data: its node, and the versions of its libraries."""

    node: str
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Decoded:
    """So many images more of a group have been scored."""

    group: int
    images: int


@dataclass(frozen=True)
class Shrunk:
    """Memory ran out at a source, which takes so many samples at a time now."""

    source: str
    size: int


@dataclass(frozen=True)
class Scored:
    """A shard was scored: its files by exit, and the most samples at a time by source."""

    group: int
    shard: int
    sizes: Mapping[str, int]
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class Round:
    """So many rounds of measuring are done, of so many at most."""

    name: str
    done: int
    most: int


@dataclass(frozen=True)
class Failed:
    """An actor cannot go on.

    Attributes:
        node: where.
        kind: the class of the error.
        message: one sentence.
        starting: whether it could not even begin: then it is about that node.
    """

    node: str
    kind: str
    message: str
    starting: bool


@dataclass(frozen=True)
class Look:
    """The task to run a source on some images."""

    source: str


@dataclass(frozen=True)
class Probed:
    """What was found of a source that was run on some images."""

    source: str
    found: Probe


@dataclass(frozen=True)
class Measure:
    """The task to measure all sources at a batch size."""

    size: int
    seconds: float


News = Started | Probed | Decoded | Shrunk | Scored | Round | Sitting | Failed
Task = Look | GroupTask | Measure
