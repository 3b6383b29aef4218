"""Check a stored result again from scratch, against its table.

Every certificate is proved again, apart from the search that made it; then the whole result is
compared, entry by entry, with one that is searched again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.certificate import Certificate
from understudy.choice import Choice
from understudy.display import level_text
from understudy.documents import HASH, change_of
from understudy.errors import PolicyError, UnderstudyError
from understudy.files import check_version, read_json
from understudy.frontier import Frontier
from understudy.json_codec import Stored
from understudy.looks import logged_looks
from understudy.outcome import evaluate
from understudy.result import Result
from understudy.scores import ScoreTable
from understudy.searching.exact_test import drop_p_value
from understudy.searching.search import search, search_within_cost
from understudy.store import load_table

RELATIVE, ABSOLUTE = 1e-9, 1e-12  # by how much numbers may differ that are not both whole
_WHAT = "a search result"
_SHOWN = 60  # characters of a value
_NOTHING = object()


@dataclass(frozen=True)
class Check(Stored):
    """One claim of a result, whether it holds, and what was found.

    Attributes:
        max_drop: the budget of the certificate that is checked; None for the rest of the result.
        claim: what is claimed; for a difference its path, such as `results[0].on.test.drop`.
    """

    max_drop: float | None
    claim: str
    holds: bool
    found: str


def verify(result: Result, table: ScoreTable) -> tuple[Check, ...]:
    """Check every certificate of a result, and compare all of the result with a second search.

    Losses and gains of every proved policy are counted again by `evaluate`, the specification, and
    every p-value is computed again. Then the arguments of the result are searched with again on
    the table, and every entry that differs is named by its path. Whole numbers and texts must be
    equal; other numbers may differ by 1e-9 of their size (1e-12 near 0), since the last bits of
    sums and of learned scores differ between machines.

    Where a file is checked, `verify_file` also compares what is written there for readers alone.

    Raises:
        PolicyError: the result was searched in-sample, so it has no certificate; or its arguments
            cannot be searched with.
        TableError: the table lacks an exit or a split of the result.

    >>> import numpy as np
    >>> right = np.arange(1000) % 10 < 9
    >>> table = ScoreTable.from_predictions(
    ...     {"tiny": (1 - right, np.where(right, .9, .6)), "big": (0 * right, np.ones(1000))},
    ...     np.zeros(1000, int), costs={"tiny": 1, "big": 9})
    >>> result = search(table, max_drop=2.0)
    >>> all(check.holds for check in verify(result, table))
    True
    >>> from dataclasses import replace
    >>> [check.claim for check in verify(replace(result, delta=0.1), table) if not check.holds]
    ['results[0].certificate.delta', 'results[0].certificate.p_value', ...]
    """
    return _checked(result.to_dict(), result, table)


def verify_file(result: str | Path, table: str | Path) -> tuple[Check, ...]:
    """`verify` for the file of a result and the folder of a table.

    What the file holds is compared, also entries that are written for readers alone, such as
    savings, intervals and words. Where the folder has a log of looks, the search must be in it
    under the number that the result states. A file whose content was changed after it was written
    does not hold, and what was changed is named.

    Raises:
        UnderstudyError: what `verify` raises; a file that cannot be read.
    """
    stored, (kind, newest) = read_json(result, PolicyError, _WHAT), Result.json_layout.head.values()
    check_version(stored, kind=str(kind), newest=int(newest), path=Path(result), error=PolicyError)
    found, change = Result.from_dict(stored), change_of(stored)
    written = [Check(None, "the file is as it was written", False, change)] if change else []
    checks = _checked(_under_this_version(stored), found, load_table(table))
    return (*written, *checks, *_logged(found, logged_looks(table)))


def _under_this_version(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Plain JSON of a result with the versions that are written now, and without its hash."""
    plain = {key: value for key, value in stored.items() if key != HASH}
    now, frontier = Result.json_layout.head["version"], Frontier.json_layout.head["version"]
    if plain["version"] != now:
        plain |= {"version": now, "frontier": plain["frontier"] | {"version": frontier}}
    return plain


def differences(stored: Any, found: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Path and both values wherever one plain JSON differs from another, within the tolerance.

    >>> list(differences({"a": [1, 2.0]}, {"a": [1, 2.5], "b": None}))
    [('a[1]', 'stored 2.0, found 2.5'), ('b', 'stored nothing, found null')]
    """
    if isinstance(stored, dict) and isinstance(found, dict):
        for key in dict.fromkeys([*stored, *found]):
            inner = f"{path}.{key}" if path else key
            yield from differences(stored.get(key, _NOTHING), found.get(key, _NOTHING), inner)
    elif isinstance(stored, list) and isinstance(found, list):
        for number, pair in enumerate(zip(stored, found, strict=False)):
            yield from differences(*pair, f"{path}[{number}]")
        if len(stored) != len(found):
            yield path, f"stored {len(stored)} entries, found {len(found)}"
    elif not _equal(stored, found):
        shown = _from_difference(stored, found)
        yield path, "stored {}, found {}".format(*map(_text, shown))


def _equal(stored: Any, found: Any) -> bool:
    numbers = (int, float)
    if type(stored) is type(found) is not float:
        return bool(stored == found)
    if isinstance(stored, bool) or isinstance(found, bool):
        return False
    if not isinstance(stored, numbers) or not isinstance(found, numbers):
        return False
    return math.isclose(stored, found, rel_tol=RELATIVE, abs_tol=ABSOLUTE)


def _from_difference(stored: Any, found: Any) -> tuple[Any, Any]:
    """Two values; of long texts the part from their first difference on."""
    if not (isinstance(stored, str) and isinstance(found, str)):
        return stored, found
    if max(len(stored), len(found)) <= _SHOWN:
        return stored, found
    pairs = zip(stored, found, strict=False)
    first = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(stored), len(found)))
    start = max(first - 10, 0)
    return stored[start:], found[start:]


def _text(value: Any) -> str:
    if value is _NOTHING:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _checked(stored: Any, result: Result, table: ScoreTable) -> tuple[Check, ...]:
    """The checks of a result whose plain JSON is `stored`."""
    if result.in_sample:
        raise PolicyError(
            "a result that was searched in-sample certifies nothing: search without --in-sample"
        )
    again = _searched_again(result, table)
    certify = table.on("certify")
    counted_on = result.with_fitted(certify)
    proofs = [
        check
        for choice in result.choices
        for check in _proved_again(choice, counted_on, samples=certify.hash)
    ]
    found = json.loads(json.dumps(again.to_dict()))
    if "classes" not in result.table:  # a result of an older version
        found["table"].pop("classes", None)
    normal = [choice.monitoring for choice in result.choices]
    if not any((*normal, *(single.monitoring for single in result.singles))):  # likewise
        for one in (*found["results"], *found["singles"]):
            one.pop("monitoring", None)
    others = [Check(None, path, False, values) for path, values in differences(stored, found)]
    same = f"{_entries(found):,} entries, numbers to {RELATIVE:g} of their size"
    return (*proofs, *(others or [Check(None, "everything is as searched", True, same)]))


def _searched_again(result: Result, table: ScoreTable) -> Result:
    spec = {**result.arguments, "reference": result.reference, "unit": result.unit}
    name = spec.pop("by", None)
    searches: dict[str, Callable[..., Result]] = {
        "search": search,
        "search_within_cost": search_within_cost,
    }
    if not isinstance(name, str) or name not in searches:
        raise PolicyError(
            f"a certified result names its search function, found {name!r}: search again"
        )
    try:
        return searches[name](table, delta=result.delta, **spec)
    except (TypeError, ValueError, AttributeError) as error:  # arguments are any JSON
        raise PolicyError(
            f"the arguments of a result can be searched with, these cannot ({error}): search again"
        ) from error


def _proved_again(choice: Choice, certify: ScoreTable, *, samples: str) -> list[Check]:
    """The checks of one certificate on the certify samples, whose hash is `samples`."""
    certificate = choice.certificate
    if certificate is None:
        raise PolicyError(f"the choice for {choice.max_drop:g} points has no certificate")
    budget = certificate.budget
    try:
        counts, worst = _counted(certificate, certify, budget)
        by_class = {
            name: _counted(certificate, certify.of_class(name), bound.budget)[1]
            for name, bound in certificate.classes.items()
        }
    except UnderstudyError as error:
        return [Check(budget, "the path can be counted again", False, str(error))]
    losses, gains = counts[-1] if counts else (0, 0)
    delta, policy = certificate.delta, choice.policy
    same_counts = (losses, gains) == (certificate.losses, certificate.gains)
    is_last = policy == (certificate.path[-1] if certificate.path else certificate.policy)
    counted, found = "same losses and gains", f"{losses:,} and {gains:,}"
    if certificate.kind == "disagreement":
        counted, found = "same number of samples answered otherwise", f"{losses:,}"
    steps = f"each of {len(counts)} steps proved at {level_text(delta)}"
    checks = [
        Check(budget, "same certify samples", certificate.table == samples, samples[:16]),
        Check(
            budget,
            "the policy is the certified one",
            is_last and certificate.policy == policy,
            policy.describe(),
        ),
        Check(budget, counted, same_counts, found),
        Check(budget, steps, worst <= delta, f"largest p = {worst:.4g}"),
    ]
    for name, worst in by_class.items():
        claim = f"class {name} within {certificate.classes[name].budget:g} points"
        checks.append(Check(budget, claim, worst <= delta, f"largest p = {worst:.4g}"))
    return checks


def _counted(
    certificate: Certificate, table: ScoreTable, budget: float
) -> tuple[list[tuple[int, int]], float]:
    """Losses and gains of every proved policy, and the largest p-value; 0 for none."""
    outcomes = [
        evaluate(table, policy, reference=certificate.reference) for policy in certificate.path
    ]
    counts = [(outcome.losses, outcome.gains) for outcome in outcomes]
    delta = certificate.delta
    p_values = (drop_p_value(*one, len(table), budget, delta) for one in counts)
    return counts, max(p_values, default=0.0)


def _logged(result: Result, log: Sequence[Mapping[str, Any]]) -> Iterable[Check]:
    """Whether the log of looks has the search under its number; nothing where there is no log.

    Lines of before searches were noted fit any.
    """
    if not log:
        return
    look = result.arguments.get("looks", 1)
    record = json.loads(json.dumps(result.search_record))
    noted = [line.get("search", record) for line in log if line["look"] == look]
    claim = f"look {look} in the table's log"
    wrong = [list(differences(record, one or {}, "search")) for one in noted]
    if not noted:
        yield Check(None, claim, False, f"{len(log)} looks, none of that number")
    elif all(wrong):
        path, values = wrong[0][0]
        yield Check(None, claim, False, f"{path}: {values}")
    else:
        yield Check(None, claim, True, "the same search")


def _entries(data: Any) -> int:
    """How many values plain JSON holds."""
    if isinstance(data, dict):
        return sum(map(_entries, data.values()))
    return sum(map(_entries, data)) if isinstance(data, list) else 1
