"""From a result to a cascade on disk: the models of the chosen policies are loaded and checked."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from torch import nn

from understudy.ensemble import Ensemble, ensemble_of
from understudy.errors import ModelError, TableError, unknown
from understudy.nn.cascade import Cascade, cascade_of
from understudy.nn.serialization import save_cascade
from understudy.nn.stage import Stage
from understudy.result import Choice, Result
from understudy.zoo.models import load_stages


def build_cascade(
    result: Result, into: Path, *, max_drop: float | None, specs: Mapping[str, str]
) -> tuple[Cascade, Choice]:
    """Load the models of the chosen policies, check that they are those that were scored, and save
    them as a cascade.

    Args:
        result: what a search found.
        into: the folder of the cascade.
        max_drop: the one budget whose policy is built; by default the policies of all budgets,
            which become the cascade's operating points, set to the first.
        specs: exit name -> model spec, for exits that the table knows by name only.

    Returns:
        The cascade, and the choice whose policy it is set to.

    Raises:
        PolicyError: no choice for that budget.
        TableError: a spec for an exit that the result does not have.
        ModelError: a model that is missing, or other weights than those that were scored.
        UnderstudyError: the folder cannot be written.
    """
    choice = result.choice(max_drop)
    origins = {single.name: single.origin for single in result.singles}
    strange = [name for name in specs if name not in origins]
    if strange:
        raise TableError(unknown("exit", strange[0], origins, where="this result"))
    choices = result.choices if max_drop is None else (choice,)
    exits = dict.fromkeys(chain.from_iterable(one.policy.exits for one in (choice, *choices)))
    ensembles = {name: found for name in exits if (found := ensemble_of(origins[name])) is not None}
    members = chain.from_iterable(
        ensembles[name].exits if name in ensembles else (name,) for name in exits
    )
    stages: dict[str, nn.Module | Ensemble] = _load(
        {
            name: {**origins[name], **({"spec": specs[name]} if name in specs else {})}
            for name in dict.fromkeys(members)
        }
    )
    stages |= ensembles
    cascade = cascade_of(result, choice.policy, stages)
    proof = None if choice.certificate is None else choice.certificate.to_dict()
    save_cascade(cascade, into, provenance={"certificate": proof, "table": dict(result.table)})
    return cascade, choice


def _load(origins: Mapping[str, Mapping[str, Any]]) -> dict[str, nn.Module | Ensemble]:
    """The stages of exits; a network with several exits is loaded once, with all of them."""
    stages: dict[str, nn.Module | Ensemble] = {}
    for name, origin in origins.items():
        spec = origin.get("spec")
        if spec is None:
            raise ModelError(
                f"the table knows the exit {name!r} by its predictions only: name its model with "
                f"--model {name}=SPEC, for example timm:{name}"
            )
        if name not in stages:
            stages |= load_stages(str(spec), str(origin.get("root", name)))
        if name not in stages:
            raise ModelError(
                f"{spec!r} has no exit {name!r}, which the table was scored with: restore the "
                "folder, or score it again"
            )
        _check_scored(name, stages[name], origin)
    return stages


def _check_scored(name: str, stage: nn.Module | Ensemble, origin: Mapping[str, Any]) -> None:
    scored = origin.get("weights_hash")
    if isinstance(stage, Stage) and scored is not None and stage.weights_hash != scored:
        raise ModelError(
            f"{origin['spec']!r} has other weights than the model that was scored as {name!r} "
            f"({stage.weights_hash[:12]}, not {scored[:12]}): score it again or restore the weights"
        )
