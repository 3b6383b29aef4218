"""From a result to a cascade on disk: the models of the chosen policies, and that of the reference,
are loaded and checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from understudy.choice import Choice
from understudy.ensemble import Ensemble, ensemble_of
from understudy.errors import ModelError, TableError, unknown
from understudy.nn.cascade import Cascade, cascade_of
from understudy.nn.stage import Stage
from understudy.result import Result
from understudy.zoo.models import load_stages
from understudy.zoo.saved_cascades import save_cascade


def build_cascade(
    result: Result,
    into: Path,
    *,
    max_drop: float | None,
    specs: Mapping[str, str],
    found_in: str | Path = "the result",
    allow_code: Collection[str] = (),
) -> tuple[Cascade, Choice]:
    """Load the models of the chosen policies, check that they are those that were scored, and save
    them as a cascade.

    The model of the reference goes with them, if it is known, even if no chosen policy has it: a
    server compares with it, and falls back to it.

    Args:
        result: what a search found.
        into: the folder of the cascade.
        max_drop: the one budget whose policy is built; by default the policies of all budgets,
            which become the cascade's operating points, set to the first.
        specs: exit name -> model spec that you write: for exits that the table knows by name only,
            or instead of the spec in the result.
        found_in: the file of the result, for messages.
        allow_code: the modules that specs ``py:module:factory`` in the result, and in folders of
            exits, may import; a package stands for all its modules.

    Returns:
        The cascade, and the choice whose policy it is set to.

    Raises:
        PolicyError: no choice for that budget.
        TableError: a spec for an exit that the result does not have.
        ModelError: a model that is missing or is not the one that was scored, or a module that was
            not allowed.
        UnderstudyError: the folder cannot be written.
    """
    choice = result.choice(max_drop)
    origins = {single.name: single.origin for single in result.singles}
    loader = _Loader(specs, found_in, allow_code)
    strange = [name for name in specs if name not in origins]
    if strange:
        raise TableError(unknown("exit", strange[0], origins, where="this result"))
    choices = result.choices if max_drop is None else (choice,)
    members: dict[str, Mapping[str, Any]] = {}
    ensembles: dict[str, Ensemble] = {}
    exits = dict.fromkeys(chain.from_iterable(one.policy.exits for one in (choice, *choices)))
    for exit in (*exits, result.reference):
        ensemble = ensemble_of(origins[exit])
        names = (exit,) if ensemble is None else ensemble.exits
        if exit not in exits and not all(loader.knows(name, origins[name]) for name in names):
            continue
        if ensemble is not None:
            ensembles[exit] = ensemble
        for name in names:
            members[name] = origins[name]
    cascade = cascade_of(result, choice.policy, {**loader.stages(members), **ensembles})
    proof = None if choice.certificate is None else choice.certificate.to_dict()
    save_cascade(cascade, into, provenance={"certificate": proof, "table": dict(result.table)})
    return cascade, choice


@dataclass(frozen=True)
class _Loader:
    """Loads the models of exits: `specs` are those that you write, all others stand in a file."""

    specs: Mapping[str, str]
    found_in: str | Path
    allow_code: Collection[str]

    def knows(self, name: str, origin: Mapping[str, Any]) -> bool:
        """Whether there is a spec for the model of an exit."""
        return self._spec(name, origin) is not None

    def stages(self, origins: Mapping[str, Mapping[str, Any]]) -> dict[str, Stage]:
        """The stages of exits; a network with several exits is loaded once, with all of them.

        Raises:
            ModelError: a model that is missing, or a module that was not allowed.
        """
        stages: dict[str, Stage] = {}
        for name, origin in origins.items():
            spec = self._spec(name, origin)
            if spec is None:
                raise ModelError(
                    f"the table knows the exit {name!r} by its predictions only: name its model "
                    f"with --model {name}=SPEC, for example timm:{name}"
                )
            if name not in stages:
                stages |= self._load(name, str(spec), root=str(origin.get("root", name)))
            if name not in stages:
                raise ModelError(
                    f"{spec!r} has no exit {name!r}, which the table was scored with: restore the "
                    "folder, or score it again"
                )
        return stages

    def _spec(self, name: str, origin: Mapping[str, Any]) -> Any:
        return self.specs.get(name, origin.get("spec"))

    def _load(self, name: str, spec: str, *, root: str) -> dict[str, Stage]:
        found_in = None if name in self.specs else self.found_in
        return load_stages(spec, root, allow_code=self.allow_code, found_in=found_in)
