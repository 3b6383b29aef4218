"""Packages whose names are imported on first use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from understudy.errors import MissingExtra


def lazy_names(package: str, modules: Mapping[str, str], *, extra: str) -> Callable[[str], Any]:
    """The `__getattr__` of a package that imports its names on first use.

    Args:
        package: the package, `__name__`.
        modules: public name -> the module that defines it.
        extra: the extra that installs what these modules import.

    >>> lazy_names("understudy", {"Policy": "understudy.policy"}, extra="torch")("Policy").__name__
    'Policy'

    Raises:
        AttributeError: when called with another name.
        MissingExtra: when called where the extra is not installed.
    """

    def find(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(modules[name]), name)
        except ModuleNotFoundError as error:
            if error.name and error.name.split(".")[0] == "understudy":
                raise
            raise MissingExtra(f"`{package}.{name}`", extra) from error
        setattr(sys.modules[package], name, value)
        return value

    return find
