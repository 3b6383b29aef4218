"""What can go wrong, by cause. Every message says the rule, what was found, and the way out."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UnderstudyError(ValueError):
    """Root of all errors that a user can cause; the CLI prints it as one sentence, exit code 2."""


class TableError(UnderstudyError):
    """A score table, or what it is made of, breaks a rule."""


class PolicyError(UnderstudyError):
    """A policy breaks a rule, or does not fit the table or the models it is used with."""


class ModelError(UnderstudyError):
    """A model cannot be made, loaded or run."""


class DataError(UnderstudyError):
    """Images, labels or a file of predictions cannot be used."""


class MissingExtra(UnderstudyError):
    """An optional part of understudy is not installed."""

    def __init__(self, purpose: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs the `{extra}` extra, which is not installed: "
            f"pip install 'understudy[{extra}]'"
        )


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that is not there, with the nearest names first.

    >>> unknown("exit", "resnet2O", ["resnet20", "resnet56"])
    "no exit 'resnet2O'; did you mean 'resnet20' or 'resnet56'? There are: 'resnet20', 'resnet56'"
    """
    names = list(known)
    near = get_close_matches(name, names, n=2, cutoff=0.6)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
    shown = ", ".join(map(repr, names[:12])) + (
        f" and {len(names) - 12} more" if len(names) > 12 else ""
    )
    return f"no {kind} {name!r}{hint} There are: {shown or 'none'}"


def listed(items: Iterable[object], most: int = 5) -> str:
    """The first few items for an error message, with a count of the rest.

    >>> listed(range(7))
    '0, 1, 2, 3, 4 and 2 more'
    """
    rows = list(items)
    rest = len(rows) - most
    return ", ".join(map(str, rows[:most])) + (f" and {rest} more" if rest > 0 else "")
