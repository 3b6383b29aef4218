"""What an operator chooses of the watch."""

from __future__ import annotations

from dataclasses import dataclass

from understudy.errors import PolicyError
from understudy.json_codec import Stored


@dataclass(frozen=True)
class WatchSettings(Stored, what="the settings of a watch", error=PolicyError):
    """The settings of a watch, fixed while it runs.

    Attributes:
        alpha: the chance that the watch ever warns though nothing has shifted, and the chance that
            it ever falls back though a promise is kept; until it is reset, however long it runs.
        share: of the requests that are answered by the reference too, 0 to 1.
        raised_share: that share after a warning, where it is larger.
        raised_for: how many requests are answered by the reference too at the raised share, after
            which it is `share` again; 0 for as long as the warning stands.
        margin: by how many points the disagreement may exceed that on the certify samples.
        seed: of the numbers that break ties between confidences.

    >>> WatchSettings(share=0.02).alpha
    0.01

    Raises:
        PolicyError: a number outside its range.
    """

    alpha: float = 0.01
    share: float = 0.05
    raised_share: float = 0.5
    raised_for: int = 5000
    margin: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise PolicyError(
                f"alpha is a probability between 0 and 1, found {self.alpha:g}: try 0.01"
            )
        for share in (self.share, self.raised_share):
            if not 0 <= share <= 1:
                raise PolicyError(
                    "the share that the reference answers too lies between 0 and 1, found "
                    f"{share:g}: try 0.05, and 0.5 after a warning"
                )
        if not 0 <= self.margin < 100:
            raise PolicyError(f"a margin is 0 to 100 points, found {self.margin:g}: try 1")
        if self.raised_for < 0 or not 0 <= self.seed < 2**63:
            raise PolicyError(
                "counts and seeds are whole numbers from 0 on, found "
                f"raised_for={self.raised_for} and seed={self.seed}: leave them out"
            )
