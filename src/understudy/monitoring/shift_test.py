"""Has the traffic shifted? A conformal test martingale on the confidences of a stage.

Every confidence gets a p-value: its rank among the certify samples *and all confidences of the
stream before it*, ties broken at random (full online conformal prediction; Vovk, Gammerman and
Shafer, Algorithmic Learning in a Random World, sections 2.2 and 7.1). If all of them are
exchangeable, the p-values are independent and uniform, exactly and for ever. Ranks among the
certify samples alone would not do: these differ by chance from what they were drawn from, by
1 / sqrt(samples), and after tens of thousands of requests any test would notice.

On the p-values runs a betting game: bets that they are low, high, extreme or central, small ones
for small shifts and large ones, with a capital that jumps between the bets
(`betting.JumpingCapital`). If nothing shifts the capital ever reaches 1 / level with a probability
of at most `level`.

The martingale is one with respect to its own p-values and not with respect to all that is known of
the requests. So capitals of several stages must not be averaged or multiplied; each is tested by
itself, at its part of the level (the union bound needs nothing of the sort).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from understudy.baseline import StageBaseline
from understudy.betting import JumpingCapital
from understudy.errors import PolicyError
from understudy.json_codec import Stored, stored

Cells = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
_BATCH = 256  # rows that are ranked among each other at a time
_BLOCK = 4096  # random numbers that are made at a time
_SIZES = np.array([0.125, 0.25, 0.5, 1.0, 1.9])  # of bets; 2 could lose everything
_SLOPES = np.concatenate([[0.0], _SIZES, -_SIZES])
_EARLIER = np.tri(_BATCH, k=-1, dtype=bool)


def _list(counts: Counts) -> list[int]:
    found: list[int] = counts.tolist()
    return found


def _array(counts: tuple[int, ...]) -> Counts:
    return np.array(counts, np.int64)


COUNTS = stored(shape=tuple[int, ...], pack=_list, unpack=_array)


@dataclass(frozen=True, eq=False)
class ShiftTest(Stored, what="a test of shift", error=PolicyError):
    """The test of "nothing has shifted" on the confidences of one stage.

    Attributes:
        stream: a number of its own, from which its random numbers follow.
        counts: the certify samples and the stream so far, by cell of confidence, (K,).
        recent: the stream since the last warning, by cell.
        rows: how many confidences there were.
        capital: what the bets have grown to.
        peak: the highest logarithm of the capital.

    >>> tiny = StageBaseline("tiny", edges=(0.5, 0.9), counts=(10, 20, 70))
    >>> test = ShiftTest.of(tiny, stream=0).update(np.zeros(60, np.uint8), seed=1)
    >>> test.rows, test.counts.tolist(), test.p_value < 1e-6
    (60, [70, 20, 70], True)
    """

    stream: int
    counts: Counts = field(metadata=COUNTS)
    recent: Counts = field(metadata=COUNTS)
    rows: int
    capital: JumpingCapital
    peak: float = 0.0

    @staticmethod
    def of(stage: StageBaseline, *, stream: int) -> ShiftTest:
        """The test before the first request."""
        counts = np.array(stage.counts, np.int64)
        return ShiftTest(stream, counts, 0 * counts, 0, _no_bets())

    def update(self, cells: Cells, *, seed: int) -> ShiftTest:
        """The test after more confidences, (N,), given by their cells in order."""
        counts, rows, capital = self.counts, self.rows, self.capital
        peak = self.peak
        for start in range(0, len(cells), _BATCH):
            part = cells[start : start + _BATCH]
            u = p_values(part, counts, uniforms(seed, self.stream, rows, len(part)))
            counts = counts + np.bincount(part, minlength=len(counts))
            rows += len(part)
            capital = capital.update(_factors(u))
            peak = max(peak, capital.log)
        recent = self.recent + (counts - self.counts)
        return replace(self, counts=counts, recent=recent, rows=rows, capital=capital, peak=peak)

    def begun_again(self, *, counts: Counts) -> ShiftTest:
        """The test with a capital of 1, against other counts."""
        return replace(self, counts=counts, recent=0 * counts, capital=_no_bets(), peak=0.0)

    @property
    def p_value(self) -> float:
        """Of "nothing has shifted"; never rises."""
        return float(np.exp(-self.peak))


def p_values(cells: Cells, counts: Counts, uniform: Floats) -> Floats:
    """The smoothed rank of each of a few confidences among the counts and those before it, (n,).

    (lower + uniform * (equal + 1)) / (all + 1): independent and uniform on 0 to 1 if the counted
    confidences and the new ones are exchangeable.

    Args:
        cells: at most 256, in order.
        counts: earlier confidences by cell.
        uniform: as many random numbers from 0 to 1.

    >>> p_values(np.array([1, 0], np.uint8), np.array([1, 2]), np.array([0.5, 0.5]))
    array([0.625, 0.2  ])
    """
    size = len(cells)
    earlier = _EARLIER[:size, :size]
    lower = (np.cumsum(counts) - counts)[cells] + ((cells < cells[:, None]) & earlier).sum(1)
    equal = counts[cells] + ((cells == cells[:, None]) & earlier).sum(1)
    ranks: Floats = (lower + uniform * (equal + 1)) / (counts.sum() + 1 + np.arange(size))
    return ranks


def uniforms(seed: int, stream: int, start: int, size: int) -> Floats:
    """Random numbers from 0 to 1 by their place in a stream: the same whenever they are made.

    >>> uniforms(1, 0, 4095, 3)[1:].tolist() == uniforms(1, 0, 4096, 2).tolist()
    True
    """
    first, last = start // _BLOCK, (start + size - 1) // _BLOCK
    blocks = [_uniform_block(seed, stream, number) for number in range(first, last + 1)]
    whole = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    return whole[start - first * _BLOCK :][:size]


@lru_cache(maxsize=256)
def _uniform_block(seed: int, stream: int, number: int) -> Floats:
    """Philox with the counter where the block begins (four numbers a count); 53 bits each."""
    bits = np.random.Philox(key=(seed, stream), counter=number * _BLOCK // 4).random_raw(_BLOCK)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _no_bets() -> JumpingCapital:
    return JumpingCapital.over(2 * len(_SLOPES) - 1)


def _factors(u: Floats) -> Floats:
    """What each bet multiplies its capital by, (n, bets): on low and high, then on the middle and
    the extremes. Each is 1 on average if u is uniform."""
    sides = (u - 0.5)[:, None] * _SLOPES
    spread = (np.abs(2 * u - 1) - 0.5)[:, None] * _SLOPES[1:]
    return np.concatenate([sides, spread], axis=1) + 1.0
