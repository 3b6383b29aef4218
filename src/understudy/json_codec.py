"""Frozen dataclasses as plain JSON and back; what is read is checked field by field.

cattrs does the reading, on first use. Nothing is coerced: a text is no number, a field that is
missing or unknown is an error, and the error names the field: `$.stages[1].threshold`. (msgspec is
faster, but refuses unknown fields in its own kind of class alone.)

Classes that are stored derive from `Stored`, or from `StoredFile` where one fills a file; a field
whose form in JSON differs has `metadata=stored(...)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self, TypeVar, cast, get_origin

from understudy.documents import HASH, read_document, write_document
from understudy.errors import UnderstudyError
from understudy.files import read_json, write_json
from understudy.short_repr import short_repr

if TYPE_CHECKING:
    from cattrs import Converter

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

    def __init_subclass__(
        cls,
        *,
        format: str = "",
        version: int = 1,
        **layout: Any,
    ) -> None:
        head: dict[str, str | int] = {"format": format, "version": version} if format else {}
        cls.json_layout = cls.json_layout._replace(head=head, **layout)
        if "__repr__" not in vars(cls):
            cls.__repr__ = short_repr  # type: ignore[method-assign]  # dataclass leaves it

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        data: dict[str, Any] = encode(self)
        return data

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
        """Write it as JSON, atomically; where it has a format, with the hash of its content."""
        write = write_document if self.json_layout.head else write_json
        write(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            UnderstudyError: the file is something else, was changed, or a newer version wrote it.
        """
        layout = cls.json_layout
        data = (
            read_document(
                path,
                kind=str(layout.head["format"]),
                newest=int(layout.head["version"]),
                what=layout.what,
                error=layout.error,
                remedy=layout.remedy,
            )
            if layout.head
            else read_json(path, layout.error, layout.what)
        )
        what = f"{layout.what} in {str(path)!r}"
        return decode(data, cls, what=what, error=layout.error, remedy=layout.remedy)


def stored(**form: Any) -> dict[str, Any]:
    """The metadata of a field whose form in JSON differs: `field(metadata=stored(key="of"))`.

    The arguments are those of `_FieldForm`.
    """
    return {"json": _FieldForm(**form)}


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
    entries = {key: _entry(value, key) for key in _keys(value.__class__)}
    sparse = _sparse(value.__class__)
    return {key: encode(entry) for key, entry in entries.items() if entry or key not in sparse}


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
    from cattrs import BaseValidationError

    try:
        return _converter().structure(data, kind)
    except BaseValidationError as group:
        path, cause = _first(group)
    except (KeyError, TypeError, ValueError, AttributeError) as single:
        path, cause = "$", single
    if isinstance(cause, _Mismatch):
        raise error(f"{what} has {cause.rule} at {path}, found {cause.found}: {remedy}") from cause
    found = str(cause) if isinstance(cause, UnderstudyError) else repr(cause)
    raise error(f"{what} is damaged at {path} ({found}): {remedy}") from cause


class _FieldForm(NamedTuple):
    """How a field is stored.

    Attributes:
        key: its key in JSON; by default the field's name.
        optional: whether older files may lack it; the field has a default then.
        sparse: whether it is left out of files where it is empty, so that these stay as they were.
        shape, pack, unpack: the type in JSON, and the functions to it and from it.
    """

    key: str = ""
    optional: bool = False
    sparse: bool = False
    shape: Any = None
    pack: Callable[[Any], Any] | None = None
    unpack: Callable[[Any], Any] | None = None


class _Mismatch(ValueError):
    """A value that breaks a rule: the rule, and what was found."""

    def __init__(self, rule: str, found: str) -> None:
        super().__init__(rule, found)
        self.rule, self.found = rule, found


@cache
def _fields(kind: Any) -> dict[str, tuple[str, _FieldForm]]:
    """The fields of a class by their key: name and form."""
    forms = {one.name: one.metadata.get("json", _FieldForm()) for one in fields(kind)}
    return {form.key or name: (name, form) for name, form in forms.items()}


@cache
def _keys(kind: Any) -> tuple[str, ...]:
    """The keys of a class in the order in which they are written."""
    layout = kind.json_layout if issubclass(kind, Stored) else _Layout()
    return (*layout.head, *(layout.keys or _fields(kind)))


@cache
def _sparse(kind: Any) -> frozenset[str]:
    """The keys of a class that are left out where they are empty."""
    return frozenset(key for key, (_, form) in _fields(kind).items() if form.sparse)


def _entry(value: Any, key: str) -> Any:
    if isinstance(value, Stored) and key in value.json_layout.head:
        return value.json_layout.head[key]
    name, form = _fields(value.__class__).get(key, (key, _FieldForm()))
    entry = getattr(value, name)
    if form.pack is not None:
        return form.pack(entry)
    return entry() if callable(entry) else entry


@cache
def _converter() -> Converter:
    from cattrs import Converter
    from cattrs.cols import (
        homogenous_tuple_structure_factory,
        is_mapping,
        mapping_structure_factory,
    )

    converter = Converter(detailed_validation=True)
    converter.register_structure_hook(float, _number)
    for kind, rule in ((int, "a whole number"), (str, "a text"), (bool, "true or false")):
        converter.register_structure_hook(kind, _exactly(kind, rule))

    @converter.register_structure_hook_factory(_is_tuple)
    def tuple_hook(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
        inner = homogenous_tuple_structure_factory(kind, converter)
        return lambda data, _: inner(_checked(data, (list, tuple), "a list"), kind)

    @converter.register_structure_hook_factory(is_mapping)
    def mapping_hook(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
        inner = mapping_structure_factory(kind, converter)
        return lambda data, _: inner(_checked(data, dict, "an object"), kind)

    @converter.register_structure_hook_factory(is_dataclass)
    def dataclass_hook(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
        return _dataclass_hook(kind, converter)

    return converter


def _dataclass_hook(kind: Any, converter: Converter) -> Callable[[Any, Any], Any]:
    from cattrs.gen import make_dict_structure_fn, override

    known = _fields(kind)
    required = [key for key, (_, form) in known.items() if not form.optional]
    layout = kind.json_layout if issubclass(kind, Stored) else _Layout()
    derived = {*_keys(kind), *layout.ignored, *((HASH,) if layout.head else ())}
    ignored = derived - set(known)

    def unpacked(form: _FieldForm) -> Callable[[Any, Any], Any] | None:
        if form.unpack is None:
            return None
        return lambda data, _: form.unpack(converter.structure(data, form.shape))  # type: ignore[misc]

    overrides: dict[str, Any] = {
        name: override(rename=key, struct_hook=unpacked(form))
        for key, (name, form) in known.items()
    }
    inner: Callable[[Any, Any], Any] = make_dict_structure_fn(kind, converter, **overrides)

    def hook(data: Any, _: Any) -> Any:
        entries = {k: v for k, v in _checked(data, dict, "an object").items() if k not in ignored}
        for key in required:
            if key not in entries:
                raise _Mismatch(f"the field {key!r}", "none")
        for key in entries:
            if key not in known:
                raise _Mismatch(f"the fields {', '.join(known)}", repr(key))
        return inner(entries, kind)

    return hook


def _is_tuple(kind: Any) -> bool:
    return get_origin(kind) is tuple


def _checked(value: Any, kind: type | tuple[type, ...], rule: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise _Mismatch(rule, repr(value)[:80])
    return value


def _exactly(kind: type, rule: str) -> Callable[[Any, Any], Any]:
    return lambda value, _: _checked(value, kind, rule)


def _number(value: Any, _: Any) -> float:
    if value in ("inf", "-inf"):
        return float(value)
    number = _checked(value, (int, float), "a number")
    try:
        float(number)
    except OverflowError:
        raise _Mismatch("a number", f"{str(number)[:80]}…") from None
    return cast(float, number)


def _first(group: Exception, path: str = "$") -> tuple[str, Exception]:
    """The first error in a group of cattrs, and the path of its field."""
    from cattrs import (
        AttributeValidationNote,
        BaseValidationError,
        ClassValidationError,
        IterableValidationNote,
    )

    if not isinstance(group, BaseValidationError):
        return path, group
    inner = group.exceptions[0]
    for note in getattr(inner, "__notes__", ()):
        if isinstance(note, AttributeValidationNote) and isinstance(group, ClassValidationError):
            keys = {name: key for key, (name, _) in _fields(group.cl).items()}
            path += f".{keys[note.name]}"
        elif isinstance(note, IterableValidationNote):
            path += f"[{note.index}]" if isinstance(note.index, int) else f".{note.index}"
    return _first(inner, path)
