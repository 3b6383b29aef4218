"""Tables on disk to which the exits of further models are added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from understudy.errors import TableError, listed
from understudy.nn.identity import difference
from understudy.nn.stage import Stage
from understudy.scores import Costs, ScoreTable
from understudy.scoring.sources import Sources
from understudy.store import check_target, load_table
from understudy.zoo.data import DataSet
from understudy.zoo.encoded import check_unchanged


def table_at(target: Path) -> ScoreTable | None:
    """The table that exits are added to; None where there is none yet."""
    check_target(target)
    return load_table(target) if target.is_dir() and any(target.iterdir()) else None


def already_scored(older: ScoreTable, stages: Mapping[str, Stage]) -> bool:
    """Whether a table has the stages of a source already: the same models, under these names.

    Raises:
        TableError: it has another model under one of these names.
    """
    known = [name for name in stages if name in older.names]
    for name in known:
        origin = older.exits[older.index(name)].origin
        found = (
            difference(origin, stages[name])
            if "weights_hash" in origin
            else "the table knows its predictions only"
        )
        if found is not None:
            raise TableError(
                f"exit names are unique, the table has another model {name!r} ({found}): name this "
                "one otherwise, NAME=SPEC, or choose another folder"
            )
    if known and len(known) < len(stages):
        further = [name for name in stages if name not in known]
        raise TableError(
            f"a network is scored with all its exits, the table lacks {listed(further)} of those "
            f"of {known[0]!r}: name the network otherwise, NAME=SPEC, or choose another folder"
        )
    return bool(known)


def check_same_data(older: ScoreTable, path: Path, images: DataSet) -> None:
    """Refuse to add exits to a table that was scored on other data.

    Raises:
        TableError: the message has what differs.
    """
    found = older.provenance.get("fingerprint")
    if found != images.fingerprint:
        raise TableError(
            f"exits of one table are scored on the same data, {str(path)!r} has those of "
            f"{older.provenance.get('data', 'an import')!r} (fingerprint {str(found)[:12]}, here "
            f"{images.fingerprint[:12]}): choose another folder"
        )
    if images.encoded is not None:
        where = repr(str(path))
        check_unchanged(images.encoded, images.ids, older.provenance, where=where, error=TableError)


def has_exits(table: ScoreTable | None, sources: Sources) -> bool:
    """Whether a table has the exits of all sources."""
    hashes = {} if table is None else {e.name: e.origin.get("weights_hash") for e in table.exits}
    return all(hashes.get(one.name) == one.origin["weights_hash"] for one in sources.exits)


def check_new_names(older: ScoreTable | None, path: Path, names: Sequence[str]) -> None:
    """Refuse exits whose names a table, if there is one, has already.

    Raises:
        TableError: the message has the names.
    """
    repeats = [] if older is None else [name for name in names if name in older.names]
    if repeats:
        raise TableError(
            f"exit names are unique, {str(path)!r} has {listed(map(repr, repeats))} already: "
            "leave them out, name them NAME=SPEC, or choose another folder"
        )


def appended(older: ScoreTable, further: ScoreTable) -> ScoreTable:
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
    differing = set(older.confidence) ^ set(further.confidence)
    if differing:
        raise TableError(
            f"exits of one table have the same confidences, {listed(sorted(differing))} differ: "
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
        costs=_merge(older.costs, further.costs),
        times=_merge(older.times, further.times),
        sittings=(*older.sittings, *further.sittings),
        details={**older.details, **further.details},
        provenance={**older.provenance, "runs": runs},
    )


def _merge(older: Costs, further: Costs) -> dict[str, Mapping[str, float]]:
    return {unit: {**older.get(unit, {}), **further.get(unit, {})} for unit in {**older, **further}}
