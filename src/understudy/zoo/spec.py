"""The texts that name models and data: ``SCHEME:TARGET?key=value&key=value``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from understudy.errors import UnderstudyError, unknown

Schemes = Mapping[str, Sequence[str]]
"""The schemes that are known, each with the options it takes."""


@dataclass(frozen=True)
class Spec:
    """A parsed spec: what kind of source, which one, and how to use it.

    >>> spec = parse_spec("timm:resnet18?classes=10", {"timm": ["classes"]}, what="model")
    >>> spec.scheme, spec.target, dict(spec.options)
    ('timm', 'resnet18', {'classes': '10'})
    """

    text: str
    scheme: str
    target: str
    options: Mapping[str, str]

    def __str__(self) -> str:
        return self.text

    def without(self, option: str) -> str:
        """The text without an option.

        >>> parse_spec("py:nets:big?run=folded&weights=random",
        ...            {"py": ["run", "weights"]}, what="model").without("run")
        'py:nets:big?weights=random'
        """
        rest = "&".join(f"{key}={value}" for key, value in self.options.items() if key != option)
        return f"{self.scheme}:{self.target}" + (f"?{rest}" if rest else "")


def existing(target: str) -> Path | None:
    """The file or folder of a path, ``~`` expanded; None where there is none.

    >>> existing("."), existing("nowhere/at/all")
    (PosixPath('.'), None)
    """
    try:
        path = Path(os.path.expanduser(target))  # noqa: PTH111 - Path's raises where no such user is
        return path if target and path.exists() else None
    except (OSError, ValueError):  # such as a name that is too long
        return None


def parse_spec(
    text: str,
    schemes: Schemes,
    *,
    what: str,
    error: type[UnderstudyError] = UnderstudyError,
) -> Spec:
    """Take a spec apart. Values are taken as they stand: nothing is decoded or expanded.

    Raises:
        UnderstudyError: of the type given: no scheme, an unknown one, an option that this scheme
            does not take, that repeats, or that has no value.
    """
    scheme, colon, rest = text.partition(":")
    if not colon:
        raise error(
            f"{what} specs read SCHEME:NAME, found {text!r}: begin with one of "
            f"{', '.join(f'{name}:' for name in schemes)}"
        )
    if scheme not in schemes:
        raise error(unknown(f"{what} scheme", scheme, schemes, where=repr(text)))
    target, _, query = rest.partition("?")
    options: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        key, _, value = pair.partition("=")
        if key not in schemes[scheme]:
            raise error(unknown("option", key, schemes[scheme], where=repr(text)))
        if not value or key in options:
            raise error(
                f"options read key=value, each key once, found {pair!r} in {text!r}: "
                f"for example ?{key}=VALUE"
            )
        options[key] = value
    return Spec(text, scheme, target, MappingProxyType(options))
