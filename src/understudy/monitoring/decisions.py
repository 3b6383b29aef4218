"""Decisions of the watch, and those about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from understudy.json_codec import Stored, stored

Kind = Literal["warning", "fall-back", "reset", "operating-point"]


@dataclass(frozen=True)
class Decision(Stored, what="a decision"):
    """What was decided at a moment.

    Attributes:
        time: seconds since the epoch.
        kind: `warning`: the traffic has shifted, and more of it is answered by the reference too.
            `fall-back`: a promise was judged broken, and the cascade goes to `after`. `reset` and
            `operating-point`: someone has decided.
        reason: a sentence.
        before, after: the operating points; in JSON "from" and "to".
        requests, shadowed, labelled: what the watch had seen by then, since it began.

    >>> Decision(1.7e9, "warning", "the traffic has shifted", "drop-1", "drop-1").to_dict()["kind"]
    'warning'
    """

    time: float
    kind: str
    reason: str
    before: str = field(metadata=stored(key="from"))
    after: str = field(metadata=stored(key="to"))
    requests: int = 0
    shadowed: int = 0
    labelled: int = 0
