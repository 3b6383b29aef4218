"""The versions of the libraries that the last bits of scores depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

_LIBRARIES = (
    "understudy",
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "onnxruntime",
    "numpy",
    "pillow",
)


def library_versions() -> dict[str, str]:
    """The version of Python and of every such library that is installed.

    >>> sorted(library_versions())[:2]
    ['numpy', 'onnxruntime']
    """
    found = {name: installed_version(name) for name in _LIBRARIES}
    libraries = {name: one for name, one in found.items() if one is not None}
    return {"python": platform.python_version(), **libraries}


def installed_version(package: str) -> str | None:
    """The version of an installed package; None where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
