"""Records of multi-exit networks in the format of DyCE and TinySaver, as score tables.

A record is an .npz of `label`, `preds` and `confs`, and a JSON of MACs (arXiv 2403.01695,
2403.17726). It is read without unpickling anything, and its costs are never changed in place: read
twice, it costs the same.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import DataError, listed
from understudy.files import read_json
from understudy.policy import midpoint
from understudy.scores import Detail, ScoreTable

BASE = "base"
Array = npt.NDArray[Any]


def import_record(
    record: str | Path,
    macs: str | Path,
    *,
    names: Sequence[str] | None = None,
    ids: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    split: Mapping[str, float] | Sequence[str] | None = None,
) -> ScoreTable:
    """A table from a published record: exits of several types at each position, and the base.

    The .npz holds `label` (N, 1), and `preds` and `confs` (E + 1, N, k): position after position,
    types fastest, the full model last. The JSON holds `head[i].macs[j]` of type i at position j,
    `backbone.macs[j]` of the trunk up to there, `backbone.ori_macs` of the full model, and
    perhaps `shared.macs[j]`, of what all exits share up to there (a saver, an ESN).

    Exits are named `pos{j}/{type}` by the names in the JSON, or `pos{j}/type{i}`; the last one is
    `base`. Trunk, shared parts and heads become parts, so that a sample pays each once; the base
    alone needs no shared part. Where k > 1, margins and top classes are stored too.

    Args:
        names: (E + 1,) names of the exits instead, the full model's last.
        ids, groups, split: as in `ScoreTable.from_predictions`.

    Raises:
        DataError: a file that is missing, pickled or incomplete, or shapes that do not agree.
        TableError: NaN confidences, labels that are no class numbers, an unknown split.
    """
    outputs, prices = _read_record(record), _read_macs(macs)
    parts, costs = prices.parts(_positions(outputs, prices, record, macs))
    exits = list(parts if names is None else names)
    rows = len(outputs.prediction)
    if len(exits) != rows or len(set(exits)) < rows:
        raise DataError(
            f"a record with {rows} rows has {rows} different exit names, the full model's last, "
            f"found {len(set(exits))}: {listed(exits)}"
        )
    table = ScoreTable.from_predictions(
        {
            name: (outputs.prediction[row, :, 0], outputs.confidences(row))
            for row, name in enumerate(exits)
        },
        outputs.label,
        costs={"MACs": costs},
        ids=ids,
        groups=groups,
        split=split,
        parts=dict(zip(exits, parts.values(), strict=True)),
        provenance={"record": str(record), "macs": str(macs), "backbone": prices.backbone},
    )
    origin = {"root": exits[-1]}
    table = replace(table, exits=tuple(replace(exit, origin=origin) for exit in table.exits))
    if outputs.prediction.shape[2] == 1:
        return table
    classes, values = outputs.prediction.astype(np.int32), outputs.confidence.astype(np.float32)
    return replace(table, details=dict(zip(exits, map(Detail, classes, values), strict=True)))


def _positions(outputs: _Record, prices: _Macs, record: str | Path, macs: str | Path) -> int:
    """How many positions a record has, checked against the file of MACs."""
    rows, types = len(outputs.prediction), len(prices.heads)
    positions = (rows - 1) // types
    if rows < 2 or (rows - 1) % types:
        raise DataError(
            f"a record has a row per type at each position and one for the full model, found "
            f"{rows} rows in {str(record)!r} for {types} types in {str(macs)!r}: pass the MACs "
            "that belong to this record"
        )
    prices.check(positions, macs)
    return positions


def from_strict(threshold: float, observed: npt.ArrayLike) -> float:
    """The threshold t' for which `>= t'` accepts those of the observed confidences that are above
    `threshold`, as the rules of other projects do.

    It is the same number unless a confidence was observed at it: then it lies between that one and
    the next above, or is `inf` where nothing is above.

    >>> from_strict(0.5, [0.25, 0.75]), from_strict(0.5, [0.5, 0.75]), from_strict(0.5, [0.5])
    (0.5, 0.625, inf)
    """
    values = np.asarray(observed, np.float64)
    above = values[values > threshold]
    if not (values == threshold).any():
        return float(threshold)
    return float(midpoint(threshold, above.min())) if len(above) else float("inf")


@dataclass(frozen=True, eq=False)
class _Record:
    """`prediction` and `confidence` are (E + 1, N, k), `label` is (N,)."""

    label: Array
    prediction: Array
    confidence: Array

    def confidences(self, row: int) -> dict[str, Array]:
        top = self.confidence[row].T
        return {"max_softmax": top[0], **({"margin": top[0] - top[1]} if len(top) > 1 else {})}


@dataclass(frozen=True)
class _Macs:
    """MACs by position: heads by name of their type, the trunk and shared parts cumulative."""

    backbone: str | None
    heads: Mapping[str, Sequence[float]]
    trunk: Sequence[float]
    shared: Sequence[float]
    full: float

    def check(self, positions: int, path: str | Path) -> None:
        """Refuse lists of a wrong length (an entry for the full model may follow), and cumulative
        ones that fall."""
        lists = {f"head {name!r}": row for name, row in self.heads.items()}
        lists |= {"backbone": self.trunk} | ({"shared": self.shared} if self.shared else {})
        for name, row in lists.items():
            if len(row) not in (positions, positions + 1):
                raise DataError(
                    f"MACs have one entry per position, {positions} here (and maybe one for the "
                    f"full model), {name} in {str(path)!r} has {len(row)}"
                )
        full = (*self.trunk[:positions], self.full)
        for name, row in (("backbone", self.trunk), ("backbone", full), ("shared", self.shared)):
            if any(later < earlier for earlier, later in pairwise(row)):
                raise DataError(
                    f"{name} MACs are cumulative, up to each position and at last the full model, "
                    f"those in {str(path)!r} fall: {listed(row, 12)}"
                )

    def parts(self, positions: int) -> tuple[dict[str, tuple[str, ...]], dict[str, float]]:
        """The parts of every exit by its name, and what each part costs."""
        trunk = {f"trunk/{j}": cost for j, cost in enumerate(_steps(self.trunk[:positions]))}
        shared = {f"shared/{j}": cost for j, cost in enumerate(_steps(self.shared[:positions]))}
        costs = {**trunk, "trunk/rest": self.full - self.trunk[positions - 1], **shared}
        exits: dict[str, tuple[str, ...]] = {}
        for position in range(positions):
            common = (*list(trunk)[: position + 1], *list(shared)[: position + 1])
            for kind, head in self.heads.items():
                name = f"pos{position}/{kind}"
                costs[f"head/{name}"] = head[position]
                exits[name] = (*common, f"head/{name}")
        return {**exits, BASE: (*trunk, "trunk/rest")}, costs


def _read_record(path: str | Path) -> _Record:
    file = Path(path)
    if not file.is_file():
        raise DataError(f"a record is read from a file, {str(path)!r} is none: check the path")
    try:
        with file.open("rb") as raw, np.load(raw, allow_pickle=False) as arrays:
            missing = [name for name in ("label", "preds", "confs") if name not in arrays]
            if missing:
                raise DataError(
                    f"a record has label, preds and confs, {str(path)!r} lacks {listed(missing)}"
                )
            label, preds, confs = (arrays[name] for name in ("label", "preds", "confs"))
    except DataError:
        raise
    except (ValueError, TypeError, EOFError, OSError, UnpicklingError, zipfile.BadZipFile) as error:
        raise DataError(
            f"a record is an .npz of plain arrays, {str(path)!r} cannot be read as one ({error}): "
            "save label, preds and confs as arrays of numbers; nothing is unpickled here"
        ) from error
    label = label[:, 0] if label.ndim == 2 and label.shape[1] == 1 else label
    shape = (preds.shape[0] if preds.ndim else 0, len(label) if label.ndim else 0)
    if preds.ndim != 3 or preds.shape != confs.shape or preds.shape[:2] != shape or label.ndim != 1:
        raise DataError(
            "in a record label is (N, 1), preds and confs are both (exits + 1, N, k), found "
            f"{label.shape}, {preds.shape} and {confs.shape} in {str(path)!r}"
        )
    if not preds.size:
        raise DataError(f"a record has at least one sample and class, {str(path)!r} has none")
    return _Record(label, preds, confs)


def _read_macs(path: str | Path) -> _Macs:
    data = read_json(path, DataError, "a file of MACs")
    try:
        backbone, heads = data["backbone"], list(data["head"])
        kinds = [str(head.get("name", f"type{i}")) for i, head in enumerate(heads)]
        if not heads or len(set(kinds)) < len(kinds):
            raise DataError(
                f"MACs are given for one or more exit types with different names, {str(path)!r} "
                f"has {listed(kinds) or 'none'}: rename them"
            )
        return _Macs(
            backbone=backbone.get("name"),
            heads={kind: _numbers(h["macs"]) for kind, h in zip(kinds, heads, strict=True)},
            trunk=_numbers(backbone["macs"]),
            shared=_numbers(data["shared"]["macs"]) if "shared" in data else (),
            full=_numbers([backbone["ori_macs"]])[0],
        )
    except DataError:
        raise
    except KeyError as error:
        raise DataError(f"a file of MACs has {error}, {str(path)!r} does not: add it") from error
    except (TypeError, AttributeError, ValueError) as error:
        raise DataError(
            f"a file of MACs is {{head: [{{macs}}], backbone: {{macs, ori_macs}}}}, {str(path)!r} "
            f"is not: {error}"
        ) from error


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if any(not 0 <= number < np.inf for number in numbers):
        raise ValueError(f"MACs are numbers, zero or more, found {listed(values, 12)}")
    return numbers


def _steps(cumulative: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise((0.0, *cumulative))]
