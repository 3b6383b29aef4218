"""Further exits for a table that is on disk already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from understudy.errors import TableError, listed
from understudy.scores import Costs, ScoreTable


def check_extends(older: ScoreTable, path: Path, *, fingerprint: str, names: Sequence[str]) -> None:
    """Refuse further exits on other data than the table's, or under names it has.

    Raises:
        TableError: the message has what differs.
    """
    found = older.provenance.get("fingerprint")
    if found != fingerprint:
        raise TableError(
            f"exits of one table are scored on the same data, {str(path)!r} has those of "
            f"{older.provenance.get('data', 'an import')!r} (fingerprint {str(found)[:12]}, here "
            f"{fingerprint[:12]}): choose another folder"
        )
    repeats = [name for name in names if name in older.names]
    if repeats:
        raise TableError(
            f"exit names are unique, {str(path)!r} has {listed(map(repr, repeats))} already: "
            "leave them out, name them NAME=SPEC, or choose another folder"
        )


def extended(older: ScoreTable, further: ScoreTable) -> ScoreTable:
    """The older table with the exits of another one of the same samples; its split stays.

    Raises:
        TableError: the samples or the confidences differ.
    """
    if older.ids.tolist() != further.ids.tolist():
        raise TableError(
            f"exits of one table are scored on the same samples, found {len(further)} where the "
            f"table has {len(older)} (images that could not be decoded differ): mend the data, or "
            "choose another folder"
        )
    strange = set(older.confidence) ^ set(further.confidence)
    if strange:
        raise TableError(
            f"exits of one table have the same confidences, {listed(sorted(strange))} differ: "
            "choose another folder"
        )
    runs = [*older.provenance.get("runs", []), *further.provenance["runs"]]
    return replace(
        older,
        exits=(*older.exits, *further.exits),
        prediction=np.vstack([older.prediction, further.prediction]),
        confidence={
            name: np.vstack([rows, further.confidence[name]])
            for name, rows in older.confidence.items()
        },
        costs=_merged(older.costs, further.costs),
        times=_merged(older.times, further.times),
        details={**older.details, **further.details},
        provenance={**older.provenance, "runs": runs},
    )


def _merged(older: Costs, further: Costs) -> dict[str, Mapping[str, float]]:
    return {unit: {**older.get(unit, {}), **further.get(unit, {})} for unit in {**older, **further}}
