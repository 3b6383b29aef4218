"""The state that stages hand on with the rows: values under keys that say what each value is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Kind = Literal["logits", "feature", "pooled", "esn_cache", "esn_output"]


class StateKey(NamedTuple):
    """What a value of the stage state is.

    `str(key)` is the name of the same value in an exported cascade.

    Attributes:
        kind: what the value is.
        owner: the exit whose logits they are, or the network that computed the value.
        tap: the number of the tap, for what belongs to one.
        place: the place among the values that cross a cut; the feature of the tap has place 0.

    >>> str(StateKey.logits("tiny")), str(StateKey.feature("net", 2, 0))
    ('logits of tiny', 'net@2.0')
    """

    kind: Kind
    owner: str
    tap: int = 0
    place: int = 0

    def __str__(self) -> str:
        match self.kind:
            case "logits":
                return f"logits of {self.owner}"
            case "feature":
                return f"{self.owner}@{self.tap}.{self.place}"
            case "pooled":
                return f"{self.owner}~{self.tap}"
            case "esn_cache":
                return f"keys and values of {self.owner}@{self.tap}"
            case "esn_output":
                return f"token output of {self.owner}@{self.tap}"

    @staticmethod
    def logits(exit: str) -> StateKey:
        """The logits of an exit, (N, C)."""
        return StateKey("logits", exit)

    @staticmethod
    def feature(network: str, tap: int, place: int = 0) -> StateKey:
        """A value that the segment up to a tap hands to the next segment, rows first."""
        return StateKey("feature", network, tap, place)

    @staticmethod
    def pooled(network: str, tap: int) -> StateKey:
        """The pooled feature of a tap, (N, width)."""
        return StateKey("pooled", network, tap)

    @staticmethod
    def esn_cache(network: str, tap: int = 0) -> StateKey:
        """The keys and values of an Exit Sequence Network, (N, tokens, layers, 2, dim)."""
        return StateKey("esn_cache", network, tap)

    @staticmethod
    def esn_output(network: str) -> StateKey:
        """The output of the last token of an Exit Sequence Network, (N, dim)."""
        return StateKey("esn_output", network)


StageState = Mapping[StateKey, Any]
"""Arrays or tensors that stages hand on, rows first; empty between whole models."""
