"""What a server is told: its limits, and what it reports."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from understudy.errors import DataError
from understudy.zoo.decoding import FOLLOW, ORIENTATIONS

MAX_QUEUE = 96
"""Images in flight. 64 clients fill two thirds of it, so that under any overload an accepted
request waits about twice as long as with 64 clients."""

TOKEN = "UNDERSTUDY_TOKEN"
"""The variable of the environment with the token of a server."""

_WORD = re.compile("[!-~]+")  # of ASCII characters that are seen


@dataclass(frozen=True)
class ServingSettings:
    """The limits of a server, and what it reports.

    Attributes:
        name: the name of the model in paths and answers.
        version: its version there.
        max_queue: images in flight at most, being decoded, waiting or computed; further ones are
            refused at once, and so is a request of more images.
        deadline: seconds after which a request is given up.
        arrival: seconds in which the body of a request has to arrive.
        max_bytes: bytes of the body of a request, at most.
        max_pixels: pixels of an encoded image, at most.
        max_held_bytes: bytes of the bodies of all requests at a time, at most.
        orientation: what is done about the EXIF orientation of encoded images, `exif` or `ignore`.
        token: what a request that changes something shows; None lets everybody.
        price: what the reference's answers to 1,000 images cost, in any currency.
        shadow: the share of requests that the reference answers as well, from 0 to 1.
        alpha: the chance of a false alarm of the watch.
        state: the file in which the watch is kept over restarts; None forgets it.
        logged: the share of requests that is logged, from 0 to 1.

    >>> ServingSettings(name="digits").max_queue
    96

    Raises:
        DataError: a value out of its range.
    """

    name: str = "cascade"
    version: str = "1"
    max_queue: int = MAX_QUEUE
    deadline: float = 10.0
    arrival: float = 30.0
    max_bytes: int = 2**25
    max_pixels: int = 2**25
    max_held_bytes: int = 2**28
    orientation: str = FOLLOW
    token: str | None = field(default=None, repr=False)
    price: float | None = None
    shadow: float = 0.05
    alpha: float = 0.01
    state: Path | None = None
    logged: float = 0.0

    def __post_init__(self) -> None:
        for name in ("max_queue", "max_bytes", "max_pixels", "max_held_bytes"):
            self._check(name, getattr(self, name) >= 1, "1 or more")
        for name in ("deadline", "arrival"):
            self._check(name, 0 < getattr(self, name) < math.inf, "some seconds above 0")
        for name in ("shadow", "logged"):
            self._check(name, 0 <= getattr(self, name) <= 1, "a share from 0 to 1")
        self._check("alpha", 0 < self.alpha < 1, "a chance above 0 and below 1")
        price = self.price
        self._check("price", price is None or 0 <= price < math.inf, "0 or more")
        if self.orientation not in ORIENTATIONS:
            raise DataError(f"orientation is one of {ORIENTATIONS}, found {self.orientation!r}")
        if self.token is not None and not _WORD.fullmatch(self.token):
            raise DataError("a token is one word of ASCII characters, found another (not shown)")
        if not self.name or "/" in self.name:
            raise DataError(f"the name of a model is part of a path, found {self.name!r}")

    def _check(self, name: str, fits: bool, rule: str) -> None:
        if not fits:
            raise DataError(
                f"{name} is {rule}, found {getattr(self, name)}: leave it out for the default"
            )
