"""The public names: those of `__all__` in the packages, and those that the pages import."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from inspect import getattr_static, ismodule
from pathlib import Path
from typing import Any

PACKAGES = (
    "understudy",
    "understudy.callables",
    "understudy.catalogue",
    "understudy.monitoring",
    "understudy.onnx",
    "understudy.plots",
    "understudy.serving",
)
_PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def public_names(repository: Path) -> dict[str, Any]:
    """Public name -> what it is, by the shortest path from which it can be imported."""
    found = {
        f"{package}.{name}": getattr(import_module(package), name)
        for package in PACKAGES
        for name in import_module(package).__all__
    }
    known = {id(value) for value in found.values()}
    for module, name in sorted(_imported(repository)):
        value = getattr(import_module(module), name)
        if not ismodule(value) and id(value) not in known:
            found[f"{module}.{name}"] = value
    return found


def python_blocks(repository: Path) -> list[str]:
    """The Python of README and of every page."""
    pages = (repository / "README.md", *sorted((repository / "docs").rglob("*.md")))
    return [text for page in pages for text in _PYTHON.findall(page.read_text(encoding="utf-8"))]


def _imported(repository: Path) -> set[tuple[str, str]]:
    return {
        (node.module, alias.name)
        for text in python_blocks(repository)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("understudy")
        for alias in node.names
        if node.module
    }


def members(value: Any) -> dict[str, Any]:
    """The public methods and properties of a class, and what holds the docstring of each."""
    found = {}
    for name in dir(value):
        owner = next((c for c in getattr(value, "__mro__", ()) if name in c.__dict__), object)
        if name.startswith("_") or not owner.__module__.startswith("understudy"):
            continue
        member = getattr_static(value, name)
        inner = (getattr(member, at, None) for at in ("fget", "__func__", "func"))
        function = next((one for one in inner if one is not None), member)
        if callable(function):
            found[name] = function
    return found
