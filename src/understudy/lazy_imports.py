"""Packages whose names are imported on first use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from understudy.errors import MissingExtra
from understudy.extras import needing


def lazy_names(
    package: str, modules: Mapping[str, str], *, extra: str | None = None
) -> Callable[[str], Any]:
    """The `__getattr__` of a package that imports its names on first use.

    Args:
        package: the package, `__name__`.
        modules: public name -> the module that defines it.
        extra: what names that cannot be imported need as a whole, if not what is missing first.

    >>> lazy_names("understudy", {"Policy": "understudy.policy"})("Policy").__name__
    'Policy'

    Raises:
        AttributeError: when called with another name.
        MissingExtra: when called where the extra that the name needs is not installed.
    """

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        purpose = f"`{package}.{name}`"
        try:
            with needing(purpose, extra=extra):
                value = getattr(import_module(modules[name]), name)
        except MissingExtra as error:
            raise MissingExtra(purpose, error.extra) from None
        setattr(sys.modules[package], name, value)
        return value

    return find
