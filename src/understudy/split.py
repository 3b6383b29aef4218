"""Data splits: `tune` to choose on, `certify` to prove on, `test` to measure on once.

A table may do without `test`: then the figures of a plan are measured on `certify`. Few samples are
better spent on the proof, so that is the default below 5,000.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from understudy.errors import TableError, listed

SPLITS = ("tune", "certify", "test")
ALL = "all"
MANY_SAMPLES = 5_000
SHARES_OF_MANY: Mapping[str, float] = {"tune": 0.2, "certify": 0.6, "test": 0.2}
SHARES_OF_FEW: Mapping[str, float] = {"tune": 0.2, "certify": 0.8, "test": 0.0}
_KEY = b"understudy-split-1"


def assign_splits(
    ids: npt.NDArray[Any],
    split: Mapping[str, float] | Sequence[str] | None = None,
    *,
    groups: Sequence[str] | None = None,
) -> tuple[npt.NDArray[np.uint8], dict[str, Any]]:
    """The split of every sample, (N,), and the rule in plain JSON.

    With shares, a keyed hash of the id (or of the group: a patient, a video) decides, so the split
    of a sample never depends on the others. With names, they are taken as they are. With neither,
    the shares are the `default_shares` of that many samples.

    >>> codes, rule = assign_splits(np.array(["a", "b", "c"]), ["tune", "certify", "test"])
    >>> codes.tolist()
    [0, 1, 2]

    Raises:
        TableError: an unknown split, shares that do not sum to 1, or a wrong number of names.
    """
    if split is None or isinstance(split, Mapping):
        shares = check_shares(default_shares(len(ids)) if split is None else split)
        keys = ids if groups is None else np.asarray(groups, dtype=object)
        if len(keys) != len(ids):
            raise TableError(f"one group per sample, found {len(keys)} for {len(ids)} samples")
        edges = np.cumsum([shares[name] for name in SPLITS])[:-1]
        codes = np.searchsorted(edges, uniform(keys), side="right").astype(np.uint8)
        return codes, {"by": "id" if groups is None else "group", "shares": shares}
    names = np.asarray(split, dtype=object)
    if names.shape != ids.shape:
        raise TableError(f"one split per sample, found {names.size} for {len(ids)} samples")
    strange = sorted({str(name) for name in names.tolist()} - set(SPLITS))
    if strange:
        raise TableError(
            f"a split is one of {', '.join(SPLITS)}, found {listed(map(repr, strange))}: "
            "rename them in the split column, or leave the rows out"
        )
    return np.array([SPLITS.index(name) for name in names.tolist()], np.uint8), {"by": "column"}


def default_shares(samples: int) -> Mapping[str, float]:
    """The shares where none are named: 20 % tune and 80 % certify, and from 5,000 samples on 20 %
    of all for test, taken from certify.

    >>> default_shares(2_000)["certify"], default_shares(50_000)["certify"]
    (0.8, 0.6)
    """
    return SHARES_OF_MANY if samples >= MANY_SAMPLES else SHARES_OF_FEW


def check_shares(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares of all three splits, in order.

    Raises:
        TableError: an unknown split, a share outside 0 to 1, or a sum that is not 1.
    """
    strange = sorted(set(shares) - set(SPLITS))
    if strange:
        raise TableError(
            f"a split is one of {', '.join(SPLITS)}, found {listed(map(repr, strange))}"
        )
    full = {name: float(shares.get(name, 0.0)) for name in SPLITS}
    if any(not 0 <= share <= 1 for share in full.values()) or abs(sum(full.values()) - 1) > 1e-6:
        raise TableError(
            f"shares lie between 0 and 1 and sum to 1, found {full}: for example "
            "tune=.2,certify=.6,test=.2, or tune=.2,certify=.8 without a test split"
        )
    return full


def headline_split(splits: Collection[str]) -> str:
    """Where a plan is measured: on test, on all samples of a search in-sample, or on certify.

    >>> headline_split(["tune", "certify", "test"]), headline_split(["tune", "certify"])
    ('test', 'certify')
    """
    return next((name for name in ("test", ALL) if name in splits), "certify")


def fold_words(rule: Mapping[str, Any]) -> str:
    """What a certificate is about where samples were answered out of fold; nothing elsewhere.

    >>> fold_words({"by": "id"}), fold_words({"by": "id", "folds": 5})[:39]
    ('', 'Samples were answered in 5 folds, by mo')
    """
    if "folds" not in rule:
        return ""
    return (
        f"Samples were answered in {rule['folds']} folds, by models that were fitted to the "
        "others: the models of the cascade, which are fitted to all, are not tested themselves, "
        "and the level is nominal."
    )


def uniform(keys: npt.NDArray[Any], *, salt: bytes = b"") -> npt.NDArray[np.float64]:
    """A number in [0, 1) for every key, from a keyed hash: the same on every machine.

    >>> float(uniform(np.array(["a"]))[0]) == float(uniform(np.array(["b", "a"]))[1])
    True
    """
    secret = _KEY + salt
    values = [
        int.from_bytes(hashlib.blake2b(str(k).encode(), digest_size=8, key=secret).digest(), "big")
        for k in keys.tolist()
    ]
    return (np.array(values, np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53
