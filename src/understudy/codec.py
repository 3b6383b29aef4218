"""Frozen dataclasses as plain JSON and back; what is read is checked field by field.

Nothing is coerced: a text is no number, a field that is missing or unknown is an error, and the
error names the field: `$.stages[1].threshold`.

Classes that are stored derive from `Stored`, or from `StoredFile` where one fills a file; a field
whose form in JSON differs has `metadata=stored(...)`.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeVar, get_args, get_origin

from understudy.errors import UnderstudyError
from understudy.files import check_version, read_json, write_json

T = TypeVar("T")
AGAIN = "make it again, or correct the file"


class _Layout(NamedTuple):
    """How a class is stored; see `Stored`."""

    what: str = "a record"
    error: type[UnderstudyError] = UnderstudyError
    remedy: str = AGAIN
    keys: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    head: Mapping[str, str | int] = MappingProxyType({})


class _Form(NamedTuple):
    """How a field is stored; see `stored`."""

    key: str = ""
    optional: bool = False
    shape: Any = None
    pack: Callable[[Any], Any] | None = None
    unpack: Callable[[Any], Any] | None = None


class Stored:
    """A frozen dataclass with a form in JSON. The arguments stand behind the base class:

    Args:
        what: what it is, for messages: "a policy".
        error: the type of the error where it cannot be read.
        remedy: the way out, for messages.
        keys: its keys in their order; by default the fields. A key that is no field is an attribute
            or a method without arguments: written for readers of the file, ignored when read.
        ignored: further keys that are ignored when read.
        format, version: of the file, where it has such a head.
    """

    json_layout: ClassVar[_Layout] = _Layout()

    def __init_subclass__(cls, *, format: str = "", version: int = 1, **layout: Any) -> None:
        head: dict[str, str | int] = {"format": format, "version": version} if format else {}
        cls.json_layout = cls.json_layout._replace(head=head, **layout)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return dict(encode(self))

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """The value that `to_dict` made plain.

        Raises:
            UnderstudyError: a field is missing, unknown or of another type.
        """
        what, error, remedy = cls.json_layout[:3]
        return decode(data, cls, what=what, error=error, remedy=remedy)


class StoredFile(Stored):
    """What is stored in a file of its own."""

    def save(self, path: str | Path) -> None:
        """Write it as JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UnderstudyError: the file is something else, or a newer version wrote it.
        """
        what, error, remedy, *_, head = cls.json_layout
        data = read_json(path, error, what)
        if head:
            kind, newest = str(head["format"]), int(head["version"])
            check_version(data, kind=kind, newest=newest, path=Path(path), error=error)
        return decode(data, cls, what=f"{what} in {str(path)!r}", error=error, remedy=remedy)


def stored(**form: Any) -> dict[str, Any]:
    """The metadata of a field whose form in JSON differs: `field(metadata=stored(key="of"))`.

    Args:
        key: its key in JSON; by default the field's name.
        optional: whether older files may lack it; the field has a default then.
        shape, pack, unpack: the type in JSON, and the functions to it and from it.
    """
    return {"json": _Form(**form)}


def encode(value: Any) -> Any:
    """A value as plain JSON: dataclasses as objects, tuples as lists, infinity as text.

    >>> from understudy.policy import PolicyStage
    >>> encode((PolicyStage("tiny", math.inf), PolicyStage("big")))
    [{'exit': 'tiny', 'confidence': 'max_softmax', 'threshold': 'inf'},
     {'exit': 'big', 'confidence': 'max_softmax', 'threshold': None}]
    """
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        return {key: encode(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [encode(entry) for entry in value]
    if not is_dataclass(value):
        return value
    kind: Any = value.__class__
    layout, known = getattr(kind, "json_layout", _Layout()), _fields(kind)
    data: dict[str, Any] = dict(layout.head)
    for key in layout.keys or known:
        name, form = known.get(key, (key, _Form()))
        entry = getattr(value, name)
        entry = entry if form.pack is None else form.pack(entry)
        data[key] = encode(entry() if callable(entry) else entry)
    return data


def decode(
    data: Any, kind: type[T], *, what: str, error: type[UnderstudyError], remedy: str = AGAIN
) -> T:
    """The value that `encode` made plain, every field checked.

    Args:
        data: plain JSON.
        kind: a dataclass, or a type made of them such as `tuple[Kind, ...]`.
        what: what the data should be, for the message: "a policy".
        error: the type of the error.
        remedy: the way out, for the message.

    >>> from understudy.policy import PolicyStage
    >>> data = {"exit": "tiny", "threshold": 0.5}
    >>> decode(data, PolicyStage, what="a stage", error=UnderstudyError).confidence
    'max_softmax'
    >>> decode(data | {"threshold": "high"}, PolicyStage, what="a stage", error=UnderstudyError)
    Traceback (most recent call last):
    understudy.errors.UnderstudyError: a stage has a number at $.threshold, found 'high': make it
    again, or correct the file

    Raises:
        UnderstudyError: of the type `error`: a field is missing, unknown or of another type.
    """
    try:
        value: T = _read(data, kind)
        return value
    except Exception as cause:
        path = "$" + "".join(reversed(getattr(cause, "__notes__", ())))
        if isinstance(cause, _Mismatch):
            rule, found = cause.args
            raise error(f"{what} has {rule} at {path}, found {found}: {remedy}") from cause
        found = str(cause) if isinstance(cause, UnderstudyError) else repr(cause)
        raise error(f"{what} is damaged at {path} ({found}): {remedy}") from cause


class _Mismatch(ValueError):
    """A value that breaks a rule: the rule, and what was found."""


_hints = cache(typing.get_type_hints)


@cache
def _fields(kind: Any) -> dict[str, tuple[str, _Form]]:
    """The fields of a class by their key: name and form."""
    forms = {one.name: one.metadata.get("json", _Form()) for one in fields(kind)}
    return {form.key or name: (name, form) for name, form in forms.items()}


def _read(data: Any, kind: Any, unpack: Callable[[Any], Any] | None = None, at: str = "") -> Any:
    """A value from plain JSON. An error gets its path as notes, innermost first."""
    try:
        value = _value(data, kind)
        return value if unpack is None else unpack(value)
    except Exception as error:
        error.add_note(at)
        raise


def _value(data: Any, kind: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if NoneType in inner:
        return None if data is None else _value(data, inner[0])
    if is_dataclass(kind):
        return _record(data, kind)
    if origin is Mapping:
        entries = _checked(data, dict, "an object").items()
        return {key: _read(entry, inner[1], at=f".{key}") for key, entry in entries}
    if origin is tuple:
        rows = _checked(data, (list, tuple), "a list")
        if inner[-1] is not ... and len(inner) != len(rows):
            raise _Mismatch(f"a list of {len(inner)}", repr(rows)[:80])
        return tuple(_read(row, inner[0], at=f"[{i}]") for i, row in enumerate(rows))
    if kind is float:
        return _number(data)
    if origin is Literal:
        _checked(data, str if data in inner else (), f"one of {', '.join(inner)}")
    elif kind is not Any:
        _checked(data, kind, _RULES[kind])
    return data


def _record(data: Any, kind: Any) -> Any:
    layout = getattr(kind, "json_layout", _Layout())
    known = _fields(kind)
    ignored = {*layout.head, *layout.keys, *layout.ignored} - set(known)
    entries = {k: v for k, v in _checked(data, dict, "an object").items() if k not in ignored}
    for key, (_, form) in known.items():
        if key not in entries and not form.optional:
            raise _Mismatch(f"the field {key!r}", "none")
    values = {}
    for key, entry in entries.items():
        if key not in known:
            raise _Mismatch(f"the fields {', '.join(known)}", repr(key))
        name, form = known[key]
        shape = _hints(kind)[name] if form.shape is None else form.shape
        values[name] = _read(entry, shape, form.unpack, at=f".{key}")
    return kind(**values)


_RULES = {int: "a whole number", str: "a text", bool: "true or false"}


def _checked(data: Any, kind: type | tuple[type, ...], rule: str) -> Any:
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise _Mismatch(rule, repr(data)[:80])
    return data


def _number(data: Any) -> Any:
    if data in ("inf", "-inf"):
        return float(data)
    try:
        float(_checked(data, (int, float), "a number"))
    except OverflowError:
        raise _Mismatch("a number", f"{str(data)[:80]}…") from None
    return data
