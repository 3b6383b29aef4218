"""Docstrings and signatures of this library as mkdocstrings reads them (an extension of Griffe)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import griffe

_PARAGRAPH = re.compile(r"\n\s*\n")
_ENTRY = re.compile(r"^ {4}([A-Z]\w+):", re.MULTILINE)
_SHARED = re.compile(r"^ {4}(\w+(?:, \w+)+):(.*(?:\n {5,}.*)*)", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Doctests as blocks of code, one name per entry, errors as links, defaults as values."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = separated(fenced(obj.docstring.value))

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        objects = list(_objects(pkg))
        classes = {one.name: one.path for one in objects if one.is_class}
        for one in objects:
            _name_errors(one, classes)
            if isinstance(one, griffe.Function):
                for parameter in one.parameters:
                    parameter.default = _spelled_out(parameter.default)
                    parameter.annotation = _spelled_out(parameter.annotation)


def _objects(parent: griffe.Object) -> Iterator[griffe.Object]:
    for member in parent.members.values():
        if isinstance(member, griffe.Object):
            yield member
            yield from _objects(member)


def _name_errors(one: griffe.Object, classes: dict[str, str]) -> None:
    """Make the errors that a docstring lists known where it stands, so that they become links."""
    for name in _ENTRY.findall(one.docstring.value if one.docstring else ""):
        if name in classes and name not in one.module.members:
            one.module.set_member(name, griffe.Alias(name, target=classes[name]))


def _spelled_out(value: str | griffe.Expr | None) -> str | griffe.Expr | None:
    """What a constant or an alias of types stands for: a reader of the page does not see it."""
    if isinstance(value, griffe.ExprName) and isinstance(value.parent, griffe.Object):
        try:
            found = value.parent.modules_collection[value.canonical_path]
        except KeyError:
            return value  # of another library
        if isinstance(found, griffe.Attribute) and found.value is not None:
            return found.value
    return "{}" if str(value) == "MappingProxyType({})" else value


def fenced(text: str) -> str:
    """A docstring with each run of paragraphs that are doctests in one fence.

    >>> fenced("Adds.\\n\\n>>> 1 + 1\\n2").splitlines()
    ['Adds.', '', '```pycon', '>>> 1 + 1', '2', '```']
    """
    written: list[str] = []
    inside = False
    for paragraph in _PARAGRAPH.split(text.strip("\n")):
        doctest = paragraph.startswith(">>> ")
        if inside and not doctest:
            written[-1] += "\n```"
        written.append(f"```pycon\n{paragraph}" if doctest and not inside else paragraph)
        inside = doctest
    if inside:
        written[-1] += "\n```"
    return "\n\n".join(written)


def separated(text: str) -> str:
    """A docstring whose lists of arguments, attributes and errors have one name per entry.

    >>> print(separated("Args:\\n    a, b: numbers."))
    Args:
        a: numbers.
        b: numbers.
    """

    def one_by_one(entry: re.Match[str]) -> str:
        return "\n".join(f"    {name}:{entry[2]}" for name in entry[1].split(", "))

    return _SHARED.sub(one_by_one, text)
