"""What building a cascade from the result of a search needs, whatever the backend."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypedDict

from understudy.deferral import DeferralScore, scores_of
from understudy.ensemble import Ensemble, ensemble_of
from understudy.errors import ModelError, listed
from understudy.operating_point import OperatingPoint, operating_points_of
from understudy.policy import Policy
from understudy.result import Result


def check_complete(policy: Policy, names: Collection[str]) -> None:
    """Refuse a policy with an exit that has no model.

    Raises:
        ModelError: the message has the exits.
    """
    missing = [name for name in policy.exits if name not in names]
    if missing:
        raise ModelError(
            f"every exit of the policy needs its model, {listed(map(repr, missing))} has none; "
            f"given were {listed(map(repr, names)) or 'none'}: add it under the name of the exit"
        )


def check_members(name: str, ensemble: Ensemble, models: Collection[str]) -> None:
    """Refuse an ensemble whose members are not all models.

    Raises:
        ModelError: a member is missing, or an ensemble itself.
    """
    missing = [one for one in ensemble.exits if one not in models]
    if missing:
        raise ModelError(
            f"an ensemble has models as members, {listed(map(repr, missing))} of {name!r} "
            f"are none; given are {listed(map(repr, models)) or 'none'}: add what is missing"
        )


def ensembles_within(result: Result, names: Collection[str]) -> dict[str, Ensemble]:
    """The ensembles of a result whose members are all in memory."""
    found = {single.name: ensemble_of(single.origin) for single in result.singles}
    return {
        name: ensemble
        for name, ensemble in found.items()
        if ensemble is not None and name not in names and set(ensemble.exits) <= set(names)
    }


class Planned(TypedDict):
    """What a cascade takes from a result, besides its policy."""

    operating_points: Sequence[OperatingPoint]
    scores: Mapping[str, DeferralScore]
    classes: Sequence[str] | None


def planned_within(result: Result, names: Collection[str]) -> Planned:
    """The operating points and learned scores of a result whose exits are all in memory, and the
    names of its classes."""
    points = operating_points_of(result)
    scores = scores_of(result.table.get("provenance", {}))
    return Planned(
        operating_points=[one for one in points if set(one.policy.exits) <= set(names)],
        scores={name: score for name, score in scores.items() if name in names},
        classes=result.table.get("classes"),
    )
