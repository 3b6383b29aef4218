"""A sitting: times that were measured in turns, their spread, and the state of the machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.errors import TableError
from understudy.json_codec import Stored

Interval = tuple[float, float]
_LEVEL = 0.001  # of an interval; several models are compared, and their extremes are looked at
_ROUNDS = 7  # below which the range of the rounds is widened


@dataclass(frozen=True)
class Sitting(
    Stored,
    what="a sitting of measured times",
    error=TableError,
    remedy="measure again",
):
    """Times of one unit that were measured in rounds: every model in turn, again and again.

    So a load that changes is felt by all of them, and shows as spread.

    Attributes:
        unit: such as "ms@64".
        date: when it ended, ISO 8601, UTC.
        device: where the models ran, as torch names it.
        cores, threads: of the machine, and of those that PyTorch uses.
        load: tasks that wanted a core, the mean over the last minute (`os.getloadavg`).
        cpu: CPU seconds of this process per second.
        rounds: how often every model was measured.
        median: part -> ms per sample, the median of the rounds.
        low, high: part -> the ends of its interval, see `median_interval`.
    """

    unit: str
    date: str
    device: str
    cores: int
    threads: int
    load: float
    cpu: float
    rounds: int
    median: Mapping[str, float]
    low: Mapping[str, float]
    high: Mapping[str, float]

    def __post_init__(self) -> None:
        if not set(self.median) == set(self.low) == set(self.high):
            raise TableError(
                f"a sitting has a median and an interval for each part, found {sorted(self.median)}"
                f", {sorted(self.low)} and {sorted(self.high)}: measure again"
            )
        for part, middle in self.median.items():
            if not 0 <= self.low[part] <= middle <= self.high[part] < math.inf:
                raise TableError(
                    f"a measured time lies within its interval, found {middle} for {part!r} in "
                    f"{self.low[part]} to {self.high[part]}: measure again"
                )

    def interval(self, part: str) -> Interval:
        """The interval of a part's time."""
        return self.low[part], self.high[part]

    def words(self) -> str:
        """When and where, and how busy the machine was."""
        return (
            f"{self.date[:16].replace('T', ' ')} UTC on {self.device}, load {self.load:.1f} on "
            f"{self.cores} cores"
        )


def median_interval(values: Sequence[float]) -> Interval:
    """An interval of the median at the level 0.999, from order statistics: free of distributions.

    Of 10 values and fewer it is their range; that of fewer than 7 is widened, to three times its
    size.

    >>> median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    (1.0, 7.0)
    >>> median_interval([float(number) for number in range(51)])
    (13.0, 37.0)
    >>> median_interval([1.0, 1.1, 1.1])
    (0.9, 1.2)
    """
    ordered, count = sorted(values), len(values)
    if count < _ROUNDS:
        width = ordered[-1] - ordered[0]
        return round(max(ordered[0] - width, 0.0), 12), round(ordered[-1] + width, 12)
    below, left = 0.5**count, 0  # P(at most `left` values lie below the median)
    while below + math.comb(count, left + 1) * 0.5**count <= _LEVEL / 2:
        left += 1
        below += math.comb(count, left) * 0.5**count
    return ordered[left], ordered[count - 1 - left]


def sittings_of(data: Any) -> tuple[Sitting, ...]:
    """The sittings that a file of times holds; none in older files.

    Raises:
        TableError: they cannot be read.
    """
    entries = data.get("sittings", [])
    if not isinstance(entries, list):
        raise TableError(f"sittings are a list, found {entries!r}: measure again")
    return tuple(map(Sitting.from_dict, entries))
