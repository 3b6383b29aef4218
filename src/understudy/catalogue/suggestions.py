"""Which savers of the catalogue are worth scoring in front of a large model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from understudy.catalogue.models import CatalogueModel
from understudy.errors import ModelError

Unit = Literal["ms", "MACs"]
PER_FAMILY = 2  # suggestions, at most
DROP = 0.5  # points that the estimated cascade may lose
PER_ERROR, PER_GAP = 0.337, 3.02
"""The share of the images that go on to the large model at that drop, per error of the saver and
per difference of the two accuracies: least squares on the pairs of 21 ImageNet networks, with a
residual of 0.07 (`python benchmarks/catalogue.py`)."""


@dataclass(frozen=True)
class Suggestion:
    """A saver that is worth scoring.

    Attributes:
        model: the saver.
        cost: what it costs of the large model, as a fraction.
        saving: the estimated saving of the pair as a fraction; None where an accuracy is unknown.
        frontier: whether no other model in reach is as cheap and as accurate, and better in one;
            None where its accuracy is unknown.
    """

    model: CatalogueModel
    cost: float
    saving: float | None
    frontier: bool | None


@dataclass(frozen=True)
class Suggestions:
    """Savers for a large model, the most promising first.

    Attributes:
        big: the large model.
        unit: of the costs: published milliseconds, or MACs.
        savers: at most `PER_FAMILY` of one family.
        untimed: how many models in reach were left out because no time of theirs is known.
        unknown: how many models in reach were left out because their accuracy is not known.
    """

    big: CatalogueModel
    unit: Unit
    savers: tuple[Suggestion, ...]
    untimed: int
    unknown: int


def suggest(
    big: CatalogueModel, models: Iterable[CatalogueModel], *, within: float = 50.0, most: int = 10
) -> Suggestions:
    """The savers that promise the largest savings in front of a large model.

    A pair is expected to save ``1 − c − d``: c is the cost of the saver relative to the large
    model, d the share of the images that the large model still has to answer, estimated from both
    accuracies. Of definitions that are equal the most accurate weights are taken, and two of a
    family at most, none of which is worse and dearer than another of its family. Where an
    accuracy is missing, savers are spread over the costs instead, one of a family.

    Args:
        big: the large model.
        models: what may be suggested; those without weights or with other classes are left out.
        within: the most that a saver may cost, in percent of the large model.
        most: how many savers are suggested at most.

    Raises:
        ModelError: the large model has no classes.

    >>> from understudy.catalogue import find_model, load_catalogue
    >>> models = load_catalogue()
    >>> found = suggest(find_model("torchvision:vit_l_32", models), models, within=10)
    >>> found.unit, len(found.savers), found.savers[0].saving > 0.5
    ('MACs', 10, True)
    """
    if not big.classes:
        raise ModelError(
            f"a large model has classes, {big.spec!r} is a feature extractor with none: name a "
            "classifier"
        )
    pool = [
        model
        for model in models
        if model.weights and model.classes == big.classes and model.spec != big.spec
    ]
    unit: Unit = "ms" if big.ms and any(model.ms for model in pool) else "MACs"
    timed = [model for model in pool if _cost(model, unit)]
    near = [model for model in timed if _cost(model, unit) <= within / 100 * _cost(big, unit)]
    known = [model for model in near if model.top1 is not None]
    if big.top1 is not None and known:
        chosen = _promising(big, known, unit)
    else:
        chosen = _spread(known or near, unit, most)
    frontier = {model.spec for model in _frontier(known, unit)}
    savers = tuple(
        Suggestion(
            model,
            _cost(model, unit) / _cost(big, unit),
            expected_saving(big, model, unit),
            None if model.top1 is None else model.spec in frontier,
        )
        for model in chosen[:most]
    )
    unknown = len(near) - len(known) if known else 0
    return Suggestions(big, unit, savers, untimed=len(pool) - len(timed), unknown=unknown)


def expected_saving(big: CatalogueModel, little: CatalogueModel, unit: Unit) -> float | None:
    """The saving of a pair as its accuracies let expect, as a fraction; None without them."""
    if big.top1 is None or little.top1 is None:
        return None
    error, gap = 1 - little.top1 / 100, (big.top1 - little.top1) / 100
    deferred = min(max(PER_ERROR * error + PER_GAP * gap, 0.0), 1.0)
    return 1 - _cost(little, unit) / _cost(big, unit) - deferred


def _cost(model: CatalogueModel, unit: Unit) -> float:
    """The cost of one image; 0 where it is not known."""
    return (model.ms or 0.0) if unit == "ms" else float(model.macs)


def _promising(
    big: CatalogueModel, models: Sequence[CatalogueModel], unit: Unit
) -> list[CatalogueModel]:
    """Models with a positive expected saving, the largest first, few of a family."""
    saving = {model.spec: expected_saving(big, model, unit) or 0.0 for model in models}
    ranked = sorted(models, key=lambda model: (-saving[model.spec], model.spec))
    best = [*_first_of_each(ranked, lambda model: (model.parameters, model.macs), 1)]
    families: dict[str, list[CatalogueModel]] = {}
    for model in best:
        families.setdefault(model.family, []).append(model)
    sensible = {model.spec for own in families.values() for model in _frontier(own, unit)}
    kept = (model for model in best if saving[model.spec] > 0 and model.spec in sensible)
    return list(_first_of_each(kept, lambda model: model.family, PER_FAMILY))


def _spread(models: Sequence[CatalogueModel], unit: Unit, most: int) -> list[CatalogueModel]:
    """Models spread evenly over the logarithm of the cost, the cheapest first, one of a family.

    Of models that cost about the same, the most accurate or, where that is unknown, the largest.
    """
    logs = [math.log(_cost(model, unit)) for model in models]
    low, high = min(logs, default=0.0), max(logs, default=0.0)
    width = (high - low) / most or 1.0
    rungs: dict[int, list[CatalogueModel]] = {}
    for model, log in zip(models, logs, strict=True):
        rungs.setdefault(min(int((log - low) / width), most - 1), []).append(model)
    chosen: list[CatalogueModel] = []
    for _, rung in sorted(rungs.items()):
        taken = {model.family for model in chosen}
        fresh = [model for model in rung if model.family not in taken]
        if fresh:
            chosen.append(max(fresh, key=lambda model: (model.top1 or 0.0, model.parameters)))
    return chosen


def _frontier(models: Iterable[CatalogueModel], unit: Unit) -> Iterator[CatalogueModel]:
    """The models that no other dominates: none is as cheap and as accurate, and better in one."""
    best = (math.inf, -1.0)
    for model in sorted(models, key=lambda one: (_cost(one, unit), -(one.top1 or 0.0))):
        place = _cost(model, unit), model.top1 or 0.0
        if place[1] > best[1] or place == best:
            best = place
            yield model


def _first_of_each(
    models: Iterable[CatalogueModel], kind: Callable[[CatalogueModel], Any], most: int
) -> Iterator[CatalogueModel]:
    """Models in their order, of every kind the first few."""
    seen: Counter[Any] = Counter()
    for model in models:
        seen[kind(model)] += 1
        if seen[kind(model)] <= most:
            yield model
