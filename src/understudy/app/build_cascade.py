"""From a result to a cascade on disk: the models of the chosen policies are loaded and checked."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from understudy.ensemble import Ensemble, ensemble_of
from understudy.errors import ModelError, TableError, unknown
from understudy.nn.cascade import Cascade, cascade_of
from understudy.nn.stage import Stage
from understudy.result import Choice, Result
from understudy.zoo.models import load_stages
from understudy.zoo.saved_cascades import save_cascade


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
    members: dict[str, Mapping[str, Any]] = {}
    ensembles: dict[str, Ensemble] = {}
    for exit in chain.from_iterable(one.policy.exits for one in (choice, *choices)):
        ensemble = ensemble_of(origins[exit])
        if ensemble is not None:
            ensembles[exit] = ensemble
        for name in (exit,) if ensemble is None else ensemble.exits:
            members[name] = {**origins[name], **({"spec": specs[name]} if name in specs else {})}
    cascade = cascade_of(result, choice.policy, {**_load(members), **ensembles})
    proof = None if choice.certificate is None else choice.certificate.to_dict()
    save_cascade(cascade, into, provenance={"certificate": proof, "table": dict(result.table)})
    return cascade, choice


def _load(origins: Mapping[str, Mapping[str, Any]]) -> dict[str, Stage]:
    """The stages of exits; a network with several exits is loaded once, with all of them."""
    stages: dict[str, Stage] = {}
    for name, origin in origins.items():
        spec, scored = origin.get("spec"), origin.get("weights_hash")
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
        found = stages[name].weights_hash
        if scored is not None and found != scored:
            raise ModelError(
                f"{spec!r} has other weights than the model that was scored as {name!r} "
                f"({found[:12]}, not {scored[:12]}): score it again or restore the weights"
            )
    return stages
