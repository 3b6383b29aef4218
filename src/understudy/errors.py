"""Errors, by cause. Every message has the rule, what was found, and the way out."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Real


class UnderstudyError(ValueError):
    """Root of all errors that a user can cause; the CLI prints it as one sentence, exit code 2.

    >>> from understudy import Policy, UnderstudyError
    >>> try:
    ...     Policy(())
    ... except UnderstudyError as error:
    ...     print(error)
    a policy has at least one stage, found none: name its exits
    """


class TableError(UnderstudyError):
    """A score table, or what it is made of, breaks a rule."""


class PolicyError(UnderstudyError):
    """A policy breaks a rule, or does not fit the table or the models it is used with."""


class ModelError(UnderstudyError):
    """A model cannot be made, loaded or run."""


class DataError(UnderstudyError):
    """Images, labels or a file of predictions cannot be used."""


class MissingExtra(UnderstudyError, ImportError):
    """An optional part of understudy is not installed.

    Args:
        purpose: what needs it.
        extra: the extra that installs it.
        otherwise: a way out without it, as the sentence ends.
    """

    def __init__(self, purpose: str, extra: str, *, otherwise: str = "") -> None:
        alternative = f", or {otherwise}" if otherwise else ""
        super().__init__(
            f"{purpose} needs the `{extra}` extra, which is not installed: "
            f"pip install 'understudy[{extra}]'{alternative}"
        )
        self.extra = extra


def check_number(value: object, what: str, error: type[UnderstudyError]) -> None:
    """Refuse what is no number, such as a text of digits.

    >>> check_number("1", "a budget", PolicyError)
    Traceback (most recent call last):
    understudy.errors.PolicyError: a budget is a number, found the str '1': write it like 0.5

    Raises:
        UnderstudyError: of the type `error`.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        kind = type(value).__name__
        raise error(f"{what} is a number, found the {kind} {value!r}: write it like 0.5")


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8; that of a file in another encoding cannot.

    >>> is_text("café"), is_text("caf\\udce9")
    (True, False)
    """
    return not any("\ud800" <= character <= "\udfff" for character in name)


def unknown(kind: str, name: str, known: Iterable[str], *, where: str = "") -> str:
    """The sentence for a name that is not there: the nearest names, and all where they are few.

    >>> unknown("exit", "resnet2O", ["resnet20", "resnet56"])
    "no exit 'resnet2O'; did you mean 'resnet20' or 'resnet56'? There are: 'resnet20', 'resnet56'"
    >>> unknown("unit", "ms", ["MACs"], where="this table")
    "no unit 'ms' in this table; there are: 'MACs'"
    """
    names = list(known)
    near = get_close_matches(name, names, n=2, cutoff=0.6)
    missing = f"no {kind} {name!r}" + (f" in {where}" if where else "")
    all_names = listed(map(repr, names), 12) or "none"
    if not near:
        return f"{missing}; there are: {all_names}"
    question = f"{missing}; did you mean {' or '.join(map(repr, near))}?"
    return question if len(names) > 12 else f"{question} There are: {all_names}"


def listed(items: Iterable[object], most: int = 5) -> str:
    """The first few items for an error message, with a count of the rest.

    >>> listed(range(7))
    '0, 1, 2, 3, 4 and 2 more'
    """
    rows = list(items)
    rest = len(rows) - most
    return ", ".join(map(str, rows[:most])) + (f" and {rest} more" if rest > 0 else "")


def brief(error: BaseException, most: int = 200) -> str:
    """An error in one line: its type and the first line of its message, cut to a length.

    >>> brief(KeyError("width"))
    "KeyError: 'width'"
    >>> brief(SystemExit())
    'SystemExit'
    """
    lines = str(error).strip().splitlines()
    message = f": {lines[0][:most].rstrip('.')}" if lines else ""
    return f"{type(error).__name__}{message}"
