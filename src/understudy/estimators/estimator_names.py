"""Estimators by name, as in scikit-learn's pipelines and unions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from understudy.errors import ModelError, listed


def with_names(estimators: Iterable[Any]) -> list[tuple[str, Any]]:
    """Estimators with their names; those that have none are named after their types, as
    `sklearn.pipeline.make_union` does.

    >>> from sklearn.naive_bayes import GaussianNB
    >>> [name for name, _ in with_names([GaussianNB(), ("big", GaussianNB()), GaussianNB()])]
    ['gaussiannb-1', 'big', 'gaussiannb-2']
    """
    found = list(estimators)
    kinds = [None if _is_named(one) else type(one).__name__.lower() for one in found]
    counts, seen, named = Counter(kinds), Counter[str](), []
    for kind, one in zip(kinds, found, strict=True):
        if kind is None:
            named.append((one[0], one[1]))
            continue
        seen[kind] += 1
        named.append((kind if counts[kind] == 1 else f"{kind}-{seen[kind]}", one))
    return named


def checked_names(estimators: Any, *, reserved: Collection[str]) -> list[tuple[str, Any]]:
    """The estimators of a cascade with their names, small to large.

    Args:
        estimators: estimators, or pairs (name, estimator).
        reserved: names of parameters, which no estimator may have.

    Raises:
        ModelError: fewer than two, no classifiers, or names that repeat or cannot be parameters.
    """
    if not isinstance(estimators, Sequence) or isinstance(estimators, str):
        raise ModelError(
            "estimators are a list from the cheapest to the one whose accuracy is to be kept, "
            f"found one {type(estimators).__name__}: give [little, ..., big]"
        )
    named = with_names(estimators)
    if len(named) < 2:
        raise ModelError(
            f"a cascade has at least two estimators, found {len(named)}: give [little, ..., big]"
        )
    for name, one in named:
        if isinstance(one, type) or not hasattr(one, "fit"):
            what = f"the class {one.__name__}" if isinstance(one, type) else repr(one)
            raise ModelError(
                f"the estimators of a cascade are classifiers, {name!r} is {what}: give an instance"
            )
    names = [name for name, _ in named]
    odd = [n for n in names if not n or "__" in n or n in reserved or names.count(n) > 1]
    if odd:
        raise ModelError(
            "names of estimators are unique, without '__', and none of the cascade's own "
            f"parameters, found {listed(map(repr, dict.fromkeys(odd)))}: rename them"
        )
    return named


def _is_named(one: Any) -> bool:
    return isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str)
