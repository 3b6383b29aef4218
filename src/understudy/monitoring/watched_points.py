"""The operating points of a cascade as they are watched: what each promises, and what is normal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from understudy.baseline import StageBaseline
from understudy.errors import PolicyError, unknown
from understudy.intervals import upper_share
from understudy.json_codec import Stored
from understudy.monitoring.settings import WatchSettings
from understudy.operating_point import REFERENCE, OperatingPoint


@dataclass(frozen=True)
class WatchedPoint(Stored, what="a watched operating point", error=PolicyError):
    """An operating point that may break its promise.

    Attributes:
        name: of the operating point.
        max_drop: the drop in points that was certified.
        samples, disagreements: the certify samples, and those that the reference answers otherwise.
        streams: for each stage the number of the stream of its confidences; -1 where it has none.
    """

    name: str
    max_drop: float
    samples: int
    disagreements: int
    streams: tuple[int, ...]


@dataclass(frozen=True)
class Watched(Stored, what="what is watched", error=PolicyError):
    """All that a watch compares with.

    Attributes:
        points: the operating points, the loosest first; not the reference, which promises nothing.
        streams: the stages whose confidences are compared, each once: points share a stage where
            the same samples reach it.
        first: how many of the streams are of first stages, which all traffic reaches.
    """

    points: tuple[WatchedPoint, ...]
    streams: tuple[StageBaseline, ...]
    first: int

    def number(self, name: str) -> int:
        """The place of a point by its name; -1 for the reference.

        Raises:
            PolicyError: there is no such point.
        """
        if name == REFERENCE:
            return -1
        names = [point.name for point in self.points]
        if name not in names:
            raise PolicyError(unknown("operating point", name, [*names, REFERENCE]))
        return names.index(name)

    def weight(self, stream: int) -> float:
        """The part of the level at which the shift of a stream is tested: half of it for the first
        stages, which find most, half for all others."""
        later = len(self.streams) - self.first
        own = self.first if stream < self.first else later
        return (0.5 if later and self.first else 1.0) / own

    def budget(self, point: WatchedPoint, settings: WatchSettings) -> float:
        """The disagreement that a point is allowed, a share.

        That of the certify samples and the margin, and at least what it may be in truth: its exact
        upper bound, wrong with a quarter of the level, divided by the points.
        """
        share = point.disagreements / point.samples
        level = settings.alpha / 4 / len(self.points)
        bound = upper_share(point.disagreements, point.samples, level)
        return min(max(share + settings.margin / 100, bound), 0.999)


def watched_points(points: Iterable[OperatingPoint]) -> Watched:
    """What a watch compares the operating points of a cascade with.

    Raises:
        PolicyError: an operating point has no baseline.
    """
    found = [point for point in points if point.name != REFERENCE]
    keys = [_stage_keys(point) for point in found]
    first = {rows[0][0]: rows[0][1] for rows in keys}
    later = {key: stage for rows in keys for key, stage in rows[1:] if key not in first}
    streams = {key: stage for key, stage in (first | later).items() if len(stage.counts) > 1}
    numbers = {key: number for number, key in enumerate(streams)}
    watched = [
        _watched(point, [numbers.get(key, -1) for key, _ in rows])
        for point, rows in zip(found, keys, strict=True)
    ]
    return Watched(
        points=tuple(sorted(watched, key=lambda one: -one.max_drop)),
        streams=tuple(streams.values()),
        first=len(first.keys() & streams.keys()),
    )


def _watched(point: OperatingPoint, streams: Sequence[int]) -> WatchedPoint:
    assert point.baseline is not None
    base = point.baseline
    return WatchedPoint(
        point.name, point.max_drop, base.samples, base.disagreements, tuple(streams)
    )


def _stage_keys(point: OperatingPoint) -> list[tuple[str, StageBaseline]]:
    """The stages of a point, each with what it is and which samples reach it."""
    if point.baseline is None:
        raise PolicyError(
            "a watch compares with the baseline of each operating point, found none for "
            f"{point.name!r}: search and build again with this version"
        )
    path, found = "", []
    for stage, baseline in zip(point.policy.stages, point.baseline.stages, strict=True):
        path += f" > {stage.exit} {stage.confidence}"
        found.append((path, baseline))
        path += f" below {stage.threshold}"
    return found
