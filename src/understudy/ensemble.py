"""Ensembles on deferral: a derived exit whose logits are the average of those of several exits.

A sample that was deferred has paid for the little model already, so the average of both costs
no more than the large model alone. An ensemble is an exit like any other, with rows and parts; its
origin has its members and temperatures. A policy little -> little+big defers to the ensemble.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.confidence_functions import CONFIDENCES, confidences_of, energy
from understudy.errors import PolicyError, TableError, listed
from understudy.exit import ENSEMBLE, TOP, Detail, Exit, LazyDetails
from understudy.json_codec import Stored, stored
from understudy.scores import ScoreTable

Array = npt.NDArray[Any]
_ROWS = 4096  # samples in one block, which bounds the memory for many classes
_LOG_T = (-3.0, 3.0)


@dataclass(frozen=True)
class Ensemble(Stored, what="an ensemble", error=PolicyError, remedy="search again"):
    """The mean of the members' logits, each divided by its temperature.

    That is the log-mean, the average of log-probabilities after temperature scaling, up to a
    constant per sample, which no softmax depends on.

    >>> Ensemble(("tiny", "big"), (2.0, 1.0)).weights
    (0.25, 0.5)

    Raises:
        PolicyError: fewer than two exits, one that repeats, or temperatures that are not positive.
    """

    exits: tuple[str, ...] = field(metadata=stored(key="average"))
    temperatures: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "exits", tuple(self.exits))
        object.__setattr__(self, "temperatures", tuple(map(float, self.temperatures)))
        if len(self.exits) < 2 or len(set(self.exits)) < len(self.exits):
            raise PolicyError(f"an ensemble is of two exits or more, found {list(self.exits)}")
        if len(self.exits) != len(self.temperatures) or not all(
            0 < t < math.inf for t in self.temperatures
        ):
            raise PolicyError(
                f"an ensemble has one temperature above 0 for each of {list(self.exits)}, found "
                f"{list(self.temperatures)}: fit them on tune"
            )

    @property
    def name(self) -> str:
        """The exits' names with a plus between them."""
        return "+".join(self.exits)

    @property
    def weights(self) -> tuple[float, ...]:
        """What each exit's logits are multiplied by: 1 / (exits x temperature), in float32.

        One product and one sum in float32 round alike everywhere, so that a running cascade and a
        table agree to the last bit on the ensemble of the same logits.
        """
        count = len(self.exits)
        return tuple(float(np.float32(1 / (count * t))) for t in self.temperatures)


def ensemble_of(origin: Mapping[str, Any]) -> Ensemble | None:
    """The ensemble in an exit's origin, or None for an exit that is a model of its own."""
    return Ensemble.from_dict(origin[ENSEMBLE]) if ENSEMBLE in origin else None


def models_of(table: ScoreTable) -> ScoreTable:
    """The table without its ensembles."""
    names = [exit.name for exit in table.exits if not exit.is_ensemble]
    return table if len(names) == len(table.exits) else table.only(names)


def cheaper_models(table: ScoreTable, reference: str, *, unit: str | None = None) -> list[str]:
    """The models that cost less than the reference, ensembles left out."""
    unit = table.unit(unit)
    full = table.cost_of([reference], unit)
    return [n for n in models_of(table).names if table.cost_of([n], unit) < full]


def with_ensemble(
    table: ScoreTable,
    exits: Sequence[str],
    temperatures: Sequence[float],
    *,
    name: str | None = None,
) -> ScoreTable:
    """The table with one further exit, the ensemble of some.

    It runs the union of their parts. Its rows come from the logits that the table keeps (float16):
    a running cascade, which averages logits at full precision, may answer otherwise where the two
    best classes of the ensemble are nearly tied. Confidences that are no function of logits, such
    as learned scores, hold its max softmax.

    >>> clear, tied = [[.9, .1]], [[.4, .6]]
    >>> table = ScoreTable.from_probabilities({"tiny": clear, "big": tied}, [0], costs={"tiny": 1})
    >>> wider = with_ensemble(table, ["tiny", "big"], [1.0, 1.0])
    >>> wider.names, wider.prediction[:, 0].tolist(), wider.exits[2].parts
    (('tiny', 'big', 'tiny+big'), [0, 1, 0], ('tiny', 'big'))

    Raises:
        TableError: an unknown exit, one that is an ensemble itself, one whose logits were not kept,
            or a name that is taken.
        PolicyError: fewer than two exits, or temperatures that are not positive.
    """
    ensemble = Ensemble(tuple(exits), tuple(temperatures))
    members = [table.exits[table.index(one)] for one in ensemble.exits]
    nested = [one.name for one in members if ENSEMBLE in one.origin]
    if nested:
        raise TableError(
            f"an ensemble is of models, {listed(map(repr, nested))} is an ensemble itself: name "
            "its members"
        )
    new = Exit(
        ensemble.name if name is None else name,
        tuple(dict.fromkeys(part for one in members for part in one.parts)),
        {ENSEMBLE: ensemble.to_dict()},
    )
    logits = [logits_of(table, one) for one in ensemble.exits]
    pieces = [
        _outputs(_mean([rows[start : start + _ROWS] for rows in logits], ensemble.weights))
        for start in range(0, len(table), _ROWS)
    ]
    prediction, *top = map(np.concatenate, zip(*(piece for piece, _ in pieces), strict=True))
    values = {
        key: np.concatenate([rows.get(key, rows[CONFIDENCES[0]]) for _, rows in pieces])
        for key in table.confidence
    }
    return replace(
        table,
        exits=(*table.exits, new),
        prediction=np.vstack([table.prediction, prediction]),
        confidence={key: np.vstack([old, values[key]]) for key, old in table.confidence.items()},
        details=LazyDetails.of(table.details).plus(new.name, Detail(*top)),
    )


def with_ensembles(table: ScoreTable, ensembles: Mapping[str, Ensemble]) -> ScoreTable:
    """The table with ensembles that were fitted before, by name; those that it has stay.

    Raises:
        TableError: what `with_ensemble` raises.
    """
    for name, one in ensembles.items():
        if name not in table.names:
            table = with_ensemble(table, one.exits, one.temperatures, name=name)
    return table


def fit_temperature(logits: Array, labels: Array) -> float:
    """The temperature of least negative log-likelihood, between 0.05 and 20.

    Args:
        logits: (N, C), of samples that the model was not trained on.
        labels: (N,) class numbers, or (N, K) where samples have several, padded with -1: the
            likelihood is then that of any of them.

    Guo et al. 2017 (arXiv 1706.04599).

    >>> logits = np.array([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
    >>> round(fit_temperature(logits, np.array([0, 0, 0, 1])), 2)
    3.64
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    scores = np.asarray(logits, np.float64)
    sets = np.asarray(labels).reshape(len(scores), -1)
    of_label = np.where(sets < 0, -np.inf, np.take_along_axis(scores, np.maximum(sets, 0), 1))

    def loss(log_t: float) -> float:
        inverse = math.exp(-log_t)
        likely = logsumexp(of_label * inverse, axis=1)
        return float(np.mean(logsumexp(scores * inverse, axis=1) - likely))

    return math.exp(minimize_scalar(loss, bounds=_LOG_T, method="bounded").x)


def ensemble_pairs(
    table: ScoreTable,
    reference: str,
    *,
    littles: Sequence[str] | None = None,
    fit_on: str = "tune",
    unit: str | None = None,
) -> ScoreTable:
    """The table with an ensemble little+reference for each cheaper exit.

    Args:
        littles: the exits to combine with the reference; all that are cheaper if None.
        fit_on: the split that the temperatures are fitted on.

    >>> rows = np.random.default_rng(0).dirichlet([.5, .5, .5], 400)
    >>> labels = (rows.cumsum(1) > np.random.default_rng(1).random((400, 1))).argmax(1)
    >>> table = ScoreTable.from_logits(
    ...     {"tiny": np.log(rows), "big": 4 * np.eye(3)[labels]}, labels,
    ...     costs={"tiny": 1, "big": 9})
    >>> ensemble_pairs(table, "big").names
    ('tiny', 'big', 'tiny+big')

    Raises:
        TableError: no labels, logits that were not kept, or unknown names.
    """
    if table.label is None:
        raise TableError(
            "an ensemble is fitted to labels, this table has none: without them the reference's "
            "own predictions are the truth, which no ensemble improves on"
        )
    if littles is None:
        littles = cheaper_models(table, reference, unit=unit)
    part = table.on(fit_on)
    right = part.right_answers(reference)
    fitted = {one: fit_temperature(logits_of(part, one), right) for one in (*littles, reference)}
    for little in littles:
        table = with_ensemble(table, [little, reference], [fitted[little], fitted[reference]])
    return table


def logits_of(table: ScoreTable, exit: str) -> Array:
    """The logits of one exit, (N, C) float16.

    Raises:
        TableError: the table did not keep them, or knows no such exit.
    """
    table.index(exit)
    detail = table.details.get(exit)
    if detail is None or detail.logits is None:
        raise TableError(
            f"an ensemble is made from logits, this table keeps none of {exit!r}: score again with "
            "--keep-logits"
        )
    return detail.logits


def _outputs(logits: Array) -> tuple[tuple[Array, Array, Array], dict[str, Array]]:
    """Predictions (n,), top classes and their probabilities (n, K), and confidences (n,)."""
    wide = logits.astype(np.float64)
    log_sum = energy(wide)
    log_probability = wide - log_sum[:, None]
    order = np.argsort(-logits, axis=1, kind="stable")[:, :TOP].astype(np.int32)
    probability = np.exp(np.take_along_axis(log_probability, order, 1)).astype(np.float32)
    confidence = {**confidences_of(log_probability), "energy": log_sum.astype(np.float32)}
    return (order[:, 0], order, probability), confidence


def _mean(logits: Sequence[Array], weights: Sequence[float]) -> Array:
    """The weighted sum (n, C) in float32, in the order of the members."""
    total = logits[0].astype(np.float32) * np.float32(weights[0])
    for rows, weight in zip(logits[1:], weights[1:], strict=True):
        total = total + rows.astype(np.float32) * np.float32(weight)
    return total
